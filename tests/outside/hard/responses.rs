//! Section 4: responses that are invalid, unusual or incomplete.

use std::io::Read;

use super::{assert_well, in_front_of};
use crate::support::client::{Client, Piece, get};
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::{Gate, Request, Server, respond};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

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
