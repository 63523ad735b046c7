//! Requests and responses over TLS, in every shape that they have without: nothing is lost, and ends are told apart.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::servers::{Request, Server, respond};
use crate::support::tls::{ONLY_TLS12, ONLY_TLS13};
use crate::support::tls_client::{TlsLb, TlsStream, connect, read_until};
use crate::support::{DEADLINE, eventually};

const VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] = [ONLY_TLS12, ONLY_TLS13];

fn clients(tls: &TlsLb) -> [TlsStream; 2] {
    VERSIONS.map(|versions| connect(tls.lb.address(), tls.trusting(versions, None)).expect("a connection"))
}

/// A server that responds with the length of the request's body.
fn measuring() -> Server {
    Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let body = format!("{} bytes to {}\n", request.body.len(), request.path());
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

#[test]
fn pipelined_requests_are_served_in_order_however_records_split_them() {
    let server = measuring();
    let tls = TlsLb::start("", &server.table("s"));
    let requests =
        ["/1", "/2", "/3"].map(|path| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
    let requests = requests.concat();
    for size in [requests.len(), 100, 7, 1] {
        for mut client in clients(&tls) {
            // Each write is a record.
            for piece in requests.as_bytes().chunks(size) {
                client.write_all(piece).expect("sent");
            }
            let responses = read_until(&mut client, "to /3\n");
            let bodies: Vec<&str> = responses.lines().filter(|line| line.contains(" bytes to ")).collect();
            assert_eq!(bodies, ["5 bytes to /1", "5 bytes to /2", "5 bytes to /3"], "records of {size} bytes");
        }
    }
}

#[test]
fn a_websocket_passes_bytes_both_ways_and_ends_on_either_side() {
    let (sender, ended) = channel();
    let sender = Mutex::new(sender);
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(request) = recorder.next(&mut stream) else { return };
        respond(
            &mut stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nready\n",
        );
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            respond(&mut stream, &bytes[..count]);
            if request.path() == "/once" {
                return;
            }
        }
        let _ = sender.lock().expect("a sender").send(());
    });
    let tls = TlsLb::start("", &server.table("s"));
    for mut client in clients(&tls) {
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        // The first bytes of the tunnel come with the request's record.
        client.write_all(format!("{upgrade}early").as_bytes()).expect("sent");
        let head = read_until(&mut client, "early");
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("ready\n"), "{head}");
        let large = vec![b'x'; 100_000];
        client.write_all(&large).expect("sent");
        let mut back = vec![0; large.len()];
        client.read_exact(&mut back).expect("an echo");
        assert!(back == large);
        client.conn.send_close_notify();
        client.flush().expect("sent");
        ended.recv_timeout(DEADLINE).expect("the server sees the end");
        assert_eq!(client.read_to_end(&mut Vec::new()).expect("a proper end"), 0);
    }
    for mut client in clients(&tls) {
        let upgrade = "GET /once HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(format!("{upgrade}x").as_bytes()).expect("sent");
        let mut all = String::new();
        client.read_to_string(&mut all).expect("a proper end");
        assert!(all.ends_with("ready\nx"), "{all}");
    }
}

#[test]
fn uploads_are_complete_with_and_without_expect_and_in_both_protocols() {
    let server = measuring();
    let tls = TlsLb::start("", &server.table("s"));
    let file = tls.at.join("body");
    std::fs::write(&file, vec![b'x'; 20_000_000]).expect("a file");
    let cases: [&[&str]; 6] = [
        &["--http1.1", "-H", "Expect:"],
        &["--http1.1", "-H", "Expect: 100-continue"],
        &["--http1.1", "-H", "Transfer-Encoding: chunked"],
        &["--http1.1", "--tls-max", "1.2"],
        &["--http2"],
        &["--http2", "--tls-max", "1.2"],
    ];
    for options in cases {
        let mut command = Command::new("curl");
        command.args(["-s", "-m", "60", "-w", "%{http_version} %{http_code} %{ssl_verify_result}"]).args(options);
        command.arg("--cacert").arg(tls.at.join("ca.pem"));
        let port = tls.lb.address().port();
        let name = crate::support::tls_client::NAME;
        command.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), "-T"]).arg(&file);
        let output = command.arg(format!("https://{name}:{port}/up")).output();
        let Ok(output) = output.inspect_err(|error| eprintln!("skipped: curl: {error}")) else { return };
        let version = if options[0] == "--http2" { "2" } else { "1.1" };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, format!("20000000 bytes to /up\n{version} 200 0"), "{options:?}");
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let server = Server::scripted(|mut stream, _| {
        while let Some(mut request) = Request::read_head(&mut stream) {
            respond(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
            if request.read_body(&mut stream).is_some() {
                respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            }
        }
    });
    let tls = TlsLb::start("", &server.table("s"));
    for mut client in clients(&tls) {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).expect("sent");
        assert!(read_until(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 100 "));
        client.write_all(b"hello").expect("sent");
        assert!(read_until(&mut client, "hello").starts_with("HTTP/1.1 200 "));
    }
}

// Case: half-closed-client
#[test]
fn a_client_that_has_ended_its_side_properly_gets_its_response() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            std::thread::sleep(Duration::from_millis(300));
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        }
    });
    let tls = TlsLb::start("", &server.table("s"));
    // A connection that ends without close_notify was cut off, so that its client counts as gone.
    for (notified, shut) in [(true, false), (true, true), (false, true)] {
        for mut client in clients(&tls) {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            if notified {
                client.conn.send_close_notify();
                client.flush().expect("sent");
            }
            if shut {
                client.sock.shutdown(Shutdown::Write).expect("a socket");
            }
            let mut response = String::new();
            let end = client.read_to_string(&mut response);
            assert_eq!(end.is_ok() && response.ends_with("late"), notified, "{notified} {shut}: {end:?} {response}");
        }
    }
}

