//! Section 1: framing.

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};

use super::{BAD, Closed, ONE, Outcome, Own, Row, Seen, assert_well, bytes, in_front_of, ok, row, run};
use crate::bodies::echo;
use crate::support::client::Client;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Request, Server, respond};
use crate::support::{DEADLINE, eventually};

/// Codings that a request may not have, or that are misspelled.
const CODINGS: &[&str] = &[
    "xchunked",
    "identity",
    "gzip",
    "gzip, chunked",
    "chunked, gzip",
    "chunked, chunked",
    ", chunked",
    "chunked,",
    "chunked;a=b",
    "\"chunked\"",
    "\u{b}chunked",
    "chunked\u{ff}",
    "",
];

/// Forwarded with the length as the only framing.
const BY_LENGTH: Outcome = Seen(
    "POST / HTTP/1.1",
    "hello",
    &[("content-length", &["5"]), ("transfer-encoding", &[]), ("transfer_encoding", &[])],
);

/// Forwarded with chunks as the only framing.
const BY_CHUNKS: Outcome =
    Seen("POST / HTTP/1.1", "hello", &[("transfer-encoding", &["chunked"]), ("content-length", &[])]);

#[rustfmt::skip]
const HEADS: &[Row] = &[
    row("te-and-cl", "P+Content-Length: 6¶Transfer-Encoding: chunked¶¶0¶¶G+¶", ONE, BAD),
    row("te-and-cl", "P+Transfer-Encoding: chunked¶Content-Length: 6¶¶0¶¶G+¶", ONE, BAD),
    row("two-lengths", "P+Content-Length: {}¶¶hello", &["5¶Content-Length: 10", "5, 10", "5¶Content-Length: 5", "5, 5"], BAD),
    row("two-lengths", "P+Content-Length: {}¶¶hello", &["5", " 5 "], BY_LENGTH),
    row("bad-length", "P+Content-Length: {}¶¶hello", &["+5", "-1", "-0", "0x5", "1_0", "1 0", "5a", "", "99999999999999999999"], BAD),
    row("bad-length", "P+Content-Length: {}¶¶hello", &["05", "0000000000000000000000005"], BY_LENGTH),
    row("bad-length", "P+Content-Length: 010¶¶0123456789", ONE, Seen("POST / HTTP/1.1", "0123456789", &[("content-length", &["10"])])),
    row("bad-coding", "P+Transfer-Encoding: {}¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row("bad-coding", "P+Content-Length: 5¶Transfer-Encoding: {}¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row("bad-coding", "P+Transfer-Encoding: {}¶Content-Length: 5¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row("bad-coding", "P+Transfer-Encoding: {}¶¶5¶hello¶0¶¶", &["chunked", "Chunked", " chunked "], BY_CHUNKS),
    row("te-spaces", "P+Transfer-Encoding : chunked¶¶5¶hello¶0¶¶", ONE, BAD),
    row("te-spaces", "POST / HTTP/1.1¶ {}¶¶5¶hello¶0¶¶", &["Transfer-Encoding: chunked¶Host: a", "Host: a¶Transfer-Encoding: chunked"], BAD),
    row("te-spaces", "P+Transfer-Encoding:¶{}¶¶5¶hello¶0¶¶", &[" chunked", "\tchunked"], BAD),
    row("two-codings", "P+Transfer-Encoding: {}¶¶5¶hello¶0¶¶",
        &["chunked¶Transfer-Encoding: identity", "identity¶Transfer-Encoding: chunked", "chunked¶Transfer-Encoding: chunked"], BAD),
    row("te-http10", "POST / HTTP/1.0¶Host: a¶{}Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", &["", "Connection: keep-alive¶"], BAD),
    row("te-underscore", "P+Transfer_Encoding: chunked¶Content-Length: 5¶¶hello", ONE, BY_LENGTH),
];

#[rustfmt::skip]
const EXPECTATIONS: &[Row] = &[
    row("expect", "G+Expect: {}¶¶", &["200-maybe", "100-continue, x", "100-continue¶Expect: x"], Own(417)),
    row("expect", "G+Expect:{}¶¶", &["", " ", " ,", " , ,\t,"], Seen("GET / HTTP/1.1", "", &[("expect", &[])])),
    row("expect", "P+Expect:{}¶Content-Length: 5¶¶hello", &[" 100-continue", " 100-Continue", ",100-continue, ", "¶Expect: 100-continue"],
        Seen("POST / HTTP/1.1", "hello", &[("expect", &["100-continue"])])),
    row("expect", "POST / HTTP/1.0¶Host: a¶Content-Length: 5¶Expect: 100-continue¶¶hello", ONE,
        Seen("POST / HTTP/1.1", "hello", &[("expect", &[])])),
];

#[rustfmt::skip]
const CHUNKS: &[Row] = &[
    row("bad-chunk", "C+{}¶hello¶0¶¶", &["0x5", "+5", "-1", " 5", "5_0", "", "FFFFFFFFFFFFFFFF0"], BAD),
    row("bad-chunk", "C+{}", &["5¶hello!!¶0¶¶", "5¶hello0¶¶"], BAD),
    row("bad-chunk", "C+{}", &["5\nhello\n0\n\n", "5\nhello¶0¶¶", "5¶hello\n0¶¶", "5¶hello¶0\n¶", "5¶hello¶0¶X: y\n¶", "5\rhello¶0¶¶"], BAD),
    row("bad-chunk", "C+5¶hello¶0¶¶", ONE, BY_CHUNKS),
    // Only servers may pad a size.
    row("bad-chunk", "C+{}¶hello¶0¶¶", &["5 ", "5\t", "000000000000000005"], BAD),
    row("bad-chunk", "C+5¶hello¶{}¶", &["0 ¶", "0¶X : y¶", "0¶X: y¶ z¶", "0¶X: \u{1}¶"], BAD),
    row("chunk-extensions", "C+5{}¶hello¶0¶¶",
        &[";a", ";a=b", ";a=\"b c;\\\"\"", " ; a = b\t;c", ";a=\"\u{e9}\";d=e;f"], BY_CHUNKS),
    row("chunk-extensions", "C+5{}¶hello¶0¶¶",
        &[";", ";;a", ";a=", ";=b", ";a b", ";a ", ";a=b ", ";a=b=c", ";a=\"b", ";a=\"b\"c", ";\u{1}", ";a=\"\0\"", ";a\u{7f}", ";\u{e9}", ";a=\"\n\"", ";a\rb", ";(a)"], BAD),
    row("chunk-extensions", "C+5;a\nhello¶0¶¶", ONE, BAD),
];

#[test]
fn ambiguous_framing_is_rejected() {
    run(HEADS);
}

#[test]
fn no_server_gets_a_complete_request_from_an_invalid_chunked_body() {
    run(CHUNKS);
}

#[test]
fn an_unknown_expectation_is_417_and_http_1_0_has_none() {
    run(EXPECTATIONS);
}

// Case: bad-chunk
#[test]
fn an_endless_chunk_extension_ends_the_connection() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;");
    client.send(vec![b'a'; 64 << 10]);
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    assert!(server.requests().is_empty());
    assert_well(&lb, &server, "bad-chunk");
}

// Case: chunk-extensions
#[test]
fn the_extensions_of_a_body_are_limited_by_its_data() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let chunk = |size: usize| format!("{size:x};{}\r\n{}\r\n", "x".repeat(1000), "d".repeat(size));
    let body = |size: usize| bytes(&format!("C+{}0¶¶", chunk(size).repeat(30)));
    assert_eq!(Client::connect(lb.address()).request(body(1000)).status, 200);
    let mut client = Client::connect(lb.address());
    // The connection may be closed before all of it has been sent.
    let _ = client.socket().write_all(&body(1));
    assert_eq!((client.response().status, client.is_closed()), (400, true));
    assert_eq!(server.requests().len(), 1);
    assert_well(&lb, &server, "chunk-extensions");
}

