//! Section 4: servers that misbehave.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{assert_well, in_front_of};
use crate::bodies::content;
use crate::failures::{post, resets};
use crate::support::client::{Client, Piece, get};
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Gate, Refusing, Request, Server, hanging, respond};
use crate::support::{DEADLINE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

// Case: unreachable
#[test]
fn any_method_is_retried_if_the_server_refuses_the_connection() {
    let server = Server::named("server2");
    let refusing = Refusing::new();
    let lb = Lb::start(&format!(
        "{NO_CHECKS}{}",
        servers(&[("server1", refusing.address, 1), ("server2", server.address, 1)])
    ));
    let address = lb.address();
    for _ in 0..20 {
        assert_eq!((get(address, "/").status, post(address)), (200, 200));
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 40);
    assert_well(&lb, &server, "unreachable");
    assert!(requests.iter().all(|request| request.line.starts_with("GET") || request.body == b"hello"));
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"connect\"}"), Some(0.0), "not a retry");
}

// Cases: unreachable, all-down
#[test]
fn an_unreachable_server_is_502_and_no_server_503() {
    let refusing = Refusing::new();
    let table = servers(&[("server1", refusing.address, 1)]);
    // The 503 comes at once: these timeouts would end after the test.
    let timeouts = "[timeouts]\nconnect = \"1h\"\nresponse_header = \"1h\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{timeouts}{table}"));
    assert_eq!((get(lb.address(), "/").status, post(lb.address())), (502, 502));
    lb.apply(&format!("[health]\ninterval = \"20ms\"\nfall = 1\n{timeouts}{table}"));
    lb.server_is("server1", "down");
    assert_eq!((get(lb.address(), "/").status, post(lb.address())), (503, 503));
    assert_eq!(lb.ask("/ready").status, 503);
}

// Case: unreachable
#[test]
fn a_connect_timeout_is_retried_or_504() {
    let (_listener, _waiting, hanging) = hanging();
    let server = Server::named("server2");
    let timeouts = "[timeouts]\nconnect = \"100ms\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{timeouts}{}", servers(&[("server1", hanging, 1)])));
    assert_eq!(get(lb.address(), "/").status, 504);
    let both = servers(&[("server1", hanging, 1), ("server2", server.address, 1)]);
    lb.apply(&format!("{NO_CHECKS}{timeouts}{both}"));
    for _ in 0..4 {
        assert_eq!((get(lb.address(), "/").status, post(lb.address())), (200, 200));
    }
}

// Case: reset-before-response
#[test]
fn a_sent_request_is_retried_only_if_that_is_safe() {
    let cases = [
        ("GET", "", 200, 2),
        ("HEAD", "", 200, 2),
        ("DELETE", "", 200, 2),
        ("POST", "", 502, 1),
        ("PATCH", "", 502, 1),
        ("PUT", "hello", 502, 1),
        ("GET", "hello", 502, 1),
    ];
    for (method, body, status, seen) in cases {
        let server = resets(1);
        let lb = Lb::in_front_of(&server, "");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut client = Client::connect(lb.address());
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n{length}\r\n{body}"));
        assert_eq!(client.try_head().expect("a head").0, status, "{method} {body}");
        assert_eq!(server.requests().len(), seen, "{method} {body}");
    }
}

// Case: reset-before-response
#[test]
fn a_request_on_a_closing_connection_is_retried() {
    // Each connection serves one request, and is closed when the test sends a value.
    let (close, closes) = channel::<()>();
    let closes = Arc::new(Mutex::new(closes));
    let server = Server::scripted(move |mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, OK);
            let _ = closes.lock().expect("a receiver").recv();
        }
    });
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    let mut client = Client::connect(lb.address());
    for i in 0..20 {
        assert_eq!(client.get("/").status, 200, "{i}");
        // The next request races with the close: both orders occur.
        close.send(()).expect("a server");
        if i % 2 == 0 {
            std::thread::yield_now();
        }
    }
    assert!(server.requests().len() >= 20);
}

