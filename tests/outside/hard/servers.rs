//! Section 4: servers that misbehave.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{assert_well, before};
use crate::bodies::content;
use crate::failures::{post, resets};
use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Request, Server, answer, hanging};
use crate::support::{DEADLINE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

#[test]
fn row_32_a_server_that_refuses_is_left_for_another_whatever_the_method() {
    let server = Server::named("server2");
    let nobody = Refusing::new();
    let lb = Lb::start(&format!(
        "{NO_CHECKS}{}",
        servers(&[("server1", nobody.address, 1), ("server2", server.address, 1)])
    ));
    let address = lb.address();
    for _ in 0..20 {
        assert_eq!((get(address, "/").status, post(address)), (200, 200));
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 40);
    assert_well(&lb, &server, "row 32");
    assert!(requests.iter().all(|request| request.line.starts_with("GET") || request.body == b"hello"));
    let retries = lb.metric("lb_retries_total{pool=\"default\",reason=\"connect\"}").expect("a series");
    assert!(retries >= 20.0, "{retries}: at least every second request begins at the one that refuses");
}

#[test]
fn rows_32_and_40_who_cannot_be_reached_is_502_and_nobody_left_503() {
    let nobody = Refusing::new();
    let table = servers(&[("server1", nobody.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{table}"));
    assert_eq!((get(lb.address(), "/").status, post(lb.address())), (502, 502));
    lb.apply(&format!("[health]\ninterval = \"20ms\"\nfall = 1\n{table}"));
    lb.server_is("server1", "down");
    let began = Instant::now();
    assert_eq!((get(lb.address(), "/").status, post(lb.address())), (503, 503));
    assert!(began.elapsed() < Duration::from_secs(2), "at once: nothing is waited for");
    assert_eq!(lb.ask("/ready").status, 503);
}

#[test]
fn row_32_a_server_that_hangs_is_left_for_another_or_504() {
    let (_listener, _waiting, hangs) = hanging();
    let server = Server::named("server2");
    let timeouts = "[timeouts]\nconnect = \"100ms\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{timeouts}{}", servers(&[("server1", hangs, 1)])));
    let began = Instant::now();
    assert_eq!(get(lb.address(), "/").status, 504);
    assert!(began.elapsed().as_millis() >= 100, "it was given its time");
    let both = servers(&[("server1", hangs, 1), ("server2", server.address, 1)]);
    lb.apply(&format!("{NO_CHECKS}{timeouts}{both}"));
    for _ in 0..4 {
        assert_eq!((get(lb.address(), "/").status, post(lb.address())), (200, 200));
    }
}

#[test]
fn row_33_what_was_sent_is_sent_again_only_if_that_can_do_no_harm() {
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
        let lb = Lb::before(&server, "");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut client = Client::connect(lb.address());
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n{length}\r\n{body}"));
        assert_eq!(client.try_head().expect("a head").0, status, "{method} {body}");
        assert_eq!(server.requests().len(), seen, "{method} {body}");
    }
}

#[test]
fn row_33_a_request_that_meets_a_closing_connection_is_not_lost() {
    // Each connection answers one request, and is closed by the server when the test says so.
    let (close, closes) = channel::<()>();
    let closes = Arc::new(Mutex::new(closes));
    let server = Server::scripted(move |mut stream, note| {
        if note.next(&mut stream).is_some() {
            answer(&mut stream, OK);
            let _ = closes.lock().expect("a gate").recv();
        }
    });
    let lb = Lb::before(&server, ONE_WORKER);
    let mut client = Client::connect(lb.address());
    for i in 0..20 {
        assert_eq!(client.get("/").status, 200, "{i}");
        // At the same moment the next request is on its way: both orders occur.
        close.send(()).expect("a server");
        if i % 2 == 0 {
            std::thread::yield_now();
        }
    }
    assert!(server.requests().len() >= 20);
}

#[test]
fn row_34_a_server_that_never_answers_is_504_at_its_time_and_asked_once() {
    let server = Server::scripted(|mut stream, note| {
        // Never an answer, however often it is asked.
        while note.next(&mut stream).is_some() {}
    });
    let (lb, _well) = before(&server, "[timeouts]\nresponse_header = \"200ms\"\n");
    let began = Instant::now();
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 504);
    assert!(began.elapsed().as_millis() >= 180, "{:?}", began.elapsed());
    assert_eq!(post(lb.address()), 504);
    assert_eq!((server.requests().len(), server.connections()), (2, 2));
    // The client's connection is as good as before.
    assert_eq!(client.get("/").status, 504);
    assert_well(&lb, &server, "row 34");
}

