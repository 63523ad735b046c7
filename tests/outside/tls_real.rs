//! Real servers that speak TLS: nginx, Python and OpenSSL. Each test prints "skipped" where the program is missing.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::tls::Ca;
use crate::tls_checks::tls;

/// A program that listens. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Program {
    /// Starts a program that listens at the address that it is given; `None` if it is not installed.
    pub(crate) fn start(name: &str, command: impl FnOnce(SocketAddr) -> Command) -> Option<Self> {
        // These programs do not choose a port themselves.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        match command(address).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => {
                let mut program = Self { child, address };
                eventually(&format!("{name} listens"), || {
                    assert!(program.child.try_wait().expect("a child").is_none(), "{name} has ended");
                    TcpStream::connect(address).ok()
                });
                Some(program)
            }
            Err(error) => {
                eprintln!("skipped: {name}: {error}");
                None
            }
        }
    }
}

impl Program {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `ca.pem`, a certificate for 127.0.0.1 as `site`, and a client certificate as `lb`.
pub(crate) fn certificates(directory: &Path) {
    let ca = Ca::new("one");
    ca.write(&directory.join("ca.pem"));
    ca.issue(&["127.0.0.1"]).write(directory, "site");
    ca.issue(&["lb.test"]).write(directory, "lb");
}

fn identity(directory: &Path) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    format!("certificate = \"{}\"\nkey = \"{}\"\n", path("lb.pem"), path("lb.key"))
}

fn start(directory: &Path, keys: &str, address: SocketAddr) -> Lb {
    let table = servers(&[("server1", address, 1)]);
    Lb::start(&format!("{NO_CHECKS}[proxy]\nworkers = 1\n{}{table}", tls(directory, keys)))
}

#[test]
fn nginx_with_and_without_client_certificates() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let path = directory.path().display().to_string();
    let body = "x".repeat(1 << 20);
    std::fs::write(directory.path().join("big"), &body).expect("a file");
    let paths =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {path}/{name};"));
    for (versions, verify) in [("TLSv1.2", "off"), ("TLSv1.3", "off"), ("TLSv1.2", "on"), ("TLSv1.3", "on")] {
        let nginx = Program::start("nginx", |address| {
            let config = format!(
                "daemon off; master_process off; pid {path}/pid; error_log {path}/log; events {{}}\nhttp {{ access_log off; {} \
                 server {{ listen {address} ssl; root {path}; ssl_certificate site.pem; ssl_certificate_key site.key; \
                 ssl_protocols {versions}; ssl_client_certificate ca.pem; ssl_verify_client {verify}; \
                 location /facts {{ return 200 \"$ssl_protocol $ssl_session_reused $connection_requests $ssl_client_verify\"; }} }} }}",
                paths.concat()
            );
            let file = directory.path().join("nginx.conf");
            std::fs::write(&file, config).expect("a file");
            let mut command = Command::new("nginx");
            command.arg("-c").arg(&file);
            command
        });
        let Some(nginx) = nginx else { return };
        let lb = start(directory.path(), &identity(directory.path()), nginx.address);
        let mut client = Client::connect(lb.address());
        let verified = if verify == "on" { "SUCCESS" } else { "NONE" };
        for turn in 1..=20 {
            assert_eq!(client.get("/facts").text(), format!("{versions} . {turn} {verified}"));
        }
        for _ in 0..3 {
            assert!(client.get("/big").text() == body);
        }
        // nginx responds before it has read the body.
        let response =
            client.request(format!("POST /facts HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(response.status, 200);
        let lb = start(directory.path(), "", nginx.address);
        let response = get(lb.address(), "/facts");
        assert_eq!(response.status, if verify == "on" { 400 } else { 200 }, "nginx says so itself: {response:?}");
    }
}

#[test]
fn nginx_without_tls_at_its_port() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let path = directory.path().display().to_string();
    let nginx = Program::start("nginx", |address| {
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/log; events {{}}\nhttp {{ access_log off; \
             client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c; uwsgi_temp_path {path}/d; \
             scgi_temp_path {path}/e; server {{ listen {address}; return 200; }} }}"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file);
        command
    });
    let Some(nginx) = nginx else { return };
    let lb = start(directory.path(), "", nginx.address);
    assert_eq!(get(lb.address(), "/").status, 502);
    let line = lb.logs("the request", |line| line.contains("GET / "));
    assert!(line.contains("error=tls") && line.contains("rule=not_tls"), "{line}");
}

const PYTHON: &str = "
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('site.pem', 'site.key')
context.load_verify_locations('ca.pem')
context.verify_mode = ssl.CERT_REQUIRED if sys.argv[2] == 'required' else ssl.CERT_NONE
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

#[test]
fn python_with_and_without_client_certificates() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let body = "y".repeat(1 << 20);
    for verify in ["none", "required"] {
        let python = Program::start("python3", |address| {
            let mut command = Command::new("python3");
            command.args(["-c", PYTHON, &address.port().to_string(), verify]).current_dir(directory.path());
            command
        });
        let Some(python) = python else { return };
        let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let lb = start(directory.path(), &identity(directory.path()), python.address);
        let mut client = Client::connect(lb.address());
        for _ in 0..5 {
            assert!(client.request(&post).text() == body);
        }
        let lb = start(directory.path(), "", python.address);
        let response =
            Client::connect(lb.address()).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nz");
        assert_eq!(response.status, if verify == "required" { 502 } else { 200 });
        if verify == "required" {
            let line = lb.logs("the request", |line| line.contains("POST / "));
            assert!(line.contains("error=tls") || line.contains("error=bad_response"), "{line}");
        }
    }
}

#[test]
fn openssl_with_each_version_and_kind_of_key() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let run = |arguments: &[&str]| {
        let ran = Command::new("openssl").args(arguments).current_dir(directory.path()).output();
        ran.map(|ran| assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr)))
    };
    // A self-signed RSA certificate, as people make them, is its own CA here.
    let made = run(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "rsa.key",
        "-out",
        "rsa.pem",
        "-days",
        "2",
        "-subj",
        "/CN=anything",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]);
    if let Err(error) = made {
        eprintln!("skipped: openssl: {error}");
        return;
    }
    for version in ["-tls1_2", "-tls1_3"] {
        for (name, ca) in [("site", "ca.pem"), ("rsa", "rsa.pem")] {
            let openssl = Program::start("openssl", |address| {
                let mut command = Command::new("openssl");
                let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
                command
                    .args(["s_server", "-www", version, "-accept", &address.to_string()])
                    .args(["-cert", &certificate, "-key", &key])
                    .current_dir(directory.path());
                command
            });
            let Some(openssl) = openssl else { return };
            let keys = format!("[upstream.tls]\nca = \"{}\"\n", directory.path().join(ca).display());
            let table = servers(&[("server1", openssl.address, 1)]);
            let lb = Lb::start(&format!("{NO_CHECKS}[proxy]\nworkers = 1\n{keys}{table}"));
            for _ in 0..3 {
                // It ends each response by closing the connection.
                let response = get(lb.address(), "/");
                let wanted = format!("TLSv1.{}", &version[version.len() - 1..]);
                assert_eq!(response.status, 200, "{version} {name}: {response:?} {:#?}", lb.stderr());
                assert!(response.text().contains(&wanted), "{version} {name}: {}", response.text());
            }
        }
    }
}