// Case: no-response
#[test]
fn a_response_timeout_is_504_without_a_retry() {
    let server = Server::scripted(|mut stream, recorder| while recorder.next(&mut stream).is_some() {});
    let (lb, _healthy) = in_front_of(&server, "[timeouts]\nresponse_header = \"200ms\"\n");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 504);
    assert_eq!(post(lb.address()), 504);
    assert_eq!((server.requests().len(), server.connections()), (2, 2));
    // The client's connection stays usable.
    assert_eq!(client.get("/").status, 504);
    assert_well(&lb, &server, "no-response");
}

/// Responds to the request for `/N` with the `N`th of these bytes, and then closes the connection or reads on.
fn numbered(responses: Vec<Vec<u8>>, then_closes: bool) -> Server {
    Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let number: usize = request.path()[1..].parse().expect("a number");
            respond(&mut stream, &responses[number]);
            if then_closes {
                return;
            }
        }
    })
}

/// Invalid responses.
#[rustfmt::skip]
const INVALID: &[&str] = &[
    "HTTP/1.1 200 OK¶Content-Length: 2¶Content-Length: 3¶¶okk",
    "HTTP/1.1 200 OK¶Content-Length: 2¶Content-Length: 2¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: 2, 2¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: +2¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: -2¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: x¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: ¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: 99999999999999999999¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: 2¶Transfer-Encoding: chunked¶¶2¶ok¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶Content-Length: 2¶¶2¶ok¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked, gzip¶¶2¶ok¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: gzip¶¶ok",
    "HTTP/1.0 200 OK¶Transfer-Encoding: chunked¶¶2¶ok¶0¶¶",
    "HTTP/1.1 200 OK¶No colon¶¶",
    "HTTP/1.1 200 OK¶ X: a¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK¶X: a\0b¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK¶X: a\rb¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK¶X: a¶ b\0¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK¶X y: a¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK¶: a¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length : 2\n\nok",
    "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding : chunked\n\n2\nok\n0\n\n",
    "HTTP/1.1 200 OK¶Content-Length: 2\u{1}¶¶ok",
    "HTTP/1.1 200 OK¶Content-Length: 2¶ 3¶¶ok",
    "HTTP/1.1 200 OK¶Transfer-Encoding: \u{b}chunked¶¶2¶ok¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked\u{c}¶¶2¶ok¶0¶¶",
    "SSH-2.0-OpenSSH_9.9¶¶",
    "\0\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}¶¶",
    "HTTP/1.1 99¶¶",
    "HTTP/1.1 99 Low¶Content-Length: 0¶¶",
    "HTTP/1.1 1000 Much¶¶",
    "HTTP/2.0 200 OK¶¶",
    // A protocol switch that nobody requested, followed by a forged response to the next request.
    "HTTP/1.1 101 Switching Protocols¶Connection: Upgrade¶Upgrade: websocket¶¶HTTP/1.1 200 OK¶Content-Length: 4¶¶evil",
];

/// Responses that end in the middle of the head.
const HALVES: &[&str] = &["HTTP/1.1 200 OK¶Content-Le", "HTTP/1.1 200 OK¶Content-Length: 0¶", "HTT", ""];

// Cases: no-response, bad-response
#[test]
fn an_invalid_response_is_502_and_its_connection_is_dropped() {
    let mut invalid: Vec<_> = INVALID.iter().map(|text| super::bytes(text)).collect();
    let header = format!("X: {}\r\n", "x".repeat(1000));
    invalid.push(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", header.repeat(1 << 10)).into_bytes());
    let halves = HALVES.iter().map(|text| super::bytes(text)).collect();
    for (responses, then_closes) in [(invalid, false), (halves, true)] {
        let count = responses.len();
        let shown: Vec<_> =
            responses.iter().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(99)]).into_owned()).collect();
        let server = numbered(responses, then_closes);
        let (lb, _healthy) = in_front_of(&server, &format!("{ONE_WORKER}[retry]\nattempts = 0\n"));
        let mut client = Client::connect(lb.address());
        for (number, shown) in shown.iter().enumerate() {
            let response = client.get(&format!("/{number}"));
            assert_eq!(response.status, 502, "{shown}: {response:?}");
            assert_well(&lb, &server, shown);
        }
        assert_eq!(
            (server.requests().len(), server.connections()),
            (count, count),
            "no request is repeated, no connection reused"
        );
    }
}

