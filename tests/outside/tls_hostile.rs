//! TLS clients that break the rules, or cost more than they bring: each is stopped, and the others are served meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};

use crate::support::eventually;
use crate::support::servers::{Server, respond};
use crate::support::tls::{ONLY_TLS12, ONLY_TLS13};
use crate::support::tls_client::{NAME, TlsLb, TlsStream, connect, read_until};

/// The most memory that a client may cost, in KiB.
const MEMORY: u64 = 32 * 1024;

fn start(config: &str) -> (TlsLb, Server) {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    (TlsLb::start("", &format!("[log]\naccess = false\n{config}{}", server.table("s"))), server)
}

/// A client that encrypts whatever it likes.
struct Sealer {
    socket: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealer {
    fn new(tls: &TlsLb) -> Self {
        let mut config = tls.trusting(ONLY_TLS13, None);
        config.enable_secret_extraction = true;
        let TlsStream { conn, sock } = connect(tls.lb.address(), config).expect("a connection");
        let Some(SupportedCipherSuite::Tls13(suite)) = conn.negotiated_cipher_suite() else { panic!("TLS 1.3") };
        let (sequence, secrets) = conn.dangerous_extract_secrets().expect("secrets").tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another cipher") };
        Self { socket: sock, encrypter: suite.aead_alg.encrypter(key, iv), sequence }
    }

    /// Sends a record; false if the other side accepts no more.
    fn send(&mut self, typ: ContentType, payload: &[u8]) -> bool {
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let record = self.encrypter.encrypt(message, self.sequence).expect("a record").encode();
        self.sequence += 1;
        self.socket.write_all(&record).is_ok()
    }
}

/// One request on a connection that is open.
fn ask(client: &mut TlsStream) -> Duration {
    let start = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    read_until(client, "hello");
    start.elapsed()
}

// Case: tls-floods
#[test]
fn each_flood_of_records_ends_and_costs_little() {
    let (tls, _server) = start("");
    let large = [&[24, 0xff, 0xff, 0xff][..], &[0; 16_000]].concat();
    let cases: [(&str, ContentType, &[u8]); 7] = [
        ("empty records", ContentType::ApplicationData, b""),
        ("empty handshake messages", ContentType::Handshake, b""),
        ("warnings", ContentType::Alert, &[1, 90]),
        ("changes of the cipher", ContentType::ChangeCipherSpec, &[1]),
        ("hellos", ContentType::Handshake, &[1, 0, 0, 4, 3, 3, 0, 0]),
        ("a large handshake message", ContentType::Handshake, &large),
        ("unknown records", ContentType::Heartbeat, b"heart"),
    ];
    let mut neighbour = tls.client();
    ask(&mut neighbour);
    let before = tls.lb.resident_kib();
    for (name, kind, payload) in cases {
        let mut client = Sealer::new(&tls);
        let sent = (0..10_000).take_while(|_| client.send(kind, payload)).count();
        assert!(ask(&mut neighbour) < Duration::from_secs(1), "{name}");
        // It ends, with an alert unless that was lost.
        let _ = client.socket.read_to_end(&mut Vec::new());
        let grown = tls.lb.resident_kib().saturating_sub(before);
        assert!(grown < MEMORY, "{name}: {grown} KiB");
        eventually(&format!("the connection ends after {sent} {name}"), || {
            (tls.lb.api("/api/listeners")["listeners"][0]["connections"] == 1).then_some(())
        });
    }
    assert!(!tls.lb.has_panicked());
}

// Case: tls-floods
#[test]
fn a_flood_of_key_updates_ends() {
    let (tls, _server) = start("");
    let mut neighbour = tls.client();
    for mut client in [tls.client(), tls.http2_client()] {
        let mut updates = 0;
        while updates < 10_000 {
            client.conn.refresh_traffic_keys().expect("keys");
            if client.conn.complete_io(&mut client.sock).is_err() {
                break;
            }
            updates += 1;
        }
        assert!(updates < 10_000);
        assert!(ask(&mut neighbour) < Duration::from_secs(1));
    }
    // Those between requests are no flood.
    let mut client = tls.client();
    for _ in 0..100 {
        client.conn.refresh_traffic_keys().expect("keys");
        ask(&mut client);
    }
}

// Case: tls-floods
#[test]
fn a_renegotiation_is_rejected() {
    let (tls, _server) = start("");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-connect", &tls.lb.address().to_string(), "-servername", NAME]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child.inspect_err(|error| eprintln!("skipped: openssl: {error}")) else { return };
    // The pipe stays open, so that only the connection can end the program.
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"R\n").expect("sent");
    let output = child.wait_with_output().expect("a child");
    drop(input);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(report.contains("RENEGOTIATING") && report.contains("no renegotiation"), "{report}");
    let metric = "lb_tls_handshakes_total{listener=\"127.0.0.1:0\",result=\"ok\"}";
    assert_eq!(tls.lb.metric(metric), Some(1.0));
    ask(&mut tls.client());
}

// Case: split-hello
#[test]
fn a_hello_of_more_than_16_kib_is_rejected() {
    let (tls, _server) = start("[timeouts]\ntls_handshake = \"10s\"\n");
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        for (protocols, is_accepted) in [(50, true), (70, false)] {
            let mut config = tls.trusting(versions, None);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.alpn_protocols.extend((0..protocols).map(|number| vec![b'a' + number; 250]));
            let result = connect(tls.lb.address(), config);
            match result {
                Ok(mut stream) => drop((assert!(is_accepted), ask(&mut stream))),
                Err(error) => {
                    assert!(!is_accepted && error.to_string().contains("DecodeError"), "{protocols}: {error}");
                }
            }
        }
    }
}

/// Makes handshakes at this rate while `done` is false.
fn shake(tls: &TlsLb, rate: u32, done: &AtomicBool) {
    let mut config = tls.trusting(rustls::ALL_VERSIONS, None);
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let start = Instant::now();
    for number in 1.. {
        if done.load(SeqCst) {
            return;
        }
        connect(tls.lb.address(), Arc::clone(&config)).expect("a handshake");
        std::thread::sleep((start + number * Duration::from_secs(1) / rate).saturating_duration_since(Instant::now()));
    }
}

/// The slowest hundredth of a neighbour's requests while handshakes are made at this rate.
fn p99(tls: &TlsLb, rate: u32, requests: usize) -> Duration {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if rate > 0 {
            scope.spawn(|| shake(tls, rate, &done));
        }
        let mut client = tls.client();
        let mut times: Vec<Duration> = (0..requests)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(2));
                ask(&mut client)
            })
            .collect();
        done.store(true, SeqCst);
        times.sort();
        times[requests * 99 / 100]
    })
}

// Case: tls-floods
#[test]
fn a_client_that_makes_a_hundred_handshakes_a_second_delays_nobody() {
    let (tls, _server) = start("");
    let slowest = p99(&tls, 100, 500);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
#[ignore = "measures time; run it on a quiet machine"]
fn a_hundred_handshakes_a_second_raise_the_p99_of_others_by_at_most_a_fifth() {
    let (tls, _server) = start("");
    p99(&tls, 0, 200);
    let mut ratios: Vec<f64> = (0..7)
        .map(|_| {
            let (without, with) = (p99(&tls, 0, 1000), p99(&tls, 100, 1000));
            eprintln!("p99 {without:?} without, {with:?} with 100 handshakes a second");
            with.as_secs_f64() / without.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[3] <= 1.2, "{ratios:?}");
}
