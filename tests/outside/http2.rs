//! HTTP/2 to clients, by prior knowledge.

mod floods;
mod malformed;
mod memory;
mod slow;
mod smuggling;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::h2::{self, DATA, END_STREAM, GOAWAY, HEADERS, Outcome, PING, RST_STREAM, RawH2, frame};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::replies::{always, page, silent};
use crate::support::servers::{Gate, Server, respond};
use crate::support::tls_client::TlsLb;

/// The start of a file whose listener speaks HTTP/2.
pub(crate) const HTTP2: &str =
    "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\n[admin]\naddress = \"127.0.0.1:0\"\n";

/// An `lb` that speaks HTTP/2 in front of a server.
pub(crate) fn lb(server: &Server, config: &str) -> Lb {
    Lb::start_file(&format!("{HTTP2}{NO_CHECKS}{config}{}", server.table("server1")))
}

/// The output of curl with HTTP/2 by prior knowledge: the body, then the version and the status.
fn curl(address: SocketAddr, path: &str, more: &[&str]) -> String {
    let url = format!("http://{address}{path}");
    let output = Command::new("curl")
        .args(["-s", "-m", "20", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}", &url])
        .args(more)
        .output();
    String::from_utf8(output.expect("curl").stdout).expect("text")
}

#[test]
fn curl_gets_responses_and_sends_bodies() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    assert_eq!(curl(lb.address(), "/x?y", &[]), "one 2 200");
    assert_eq!(curl(lb.address(), "/", &["-d", "hello"]), "one 2 200");
    assert_eq!(curl(lb.address(), "/", &["-T", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]), "one 2 200");
    assert!(curl(lb.address(), "/", &["-I"]).ends_with(" 2 200"));
    let requests = server.requests();
    assert_eq!(requests[0].line, "GET /x?y HTTP/1.1");
    assert_eq!(requests[0].values("host"), [lb.address().to_string()]);
    assert_eq!(requests[1].body, b"hello");
    assert!(requests[2].body.starts_with(b"["));
    assert!(requests.iter().all(|request| request.is_canonical()), "{requests:?}");
    eventually("the access log", || {
        lb.stdout().iter().any(|line| line.contains("\"GET /x?y HTTP/2\" 200")).then_some(())
    });
}

#[test]
fn a_large_body_passes_both_ways() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            respond(&mut stream, page(&request.body.len().to_string().repeat(200_000)));
        }
    });
    let lb = lb(&server, "");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("body");
    std::fs::write(&file, vec![b'x'; 3_000_000]).expect("a file");
    let body = format!("@{}", file.display());
    let got = curl(lb.address(), "/", &["--data-binary", &body]);
    assert_eq!(got, format!("{} 2 200", "3000000".repeat(200_000)));
}

#[test]
fn cookies_that_are_split_arrive_as_one() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/", &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]), true);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let request = &server.requests()[0];
    assert_eq!((request.values("cookie"), request.values("te")), (vec!["a=1; b=2"], vec!["trailers"]));
}

#[test]
fn trailers_pass_both_ways() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n";
            respond(&mut stream, format!("{head}1\r\nx\r\n0\r\ngrpc-status: 0\r\n\r\n"));
        }
    });
    let lb = lb(&server, "");
    let mut client = RawH2::connect(lb.address());
    let headers = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/"), ("te", "trailers")];
    client.request(1, &[&headers[..], &[("trailer", "x-sum")]].concat(), false);
    client.send(&frame(DATA, 0, 1, b"hello"));
    client.request(1, &[("x-sum", "7")], true);
    let mut heads = Vec::new();
    while let Some(frame) = client.next() {
        if frame.kind == HEADERS {
            heads.push(frame.flags & END_STREAM);
        }
        if frame.stream == 1 && frame.flags & END_STREAM != 0 && frame.kind != h2::SETTINGS {
            break;
        }
    }
    assert_eq!(heads, [0, END_STREAM], "a head and trailers");
    let request = &server.requests()[0];
    assert_eq!((&*request.body, request.values("trailer")), (&b"hello"[..], vec!["x-sum", "x-sum: 7"]));
}

// Case: h2-truncated-response
#[test]
fn a_response_that_is_cut_short_resets_its_stream_and_no_other() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            if request.path() == "/cut" {
                return respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
            }
            respond(&mut stream, page("whole"));
        }
    });
    let lb = lb(&server, "");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/cut", &[]), true);
    assert_eq!(client.outcome(1), Outcome::Reset(h2::INTERNAL_ERROR));
    client.request(3, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(3), Outcome::Status(200));
}

