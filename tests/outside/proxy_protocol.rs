//! PROXY headers: from proxies in front, and to servers.

use std::io::{BufRead, Read};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Recorder, Server, respond};
use crate::tls_real::Program;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56789 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xdd\xd5\x01\xbb";

/// A balancer whose listener has PROXY headers, from these proxies.
fn start(server: &Server, trusted: &str, more: &str) -> Lb {
    Lb::start_file(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [proxy]\ntrusted_proxies = [\"{trusted}\"]\n{NO_CHECKS}{more}{}",
        server.table("server1")
    ))
}

/// Whether the connection ends without a response to this.
fn is_refused(lb: &Lb, sent: &[u8]) -> bool {
    let mut client = Client::connect(lb.address());
    client.send(sent);
    client.rest().map_or(true, |bytes| bytes.is_empty())
}

// Case: proxy-header
#[test]
fn a_header_from_a_trusted_proxy_names_the_client() {
    let server = Server::named("server1");
    let lb = start(&server, "127.0.0.0/8", "");
    for header in [V1, V2] {
        let bytes = [header, GET.as_bytes()].concat();
        for split in 0..=header.len() {
            let mut client = Client::connect(lb.address());
            client.send(&bytes[..split]);
            client.send(&bytes[split..]);
            assert_eq!(client.response().status, 200, "split at {split}");
            assert_eq!(client.get("/").status, 200, "it is the header of the connection");
        }
    }
    let requests = server.requests();
    assert!(requests.len() > 100);
    assert!(requests.iter().all(|request| request.values("x-forwarded-for") == ["192.0.2.7"]));
    lb.logs("the client's address", |line| line.contains("192.0.2.7"));
    for header in ["PROXY UNKNOWN\r\n", "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let mut client = Client::connect(lb.address());
        assert_eq!(client.request(format!("{header}{GET}")).status, 200);
        let last = server.requests().pop().expect("a request");
        assert_eq!(last.values("x-forwarded-for"), ["127.0.0.1"]);
    }
    // Trust is decided again: the client in this header is a proxy too.
    let mut client = Client::connect(lb.address());
    client.send(
        "PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n",
    );
    assert_eq!(client.response().status, 200);
    assert_eq!(server.requests().pop().expect("a request").values("x-forwarded-for"), ["203.0.113.9, 127.0.0.9"]);
}

// Case: proxy-header-missing
#[test]
fn a_trusted_proxy_without_a_valid_header_is_closed() {
    let server = Server::named("server1");
    let lb = start(&server, "127.0.0.0/8", "[timeouts]\ntls_handshake = \"300ms\"\n");
    // Nothing is logged about those who only look whether anybody listens.
    drop(Client::connect(lb.address()));
    assert!(is_refused(&lb, b""), "silence ends with `timeouts.tls_handshake`");
    assert!(!lb.stderr().iter().any(|line| line.contains("PROXY")), "{:#?}", lb.stderr());
    for sent in
        [GET.as_bytes(), b"PROXY TCP4 x\r\n", b"PROXY TCP4 192.0.2.7", &V2[..20], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        assert!(is_refused(&lb, sent), "{}", sent.escape_ascii());
    }
    eventually("a line of the log", || lb.stderr().into_iter().find(|line| line.contains("it sent no PROXY header")));
    assert_eq!(server.requests().len(), 0);
}

// Case: proxy-header-untrusted
#[test]
fn other_clients_are_served_without_a_header_and_closed_with_one() {
    let server = Server::named("server1");
    let lb = start(&server, "192.0.2.0/24", "");
    assert_eq!(get(lb.address(), "/").status, 200);
    let mut slow = Client::connect(lb.address());
    slow.send("P");
    slow.send("OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(slow.response().status, 200);
    for header in [V1, V2] {
        assert!(is_refused(&lb, &[header, GET.as_bytes()].concat()));
    }
    assert!(server.requests().iter().all(|request| request.values("x-forwarded-for") == ["127.0.0.1"]));
    assert_eq!(server.requests().len(), 2);
    eventually("a line of the log", || lb.stderr().into_iter().find(|line| line.contains("proxy.trusted_proxies")));
}

/// The headers that a server has got, one for each connection.
type Headers = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server that reads a header in this version first. Its last value counts the connections that have ended.
fn behind_a_header(version: &'static str) -> (Server, Headers, Arc<AtomicUsize>) {
    let (headers, closed) = (Headers::default(), Arc::<AtomicUsize>::default());
    let (seen, ended) = (Arc::clone(&headers), Arc::clone(&closed));
    let server = Server::scripted(move |mut stream, recorder: &Recorder| {
        let mut header = Vec::new();
        if version == "v1" {
            let _ = stream.read_until(b'\n', &mut header);
        } else {
            header.resize(16, 0);
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let mut rest = vec![0; usize::from(header[15])];
            let _ = stream.read_exact(&mut rest);
            header.extend(rest);
        }
        seen.lock().expect("headers").push(header);
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        ended.fetch_add(1, SeqCst);
    });
    (server, headers, closed)
}

// Case: proxy-header-to-server
#[test]
fn a_server_gets_the_client_of_each_connection() {
    for version in ["v1", "v2"] {
        let (server, headers, closed) = behind_a_header(version);
        let lb =
            Lb::in_front_of(&server, &format!("[proxy]\nworkers = 1\n[upstream]\nproxy_protocol = \"{version}\"\n"));
        let [mut first, mut second] = [(); 2].map(|()| Client::connect(lb.address()));
        let ports = [first.socket(), second.socket()].map(|socket| socket.local_addr().expect("an address").port());
        for _ in 0..3 {
            assert_eq!((first.get("/").status, second.get("/").status), (200, 200));
        }
        let seen = headers.lock().expect("headers").clone();
        let to = lb.address().port();
        let expected = |from: u16| match version {
            "v1" => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n").into_bytes(),
            _ => [&V2[..16], &[127, 0, 0, 1, 127, 0, 0, 1], &from.to_be_bytes()[..], &to.to_be_bytes()].concat(),
        };
        assert_eq!(seen, ports.map(expected), "each client has a connection of its own, which is used again");
        assert_eq!(server.connections(), 2);
        assert_eq!(closed.load(SeqCst), 0);
        drop(first);
        eventually("the connection ends with its client", || (closed.load(SeqCst) == 1).then_some(()));
        assert_eq!(second.get("/").status, 200);
        assert_eq!(server.connections(), 2);
    }
}

#[test]
fn a_check_sends_a_header_without_addresses() {
    for (version, expected) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        let (server, headers, _) = behind_a_header(version);
        let lb = Lb::start(&format!("[upstream]\nproxy_protocol = \"{version}\"\n{}", server.table("server1")));
        lb.server_is("server1", "up");
        let first = eventually("a check", || headers.lock().expect("headers").first().cloned());
        assert_eq!(first, expected);
    }
}

