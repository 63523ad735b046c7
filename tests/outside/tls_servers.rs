//! Requests to servers over TLS: handshakes, reuse, bodies, tunnels, and how connections end.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::{ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::bodies::{content, echo};
use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, run};
use crate::support::servers::{Gate, Recorder, Request, Server, respond};
use crate::support::tls::{Ca, Ending, FrontRules, ONLY_TLS12, ONLY_TLS13, TlsFront};
use crate::tls_checks::tls;

/// Each worker has its own connections and sessions; a single worker makes them countable.
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A CA whose certificate is in a directory, and a certificate for 127.0.0.1.
fn trusted() -> (TempDir, Ca, FrontRules) {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let rules = FrontRules::new(ca.issue(&["127.0.0.1"]));
    (directory, ca, rules)
}

/// A configuration for one worker, without checks.
fn config(directory: &TempDir, keys: &str, front: &TlsFront) -> String {
    format!("{NO_CHECKS}{ONE_WORKER}{}{}", tls(directory.path(), keys), front.table("server1"))
}

#[test]
fn a_connection_is_reused_and_a_new_one_resumes_the_session() {
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let (directory, _, rules) = trusted();
        let server = Server::scripted(|mut stream, recorder| {
            while let Some(request) = recorder.next(&mut stream) {
                let close = if request.path() == "/close" { "Connection: close\r\n" } else { "" };
                respond(&mut stream, format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 2\r\n\r\nok"));
                if !close.is_empty() {
                    return;
                }
            }
        });
        let front = TlsFront::new(&FrontRules { versions, ..rules }, server.address);
        let lb = Lb::start(&config(&directory, "", &front));
        let address = lb.address();
        let mut client = Client::connect(address);
        for _ in 0..100 {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert_eq!(front.handshakes(), (1, 0));
        assert_eq!(front.names(), [None], "an IP address is no server name");
        for _ in 0..5 {
            assert_eq!(client.get("/close").text(), "ok");
        }
        assert_eq!((front.handshakes(), front.failed()), ((1, 4), 0), "{versions:?}");
        // An edit of something else keeps connections and sessions.
        assert_eq!(client.get("/").text(), "ok");
        lb.apply(&format!("[log]\naccess = false\n{}", config(&directory, "", &front)));
        assert_eq!(client.get("/").text(), "ok");
        assert_eq!(front.handshakes(), (1, 5));
    }
}

#[test]
fn the_server_name_is_that_of_the_file_or_the_host_of_the_address() {
    let (directory, ca, _) = trusted();
    let server = Server::responding(OK);
    let rules = FrontRules::new(ca.issue(&["localhost", "api.test"]));
    let front = TlsFront::new(&rules, server.address);
    let by_name = format!("[[server]]\nname = \"server1\"\naddress = \"localhost:{}\"\n", front.address.port());
    let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}{}{by_name}", tls(directory.path(), "")));
    assert_eq!(get(lb.address(), "/").text(), "ok");
    lb.apply(&config(&directory, "server_name = \"api.test\"\n", &front));
    assert_eq!(get(lb.address(), "/").text(), "ok");
    assert_eq!(front.names(), [Some("localhost".to_owned()), Some("api.test".to_owned())]);
    // The Host header is the client's.
    assert!(server.requests().iter().all(|request| request.values("host") == ["localhost"]));
}

#[test]
fn large_bodies_pass_in_both_directions() {
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let (directory, _, rules) = trusted();
        let server = echo();
        let front = TlsFront::new(&FrontRules { versions, ..rules }, server.address);
        let lb = Lb::start(&config(&directory, "", &front));
        let mut client = Client::connect(lb.address());
        for length in [1, 16_384, 100_000, 16 << 20] {
            let body = content(length);
            for chunked in [false, true] {
                let mut writer = client.socket();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        if !chunked {
                            write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
                                .expect("sent");
                            return writer.write_all(&body).expect("sent");
                        }
                        writer
                            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                            .expect("sent");
                        for piece in body.chunks(50_000) {
                            write!(writer, "{:X}\r\n", piece.len()).expect("sent");
                            writer.write_all(&[piece, b"\r\n"].concat()).expect("sent");
                        }
                        writer.write_all(b"0\r\n\r\n").expect("sent");
                    });
                    let response = client.response();
                    assert!(response.body == body, "{length}, chunked {chunked}: {}", response.body.len());
                });
            }
        }
        assert_eq!(front.handshakes(), (1, 0));
    }
}

