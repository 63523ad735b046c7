//! TLS for clients: certificates by name, what is refused and how, both protocol versions, bodies, client certificates.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Server, respond};
use crate::support::{DEADLINE, eventually};

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// `lb` with a TLS listener, a server that echoes heads, and the CA of everything.
pub(crate) struct Tls {
    pub(crate) lb: Lb,
    _server: Server,
    roots: RootCertStore,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Tls {
    /// `listener` and `rest` are added to the configuration.
    pub(crate) fn start(listener: &str, rest: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a root");
        let issuer = Issuer::new(params, key);
        let directory = TempDir::new().expect("a directory");
        let file = |name: &str, content: &str| fs::write(directory.path().join(name), content).expect("a file");
        file("ca.pem", &ca.pem());
        let (chain, key) = issue(&issuer, &["a.example", "*.w.example"]);
        file("a.pem", &chain);
        file("a.key", &key);
        let server = Server::scripted(|mut stream, recorder| {
            while let Some(request) = recorder.next(&mut stream) {
                let body = format!("{request:?}");
                match request.path() {
                    "/until-close" => return respond(&mut stream, "HTTP/1.1 200 OK\r\n\r\nall of it"),
                    _ => {
                        respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
                    }
                }
            }
        });
        let pool = servers(&[("s", server.address, 1)]);
        let path = directory.path().join("lb.toml");
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocols = [\"http/1.1\"]\n{listener}\n\
             [[certificate]]\nfile = \"a.pem\"\nkey = \"a.key\"\n[admin]\naddress = \"127.0.0.1:0\"\n{NO_CHECKS}{pool}{rest}"
        );
        fs::write(&path, text).expect("a file");
        Self { lb: Lb::start_in(directory, path), _server: server, roots, issuer }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        plain(self.lb.address())
    }

    pub(crate) fn config(&self, version: &'static SupportedProtocolVersion, client: bool) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("versions").with_root_certificates(self.roots.clone());
        let config = if client {
            let (chain, key) = issue(&self.issuer, &["client"]);
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(|one| one.expect("PEM")).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        } else {
            builder.with_no_client_auth()
        };
        Arc::new(config)
    }

    pub(crate) fn tls(&self, version: &'static SupportedProtocolVersion, name: &str) -> Stream {
        stream(self.config(version, false), name, self.connect())
    }
}

fn issue(issuer: &Issuer<'static, KeyPair>, names: &[&str]) -> (String, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(names).expect("names").signed_by(&key, issuer).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

fn plain(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream
}

pub(crate) fn stream(config: Arc<ClientConfig>, name: &str, socket: TcpStream) -> Stream {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    StreamOwned::new(ClientConnection::new(config, name).expect("a connection"), socket)
}

/// Sends a request and reads to the clean end of the connection.
pub(crate) fn get(stream: &mut Stream, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

pub(crate) const CLOSE: &str =
    "GET /x HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\nClient-Cert: :Zm9v:\r\n\r\n";

// Case: other-host
// Case: tls-end
#[test]
fn requests_over_tls_are_served_and_end_cleanly() {
    let tls = Tls::start("[listener.tls]", "");
    for version in VERSIONS {
        for name in ["a.example", "x.w.example"] {
            let response = get(&mut tls.tls(version, name), CLOSE).expect("a clean end");
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            assert!(response.contains("https") && !response.contains("Zm9v"), "{response}");
        }
        let request = "GET /until-close HTTP/1.0\r\nHost: a\r\n\r\n";
        let response = get(&mut tls.tls(version, "a.example"), request).expect("a clean end");
        assert!(response.ends_with("all of it"), "{response}");
    }
    let metric = "lb_tls_handshakes_total{listener=\"127.0.0.1:0\",result=\"ok\"}";
    assert_eq!(tls.lb.metric(metric), Some(6.0));
}

// Case: no-tls
#[test]
fn a_client_without_tls_is_told_so() {
    let tls = Tls::start("[listener.tls]", "");
    let mut client = tls.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("a connection");
    let mut response = String::new();
    client.read_to_string(&mut response).expect("an end");
    assert!(response.starts_with("HTTP/1.1 400 ") && response.contains("HTTPS"), "{response}");
    for garbage in [&b"\x00\x01\x02\x03\x04garbage"[..], b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x16\x09"] {
        let mut client = tls.connect();
        client.write_all(garbage).expect("a connection");
        let mut response = Vec::new();
        client.read_to_end(&mut response).expect("an end");
        assert_eq!(response.first(), Some(&21), "an alert");
    }
}

// Case: unknown-name
#[test]
fn an_unknown_name_is_refused_and_never_gets_a_certificate() {
    let tls = Tls::start("[listener.tls]", "");
    for version in VERSIONS {
        for name in ["b.example", "127.0.0.1", "w.example", "x.y.w.example"] {
            let error = get(&mut tls.tls(version, name), CLOSE).expect_err("an alert").to_string();
            assert!(error.contains("UnrecognisedName") || error.contains("UnrecognizedName"), "{name}: {error}");
        }
    }
}

// Case: split-hello
#[test]
fn a_hello_in_pieces_is_accepted_and_a_silent_one_ends() {
    let tls = Tls::start("[listener.tls]", "[timeouts]\ntls_handshake = \"500ms\"\n");
    let name = ServerName::try_from("a.example").expect("a name");
    let config = tls.config(VERSIONS[1], false);
    let mut connection = ClientConnection::new(config, name).expect("a connection");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("memory");
    // Each record carries one byte.
    let fragments: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    let mut socket = tls.connect();
    socket.set_nodelay(true).expect("a socket");
    for piece in fragments.chunks(7) {
        socket.write_all(piece).expect("a connection");
    }
    let response = get(&mut StreamOwned::new(connection, socket), CLOSE).expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    for start in [&hello[..0], &hello[..1], &hello[..100]] {
        let mut silent = tls.connect();
        silent.write_all(start).expect("a connection");
        assert_eq!(silent.read(&mut [0; 100]).expect("an end"), 0);
    }
}

#[test]
fn clients_are_admitted_by_their_certificates() {
    for (auth, without) in [("required", false), ("optional", true)] {
        let rules = format!(
            "[listener.tls]\nclient_ca = \"ca.pem\"\nclient_auth = \"{auth}\"\nforward_client_certificate = true\n"
        );
        let tls = Tls::start(&rules, "");
        for version in VERSIONS {
            let response = get(&mut tls.tls(version, "a.example"), CLOSE);
            assert_eq!(response.is_ok(), without, "{auth} {response:?}");
            assert!(!response.unwrap_or_default().contains("lient-Cert"), "{auth}");
            let mut client = stream(tls.config(version, true), "a.example", tls.connect());
            let response = get(&mut client, CLOSE).expect("a response");
            assert!(response.contains("\"Client-Cert\", \":MII"), "{response}");
        }
    }
}

#[test]
fn a_listener_redirects_everything_to_https() {
    let tls = Tls::start("redirect = \"https:8443\"", "");
    for (request, expected) in [
        ("GET /a%20b?c=d HTTP/1.1\r\nHost: a.example:80\r\n\r\n", "location: https://a.example:8443/a%20b?c=d\r\n"),
        ("GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n", "location: https://b.example:8443/x\r\n"),
    ] {
        let mut client = tls.connect();
        client
            .write_all(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
            .expect("a connection");
        let mut response = String::new();
        client.read_to_string(&mut response).expect("an end");
        assert!(response.starts_with("HTTP/1.1 308 "), "{response}");
        assert!(response.to_lowercase().contains(expected), "{response}");
    }
}

// Case: handshake-limit
#[test]
fn handshakes_beyond_the_limit_are_shed_and_counted() {
    let tls = Tls::start("[listener.tls]", "[limits]\nhandshakes = 1\n");
    let name = || ServerName::try_from("a.example").expect("a name");
    let mut first = ClientConnection::new(tls.config(VERSIONS[1], false), name()).expect("a connection");
    let mut socket = tls.connect();
    first.write_tls(&mut socket).expect("a hello");
    while !first.wants_write() {
        first.read_tls(&mut socket).expect("a flight");
        first.process_new_packets().expect("a flight");
    }
    // One that has sent nothing is no handshake in progress yet.
    let mut silent = tls.connect();
    get(&mut tls.tls(VERSIONS[1], "a.example"), CLOSE).expect_err("shed");
    let count =
        |result| tls.lb.metric(&format!("lb_tls_handshakes_total{{listener=\"127.0.0.1:0\",result=\"{result}\"}}"));
    assert_eq!((count("shed"), count("ok")), (Some(1.0), None));
    assert!(get(&mut StreamOwned::new(first, socket), CLOSE).expect("a response").starts_with("HTTP/1.1 200"));
    assert!(get(&mut tls.tls(VERSIONS[1], "a.example"), CLOSE).expect("a response").starts_with("HTTP/1.1 200"));
    silent.write_all(b"\x16\x09").expect("a connection");
    assert!(silent.read(&mut [0; 7]).expect("an alert") > 0);
    assert_eq!((count("shed"), count("ok"), count("invalid")), (Some(1.0), Some(2.0), Some(1.0)));
}

// Case: no-tls
#[test]
fn a_client_with_the_wrong_protocol_leaves_one_line_at_debug_level() {
    let log = "[log]\nlevel = \"debug\"\n";
    let lines = |tls: &Tls, words: &str| {
        let is_it = |line: &&String| line.contains("DEBUG") && line.contains(words);
        tls.lb.stderr().iter().filter(is_it).count()
    };
    let logs = |tls: &Tls, words: &str| eventually(words, || (lines(tls, words) > 0).then_some(()));
    let plain = Tls::start("", log);
    let error = get(&mut plain.tls(VERSIONS[1], "a.example"), CLOSE).expect_err("no TLS").to_string();
    assert!(error.contains("corrupt message") || error.contains("InvalidContentType"), "{error}");
    logs(&plain, "the client uses TLS, and this listener does not");
    assert_eq!(lines(&plain, "the client uses TLS"), 1);
    let mut client = plain.connect();
    client.write_all(b"\0garbage\r\n\r\n").expect("a connection");
    let mut response = String::new();
    client.read_to_string(&mut response).expect("an end");
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    logs(&plain, "the head of a request was rejected; start_line");
    let secure = Tls::start("[listener.tls]", log);
    for (bytes, words) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "the client does not use TLS"),
        (b"\x00\x01\x02garbage", "the client's first bytes are no valid hello"),
    ] {
        let mut client = secure.connect();
        client.write_all(bytes).expect("a connection");
        client.read_to_end(&mut Vec::new()).expect("an end");
        logs(&secure, words);
        assert_eq!(lines(&secure, words), 1);
    }
}