/// Answers the request for `/N` with the `N`th of these; `then_closes` or waits for the next request.
fn answers(all: Vec<Vec<u8>>, then_closes: bool) -> Server {
    Server::scripted(move |mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            let number: usize = request.path()[1..].parse().expect("a number");
            answer(&mut stream, &all[number]);
            if then_closes {
                return;
            }
        }
    })
}

/// Answers that are none, with 502 in their place, and what is dropped after them.
#[rustfmt::skip]
const NONSENSE: &[&str] = &[
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
    "HTTP/1.1 200 OK¶X: a¶ folded¶Content-Length: 0¶¶",
    "HTTP/1.1 200 OK¶X: a\0b¶Content-Length: 0¶¶",
    "SSH-2.0-OpenSSH_9.9¶¶",
    "\0\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}¶¶",
    "HTTP/1.1 99¶¶",
    "HTTP/1.1 99 Low¶Content-Length: 0¶¶",
    "HTTP/1.1 1000 Much¶¶",
    "HTTP/2.0 200 OK¶¶",
    // A switch that nobody asked for, and an answer to be taken for the next one's.
    "HTTP/1.1 101 Switching Protocols¶Connection: Upgrade¶Upgrade: websocket¶¶HTTP/1.1 200 OK¶Content-Length: 4¶¶evil",
];

/// Answers that end in the middle of the head.
const HALVES: &[&str] = &["HTTP/1.1 200 OK¶Content-Le", "HTTP/1.1 200 OK¶Content-Length: 0¶", "HTT", ""];

#[test]
fn rows_34_and_35_nonsense_is_502_and_its_connection_dropped() {
    let mut nonsense: Vec<_> = NONSENSE.iter().map(|text| super::bytes(text)).collect();
    let field = format!("X: {}\r\n", "x".repeat(1000));
    nonsense.push(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", field.repeat(1 << 10)).into_bytes());
    let halves = HALVES.iter().map(|text| super::bytes(text)).collect();
    for (all, then_closes) in [(nonsense, false), (halves, true)] {
        let count = all.len();
        let shown: Vec<_> =
            all.iter().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(99)]).into_owned()).collect();
        let server = answers(all, then_closes);
        let (lb, _well) = before(&server, &format!("{ONE_WORKER}[retry]\nattempts = 0\n"));
        let mut client = Client::connect(lb.address());
        for (number, shown) in shown.iter().enumerate() {
            let answered = client.get(&format!("/{number}"));
            assert_eq!(answered.status, 502, "{shown}: {answered:?}");
            assert_well(&lb, &server, shown);
        }
        assert_eq!((server.requests().len(), server.connections()), (count, count), "none is asked or used again");
    }
}

#[test]
fn row_35_a_switch_to_nothing_is_502() {
    let server = Server::saying("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n");
    let (lb, _well) = before(&server, "");
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(Client::connect(lb.address()).request(request).status, 502);
    assert_well(&lb, &server, "row 35");
}

/// A method; the answer to it; the status and length that the client is told; whether the connection is used again.
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