#[test]
fn curl_and_haproxy_send_headers_that_are_understood() {
    let server = Server::named("server1");
    let lb = start(&server, "127.0.0.0/8", "");
    let url = format!("http://{}/curl", lb.address());
    let Ok(curl) = std::process::Command::new("curl").args(["-s", "--haproxy-protocol", &url]).output() else {
        eprintln!("skipped: curl");
        return;
    };
    assert!(curl.status.success(), "{curl:?}");
    assert_eq!(server.requests().pop().expect("a request").path(), "/curl");
    for option in ["send-proxy", "send-proxy-v2 send-proxy-v2-ssl-cn proxy-v2-options crc32c,authority"] {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, socket) = (directory.path().join("haproxy.cfg"), directory.path().join("in.sock"));
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\nlisten in\n bind unix@{}\n \
             server lb {} source 127.0.0.1 {option}\n",
            socket.display(),
            lb.address()
        );
        std::fs::write(&file, config).expect("a file");
        let Ok(mut haproxy) = std::process::Command::new("haproxy").arg("-f").arg(&file).arg("-q").spawn() else {
            eprintln!("skipped: haproxy");
            return;
        };
        let connected = eventually("haproxy listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let response = (|| {
            use std::io::Write as _;
            (&connected).write_all(b"GET /haproxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            (&connected).read_to_string(&mut text).ok()?;
            Some(text)
        })();
        haproxy.kill().expect("killed");
        haproxy.wait().expect("ended");
        assert!(response.as_ref().is_some_and(|text| text.starts_with("HTTP/1.1 200")), "{option}: {response:?}");
    }
}

// Case: proxy-header-to-server
#[test]
fn nginx_and_haproxy_understand_the_headers_that_are_sent() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().display();
    let file = directory.path().join("config");
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {path}/{name};"));
    let nginx = Program::start("nginx", |address| {
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/log; events {{}}\nhttp {{ access_log off; {} server {{ \
             listen {address} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port \
             $proxy_protocol_server_port $connection_requests\"; }} }} }}",
            temporary.concat()
        );
        std::fs::write(directory.path().join("nginx.conf"), config).expect("a file");
        let mut command = std::process::Command::new("nginx");
        command.arg("-c").arg(directory.path().join("nginx.conf"));
        command
    });
    let haproxy = Program::start("haproxy", |address| {
        let config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\nfrontend in\n \
             bind {address} accept-proxy\n http-request return status 200 content-type text/plain \
             lf-string \"%[src] %[src_port] %[dst_port] \"\n"
        );
        std::fs::write(&file, config).expect("a file");
        let mut command = std::process::Command::new("haproxy");
        command.arg("-f").arg(&file).arg("-q");
        command
    });
    for program in [nginx, haproxy].into_iter().flatten() {
        for version in ["v1", "v2"] {
            let table = crate::support::lb::servers(&[("server1", program.address, 1)]);
            let keys = format!("{NO_CHECKS}[proxy]\nworkers = 1\n[upstream]\nproxy_protocol = \"{version}\"\n");
            let lb = Lb::start(&format!("{keys}{table}"));
            let mut clients = [(); 2].map(|()| Client::connect(lb.address()));
            for _ in 0..3 {
                for client in &mut clients {
                    let from = client.socket().local_addr().expect("an address").port();
                    let expected = format!("127.0.0.1 {from} {} ", lb.address().port());
                    let response = client.get("/");
                    assert!(response.text().starts_with(&expected), "{version}: {response:?} is not {expected:?}");
                }
            }
        }
    }
}
