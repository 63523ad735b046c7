//! Hard requests, byte by byte: what client, balancer and server could read differently is refused, or made canonical.
//!
//! The tables are read like this: `¶` is CRLF, every other character is the byte of its number, and
//! a request is sent once for each value that takes the place of `{}`.

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Server};

/// Requests with one answer.
struct Row {
    /// Its number in docs/http-cases.md.
    number: u32,
    sent: &'static str,
    values: &'static [&'static str],
    answer: Answer,
}

/// What must come of a request.
#[derive(Clone, Copy)]
enum Answer {
    /// One of these, before any server has seen the whole request; then the connection closes.
    Closed(&'static [u16]),
    /// This, without a server; the connection may go on.
    Own(u16),
    /// 200 by the server, in canonical form.
    Served,
}

use Answer::{Closed, Own, Served};

const BAD: Answer = Closed(&[400]);

const fn row(number: u32, sent: &'static str, values: &'static [&'static str], answer: Answer) -> Row {
    Row { number, sent, values, answer }
}

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

#[rustfmt::skip]
const FRAMING: &[Row] = &[
    row(1, "POST / HTTP/1.1¶Host: a¶Content-Length: 6¶Transfer-Encoding: chunked¶¶0¶¶GET /smuggled HTTP/1.1¶Host: a¶¶",
        &[""], BAD),
    row(1, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶Content-Length: 6¶¶0¶¶GET /smuggled HTTP/1.1¶Host: a¶¶",
        &[""], BAD),
    row(2, "POST / HTTP/1.1¶Host: a¶Content-Length: 5¶Content-Length: 10¶¶hello", &[""], BAD),
    row(2, "POST / HTTP/1.1¶Host: a¶Content-Length: {}¶¶hello", &["5, 10", "5, 5"], BAD),
    row(2, "POST / HTTP/1.1¶Host: a¶Content-Length: 5¶Content-Length: 5¶¶hello", &[""], BAD),
    row(3, "POST / HTTP/1.1¶Host: a¶Content-Length: {}¶¶hello",
        &["+5", "-1", "-0", "0x5", "1_0", "1 0", "5a", "", "99999999999999999999"], BAD),
    row(4, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: {}¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row(4, "POST / HTTP/1.1¶Host: a¶Content-Length: 5¶Transfer-Encoding: {}¶¶5¶hello¶0¶¶", CODINGS, Closed(&[400, 501])),
    row(4, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: {}¶¶5¶hello¶0¶¶", &["chunked", "Chunked", " chunked "], Served),
    row(5, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding : chunked¶¶5¶hello¶0¶¶", &[""], BAD),
    row(5, "POST / HTTP/1.1¶ Transfer-Encoding: chunked¶Host: a¶¶5¶hello¶0¶¶", &[""], BAD),
    row(5, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding:¶ chunked¶¶5¶hello¶0¶¶", &[""], BAD),
    row(6, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: {}¶¶5¶hello¶0¶¶",
        &["chunked¶Transfer-Encoding: identity", "identity¶Transfer-Encoding: chunked",
          "chunked¶Transfer-Encoding: chunked"], BAD),
    row(7, "POST / HTTP/1.0¶Host: a¶Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", &[""], BAD),
    row(8, "POST / HTTP/1.1¶Host: a¶Transfer_Encoding: chunked¶Content-Length: 5¶¶hello", &[""], Served),
];

#[rustfmt::skip]
const CHUNKS: &[Row] = &[
    row(9, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶¶{}¶hello¶0¶¶",
        &["0x5", "+5", "-1", " 5", "5_0", "", "FFFFFFFFFFFFFFFF0"], BAD),
    row(9, "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶¶{}",
        &["5¶hello!!¶0¶¶", "5¶hello0¶¶", "5\nhello\n0\n\n", "5¶hello\n0¶¶", "5\rhello¶0¶¶"], BAD),
];

#[rustfmt::skip]
const HEADS: &[Row] = &[
    row(14, "GET / HTTP/1.1\nHost: a\n\n", &[""], BAD),
    row(14, "GET / HTTP/1.1¶Host: a\n¶", &[""], BAD),
    row(16, "GET /a#b HTTP/1.1¶Host: a¶¶", &[""], BAD),
    row(14, "GET / HTTP/1.1¶Host: a¶X: {}¶¶", &["a\rb", "a\0b", "a\u{7}b", "a\u{1b}b", "a¶ folded"], BAD),
    row(14, "GET / HTTP/1.1¶Host: a¶{}¶¶", &[": nameless", "na[me: x", "na\u{e4}me: x", "colonless", "na me: x"], BAD),
    row(15, "{}¶Host: a¶¶",
        &["GET  / HTTP/1.1", "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", "GET /a b HTTP/1.1", "GET / HTTP/9.9",
          "GET / http/1.1", "PRI * HTTP/2.0", "GET / HTTP/1", "GET /", "GET / HTTP/1.1 "], Closed(&[400, 505])),
    row(16, "GET {} HTTP/1.1¶Host: a¶¶", &["/\u{e9}", "/?\u{e9}", "*", "a", "ftp://a/"], BAD),
    row(17, "OPTIONS * HTTP/1.1¶Host: a¶¶", &[""], Own(204)),
    row(17, "CONNECT a:443 HTTP/1.1¶Host: a:443¶¶", &[""], Closed(&[405])),
    row(17, "TRACE / HTTP/1.1¶Host: a¶¶", &[""], Own(405)),
    row(18, "GET http://b/x HTTP/1.1¶Host: a¶¶", &[""], Served),
    row(19, "GET / HTTP/1.1¶{}¶", &["", "Host: a¶Host: a¶", "Host: a¶Host: b¶"], BAD),
    row(19, "GET / HTTP/1.1¶Host: {}¶¶",
        &["", "a/b", "u@a", "a, b", "a:99999", "a:b", "[::1", "a b", "\u{e9}"], BAD),
    row(21, "GET {} HTTP/1.1¶Host: a¶¶", &["/%00", "/%c0%af", "/..", "/a/../../b", "/%zz"], Own(400)),
];

/// The bytes that a table's text stands for.
fn bytes(text: &str) -> Vec<u8> {
    let latin1 = |c: char| u8::try_from(u32::from(c)).expect("a character that is one byte");
    text.split('¶').map(|line| line.chars().map(latin1).collect::<Vec<u8>>()).collect::<Vec<_>>().join(&b"\r\n"[..])
}

fn served() -> Server {
    Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// Sends each request of the rows, and asserts what is said above.
fn run(rows: &[Row]) {
    let server = served();
    let lb = Lb::before(&server, "[log]\naccess = false\n");
    let address = lb.address();
    let mut seen = 0;
    for Row { number, sent, values, answer } in rows {
        for value in *values {
            let case = format!("row {number}: {}", sent.replace("{}", value));
            let mut client = Client::connect(address);
            client.send(bytes(&sent.replace("{}", value)));
            let answered = client.try_answer().unwrap_or_else(|error| panic!("{case}: {error}"));
            let (statuses, closes, served): (&[u16], _, _) = match answer {
                Closed(statuses) => (statuses, true, 0),
                Own(status) => (&[*status], false, 0),
                Served => (&[200], false, 1),
            };
            assert!(statuses.contains(&answered.status), "{case}: {answered:?}");
            assert!(!closes || client.is_closed(), "{case}: {answered:?}, and open");
            assert_eq!(get(address, "/next").status, 200, "{case}: the next client");
            let requests = server.requests().split_off(seen);
            let meant = requests.iter().filter(|request| request.path() != "/next").count();
            assert_eq!((meant, requests.len()), (served, served + 1), "{case}: {requests:#?}");
            assert!(requests.iter().all(|request| request.is_canonical()), "{case}: {requests:#?}");
            seen += requests.len();
        }
    }
}

#[test]
fn what_has_two_lengths_or_none_is_refused() {
    run(FRAMING);
}

#[test]
fn a_body_that_is_no_chunks_reaches_no_server_whole() {
    run(CHUNKS);
}

#[test]
fn a_head_that_can_be_read_in_two_ways_is_refused() {
    run(HEADS);
}

#[test]
fn what_is_no_request_is_counted_like_one() {
    let server = served();
    let lb = Lb::before(&server, "");
    for (sent, status) in [("nonsense¶¶", 400), ("GET / HTTP/1.1¶Host: a, b¶¶", 400), ("GET / HTTP/1.1¶X: {}¶¶", 431)]
    {
        let sent = bytes(&sent.replace("{}", &"x".repeat(100 << 10)));
        assert_eq!(Client::connect(lb.address()).request(sent).status, status);
    }
    let count = |method: &str, code: u32| {
        lb.metric(&format!("lb_requests_total{{route=\"-\",method=\"{method}\",code=\"{code}\"}}"))
    };
    eventually("all are counted", || {
        let counts = (count("OTHER", 400), count("GET", 400), count("OTHER", 431));
        (counts == (Some(1.0), Some(1.0), Some(1.0))).then_some(())
    });
}

#[test]
fn row_9_an_endless_chunk_extension_ends_the_connection() {
    let server = served();
    let lb = Lb::before(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;");
    client.send(vec![b'a'; 64 << 10]);
    assert_eq!(client.answer().status, 400);
    assert!(client.is_closed());
    assert!(server.requests().is_empty());
}

#[test]
fn row_11_trailers_are_not_merged_into_the_head() {
    let server = served();
    let lb = Lb::before(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(bytes(
        "POST / HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶¶5¶hello¶0¶Content-Length: 7¶Transfer-Encoding: gzip¶\
         Host: evil¶X-Forwarded-For: 203.0.113.7¶X-Other: 1¶¶",
    ));
    assert_eq!(client.answer().status, 200);
    let request = server.requests().remove(0);
    assert_eq!(request.body, b"hello");
    assert!(request.is_canonical(), "{request:?}");
    assert!(request.values("trailer").is_empty(), "{request:?}");
    assert_eq!((request.values("host"), request.values("x-forwarded-for")), (vec!["a"], vec!["127.0.0.1"]));
    assert_eq!(client.get("/").status, 200, "the connection goes on");
}

#[test]
fn row_13_an_unknown_expectation_is_417() {
    let server = served();
    let lb = Lb::before(&server, "");
    let answer = Client::connect(lb.address()).request("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\n");
    assert_eq!(answer.status, 417);
    assert!(server.requests().is_empty());
}

#[test]
fn row_23_fields_and_bytes_of_a_head_are_limited_as_the_file_says() {
    let server = served();
    let lb = Lb::before(&server, "[limits]\nheaders = 5\nheader_bytes = \"2KiB\"\n");
    let address = lb.address();
    let fields = |count: usize| {
        let fields: String = (1..count).map(|i| format!("X-{i}: {i}\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let long = |length: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(length - head.len())))
    };
    let refused = |request: String| {
        let mut client = Client::connect(address);
        let answer = client.request(request);
        (answer.status, client.is_closed())
    };
    assert_eq!(Client::connect(address).request(fields(5)).status, 200);
    assert_eq!(refused(fields(6)), (431, true));
    assert_eq!(Client::connect(address).request(long(2 << 10)).status, 200);
    assert_eq!(refused(long((2 << 10) + 1)), (431, true));
    assert_eq!(refused(long(1 << 20)), (431, true));
    // More than the engine's own hundred, and a target longer than any.
    lb.apply(&format!(
        "[health]\nkind = \"none\"\n[limits]\nheaders = 150\nheader_bytes = \"256KiB\"\n{}",
        server.table("server1")
    ));
    assert_eq!(Client::connect(address).request(fields(150)).status, 200);
    assert_eq!(refused(fields(151)), (431, true));
    assert_eq!(refused(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70 << 10))), (414, true));
    assert!(server.requests().iter().all(|request| request.path() == "/"));
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
        assert_eq!((client.answer().status, client.answer().status), (502, 502), "{framing}");
        client.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!((client.answer().status, client.is_closed()), (502, true), "{framing}");
    }
    lb.logs("the last request", |line| line.contains("/last"));
    assert!(!lb.stdout().iter().any(|line| line.contains("smuggled")), "{:#?}", lb.stdout());
}