/// Deviations that are accepted: the response; the head and the body that the client gets, without `Date`.
#[rustfmt::skip]
const TOLERATED: &[(&str, &str, &str)] = &[
    ("HTTP/1.1 200 OK\nX: a\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK¶X: a¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK¶X: a\nContent-Length: 2\n¶ok", "HTTP/1.1 200 OK¶X: a¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK¶X: a;¶  b;¶\tc¶Content-Length: 2¶¶ok", "HTTP/1.1 200 OK¶X: a; b; c¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK¶X:¶ a¶ ¶Content-Length: 2¶¶ok", "HTTP/1.1 200 OK¶X: a¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK¶X: a\u{1}b\u{1b}c\u{7f}d¶Content-Length: 2¶¶ok", "HTTP/1.1 200 OK¶X: a b c d¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK¶X : a¶Content-Length : 2¶¶ok", "HTTP/1.1 200 OK¶X: a¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1  200  OK¶Content-Length: 2¶¶ok", "HTTP/1.1 200 OK¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200\nContent-Length: 2\n\nok", "HTTP/1.1 200 ¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 O\u{1}K¶Content-Length: 2¶¶ok", "HTTP/1.1 200 O K¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 Tr\u{e8}s bien¶X: \u{e9}¶Content-Length: 2¶¶ok", "HTTP/1.1 200 Tr\u{e8}s bien¶X: \u{e9}¶Content-Length: 2¶", "ok"),
    ("http/1.1 200 OK¶Content-Length: 2¶¶ok", "HTTP/1.1 200 OK¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK¶Content-Length: 002¶¶ok", "HTTP/1.1 200 OK¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 103 Early\nLink: x\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK¶Content-Length: 2¶", "ok"),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶", "2¶ok¶0¶¶"),
    ("HTTP/1.1 200 OK¶Transfer-Encoding : chunked¶¶2¶ok¶0¶¶", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶", "2¶ok¶0¶¶"),
];

/// Sizes of chunks with the deviations that are accepted.
#[rustfmt::skip]
const PADDED: &[&str] = &[
    "2   ¶ok¶0   ¶¶", "2\t¶ok¶0 \t¶¶", "2 ;a¶ok¶0 ; a=b ¶¶", "000000000000000002¶ok¶000000000000000000¶¶",
    "2\nok\n0\n\n", "2\nok¶0¶¶", "2¶ok\n0¶¶", "2¶ok¶0\n\n", "2;a b¶ok¶0;¶¶", "2¶ok¶0\nX: y\n z\n\n", "2¶ok¶0¶X : \u{1}¶¶",
];

// Cases: tolerated-response, padded-chunks
#[test]
fn a_server_may_deviate_where_that_leaves_no_doubt_and_its_response_is_canonical() {
    let chunked = PADDED.iter().map(|body| format!("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶{body}"));
    let sent = TOLERATED.iter().map(|(sent, ..)| (*sent).to_owned()).chain(chunked);
    let server = numbered(sent.map(|text| super::bytes(&text)).collect(), false);
    let (lb, _healthy) = in_front_of(&server, &format!("{ONE_WORKER}[log]\naccess = false\n"));
    let padded = PADDED.iter().map(|sent| (sent, "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶", "2¶ok¶0¶¶"));
    let cases = TOLERATED.iter().map(|(sent, head, body)| (sent, *head, *body)).chain(padded);
    for (number, (sent, head, body)) in cases.enumerate() {
        let mut client = Client::connect(lb.address());
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let received = client.rest().expect("a response");
        let text: String = received.iter().map(|byte| char::from(*byte)).collect();
        // After an interim response.
        let text = &text[text.rfind("HTTP/1.1 ").unwrap_or_default()..];
        let (got_head, got_body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{sent}: {text}"));
        let mut lines: Vec<&str> = got_head.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
        lines.retain(|line| *line != "Connection: close" && !line.starts_with("Via: "));
        assert_eq!(lines.join("¶") + "¶", head, "{sent}");
        // One chunk in, one or more out: a body that comes in pieces is forwarded in pieces.
        assert_eq!(got_body, body.replace('¶', "\r\n"), "{sent}");
        assert!(!text.replace("\r\n", "").contains(|c: char| c.is_control()), "{sent}: {text:?}");
    }
    assert_eq!(server.connections(), 1, "the connection persists");
    assert_well(&lb, &server, "tolerated-response");
}

// Case: padded-chunks
#[test]
fn a_stream_may_have_more_padding_than_data() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let server = Server::responding(format!("{head}{}0     \r\n\r\n", "1     \r\nx\r\n".repeat(5000)));
    let (lb, _healthy) = in_front_of(&server, "");
    assert_eq!(get(lb.address(), "/").text(), "x".repeat(5000));
    assert_well(&lb, &server, "padded-chunks");
}

// Case: tolerated-response
#[test]
fn health_checks_accept_the_same_deviations() {
    for (sent, ..) in TOLERATED.iter().filter(|(sent, ..)| sent.starts_with("HTTP/1.1 200 OK")) {
        let bytes = super::bytes(sent);
        let server = Server::scripted(move |mut stream, _| {
            while Request::read(&mut stream).is_some() {
                respond(&mut stream, &bytes);
            }
        });
        let lb = Lb::start(&format!("[health]\ninterval = \"20ms\"\n{}", server.table("server1")));
        let check = eventually("a check", || {
            Some(lb.server("server1")["last_check"].clone()).filter(|check| check.is_object())
        });
        assert_eq!(check["ok"], true, "{sent}: {check}");
    }
}

/// Bodies that are invalid from the start, or that never start, each with its head.
#[rustfmt::skip]
const NO_BODY: &[&str] = &[
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶xyz¶hello¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶0x5¶hello¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶-5¶hello¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶ 5¶hello¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5 5¶hello¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5¶hello!¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5¶hell¶0¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶FFFFFFFFFFFFFFFF0¶hello",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶¶hello",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5¶",
    "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶0¶",
    "HTTP/1.1 200 OK¶Content-Length: 5¶¶",
    "HTTP/1.1 500 Oops¶Content-Length: 5¶¶",
];

// Case: bad-body
#[test]
fn a_response_whose_body_never_starts_well_is_502() {
    for pause in [false, true] {
        // Whether the body, or the end of the connection, follows the head at once or a little later.
        let server = Server::scripted(move |mut stream, recorder| {
            let Some(request) = recorder.next(&mut stream) else { return };
            let number: usize = request.path()[1..].parse().expect("a number");
            let bytes = super::bytes(NO_BODY[number]);
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            let (head, body) = bytes.split_at(if pause { head } else { bytes.len() });
            respond(&mut stream, head);
            std::thread::yield_now();
            respond(&mut stream, body);
        });
        let (lb, _healthy) = in_front_of(&server, &format!("{ONE_WORKER}[log]\nformat = \"json\"\n"));
        for (number, shown) in NO_BODY.iter().enumerate() {
            let mut client = Client::connect(lb.address());
            let response = client.get(&format!("/{number}"));
            assert_eq!(response.status, 502, "{shown}: {response:?}");
            assert_eq!(response.header("content-type"), Some("application/problem+json"), "{shown}");
            let path = format!("\"path\":\"/{number}\"");
            lb.logs("a 502", |line| {
                line.contains(&path) && line.contains("\"status\":502") && line.contains("\"error\":")
            });
            // The connection stays usable.
            assert_eq!(client.get("/next").status, 200, "{shown}");
            assert_well(&lb, &server, shown);
        }
        let (requests, connections) = (server.requests().len(), server.connections());
        assert_eq!((requests, connections), (NO_BODY.len(), NO_BODY.len()), "none is retried, no connection reused");
        let count = lb.metric("lb_requests_total{route=\"*/\",method=\"GET\",code=\"502\"}");
        assert_eq!(count, Some(NO_BODY.len() as f64));
    }
}

// Case: bad-body
#[test]
fn a_server_whose_bodies_are_invalid_is_ejected() {
    let server = Server::responding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
    let good = Server::named("good");
    let tables = servers(&[("bad", server.address, 1), ("good", good.address, 1)]);
    let lb = Lb::start(&format!("[health]\ninterval = \"1h\"\nfall = 3\n{tables}"));
    for name in ["bad", "good"] {
        lb.server_is(name, "up");
    }
    eventually("it is ejected", || {
        let status = get(lb.address(), "/").status;
        assert!(status == 200 || status == 502, "{status}");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    let reason = lb.server("bad")["ejected"]["error"].to_string();
    assert!(reason.contains("a chunk size is not a hexadecimal number"), "{reason}");
}

// Case: bad-body
#[test]
fn the_head_of_a_slow_body_is_not_held() {
    let gate = Gate::default();
    let held = gate.clone();
    let server = Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let head = match request.path() {
                "/events" => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            };
            respond(&mut stream, head);
            held.pass();
            if request.path() == "/events" {
                return respond(&mut stream, "hello");
            }
            respond(&mut stream, "5\r\nhello\r\n0\r\n\r\n");
        }
    });
    let (lb, _healthy) = in_front_of(&server, "");
    let mut clients: Vec<_> = ["/events", "/chunks"].map(|path| (path, Client::connect(lb.address()))).into();
    for (path, client) in &mut clients {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        // The server does not go on before the client has got the head.
        assert_eq!(client.try_head().expect("a head").0, 200, "{path}");
    }
    gate.open();
    for (path, client) in &mut clients {
        assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"hello".to_vec()), "{path}");
    }
    assert_well(&lb, &server, "bad-body");
}

