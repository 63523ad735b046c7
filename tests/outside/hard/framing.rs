//! Section 1: framing.

use std::sync::mpsc::{Receiver, channel};

use super::{BAD, Closed, ONE, Own, Response, Row, Seen, assert_well, before, bytes, ok, row, run};
use crate::bodies::echo;
use crate::support::client::Client;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Request, Server, respond};
use crate::support::{DEADLINE, eventually};

/// No coding that a request may have, or not as it is written.
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

/// What is framed by its length alone.
const BY_LENGTH: Response = Seen(
    "POST / HTTP/1.1",
    "hello",
    &[("content-length", &["5"]), ("transfer-encoding", &[]), ("transfer_encoding", &[])],
);

/// What is framed as chunks.
const BY_CHUNKS: Response =
    Seen("POST / HTTP/1.1", "hello", &[("transfer-encoding", &["chunked"]), ("content-length", &[])]);

#[rustfmt::skip]
const HEADS: &[Row] = &[
    row(1, "P+Content-Length: 6¶Transfer-Encoding: chunked¶¶0¶¶G+¶", ONE, BAD),
    row(1, "P+Transfer-Encoding: chunked¶Content-Length: 6¶¶0¶¶G+¶", ONE, BAD),
    row(2, "P+Content-Length: {}¶¶hello", &["5¶Content-Length: 10", "5, 10", "5¶Content-Length: 5", "5, 5"], BAD),
    row(2, "P+Content-Length: {}¶¶hello", &["5", " 5 "], BY_LENGTH),
    row(3, "P+Content-Length: {}¶¶hello", &["+5", "-1", "-0", "0x5", "1_0", "1 0", "5a", "", "99999999999999999999"], BAD),
    row(4, "P+Transfer-Encoding: {}¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row(4, "P+Content-Length: 5¶Transfer-Encoding: {}¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row(4, "P+Transfer-Encoding: {}¶Content-Length: 5¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row(4, "P+Transfer-Encoding: {}¶¶5¶hello¶0¶¶", &["chunked", "Chunked", " chunked "], BY_CHUNKS),
    row(5, "P+Transfer-Encoding : chunked¶¶5¶hello¶0¶¶", ONE, BAD),
    row(5, "POST / HTTP/1.1¶ {}¶¶5¶hello¶0¶¶", &["Transfer-Encoding: chunked¶Host: a", "Host: a¶Transfer-Encoding: chunked"], BAD),
    row(5, "P+Transfer-Encoding:¶{}¶¶5¶hello¶0¶¶", &[" chunked", "\tchunked"], BAD),
    row(6, "P+Transfer-Encoding: {}¶¶5¶hello¶0¶¶",
        &["chunked¶Transfer-Encoding: identity", "identity¶Transfer-Encoding: chunked", "chunked¶Transfer-Encoding: chunked"], BAD),
    row(7, "POST / HTTP/1.0¶Host: a¶{}Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", &["", "Connection: keep-alive¶"], BAD),
    row(8, "P+Transfer_Encoding: chunked¶Content-Length: 5¶¶hello", ONE, BY_LENGTH),
];

#[rustfmt::skip]
const EXPECTATIONS: &[Row] = &[
    row(13, "G+Expect: {}¶¶", &["200-maybe", "100-continue, x", "100-continue¶Expect: x"], Own(417)),
    row(13, "POST / HTTP/1.0¶Host: a¶Content-Length: 5¶Expect: 100-continue¶¶hello", ONE,
        Seen("POST / HTTP/1.1", "hello", &[("expect", &[])])),
];

#[rustfmt::skip]
const CHUNKS: &[Row] = &[
    row(9, "C+{}¶hello¶0¶¶", &["0x5", "+5", "-1", " 5", "5_0", "", "FFFFFFFFFFFFFFFF0"], BAD),
    row(9, "C+{}", &["5¶hello!!¶0¶¶", "5¶hello0¶¶"], BAD),
    row(9, "C+{}", &["5\nhello\n0\n\n", "5\nhello¶0¶¶", "5¶hello\n0¶¶", "5¶hello¶0\n¶", "5¶hello¶0¶X: y\n¶", "5\rhello¶0¶¶"], BAD),
    row(9, "C+5¶hello¶0¶¶", ONE, BY_CHUNKS),
];

#[test]
fn rows_1_to_8_what_has_two_lengths_or_none_is_refused() {
    run(HEADS);
}

#[test]
fn row_9_a_body_that_is_no_chunks_reaches_no_server_whole() {
    run(CHUNKS);
}

#[test]
fn row_13_an_unknown_expectation_is_417_and_an_old_client_has_none() {
    run(EXPECTATIONS);
}

#[test]
fn row_9_an_endless_chunk_extension_ends_the_connection() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;");
    client.send(vec![b'a'; 64 << 10]);
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    assert!(server.requests().is_empty());
    assert_well(&lb, &server, "row 9");
}

#[test]
fn row_11_trailers_are_not_merged_into_the_head() {
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
    assert_eq!(client.get("/").status, 200, "the connection goes on");
    assert_well(&lb, &server, "row 11");
}

#[test]
fn the_body_of_a_request_that_no_server_took_is_no_request() {
    let gone = Refusing::new();
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("server1", gone.address, 1)])));
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

