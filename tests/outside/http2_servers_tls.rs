//! HTTP/2 to servers over TLS: what ALPN chooses, and what follows if that is not what the file says.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use h2::Reason;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::Server;
use crate::support::tls::{Ca, FrontRules, TlsFront};
use crate::tls_checks::tls;
use crate::tls_real::{Program, certificates};

const OPEN: &str = "lb_server_connections{pool=\"default\",server=\"server1\"}";

/// A CA whose certificate is in a directory, and rules for a server that chooses among these protocols.
fn trusted(alpn: &[&str]) -> (TempDir, FrontRules) {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let mut rules = FrontRules::new(ca.issue(&["127.0.0.1", "api.test"]));
    rules.alpn = names(alpn);
    (directory, rules)
}

fn names(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// One worker, no checks, TLS with this protocol.
fn config(directory: &TempDir, protocol: &str, tables: &str) -> String {
    let upstream = format!("[upstream]\nprotocol = \"{protocol}\"\n{}", tls(directory.path(), ""));
    format!("{NO_CHECKS}[proxy]\nworkers = 1\n{upstream}{tables}")
}

fn echo_server() -> Http2Server {
    Http2Server::start(100, async |mut stream: Stream| {
        let _ = stream.body().await;
        stream.ok("ok");
    })
}

#[test]
fn requests_share_a_connection_with_tls() {
    for (protocol, alpn) in [("h2", &["h2"][..]), ("auto", &["h2", "http/1.1"])] {
        let server = echo_server();
        let (directory, rules) = trusted(alpn);
        let front = TlsFront::new(&rules, server.address);
        let lb = Lb::start(&config(&directory, protocol, &front.table("server1")));
        let address = lb.address();
        let clients: Vec<_> = (0..30).map(|_| thread::spawn(move || get(address, "/a").text())).collect();
        assert!(clients.into_iter().all(|client| client.join().expect("a response") == "ok"));
        assert_eq!(front.handshakes(), (1, 0), "{protocol}: not even while the choice was unknown");
        let request = &server.requests()[0];
        assert_eq!((request.uri().scheme_str(), request.uri().path()), (Some("https"), "/a"));
        assert_eq!(lb.metric(OPEN), Some(1.0));
    }
}

#[test]
fn a_server_that_does_not_choose_http_2_is_left_for_another_one() {
    // One that does not negotiate, and one that ends the handshake with an alert.
    for (alpn, reason) in [(&[][..], "the server has chosen no protocol"), (&["http/1.1"], "no protocol in common")] {
        let (old, new) = (Server::named("old"), echo_server());
        let (directory, rules) = trusted(&["h2"]);
        let old = TlsFront::new(&FrontRules { alpn: names(alpn), ..rules.clone() }, old.address);
        let new = TlsFront::new(&rules, new.address);
        let alone = config(&directory, "h2", &old.table("server1"));
        let lb = Lb::start(&alone);
        assert_eq!(get(lb.address(), "/").status, 502);
        let line = lb.logs("the request", |line| line.contains("GET / "));
        assert!(line.contains("error=tls") && line.contains("rule=protocol"), "{line}");
        let line = eventually("the reason is logged", || {
            lb.stderr().into_iter().find(|line| line.contains("no TLS with the server"))
        });
        for part in ["server1", reason, "or to `auto`"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        lb.apply(&format!("{alone}{}", new.table("server2")));
        let mut client = Client::connect(lb.address());
        for _ in 0..4 {
            let response = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!((response.status, response.text()), (200, "ok".to_owned()));
        }
        // The other choice serves both.
        lb.apply(&config(&directory, "auto", &old.table("server1")));
        assert_eq!(get(lb.address(), "/").text(), "old");
    }
}

#[test]
fn with_auto_a_server_may_choose_http_1() {
    for alpn in [&["http/1.1"][..], &[]] {
        let server = Server::named("old");
        let (directory, rules) = trusted(alpn);
        let front = TlsFront::new(&rules, server.address);
        let lb = Lb::start(&config(&directory, "auto", &front.table("server1")));
        let mut client = Client::connect(lb.address());
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "old");
        }
        assert_eq!(front.handshakes(), (1, 0), "{alpn:?}: the connection is kept");
        let upgrade = client.request("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(upgrade.status, 200, "that is up to the server");
    }
}

#[test]
fn with_auto_and_without_tls_http_1_is_spoken() {
    let server = Server::named("old");
    let lb = Lb::start(&format!(
        "[proxy]\nworkers = 1\n[upstream]\nprotocol = \"auto\"\n[health]\ninterval = \"100ms\"\npath = \"/\"\n{}",
        server.table("server1")
    ));
    lb.server_is("server1", "up");
    assert_eq!(get(lb.address(), "/").text(), "old");
}

#[test]
fn a_check_speaks_the_protocol_that_the_server_chooses() {
    let server = echo_server();
    let (directory, rules) = trusted(&["h2"]);
    let front = TlsFront::new(&rules, server.address);
    let health = "[health]\ninterval = \"100ms\"\npath = \"/live\"\nbody = \"ok\"\n";
    let file = |protocol: &str| config(&directory, protocol, &front.table("server1")).replace(NO_CHECKS, health);
    let lb = Lb::start(&file("auto"));
    let first = eventually("a check", || server.requests().into_iter().next());
    assert_eq!((first.uri().scheme_str(), first.uri().path()), (Some("https"), "/live"));
    lb.server_is("server1", "up");
    lb.apply(&file("h2"));
    lb.server_is("server1", "up");
    front.set(&FrontRules { alpn: Vec::new(), ..rules });
    let error = eventually("a check fails", || lb.server("server1")["last_check"]["error"].as_str().map(str::to_owned));
    assert!(error.contains("the server has chosen no protocol"), "{error}");
}

#[test]
fn an_edit_of_the_rules_for_tls_retires_connections_and_ends_no_request() {
    let (gate, arrived) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    let (open, count) = (Arc::clone(&gate), Arc::clone(&arrived));
    let server = Http2Server::start(100, move |mut stream: Stream| {
        let (open, count) = (Arc::clone(&open), Arc::clone(&count));
        async move {
            if stream.request.uri().path() == "/wait" {
                count.fetch_add(1, SeqCst);
                let _held = open.acquire().await;
            }
            stream.ok("ok");
        }
    });
    let (directory, rules) = trusted(&["h2"]);
    let front = TlsFront::new(&rules, server.address);
    let file = config(&directory, "h2", &front.table("server1"));
    let lb = Lb::start(&file);
    let address = lb.address();
    let waiting = thread::spawn(move || get(address, "/wait").text());
    eventually("the request is at the server", || (arrived.load(SeqCst) == 1).then_some(()));
    assert_eq!((get(address, "/").text(), front.handshakes().0), ("ok".to_owned(), 1));
    lb.apply(&file.replace("ca = ", "server_name = \"api.test\"\nca = "));
    assert_eq!((get(address, "/").text(), front.handshakes().0 + front.handshakes().1), ("ok".to_owned(), 2));
    gate.add_permits(1);
    assert_eq!(waiting.join().expect("a response"), "ok");
    eventually("the old connection ends", || (lb.metric(OPEN) == Some(1.0)).then_some(()));
}

#[test]
fn a_server_that_rejects_the_client_certificate_after_the_handshake_says_so() {
    let server = echo_server();
    let (directory, rules) = trusted(&["h2"]);
    let front = TlsFront::new(&FrontRules { client_ca: Some(Ca::new("another").pem), ..rules }, server.address);
    let lb = Lb::start(&config(&directory, "h2", &front.table("server1")));
    let address = lb.address();
    let clients: Vec<_> = (0..5).map(|_| thread::spawn(move || get(address, "/").status)).collect();
    assert_eq!(clients.into_iter().map(|client| client.join().expect("a response")).collect::<Vec<_>>(), [502; 5]);
    let line = lb.logs("the request", |line| line.contains("GET / "));
    assert!(line.contains("error=tls") && line.contains("rule=wants_certificate"), "{line}");
}

/// nginx that speaks HTTP/2 and HTTP/1.1 over TLS at one port.
fn nginx(directory: &TempDir, http2: &str) -> Option<Program> {
    let path = directory.path().display().to_string();
    Program::start("nginx", |address| {
        nginx_file(directory, &address.to_string(), http2);
        let mut command = Command::new("nginx");
        command.arg("-c").arg(format!("{path}/nginx.conf"));
        command
    })
}

fn nginx_file(directory: &TempDir, address: &str, http2: &str) {
    let path = directory.path().display().to_string();
    let paths =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {path}/{name};"));
    let config = format!(
        "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/log; events {{}}\nhttp {{ access_log off; {} \
         http2_max_requests 40; keepalive_requests 40; server {{ listen {address} ssl {http2}; root {path}; \
         ssl_certificate site.pem; ssl_certificate_key site.key; location /facts {{ return 200 \"$server_protocol\"; }} }} }}",
        paths.concat()
    );
    std::fs::write(directory.path().join("nginx.conf"), config).expect("a file");
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

#[test]
fn nginx_changes_its_protocol_and_ends_connections_and_no_request_fails() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let Some(nginx) = nginx(&directory, "http2") else { return };
    let lb = Lb::start(&config(&directory, "auto", &servers(&[("server1", nginx.address, 1)])));
    let address = lb.address();
    let over = Arc::<AtomicUsize>::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let (mut client, mut seen) = (Client::connect(address), [0; 3]);
                while over.load(SeqCst) == 0 {
                    match client.get("/facts").text().as_str() {
                        "HTTP/2.0" => seen[0] += 1,
                        "HTTP/1.1" => seen[1] += 1,
                        _ => seen[2] += 1,
                    }
                }
                seen
            })
        })
        .collect();
    let shows = |expected: &str| {
        eventually(expected, || (Client::connect(address).get("/facts").text() == expected).then_some(()));
    };
    shows("HTTP/2.0");
    for (http2, expected) in [("", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        nginx_file(&directory, &nginx.address.to_string(), http2);
        signal(nginx.pid(), "HUP");
        shows(expected);
    }
    over.store(1, SeqCst);
    let seen = clients.into_iter().map(|client| client.join().expect("counts"));
    let seen = seen.fold([0; 3], |sum, seen: [usize; 3]| std::array::from_fn(|index| sum[index] + seen[index]));
    assert!(seen[0] > 0 && seen[1] > 0 && seen[2] == 0, "{seen:?}");
    signal(nginx.pid(), "TERM");
    eventually("nginx ends", || std::net::TcpStream::connect(nginx.address).err());
}