// Case: trailers
#[test]
fn trailers_are_not_merged_into_the_headers() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(bytes(
        "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶¶5¶hello¶0¶Content-Length: 7¶Transfer-Encoding: gzip¶\
         Host: evil¶X-Forwarded-For: 203.0.113.7¶X-Other: 1¶¶",
    ));
    assert_eq!(client.response().status, 200);
    let request = server.requests().remove(0);
    assert_eq!(request.body, b"hello");
    assert!(request.is_canonical(), "{request:?}");
    assert!(request.values("trailer").is_empty(), "{request:?}");
    assert_eq!((request.values("host"), request.values("x-forwarded-for")), (vec!["a"], vec!["127.0.0.1"]));
    assert_eq!(client.get("/").status, 200, "the connection stays open");
    assert_well(&lb, &server, "trailers");
}

#[test]
fn the_body_of_a_request_without_a_server_is_not_read_as_a_request() {
    let refusing = Refusing::new();
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("server1", refusing.address, 1)])));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = smuggled.len();
    for framing in [
        format!("Content-Length: {length}\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"),
    ] {
        let mut client = Client::connect(lb.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((client.response().status, client.response().status), (502, 502), "{framing}");
        client.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!((client.response().status, client.is_closed()), (502, true), "{framing}");
    }
    lb.logs("the last request", |line| line.contains("/last"));
    assert!(!lb.stdout().iter().any(|line| line.contains("smuggled")), "{:#?}", lb.stdout());
}

// Case: bad-chunk
#[test]
fn a_body_that_becomes_invalid_is_aborted_at_the_server() {
    let (server, complete) = hearing_out();
    let (lb, _healthy) = in_front_of(&server, "");
    for rest in ["0x5¶hello¶0¶¶", "¶", "5¶hello!¶0¶¶", "0\n\n", "0¶no colon¶¶", "FFFFFFFFFFFFFFFF0¶"] {
        let mut client = Client::connect(lb.address());
        client.send(bytes("C+5¶hello¶"));
        eventually("the upload has begun", || (lb.server("server1")["active_requests"] == 1).then_some(()));
        assert_eq!((client.request(bytes(rest)).status, client.is_closed()), (400, true), "{rest}");
        assert!(!complete.recv_timeout(DEADLINE).expect("the upload ends"), "{rest}");
        assert_well(&lb, &server, rest);
    }
}