// Case: bad-response
#[test]
fn a_101_without_a_protocol_is_502() {
    let server = Server::responding("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n");
    let (lb, _healthy) = in_front_of(&server, "");
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(Client::connect(lb.address()).request(request).status, 502);
    assert_well(&lb, &server, "bad-response");
}

/// A method; the response; the status and length that the client gets; whether the connection is reused.
type Bodiless = (&'static str, &'static str, u16, Option<&'static str>, bool);

#[rustfmt::skip]
const BODILESS: &[Bodiless] = &[
    ("HEAD", "HTTP/1.1 200 OK¶Content-Length: 5¶¶", 200, Some("5"), true),
    ("HEAD", "HTTP/1.1 200 OK¶Content-Length: 5¶¶hello", 200, Some("5"), false),
    ("HEAD", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶5¶hello¶0¶¶", 200, None, false),
    ("GET", "HTTP/1.1 204 No Content¶¶", 204, None, true),
    ("GET", "HTTP/1.1 204 No Content¶¶hello", 204, None, false),
    ("GET", "HTTP/1.1 204 No Content¶Content-Length: 5¶¶", 204, None, true),
    ("GET", "HTTP/1.1 304 Not Modified¶ETag: \"x\"¶¶", 304, None, true),
    ("GET", "HTTP/1.1 304 Not Modified¶Content-Length: 5¶¶hello", 304, Some("5"), false),
    ("GET", "HTTP/1.1 200 OK¶Content-Length: 2¶¶okHTTP/1.1 200 OK¶Content-Length: 4¶¶evil", 200, Some("2"), false),
    ("GET", "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶2¶ok¶0¶¶HTTP/1.1 200 OK¶Content-Length: 4¶¶evil", 200, None, false),
];

// Case: unexpected-body
#[test]
fn bytes_after_a_response_reach_nobody() {
    for (method, text, status, length, is_reused) in BODILESS {
        let server = Server::responding(super::bytes(text));
        let (lb, _healthy) = in_front_of(&server, ONE_WORKER);
        let mut client = Client::connect(lb.address());
        for _ in 0..3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            if *status == 200 && *method == "GET" {
                let response = client.response();
                assert_eq!((response.text().as_str(), response.header("content-length")), ("ok", *length), "{text}");
                continue;
            }
            let (status_sent, headers) = client.try_head().unwrap_or_else(|error| panic!("{method} {text}: {error}"));
            let length_sent = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            assert_eq!((status_sent, length_sent.map(|(_, value)| &**value)), (*status, *length), "{method} {text}");
        }
        assert_eq!(server.connections(), if *is_reused { 1 } else { 3 }, "{method} {text}");
        assert_well(&lb, &server, text);
    }
}

// Case: unexpected-body
#[test]
fn bytes_that_follow_a_response_later_reach_nobody() {
    for (method, head) in
        [("HEAD", "200 OK\r\nContent-Length: 5"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
    {
        let server = Server::scripted(move |mut stream, recorder| {
            while let Some(request) = recorder.next(&mut stream) {
                if request.path() == "/late" {
                    respond(&mut stream, format!("HTTP/1.1 {head}\r\n\r\n"));
                    // The client sends this once it has its response.
                    let mut signal = std::net::TcpStream::connect(request.values("x-signal")[0]).expect("a test");
                    let _ = signal.read_to_end(&mut Vec::new());
                    respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
                } else {
                    respond(&mut stream, OK);
                }
            }
        });
        let (lb, _healthy) = in_front_of(&server, ONE_WORKER);
        let signal = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = signal.local_addr().expect("an address");
        let mut client = Client::connect(lb.address());
        client.send(format!("{method} /late HTTP/1.1\r\nHost: a\r\nX-Signal: {address}\r\n\r\n"));
        client.try_head().expect("a head");
        let connections = || lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}");
        assert_eq!(connections(), Some(1.0), "{method} {head}");
        drop(signal.accept().expect("a server"));
        eventually("the connection is closed", || (connections() == Some(0.0)).then_some(()));
        assert_eq!(get(lb.address(), "/").text(), "ok");
        assert_well(&lb, &server, head);
    }
}

// Case: truncated-response
#[test]
fn a_truncated_response_is_visibly_truncated_and_not_retried() {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n64\r\nx",
    ];
    for head in heads {
        let server = Server::scripted(move |mut stream, recorder| {
            if recorder.next(&mut stream).is_some() {
                respond(&mut stream, head);
            }
        });
        let (lb, _healthy) = in_front_of(&server, "");
        let mut client = Client::connect(lb.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.try_response();
        assert!(response.is_err(), "{head}: {response:?}");
        assert_eq!(server.requests().len(), 1, "{head}");
        lb.logs("the truncated response", |line| line.contains("response_truncated"));
        assert_well(&lb, &server, head);
    }
}

// Case: response-during-upload
#[test]
fn a_client_that_uploads_before_it_reads_gets_an_early_response() {
    let server = Server::scripted(|mut stream, recorder| {
        if let Some(request) = Request::read_head(&mut stream) {
            recorder.add(&request);
            respond(&mut stream, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        }
    });
    let (lb, _healthy) = in_front_of(&server, "");
    let length = 1 << 20;
    let mut client = Client::connect(lb.address());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
    // The balancer may stop reading in the middle.
    let _ = client.socket().write_all(&content(length));
    assert_eq!(client.response().status, 413);
    assert_well(&lb, &server, "response-during-upload");
}

/// Uploads slowly for longer than two seconds, and only then reads the response.
fn uploads_slowly(lb: &Lb, head: &str) -> u16 {
    let client = Client::connect(lb.address());
    let mut writer = client.socket();
    writer.write_all(head.as_bytes()).expect("sent");
    for _ in 0..27 {
        writer.write_all(&[b'x'; 10_000]).unwrap_or_else(|error| panic!("{head}: {error}"));
        std::thread::sleep(Duration::from_millis(100));
    }
    { client }.response().status
}

// Case: response-during-upload
#[test]
fn a_rejected_upload_is_not_reset_while_its_client_still_sends() {
    // Responds at once; then it reads the rest, or closes.
    let server = Server::scripted(|mut stream, recorder| {
        let Some(request) = Request::read_head(&mut stream) else { return };
        recorder.add(&request);
        respond(&mut stream, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        if request.path() == "/reads" {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let (lb, _healthy) = in_front_of(&server, "[limits]\nbody_bytes = \"1MiB\"\n");
    let none = Lb::start(&format!("{}[[route]]\nhost = \"b\"\npool = \"default\"\n{}", NO_CHECKS, server.table("a")));
    let own = "Content-Length: 270000\r\n\r\n";
    // The balancer, the head, the status.
    let cases = [
        (&lb, format!("POST /reads HTTP/1.1\r\nHost: a\r\n{own}"), 413),
        (&lb, format!("POST /closes HTTP/1.1\r\nHost: a\r\n{own}"), 413),
        (&lb, "POST /reads HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n41EB0\r\n".to_owned(), 413),
        (&lb, format!("POST /reads HTTP/1.0\r\n{own}"), 413),
        (&lb, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n".to_owned(), 413),
        (&lb, format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n{own}"), 417),
        (&lb, format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n{own}"), 400),
        (&lb, "nonsense\r\n\r\n".to_owned(), 400),
        (&none, format!("POST / HTTP/1.1\r\nHost: a\r\n{own}"), 404),
    ];
    std::thread::scope(|scope| {
        for (lb, head, status) in &cases {
            scope.spawn(move || assert_eq!(uploads_slowly(lb, head), *status, "{head}"));
        }
    });
    assert_well(&lb, &server, "response-during-upload");
}

// Case: client-leaves
#[test]
fn a_request_is_aborted_in_any_phase_once_its_client_leaves() {
    clients_leave(DEADLINE);
}

/// Asserts that the server sees the end of each request within `limit` after its client has left.
pub(crate) fn clients_leave(limit: Duration) {
    let (sender, receiver) = channel();
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(request) = Request::read_head(&mut stream) else { return };
        recorder.add(&request);
        match request.path() {
            "/stalls" => respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun"),
            "/goes-on" => respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2)),
            "/tunnel" => {
                respond(&mut stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            }
            _ => {}
        }
        // Until `lb` closes the connection.
        let block = vec![b'x'; 64 << 10];
        while request.path() == "/goes-on" && stream.get_mut().write_all(&block).is_ok() {}
        let _ = stream.read_to_end(&mut Vec::new());
        sender.send(Instant::now()).expect("a test");
    });
    let (lb, _healthy) = in_front_of(&server, "");
    // The request, and whether a head arrives before the client leaves.
    let cases = [
        ("GET /answer HTTP/1.1¶Host: a¶¶", false),
        ("POST /answer HTTP/1.1¶Host: a¶Content-Length: 5¶¶hello", false),
        ("POST /upload HTTP/1.1¶Host: a¶Content-Length: 100¶¶hello", false),
        ("POST /upload HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶¶5¶hello¶", false),
        ("GET /stalls HTTP/1.1¶Host: a¶¶", true),
        ("POST /stalls HTTP/1.1¶Host: a¶Content-Length: 100¶¶hello", true),
        ("GET /goes-on HTTP/1.1¶Host: a¶¶", true),
        ("GET /tunnel HTTP/1.1¶Host: a¶Connection: upgrade¶Upgrade: x¶¶", true),
    ];
    for (number, (sent, has_head)) in cases.into_iter().enumerate() {
        let mut client = Client::connect(lb.address());
        client.send(super::bytes(sent));
        eventually("the request arrives", || (server.requests().len() == number + 1).then_some(()));
        if has_head {
            client.try_head().expect("a head");
        }
        let left = Instant::now();
        drop(client);
        let ended = receiver.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{sent}: not aborted"));
        assert!(ended.duration_since(left) < limit, "{sent}: {:?}", ended.duration_since(left));
        eventually("no request is open", || (lb.server("server1")["active_requests"] == 0).then_some(()));
        assert_well(&lb, &server, sent);
    }
    lb.logs("the first request", |line| {
        line.contains("GET /answer") && line.contains("\" 499 ") && line.contains("client_gone")
    });
    lb.logs("the fifth request", |line| {
        line.contains("GET /stalls") && line.contains("\" 200 ") && line.contains("client_gone")
    });
}