#[test]
fn row_9_a_body_that_turns_out_to_be_no_chunks_ends_at_the_server_unfinished() {
    let (server, told) = unfinished();
    let (lb, _well) = before(&server, "");
    for rest in ["0x5¶hello¶0¶¶", "¶", "5¶hello!¶0¶¶", "0\n\n", "0¶no field¶¶", "FFFFFFFFFFFFFFFF0¶"] {
        let mut client = Client::connect(lb.address());
        client.send(bytes("C+5¶hello¶"));
        eventually("the upload begins", || (lb.server("server1")["active_requests"] == 1).then_some(()));
        assert_eq!((client.request(bytes(rest)).status, client.is_closed()), (400, true), "{rest}");
        assert!(!told.recv_timeout(DEADLINE).expect("the upload ends"), "{rest}");
        assert_well(&lb, &server, rest);
    }
}

/// A server that answers nothing, and tells of each request whether its body was whole.
fn unfinished() -> (Server, Receiver<bool>) {
    let (tell, told) = channel();
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        recorder.add(&request);
        let whole = request.read_body(&mut stream).is_some();
        tell.send(whole).expect("a test");
    });
    (server, told)
}

/// Uploads that break off.
const HALVES: [&str; 2] = ["C+5¶hello¶", "P+Content-Length: 100¶¶hello"];

#[test]
fn row_10_an_upload_that_breaks_off_ends_at_the_server_unfinished() {
    let (server, told) = unfinished();
    let (lb, _well) = before(&server, "");
    for half in HALVES {
        let mut client = Client::connect(lb.address());
        client.send(bytes(half));
        eventually("the upload begins", || (lb.server("server1")["active_requests"] == 1).then_some(()));
        drop(client);
        assert!(!told.recv_timeout(DEADLINE).expect("the upload ends"), "{half}");
        assert_well(&lb, &server, half);
    }
}

#[test]
fn row_13_a_100_passes_from_the_server_to_who_waits_for_it_and_to_nobody_else() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(mut request) = Request::read_head(&mut stream) {
            if !request.values("expect").is_empty() {
                respond(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
            }
            request.read_body(&mut stream).expect("a body");
            recorder.add(&request);
            respond(&mut stream, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n");
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
    let old = head.replace("1.1", "1.0");
    let answer = Client::connect(address).request(format!("{old}Expect: 100-continue\r\n\r\nhello"));
    assert_eq!(answer.status, 200);
    let expected: Vec<usize> = server.requests().iter().map(|request| request.values("expect").len()).collect();
    assert_eq!(expected, [1, 0, 0]);
    assert!(server.requests().iter().all(Request::is_canonical));
}

#[test]
fn rows_12_and_38_an_early_answer_reaches_the_client_and_its_connection_nobody_else() {
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
        let answer = client.response();
        assert_eq!((&answer.status.to_string()[..], answer.text().as_str()), (&status[..3], "early"), "{length}");
        // While the upload is still open, and after it.
        assert_eq!(Client::connect(lb.address()).get("/second").status, 200, "{status}");
        drop(client);
        assert_eq!(Client::connect(lb.address()).get("/third").status, 200, "{status}");
        assert_well(&lb, &server, status);
        assert_eq!((server.requests().len(), server.connections()), (4, 2), "the upload's own, and one for all others");
    }
}

#[test]
fn row_13_who_waits_for_a_100_that_never_comes_may_send_all_the_same() {
    // RFC 9110, section 10.1.1: a client does not wait for ever, and a balancer has nothing to add.
    let server = echo();
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"400ms\"\n");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut client = Client::connect(lb.address());
    client.send(head);
    eventually("the request begins", || (lb.server("server1")["active_requests"] == 1).then_some(()));
    client.send("hello");
    assert_eq!(client.response().text(), "hello");
    // Who does wait for ever has sent no body in time.
    assert_eq!((client.request(head).status, client.is_closed()), (408, true));
    assert_well(&lb, &server, "row 13");
}

#[test]
fn row_10_an_upload_that_stands_still_is_408_and_cancelled() {
    let server = ok();
    let (lb, _well) = before(&server, "[timeouts]\nbody_idle = \"200ms\"\n");
    for half in HALVES {
        let mut client = Client::connect(lb.address());
        assert_eq!((client.request(bytes(half)).status, client.is_closed()), (408, true), "{half}");
        assert_well(&lb, &server, half);
    }
    assert!(server.requests().is_empty(), "no server was sent a whole request");
    eventually("the requests are cancelled", || {
        (lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(0.0)).then_some(())
    });
}
