//! Requests of HTTP/2 that must not reach a server, and with which another one could be smuggled to it.

use crate::support::h2::{self, DATA, END_STREAM, Outcome, RawH2, frame};
use crate::support::servers::Server;

use super::lb;

/// The parts of a request that a case replaces.
const METHOD: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a");
const PATH: (&str, &str) = (":path", "/");

// Case: h2-malformed
#[test]
fn a_malformed_request_resets_its_stream_and_reaches_no_server() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    let with = |header: (&'static str, &'static str)| vec![METHOD, SCHEME, AUTHORITY, PATH, header];
    let cases = [
        with(("x", "a\r\nb: c")),
        with(("x", "a\nb: c")),
        with(("x", "a\rb")),
        with(("x", "a\0b")),
        with(("x", " a")),
        with(("x", "a\t")),
        with(("x", "a\r\n\r\nGET /evil HTTP/1.1\r\nHost: b\r\n\r\n")),
        with(("x\r\ny", "a")),
        with(("x y", "a")),
        with(("x:", "a")),
        with(("", "a")),
        with(("X-Upper", "a")),
        with(("transfer-encoding", "chunked")),
        with(("transfer-encoding ", "chunked")),
        with(("transfer-encoding\r\nx", "chunked")),
        with(("connection", "close")),
        with(("connection", "content-length")),
        with(("proxy-connection", "close")),
        with(("keep-alive", "timeout=5")),
        with(("upgrade", "websocket")),
        with(("te", "chunked")),
        with(("host", "b")),
        with(("content-length", "5\r\nx: y")),
        with(("content-length", "-1")),
        with(("content-length", "5, 5")),
        with((":path", "/b")),
        with((":unknown", "x")),
        with((":status", "200")),
        vec![("x", "y"), METHOD, SCHEME, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY],
        vec![METHOD, AUTHORITY, PATH],
        vec![SCHEME, AUTHORITY, PATH],
        vec![(":method", "GET /evil HTTP/1.1\r\nx:"), SCHEME, AUTHORITY, PATH],
        vec![(":method", "GET /"), SCHEME, AUTHORITY, PATH],
        vec![(":method", ""), SCHEME, AUTHORITY, PATH],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/ HTTP/1.1\r\nHost: b\r\n\r\nGET /evil")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/a b")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "x")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "*")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "http://b/")],
        vec![METHOD, SCHEME, (":authority", "a\r\nx: y"), PATH],
        vec![METHOD, SCHEME, (":authority", "a b"), PATH],
        vec![METHOD, (":scheme", "http\r\n"), AUTHORITY, PATH],
    ];
    let mut rejected = 0;
    for headers in cases {
        let mut client = RawH2::connect(lb.address());
        client.request(1, &headers, false);
        client.send(&frame(DATA, END_STREAM, 1, b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"));
        let outcome = client.outcome(1);
        let is_rejected =
            matches!(outcome, Outcome::Reset(h2::PROTOCOL_ERROR) | Outcome::GoAway(_) | Outcome::Status(400));
        assert!(is_rejected, "{headers:?}: {outcome:?}");
        rejected += usize::from(!matches!(outcome, Outcome::GoAway(_)));
        // Whoever has rejected it, it is in the log.
        let lines = || lb.stdout().iter().filter(|line| line.contains(" 400 ")).count();
        crate::support::eventually(&format!("a line for {headers:?}"), || (lines() >= rejected).then_some(()));
        assert_eq!(lines(), rejected, "{headers:?}");
    }
    assert_eq!(server.requests().len(), 0);
    assert!(!lb.has_panicked());
}

// Case: h2-malformed
#[test]
fn a_length_that_the_body_contradicts_makes_no_second_request() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    let evil = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    for length in ["0", "5", "30", "32", "1000"] {
        let mut client = RawH2::connect(lb.address());
        client.request(1, &[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", length)], false);
        client.send(&frame(DATA, END_STREAM, 1, evil));
        let outcome = client.outcome(1);
        assert_eq!(outcome, Outcome::Reset(h2::PROTOCOL_ERROR), "{length}");
        let mut client = RawH2::connect(lb.address());
        client.request(1, &[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", length)], true);
        let outcome = client.outcome(1);
        let expected = if length == "0" { Outcome::Status(200) } else { Outcome::Reset(h2::PROTOCOL_ERROR) };
        assert_eq!(outcome, expected, "{length} without a body");
    }
    let lines: Vec<String> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["POST / HTTP/1.1"], "the one without a body");
}

#[test]
fn a_request_that_http_1_rejects_is_rejected_with_a_response() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    let cases = [
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/../x")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/%00")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/%zz")],
        vec![METHOD, SCHEME, PATH],
        vec![METHOD, SCHEME, (":authority", "u@a"), PATH],
        vec![METHOD, (":scheme", "ftp"), AUTHORITY, PATH],
    ];
    for headers in cases {
        let mut client = RawH2::connect(lb.address());
        client.request(1, &headers, true);
        assert_eq!(client.outcome(1), Outcome::Status(400), "{headers:?}");
        client.request(3, &h2::get("/", &[]), true);
        assert_eq!(client.outcome(3), Outcome::Status(200), "the connection goes on after {headers:?}");
    }
    assert_eq!(server.requests().len(), 6, "only the good ones");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &[(":method", "CONNECT"), (":authority", "a:443")], true);
    assert_eq!(client.outcome(1), Outcome::Status(0));
    assert!(crate::support::eventually("the log", || {
        lb.stdout().iter().any(|line| line.contains("\" 405 ")).then_some(true)
    }));
}

#[test]
fn a_request_over_a_limit_gets_431() {
    let server = Server::named("one");
    let lb = lb(&server, "[limits]\nheaders = 10\nheader_bytes = \"2KiB\"\n");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/", &[("x", "y"); 10]), true);
    assert_eq!(client.outcome(1), Outcome::Status(0));
    crate::support::eventually("the log", || {
        lb.stdout().iter().any(|line| line.contains(" 431 ") && line.contains("too_many_headers")).then_some(())
    });
    let long = "x".repeat(120);
    client.request(3, &h2::get("/", &[("x", &*long); 20]), true);
    assert_eq!(client.outcome(3), Outcome::Status(0));
    crate::support::eventually("the log", || {
        lb.stdout().iter().any(|line| line.contains(" 431 ") && line.contains("head_bytes")).then_some(())
    });
    client.request(5, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(5), Outcome::Status(200));
    assert_eq!(server.requests().len(), 1);
}

// Case: h2-malformed
#[test]
fn no_server_gets_a_fragment() {
    let server = Server::named("one");
    let lb = lb(&server, "");
    let mut client = RawH2::connect(lb.address());
    client.request(1, &h2::get("/a?b#c", &[]), true);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    assert_eq!(server.requests()[0].line, "GET /a?b HTTP/1.1");
}