#[test]
fn row_36_bytes_that_must_not_be_there_reach_nobody() {
    for (method, text, status, length, kept) in BODILESS {
        let server = Server::saying(super::bytes(text));
        let (lb, _well) = before(&server, ONE_WORKER);
        let mut client = Client::connect(lb.address());
        for _ in 0..3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            if *status == 200 && *method == "GET" {
                let answer = client.answer();
                assert_eq!((answer.text().as_str(), answer.field("content-length")), ("ok", *length), "{text}");
                continue;
            }
            let (answered, fields) = client.try_head().unwrap_or_else(|error| panic!("{method} {text}: {error}"));
            let said = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            assert_eq!((answered, said.map(|(_, value)| &**value)), (*status, *length), "{method} {text}");
        }
        assert_eq!(server.connections(), if *kept { 1 } else { 3 }, "{method} {text}");
        assert_well(&lb, &server, text);
    }
}

#[test]
fn row_37_an_response_truncated_short_is_seen_to_be_cut_and_not_tried_again() {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n64\r\nx",
    ];
    for head in heads {
        let server = Server::scripted(move |mut stream, note| {
            if note.next(&mut stream).is_some() {
                answer(&mut stream, head);
            }
        });
        let (lb, _well) = before(&server, "");
        let mut client = Client::connect(lb.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.try_answer();
        assert!(answer.is_err(), "{head}: {answer:?}");
        assert_eq!(server.requests().len(), 1, "{head}");
        lb.logs("the cut", |line| line.contains("response_truncated"));
        assert_well(&lb, &server, head);
    }
}

#[test]
fn row_38_a_client_that_only_reads_when_all_is_sent_can_read_it_too() {
    let server = Server::scripted(|mut stream, note| {
        if let Some(request) = Request::read_head(&mut stream) {
            note.seen(&request);
            answer(&mut stream, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        }
    });
    let (lb, _well) = before(&server, "");
    let length = 1 << 20;
    let mut client = Client::connect(lb.address());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
    // It may be told to stop in the middle.
    let _ = client.socket().write_all(&content(length));
    assert_eq!(client.answer().status, 413);
    assert_well(&lb, &server, "row 38");
}

#[test]
fn row_39_a_client_that_leaves_takes_its_request_along_wherever_it_is() {
    let (tell, told) = channel();
    let server = Server::scripted(move |mut stream, note| {
        let Some(request) = Request::read_head(&mut stream) else { return };
        note.seen(&request);
        match request.path() {
            "/stalls" => answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun"),
            "/goes-on" => answer(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2)),
            "/tunnel" => {
                answer(&mut stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            }
            _ => {}
        }
        // Until the balancer closes.
        let block = vec![b'x'; 64 << 10];
        while request.path() == "/goes-on" && stream.get_mut().write_all(&block).is_ok() {}
        let _ = stream.read_to_end(&mut Vec::new());
        tell.send(Instant::now()).expect("a test");
    });
    let (lb, _well) = before(&server, "");
    // What is sent, and whether a head comes before the client leaves.
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
    for (number, (sent, answered)) in cases.into_iter().enumerate() {
        let mut client = Client::connect(lb.address());
        client.send(super::bytes(sent));
        eventually("the request arrives", || (server.requests().len() == number + 1).then_some(()));
        if answered {
            client.try_head().expect("a head");
        }
        let left = Instant::now();
        drop(client);
        let ended = told.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{sent}: not cancelled"));
        // The list says one second; a loaded machine is given two.
        assert!(ended.duration_since(left) < Duration::from_secs(2), "{sent}: {:?}", ended.duration_since(left));
        eventually("no request is open", || (lb.server("server1")["active_requests"] == 0).then_some(()));
        assert_well(&lb, &server, sent);
    }
    lb.logs("the first", |line| {
        line.contains("GET /answer") && line.contains("\" 499 ") && line.contains("client_gone")
    });
    lb.logs("the fifth", |line| {
        line.contains("GET /stalls") && line.contains("\" 200 ") && line.contains("client_gone")
    });
}
