//! Certificates are rotated under continuous handshakes, in each way in which programs and people write them: no handshake
//! fails, and a new pair is live soon after it is complete.
//!
//! `LB_HANDSHAKES=5000 cargo test --test outside rotation -- --ignored --nocapture --test-threads 1` measures each way for longer.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use tempfile::TempDir;

use crate::support::certificates::{TestPair, pair};
use crate::support::h2;
use crate::support::lb::{Lb, servers};
use crate::support::{DEADLINE, eventually};

const FILE: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n[admin]\naddress = \"127.0.0.1:0\"\n\
                    [log]\naccess = false\n[health]\nkind = \"none\"\n[reload]\npoll = \"0s\"\n";
const SITE: &str = "[[certificate]]\nfile = \"site.pem\"\nkey = \"site.key\"\n";
const NAME: &str = "site.example.com";
/// How soon a new pair has to be live.
const LIVE: Duration = Duration::from_millis(500);

/// Accepts any certificate whose key has signed the handshake.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn client(protocol: &[u8]) -> Arc<ClientConfig> {
    let provider = aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider.clone())).with_safe_default_protocol_versions();
    let verifier = Arc::new(AnyCertificate(provider));
    let mut config = builder.unwrap().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    // Each one is a whole handshake.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// One handshake, and in HTTP/2 the first frame of each side. Returns the leaf that the server has shown.
fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_nodelay(true)?;
    let mut connection =
        ClientConnection::new(Arc::clone(config), NAME.try_into().unwrap()).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    if connection.alpn_protocol() == Some(b"h2") {
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame)?;
        if frame[3] != h2::SETTINGS {
            return Err(io::Error::other(format!("{frame:?} is no SETTINGS frame")));
        }
    }
    let shown = connection.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.map(|leaf| leaf.to_vec()).unwrap_or_default())
}

/// The results of all handshakes.
#[derive(Debug, Default)]
struct Seen {
    handshakes: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// The newest leaf that was shown.
    newest: Mutex<Vec<u8>>,
    stop: AtomicBool,
}

/// Rotates a certificate until there were `wanted` handshakes.
fn rotate(what: &str, certificates: &str, wanted: usize, write: impl Fn(&TestPair, &Path, usize)) -> Duration {
    let directory = TempDir::new().unwrap();
    let at = directory.path().to_owned();
    write(&pair(&[NAME]), &at, 0);
    let path = at.join("lb.toml");
    let server = servers(&[("a", "127.0.0.1:9".parse().unwrap(), 1)]);
    fs::write(&path, format!("{FILE}{certificates}{server}")).unwrap();
    let lb = Lb::start_in(directory, path);
    let (address, seen) = (lb.address(), Arc::new(Seen::default()));
    let clients: Vec<_> = [b"http/1.1".as_slice(), b"h2"]
        .into_iter()
        .map(|protocol| {
            let (config, seen) = (client(protocol), Arc::clone(&seen));
            thread::spawn(move || {
                while !seen.stop.load(Relaxed) {
                    match handshake(address, &config) {
                        Ok(leaf) => *seen.newest.lock().unwrap() = leaf,
                        Err(error) => seen.failures.lock().unwrap().push(error.to_string()),
                    }
                    seen.handshakes.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let (mut slowest, mut number) = (Duration::ZERO, 0);
    while number < 3 || seen.handshakes.load(Relaxed) < wanted {
        number += 1;
        let next = pair(&[NAME]);
        write(&next, &at, number);
        let complete = Instant::now();
        eventually("the new certificate is served", || (*seen.newest.lock().unwrap() == next.leaf).then_some(()));
        slowest = slowest.max(complete.elapsed());
    }
    seen.stop.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let handshakes = seen.handshakes.load(Relaxed);
    assert_eq!(*seen.failures.lock().unwrap(), [""; 0], "{what}, of {handshakes} handshakes");
    eprintln!("{what}: {handshakes} handshakes, 0 failed, {number} rotations, live within {slowest:?}");
    assert!(!lb.has_panicked());
    slowest
}

fn by_editor(pair: &TestPair, at: &Path, _: usize) {
    pair.rename(&at.join("site.pem"), &at.join("site.key"));
}

/// The key first, in place, and the certificate once the key has been read.
fn in_place(pair: &TestPair, at: &Path, number: usize) {
    fs::write(at.join("site.key"), &pair.key).unwrap();
    if number > 0 {
        thread::sleep(Duration::from_millis(150));
    }
    fs::write(at.join("site.pem"), &pair.chain).unwrap();
}

fn by_acme_sh(pair: &TestPair, at: &Path, _: usize) {
    pair.write(&at.join("site.pem"), &at.join("site.key"));
}

fn by_kubelet(pair: &TestPair, at: &Path, number: usize) {
    fs::create_dir_all(at.join("certs/site")).unwrap();
    pair.swap_data(&at.join("certs/site"), number);
}

/// Each way, with the configuration that it is for.
type Way = (&'static str, &'static str, fn(&TestPair, &Path, usize));

const WAYS: [Way; 5] = [
    ("cert-manager", "[[certificate]]\ndirectory = \"certs/*\"\n", by_kubelet),
    ("certbot", "[[certificate]]\ndirectory = \"live\"\n", |pair, at, number| pair.certbot(at, number)),
    ("acme.sh", SITE, by_acme_sh),
    ("an editor that renames", SITE, by_editor),
    ("an editor that writes in place, with a pause", SITE, in_place),
];

// Case: certificate-files
#[test]
fn no_handshake_fails_while_certificates_are_rotated() {
    for (what, certificates, write) in WAYS {
        rotate(what, certificates, 100, write);
    }
}

#[test]
#[ignore = "measures time; run it on a quiet machine"]
fn a_rotated_certificate_is_live_within_500_ms() {
    let wanted = std::env::var("LB_HANDSHAKES").ok().and_then(|number| number.parse().ok()).unwrap_or(5000);
    for (what, certificates, write) in WAYS {
        let slowest = rotate(what, certificates, wanted, write);
        assert!(slowest <= LIVE, "{what}: {slowest:?}");
    }
}
