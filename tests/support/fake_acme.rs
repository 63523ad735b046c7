//! An ACME server that misbehaves: over TLS, with the responses that a test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::pebble::write_certificates;

/// Responds to the path of a request with everything that follows `HTTP/1.1 `, or closes the connection.
pub(crate) type Script = Box<dyn Fn(&str, SocketAddr) -> Option<String> + Send + Sync>;

/// A server on a port of its own. Its thread ends with the test.
pub(crate) struct FakeAcme {
    pub(crate) address: SocketAddr,
    files: TempDir,
    /// The paths of the requests so far.
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeAcme {
    pub(crate) fn start(script: Script) -> Self {
        let files = TempDir::new().expect("a directory");
        write_certificates(files.path());
        let chain = CertificateDer::from_pem_file(files.path().join("server.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(files.path().join("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a pair");
        let (config, script) = (Arc::new(config), Arc::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                thread::spawn(move || serve(StreamOwned::new(session, stream), address, &script, &seen));
            }
        });
        Self { address, files, requests }
    }

    /// The keys of `[acme]` that lead to it.
    pub(crate) fn keys(&self) -> String {
        let (address, ca) = (self.address, self.ca());
        format!("directory = \"https://{address}/dir\"\nca = \"{}\"\n", ca.display())
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// How many requests had this path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests.lock().expect("requests").iter().filter(|seen| *seen == path).count()
    }
}

/// Serves requests until the client or the script ends the connection.
fn serve(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    address: SocketAddr,
    script: &Script,
    seen: &Mutex<Vec<String>>,
) {
    while let Some(path) = request(&mut stream) {
        seen.lock().expect("requests").push(path.clone());
        let Some(response) = script(&path, address) else { return };
        if stream.write_all(format!("HTTP/1.1 {response}").as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads a request and its body; returns the path.
fn request(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    Some(head.split(' ').nth(1)?.to_owned())
}

/// A JSON response; `head` is the status and further headers, each line with its CRLF.
pub(crate) fn json(head: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "{head}Content-Type: application/json\r\nReplay-Nonce: bm9uY2U\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

/// The first steps of a server, before it refuses an order: its directory, a nonce and an account.
pub(crate) fn until_order(path: &str, address: SocketAddr) -> Option<String> {
    match path {
        "/dir" => {
            let url = |name: &str| format!("https://{address}/{name}");
            let body = format!(
                r#"{{"newNonce":"{}","newAccount":"{}","newOrder":"{}"}}"#,
                url("nonce"),
                url("account"),
                url("order")
            );
            json("200 OK\r\n", &body)
        }
        "/nonce" => Some("200 OK\r\nReplay-Nonce: bm9uY2U\r\nContent-Length: 0\r\n\r\n".to_owned()),
        "/account" => {
            json(&format!("201 Created\r\nLocation: https://{address}/account/1\r\n"), r#"{"status":"valid"}"#)
        }
        _ => None,
    }
}