/// A server that never responds, and reports for each request whether its body was complete.
fn hearing_out() -> (Server, Receiver<bool>) {
    let (sender, receiver) = channel();
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        recorder.add(&request);
        let is_complete = request.read_body(&mut stream).is_some();
        sender.send(is_complete).expect("a test");
    });
    (server, receiver)
}

/// The first parts of uploads.
const HALVES: [&str; 2] = ["C+5¶hello¶", "P+Content-Length: 100¶¶hello"];

// Case: half-upload
#[test]
fn an_upload_that_breaks_off_is_aborted_at_the_server() {
    let (server, complete) = hearing_out();
    let (lb, _healthy) = in_front_of(&server, "");
    for half in HALVES {
        let mut client = Client::connect(lb.address());
        client.send(bytes(half));
        eventually("the upload has begun", || (lb.server("server1")["active_requests"] == 1).then_some(()));
        drop(client);
        assert!(!complete.recv_timeout(DEADLINE).expect("the upload ends"), "{half}");
        assert_well(&lb, &server, half);
    }
}

// Case: expect
#[test]
fn a_servers_100_reaches_only_a_client_that_expects_it() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(mut request) = Request::read_head(&mut stream) {
            if !request.values("expect").is_empty() {
                respond(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
            }
            request.read_body(&mut stream).expect("a body");
            recorder.add(&request);
            respond(&mut stream, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n");
            if request.values("expect").is_empty() {
                // Some servers send one whether it is expected or not.
                respond(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
            }
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let address = lb.address();
    let mut client = Client::connect(address);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n";
    client.send(format!("{head}Expect: 100-Continue\r\n\r\n"));
    assert_eq!(client.response().status, 100);
    client.send("hello");
    let hints = client.response();
    assert_eq!((hints.status, hints.header("link"), hints.header("connection")), (103, Some("</a>"), None));
    assert_eq!(client.response().text(), "ok");
    assert_eq!(client.request(format!("{head}\r\nhello")).status, 103);
    assert_eq!(client.response().status, 200);
    let http10 = head.replace("1.1", "1.0");
    let response = Client::connect(address).request(format!("{http10}Expect: 100-continue\r\n\r\nhello"));
    assert_eq!(response.status, 200);
    let expected: Vec<usize> = server.requests().iter().map(|request| request.values("expect").len()).collect();
    assert_eq!(expected, [1, 0, 0]);
    assert!(server.requests().iter().all(Request::is_canonical));
}

// Cases: early-response, response-during-upload
#[test]
fn an_early_response_is_forwarded_and_its_connection_is_not_reused() {
    for (status, length) in [("200 OK", 1000), ("413 Content Too Large", 1000), ("413 Content Too Large", 100 << 20)] {
        let server = Server::scripted(move |mut stream, recorder| {
            while let Some(request) = Request::read_head(&mut stream) {
                recorder.add(&request);
                let status = if request.path() == "/" { status } else { "200 OK" };
                respond(&mut stream, format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nearly"));
            }
        });
        let lb = Lb::in_front_of(&server, "[proxy]\nworkers = 1\n");
        let mut client = Client::connect(lb.address());
        client.send(bytes(&format!("P+Content-Length: {length}¶¶0123456789")));
        let response = client.response();
        assert_eq!((&response.status.to_string()[..], response.text().as_str()), (&status[..3], "early"), "{length}");
        // While the upload is still open, and later.
        assert_eq!(Client::connect(lb.address()).get("/second").status, 200, "{status}");
        drop(client);
        assert_eq!(Client::connect(lb.address()).get("/third").status, 200, "{status}");
        assert_well(&lb, &server, status);
        assert_eq!(
            (server.requests().len(), server.connections()),
            (4, 2),
            "one for the upload, and one for all others"
        );
    }
}

// Case: expect
#[test]
fn a_client_may_send_its_body_without_waiting_for_the_100() {
    // RFC 9110, section 10.1.1: a client need not wait for a 100, and a proxy need not send one.
    let server = echo();
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"400ms\"\n");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut client = Client::connect(lb.address());
    client.send(head);
    eventually("the request has begun", || (lb.server("server1")["active_requests"] == 1).then_some(()));
    client.send("hello");
    assert_eq!(client.response().text(), "hello");
    // A client that waits forever has not sent its body in time.
    assert_eq!((client.request(head).status, client.is_closed()), (408, true));
    assert_well(&lb, &server, "expect");
}

// Case: half-upload
#[test]
fn a_stalled_upload_is_408_and_aborted() {
    let server = ok();
    let (lb, _healthy) = in_front_of(&server, "[timeouts]\nbody_idle = \"200ms\"\n");
    for half in HALVES {
        let mut client = Client::connect(lb.address());
        assert_eq!((client.request(bytes(half)).status, client.is_closed()), (408, true), "{half}");
        assert_well(&lb, &server, half);
    }
    assert!(server.requests().is_empty(), "no server got a complete request");
    eventually("the requests are aborted", || {
        (lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(0.0)).then_some(())
    });
}