#[test]
fn nghttpd_with_and_without_tls() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let body = "x".repeat(1 << 20);
    std::fs::write(directory.path().join("big"), &body).expect("a file");
    for with_tls in [true, false] {
        let nghttpd = Program::start("nghttpd", |address| {
            let mut command = Command::new("nghttpd");
            command.current_dir(directory.path()).args(["-a", "127.0.0.1", "-d", "."]);
            command.args(["--trailer", "x-sum: 7", "-m", "3"]);
            match with_tls {
                true => command.args([&address.port().to_string(), "site.key", "site.pem"]),
                false => command.args(["--no-tls", &address.port().to_string()]),
            };
            command
        });
        let Some(nghttpd) = nghttpd else { return };
        let table = servers(&[("server1", nghttpd.address, 1)]);
        let lb = match with_tls {
            true => Lb::start(&config(&directory, "auto", &table)),
            false => Lb::start(&format!("{NO_CHECKS}[proxy]\nworkers = 1\n[upstream]\nprotocol = \"h2\"\n{table}")),
        };
        let address = lb.address();
        let clients: Vec<_> = (0..8).map(|_| thread::spawn(move || get(address, "/big"))).collect();
        for response in clients.into_iter().map(|client| client.join().expect("a response")) {
            assert!(response.body == body.as_bytes(), "{}: {}", response.status, response.body.len());
        }
        assert_eq!(get(address, "/none").status, 404);
        let most = lb.metric(OPEN).expect("a number");
        assert!((1.0..=4.0).contains(&most), "three streams on each: {most}");
    }
}

#[test]
fn a_reset_over_tls_is_not_taken_for_a_failure_of_tls() {
    let server = Http2Server::start(100, async |mut stream: Stream| stream.reset(Reason::INTERNAL_ERROR));
    let (directory, rules) = trusted(&["h2"]);
    let front = TlsFront::new(&rules, server.address);
    let lb = Lb::start(&config(&directory, "h2", &front.table("server1")));
    assert_eq!(get(lb.address(), "/").status, 502);
    let line = lb.logs("the request", |line| line.contains("GET / "));
    assert!(line.contains("error=bad_response") && line.contains("rule=reset"), "{line}");
}
