//! Servers that refuse, hang, break off or talk nonsense, and what their clients see of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Note, Server, answer, hanging, reset};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

/// An address where nobody listens, held so that nobody else gets it.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("an address");
    (socket, address)
}

fn post(address: SocketAddr) -> u16 {
    Client::connect(address).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").status
}

#[test]
fn row_32_a_server_that_refuses_is_left_for_another_whatever_the_method() {
    let server = Server::named("server2");
    let (_held, nobody) = refusing();
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("server1", nobody, 1), ("server2", server.address, 1)])));
    let address = lb.address();
    for _ in 0..20 {
        assert_eq!((get(address, "/").status, post(address)), (200, 200));
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 40);
    assert!(requests.iter().all(|request| request.line.starts_with("GET") || request.body == b"hello"));
    let retries = lb.metric("lb_retries_total{pool=\"default\",reason=\"connect\"}").expect("a series");
    assert!(retries >= 20.0, "{retries}: at least every second request begins at the one that refuses");
}

#[test]
fn rows_32_and_40_who_cannot_be_reached_is_502_and_nobody_left_503() {
    let (_held, nobody) = refusing();
    let table = servers(&[("server1", nobody, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{table}"));
    assert_eq!((get(lb.address(), "/").status, post(lb.address())), (502, 502));
    lb.apply(&format!("[health]\ninterval = \"20ms\"\nfall = 1\n{table}"));
    lb.server_is("server1", "down");
    assert_eq!((get(lb.address(), "/").status, post(lb.address())), (503, 503));
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
fn row_34_a_server_that_never_answers_is_504_at_its_time_and_asked_once() {
    let server = Server::scripted(|mut stream, note| {
        // Never an answer, however often it is asked.
        while note.next(&mut stream).is_some() {}
    });
    let lb = Lb::before(&server, "[timeouts]\nresponse_header = \"200ms\"\n");
    let began = Instant::now();
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 504);
    assert!(began.elapsed().as_millis() >= 180, "{:?}", began.elapsed());
    assert_eq!(post(lb.address()), 504);
    assert_eq!((server.requests().len(), server.connections()), (2, 2));
    // The client's connection is as good as before.
    assert_eq!(client.get("/").status, 504);
}

#[test]
fn rows_34_and_35_nonsense_is_502_and_its_connection_dropped() {
    let many =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", format!("X: {}\r\n", "x".repeat(1000)).repeat(1000));
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "\0\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}\r\n\r\n",
        "HTTP/1.1 99\r\n\r\n",
        "HTTP/1.1 1000 Much\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTT",
        &many,
    ];
    for bytes in cases {
        let shown = &bytes[..bytes.len().min(100)];
        let bytes = bytes.as_bytes().to_vec();
        let server = Server::scripted(move |mut stream, note| {
            if note.next(&mut stream).is_some() {
                answer(&mut stream, &bytes);
            }
        });
        let lb = Lb::before(&server, "[retry]\nattempts = 0\n");
        let mut client = Client::connect(lb.address());
        let answered = client.get("/");
        assert_eq!(answered.status, 502, "{shown}: {answered:?}");
        assert_eq!(client.get("/").status, 502, "{shown}: the client's connection goes on");
        assert_eq!((server.requests().len(), server.connections()), (2, 2), "{shown}");
    }
}

#[test]
fn what_was_answered_with_nonsense_is_not_asked_again() {
    let server = Server::saying("nonsense\r\n\r\n");
    let lb = Lb::before(&server, "");
    assert_eq!((get(lb.address(), "/").status, server.requests().len()), (502, 1));
}

/// Resets the first `count` connections after their request, and answers on the others.
fn resets(count: usize) -> Server {
    let left = AtomicUsize::new(count);
    Server::scripted(move |mut stream, note: &Note| {
        while note.next(&mut stream).is_some() {
            if left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return reset(stream.get_ref());
            }
            answer(&mut stream, OK);
        }
    })
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
fn tries_are_counted_and_limited_and_every_other_server_comes_first() {
    let broken: Vec<Server> = (0..3).map(|_| resets(usize::MAX)).collect();
    let lb = Lb::before(&broken[0], "[retry]\nattempts = 4\n");
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(broken[0].requests().len(), 5, "one, and four more");
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"), Some(4.0));
    lb.logs("the request", |line| line.contains("tries=5"));
    let whole = Server::named("whole");
    let tables = [&broken[1], &broken[2], &whole].map(|server| server.address);
    let tables: Vec<_> =
        ["b", "c", "whole"].into_iter().zip(tables).map(|(name, address)| (name, address, 1)).collect();
    lb.apply(&format!("{NO_CHECKS}{}", servers(&tables)));
    for _ in 0..3 {
        assert_eq!(get(lb.address(), "/").text(), "whole");
    }
}

#[test]
fn tries_stay_within_their_budget() {
    let server = resets(usize::MAX);
    let lb = Lb::before(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\nbudget = \"10%\"\n"));
    let address = lb.address();
    let (mut client, began) = (Client::connect(address), Instant::now());
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 502);
    }
    // Ten are free, and one more each second; and ten more are a tenth of the requests.
    let again = server.requests().len() - 100;
    let most = 21 + usize::try_from(began.elapsed().as_secs()).expect("a few");
    assert!((19..=most).contains(&again), "{again} tries again, not {most}");
    lb.logs("who was within it", |line| line.contains("\" 502 ") && line.contains("tries=2"));
    lb.logs("who was not", |line| line.contains("\" 502 ") && line.contains("tries=1"));
    let counted = lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}");
    assert_eq!(counted, Some(again as f64));
}