#[test]
fn a_reset_by_the_client_ends_the_request_to_the_server() {
    let (sender, ended) = std::sync::mpsc::channel();
    let server = Server::scripted(move |mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            sender.send("received").expect("the test");
            assert_eq!(stream.read(&mut [0]).unwrap_or_default(), 0);
            sender.send("ended").expect("the test");
        }
    });
    let lb = lb(&server, "");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/", &[]), true);
    assert_eq!(ended.recv_timeout(crate::support::DEADLINE), Ok("received"));
    client.send(&frame(RST_STREAM, 0, 1, &h2::CANCEL.to_be_bytes()));
    assert_eq!(ended.recv_timeout(crate::support::DEADLINE), Ok("ended"));
    eventually("the log", || lb.stdout().iter().any(|line| line.contains("client_gone")).then_some(()));
    client.send(&frame(PING, 0, 0, b"12345678"));
    assert!(std::iter::from_fn(|| client.next()).any(|frame| frame.kind == PING), "the connection lives on");
}

// Case: h2-edits-and-drains
#[test]
fn an_edit_applies_to_the_next_stream_of_a_connection() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let lb = lb(&one, "");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let before = lb.generation();
    lb.edit_file(&format!("{HTTP2}{NO_CHECKS}{}", two.table("server2")));
    lb.reaches(before + 1);
    client.request(3, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(3), Outcome::Status(200));
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
}

// Case: h2-edits-and-drains
#[test]
fn a_stop_sends_goaway_and_lets_open_streams_finish() {
    let gate = Gate::default();
    let server = Server::gated("late", &gate);
    let mut lb = lb(&server, "");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/slow", &[]), true);
    eventually("a request", || (server.requests().len() == 1).then_some(()));
    lb.signal("TERM");
    assert!(std::iter::from_fn(|| client.next()).any(|frame| frame.kind == GOAWAY), "told at once");
    gate.open();
    assert_eq!(client.outcome(1), Outcome::Status(200));
    drop(client);
    assert!(lb.ends().success());
}

#[test]
fn a_connection_ends_after_its_last_request() {
    let server = Server::named("one");
    let lb = lb(&server, "[limits]\nconnection_requests = 2\n");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    client.request(3, &h2::get("/", &[]), true);
    let kinds: Vec<u8> = std::iter::from_fn(|| client.next()).map(|frame| frame.kind).collect();
    assert!(kinds.contains(&GOAWAY) && kinds.contains(&DATA), "{kinds:?}");
    let http1 = Lb::in_front_of(&server, "[limits]\nconnection_requests = 2\n");
    let mut client = Client::connect(http1.address());
    assert_eq!(client.get("/").header("connection"), None);
    assert_eq!(client.get("/").header("connection"), Some("close"));
}

#[test]
fn an_idle_connection_is_told_and_closed() {
    let server = Server::named("one");
    let lb = lb(&server, "[timeouts]\nidle = \"200ms\"\n");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    assert!(std::iter::from_fn(|| client.next()).any(|frame| frame.kind == GOAWAY));
}

#[test]
fn a_silent_connection_is_closed() {
    let lb = lb(&silent(), "[timeouts]\nrequest_header = \"200ms\"\n");
    let mut stream = std::net::TcpStream::connect(lb.address()).expect("a connection");
    stream.set_read_timeout(Some(crate::support::DEADLINE)).expect("a timeout");
    stream.write_all(b"PRI * HT").expect("sent");
    stream.read_to_end(&mut Vec::new()).expect("closed");
}

// Case: h2-not-spoken
#[test]
fn http_2_is_spoken_only_where_the_listener_does() {
    let server = Server::named("one");
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status, 505);
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let response = Client::connect(lb.address()).request(upgrade);
    assert_eq!((response.status, response.text()), (200, "one".to_owned()));
    // A listener may speak both.
    let both = HTTP2.replace("[\"h2\"]", "[\"h2\", \"http/1.1\"]");
    let lb = Lb::start_file(&format!("{both}{NO_CHECKS}{}", server.table("server1")));
    assert_eq!(Client::connect(lb.address()).request(upgrade).status, 200);
    assert_eq!(curl(lb.address(), "/", &[]), "one 2 200");
}

/// h2spec must be installed; then all of its tests must have run and passed.
#[test]
fn h2spec_passes() {
    run_h2spec(1);
}

#[test]
#[ignore = "takes minutes"]
fn h2spec_passes_twenty_times() {
    run_h2spec(20);
}

fn run_h2spec(times: usize) {
    let server = always(page("hello"));
    let (clear, tls) = (lb(&server, ""), TlsLb::start("", &server.table("server1")));
    for number in 1..=times {
        for (lb, options) in [(&clear, &[][..]), (&tls.lb, &["-t", "-k"])] {
            let port = lb.address().port().to_string();
            let output =
                Command::new("h2spec").args(["--strict", "-h", "127.0.0.1", "-p", &port]).args(options).output();
            let Ok(output) = output else { return eprintln!("skipped: h2spec is not installed") };
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().rfind(|line| line.contains(" tests, ")).unwrap_or_default();
            eprintln!("h2spec {options:?}, run {number}: {line}");
            assert_eq!(line, "146 tests, 146 passed, 0 skipped, 0 failed", "{text}");
        }
    }
    assert!(!clear.has_panicked() && !tls.lb.has_panicked());
}