#[test]
fn a_tunnel_passes_bytes_both_ways_and_each_end_on_its_own() {
    let (directory, _, rules) = trusted();
    let server = Server::scripted(|mut stream, recorder| {
        let Some(_) = recorder.next(&mut stream) else { return };
        respond(&mut stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        let mut bytes = Vec::new();
        // The client ends its direction first, and then gets everything back.
        if stream.read_to_end(&mut bytes).is_ok() {
            respond(&mut stream, &bytes);
        }
    });
    let front = TlsFront::new(&rules, server.address);
    let lb = Lb::start(&config(&directory, "", &front));
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 101);
    let bytes = content(300_000);
    client.send(&bytes);
    client.socket().shutdown(std::net::Shutdown::Write).expect("a socket");
    assert!(client.read(bytes.len()) == bytes);
    assert!(client.is_closed());
    lb.logs("the tunnel", |line| line.contains("\" 101 ") && !line.contains("error="));
}

// Case: tls-truncated
#[test]
fn only_close_notify_ends_a_body_that_lasts_until_close() {
    let unknown_length = "HTTP/1.1 200 OK\r\n\r\nnot all of it";
    let known_length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall of it";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of it\r\n0\r\n\r\n";
    let too_short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nall of it";
    let cases = [
        (unknown_length, Ending::Notified, true),
        (unknown_length, Ending::Cut, false),
        (known_length, Ending::Cut, true),
        (chunked, Ending::Cut, true),
        (too_short, Ending::Notified, false),
    ];
    for (bytes, ending, is_whole) in cases {
        let (directory, _, rules) = trusted();
        let server = Server::scripted(move |mut stream, recorder| {
            if recorder.next(&mut stream).is_some() {
                respond(&mut stream, bytes);
            }
        });
        let front = TlsFront::ending(&rules, server.address, ending);
        let lb = Lb::start(&config(&directory, "", &front));
        let response = Client::connect(lb.address()).try_get("/");
        let seen =
            response.as_ref().is_ok_and(|response| response.text().ends_with("all of it") && response.status == 200);
        assert_eq!(seen, is_whole, "{bytes:?} {ending:?}: {response:?}");
        let line = lb.logs("the request", |line| line.contains("GET / "));
        assert_eq!(line.contains("error="), !is_whole, "{bytes:?} {ending:?}: {line}");
    }
}

/// A server that speaks TLS itself, so that it decides about each record.
fn speaking(
    rules: &FrontRules,
    serve: impl Fn(&mut StreamOwned<ServerConnection, TcpStream>, &Recorder) + Send + Sync + 'static,
) -> Server {
    let config = rules.config();
    Server::scripted(move |stream, recorder| {
        let connection = ServerConnection::new(std::sync::Arc::clone(&config)).expect("a connection");
        let mut stream = StreamOwned::new(connection, stream.into_inner());
        serve(&mut stream, recorder);
    })
}

/// Reads a request without a body.
fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