#[test]
fn few_requests_are_all_tried_again() {
    let server = resets(usize::MAX);
    let lb = Lb::before(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\n"));
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").status, 502);
    }
    assert_eq!(server.requests().len(), 20);
}

#[test]
fn of_many_that_break_a_fifth_is_tried_again() {
    let (broken, good) = (resets(usize::MAX), Server::named("good"));
    let both = servers(&[("broken", broken.address, 1), ("good", good.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}[retry]\nattempts = 1\n{both}"));
    let (mut client, began) = (Client::connect(lb.address()), Instant::now());
    let good = (0..400).filter(|_| client.get("/").status == 200).count();
    let (broke, again) = (broken.requests().len(), lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"));
    let again = again.expect("a series") as usize;
    let most = 91 + usize::try_from(began.elapsed().as_secs()).expect("a few");
    assert!((88..=most).contains(&again), "{again} tries again of 400, not {most}: a fifth, and ten are free");
    assert_eq!(good, 400 - broke + again, "all that are tried again come through, and the rest is passed on");
    let passed_on = eventually("the log", || Some(lb.stdout()).filter(|lines| lines.len() == 400));
    assert_eq!(passed_on.iter().filter(|line| line.contains("\" 502 ")).count(), broke - again);
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
fn a_post_that_cannot_have_been_sent_is_sent_on_a_new_connection() {
    let server = Server::scripted(|mut stream, note| {
        if note.next(&mut stream).is_some() {
            answer(&mut stream, OK);
        }
    });
    let lb = Lb::before(&server, ONE_WORKER);
    for i in 0..10 {
        assert_eq!(post(lb.address()), 200);
        eventually("the balancer knows of the closed connection", || {
            (lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(0.0)).then_some(())
        });
        assert_eq!(server.requests().len(), i + 1);
    }
}

#[test]
fn a_server_may_keep_quiet_about_a_request_that_it_never_read() {
    // Accepts, reads nothing, closes: with bytes unread that is a reset, before or after the request was sent.
    let calls = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let counted = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, SeqCst);
            drop(stream);
        }
    });
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("server1", address, 1)])));
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(calls.load(SeqCst), 3, "one try and two more");
}