// Case: half-upload
#[test]
fn an_upload_that_ends_without_close_notify_is_aborted() {
    let (sender, ended) = channel();
    let sender = Mutex::new(sender);
    let server = Server::scripted(move |mut stream, recorder| {
        // It gets no whole request.
        let is_whole = recorder.next(&mut stream).is_some();
        sender.lock().expect("a sender").send(is_whole).expect("the test");
    });
    let tls = TlsLb::start("", &server.table("s"));
    let starts = ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"];
    for start in starts {
        for (mut client, notified) in clients(&tls).into_iter().chain(clients(&tls)).zip([false, false, true, true]) {
            client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{start}").as_bytes()).expect("sent");
            if notified {
                client.conn.send_close_notify();
                client.flush().expect("sent");
            }
            client.sock.shutdown(Shutdown::Write).expect("a socket");
            assert!(!ended.recv_timeout(DEADLINE).expect("the end"), "{start:?}");
            drop(client);
        }
    }
    eventually("the log", || {
        (tls.lb.stdout().iter().filter(|line| line.contains("POST / ") && line.contains("client_gone")).count() == 8)
            .then_some(())
    });
    assert!(!tls.lb.has_panicked());
}

// Case: unread-responses
#[test]
fn clients_that_never_read_cost_little_memory_and_slow_ones_get_everything() {
    const CLIENTS: usize = 50;
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n");
            respond(&mut stream, vec![b'x'; 1 << 20]);
        }
    });
    let tls = TlsLb::start("", &format!("[log]\naccess = false\n{}", server.table("s")));
    let ask = |client: &mut TlsStream| client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut first = tls.client();
    ask(&mut first);
    read_until(&mut first, &"x".repeat(1000));
    let before = tls.lb.resident_kib();
    let config = std::sync::Arc::new(tls.trusting(rustls::ALL_VERSIONS, None));
    let mut unread: Vec<TlsStream> = (0..CLIENTS)
        .map(|_| {
            let mut client = connect(tls.lb.address(), config.clone()).expect("a connection");
            ask(&mut client);
            client
        })
        .collect();
    eventually("all have asked", || (server.requests().len() > CLIENTS).then_some(()));
    let grown = tls.lb.resident_kib().saturating_sub(before);
    assert!(grown < 60 * CLIENTS as u64, "{grown} KiB for {CLIENTS} clients");
    // Small pieces, and now and then a pause in which everything on the way fills up.
    let slow = &mut unread[0];
    let mut received = Vec::new();
    let mut piece = [0; 5000];
    while received.len() < (1 << 20) {
        let count = slow.read(&mut piece).expect("the response");
        assert!(count > 0, "ended after {} bytes", received.len());
        received.extend_from_slice(&piece[..count]);
        if received.len() % 100_000 < count {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(received.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn a_client_that_vanishes_costs_its_connection_only() {
    let server = measuring();
    let tls = TlsLb::start("", &server.table("s"));
    // In the middle of a record, and of an HTTP/2 connection.
    for mut client in clients(&tls).into_iter().chain([tls.http2_client()]) {
        client.sock.write_all(b"\x17\x03\x03\x01\x00half of a record").expect("sent");
        client.sock.shutdown(Shutdown::Both).expect("a socket");
    }
    drop(TcpStream::connect(tls.lb.address()));
    eventually("all have left", || (tls.lb.api("/api/listeners")["listeners"][0]["connections"] == 0).then_some(()));
    for mut client in clients(&tls) {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        assert!(read_until(&mut client, "to /\n").starts_with("HTTP/1.1 200 "));
    }
    assert!(!tls.lb.has_panicked());
}