// Case: tls-idle-messages
#[test]
fn messages_of_tls_itself_leave_an_idle_connection_usable() {
    let (directory, _, rules) = trusted();
    let gate = Gate::default();
    let opened = gate.clone();
    let server = speaking(&FrontRules { versions: ONLY_TLS13, tickets: 4, ..rules }, move |stream, recorder| {
        for turn in 0.. {
            if read_head(stream).is_none() || stream.write_all(OK.as_bytes()).is_err() {
                return;
            }
            recorder.add(&Default::default());
            if turn == 0 {
                opened.pass();
                // Sent when the connection has been idle for a while.
                stream.conn.refresh_traffic_keys().expect("TLS 1.3");
                let _ = stream.flush();
            }
        }
    });
    let table = server.table("server1");
    let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}{}{table}", tls(directory.path(), "")));
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").text(), "ok");
    gate.open();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "ok");
        // In between, it is sent something, and swept.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_server_is_told_when_a_connection_ends() {
    let (directory, _, rules) = trusted();
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let server = speaking(&FrontRules { versions, ..rules.clone() }, |stream, recorder| {
            while read_head(stream).is_some() {
                let _ = stream.write_all(OK.as_bytes());
            }
            // Without close_notify, reading on is an error.
            let line = if stream.read(&mut [0]).is_ok_and(|read| read == 0) { "announced" } else { "cut" };
            recorder.add(&Request { line: line.to_owned(), ..Request::default() });
        });
        let (tls, table) = (tls(directory.path(), ""), server.table("server1"));
        let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}[upstream]\nidle = \"50ms\"\n{tls}{table}"));
        assert_eq!(get(lb.address(), "/").text(), "ok");
        let end = eventually("the connection ends", || server.requests().pop());
        assert_eq!(end.line, "announced", "{versions:?}");
    }
}

#[test]
fn a_server_that_closes_an_idle_connection_costs_no_request() {
    let (directory, _, rules) = trusted();
    let server = Server::scripted(|mut stream, recorder| {
        // Closed after each response, without announcing it.
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, OK);
        }
    });
    for ending in [Ending::Notified, Ending::Cut] {
        let front = TlsFront::ending(&rules, server.address, ending);
        let lb = Lb::start(&config(&directory, "", &front));
        let mut client = Client::connect(lb.address());
        for _ in 0..20 {
            assert_eq!(client.get("/").status, 200);
        }
        for _ in 0..20 {
            let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
            assert_eq!(client.request(post).status, 200);
        }
        eventually("closed connections are dropped", || (front.open() <= 1).then_some(()));
    }
}

// Case: tls-silent
#[test]
fn a_silent_handshake_ends_at_the_connect_timeout() {
    let (directory, _, _) = trusted();
    let silent = Server::scripted(|mut stream, _| drop(stream.read_to_end(&mut Vec::new())));
    let table = silent.table("server1");
    let config = format!("{NO_CHECKS}[timeouts]\nconnect = \"300ms\"\n{}{table}", tls(directory.path(), ""));
    let lb = Lb::start(&config);
    assert_eq!(get(lb.address(), "/").status, 504);
    lb.logs("the request", |line| line.contains("error=connect_timeout"));
}

#[test]
fn a_unix_socket_needs_a_name_to_verify() {
    let directory = TempDir::new().expect("a directory");
    Ca::new("one").write(&directory.path().join("ca.pem"));
    let path = directory.path().join("lb.toml");
    let server = "[[server]]\nname = \"a\"\naddress = \"unix:app.sock\"\n";
    for (tls, is_valid) in [
        ("{ ca = \"ca.pem\" }", false),
        ("{ ca = \"ca.pem\", server_name = \"app.internal\" }", true),
        ("{ verify = false }", true),
    ] {
        let text = format!("{PORTS}{NO_CHECKS}[upstream]\ntls = {tls}\n{server}");
        fs::write(&path, &text).expect("a file");
        let line = text.lines().position(|line| line.starts_with("address = \"unix:")).expect("a line") + 1;
        let ran = run(&["check", path.to_str().expect("text")]);
        assert_eq!(ran.code == Some(0), is_valid, "{tls}: {ran:?}");
        let words = [
            "has no name that its certificate could be verified for",
            "set `server_name`",
            &format!("lb.toml:{line}:11"),
        ];
        assert!(is_valid || words.iter().all(|words| ran.out.contains(words)), "{ran:?}");
    }
}
