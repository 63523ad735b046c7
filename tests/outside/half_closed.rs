//! Clients that end their side of the connection after a request: they may still read the response, or be gone.

use std::io::Read;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Request, Server, hanging, reset, respond};
use crate::support::{DEADLINE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that responds by the path: `/at-once`; `/soon`, a while later; `/in-parts`, of which the second comes later
/// than a second; `/never`. The receiver gets the time when `lb` gives a `/never` up.
fn server() -> (Server, Receiver<Instant>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let server = Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            match request.path() {
                "/never" => {
                    let _ = stream.read_to_end(&mut Vec::new());
                    let _ = sender.lock().expect("a sender").send(Instant::now());
                    return;
                }
                "/soon" => std::thread::sleep(Duration::from_millis(500)),
                "/in-parts" => {
                    respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfirst");
                    std::thread::sleep(Duration::from_millis(1500));
                    respond(&mut stream, "end");
                    continue;
                }
                _ => {}
            }
            respond(&mut stream, OK);
        }
    });
    (server, receiver)
}

/// Connects, sends `request` and ends its side.
fn half_closed(lb: &Lb, request: &str) -> Client {
    let mut client = Client::connect(lb.address());
    client.send(request);
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    client
}

// Case: half-closed-client
#[test]
fn a_half_closed_client_gets_a_response_that_starts_within_a_second() {
    let (server, _gone) = server();
    let lb = Lb::in_front_of(&server, "[limits]\nbody_bytes = \"100B\"\n");
    let cases = [
        ("GET /at-once HTTP/1.1\r\nHost: a\r\n\r\n", 200, "ok"),
        ("GET /at-once HTTP/1.0\r\n\r\n", 200, "ok"),
        ("GET /soon HTTP/1.1\r\nHost: a\r\n\r\n", 200, "ok"),
        ("POST /soon HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 200, "ok"),
        ("POST /soon HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "ok"),
        ("GET /in-parts HTTP/1.1\r\nHost: a\r\n\r\n", 200, "firstend"),
        // Responses of `lb` itself.
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n", 413, ""),
        ("nonsense\r\n\r\n", 400, ""),
    ];
    std::thread::scope(|scope| {
        for (request, status, body) in cases {
            let mut client = half_closed(&lb, request);
            scope.spawn(move || {
                let response = client.try_response().unwrap_or_else(|error| panic!("{request}: {error}"));
                assert_eq!(response.status, status, "{request}: {response:?}");
                assert!(body.is_empty() || response.text() == body, "{request}: {response:?}");
                assert!(client.is_closed(), "{request}: nothing more can come");
            });
        }
    });
    assert!(!lb.stdout().iter().any(|line| line.contains("client_gone")), "{:#?}", lb.stdout());
}

// Case: half-closed-client
#[test]
fn a_half_closed_client_gets_the_responses_to_all_its_requests() {
    let (server, _gone) = server();
    let lb = Lb::in_front_of(&server, "");
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    // Each of them has a second.
    let mut client =
        half_closed(&lb, &[request("/soon"), request("/soon"), request("/soon"), request("/at-once")].concat());
    for number in 0..4 {
        assert_eq!(client.response().text(), "ok", "{number}");
    }
    assert!(client.is_closed());
}

// Case: half-closed-client
#[test]
fn a_half_closed_client_whose_response_does_not_start_within_a_second_counts_as_gone() {
    let (server, gone) = server();
    let lb = Lb::in_front_of(&server, "");
    for request in
        ["GET /never HTTP/1.1\r\nHost: a\r\n\r\n", "POST /never HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"]
    {
        let start = Instant::now();
        let mut client = half_closed(&lb, request);
        let ended = gone.recv_timeout(DEADLINE).expect("the request is aborted");
        assert!(ended.duration_since(start) >= Duration::from_secs(1), "{:?}", ended.duration_since(start));
        assert!(client.is_closed(), "without a response");
    }
    lb.logs("the first", |line| {
        line.contains("GET /never") && line.contains("\" 499 ") && line.contains("client_gone")
    });
}

// Cases: half-closed-client, client-leaves
#[test]
fn a_half_closed_client_that_resets_the_connection_is_gone() {
    let (server, gone) = server();
    let lb = Lb::in_front_of(&server, "");
    for (number, half_closes_first) in [false, true].into_iter().enumerate() {
        let mut client = Client::connect(lb.address());
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the request arrives", || (server.requests().len() == number + 1).then_some(()));
        if half_closes_first {
            client.socket().shutdown(Shutdown::Write).expect("a socket");
        }
        reset(&client.socket());
        drop(client);
        gone.recv_timeout(DEADLINE).expect("the request is aborted");
    }
}

// Cases: half-closed-client, half-upload
#[test]
fn a_half_close_in_the_middle_of_a_body_truncates_it() {
    let server = Server::scripted(|mut stream, recorder| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        let complete = request.read_body(&mut stream).is_some();
        request.line = if complete { "complete" } else { "truncated" }.to_owned();
        recorder.add(&request);
        respond(&mut stream, OK);
    });
    let lb = Lb::in_front_of(&server, "");
    for (number, body) in
        ["Content-Length: 9\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"].into_iter().enumerate()
    {
        let mut client = half_closed(&lb, &format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));
        assert!(client.is_closed(), "without a response: {body}");
        eventually("the server sees the end", || (server.requests().len() == number + 1).then_some(()));
    }
    assert!(server.requests().iter().all(|request| request.line == "truncated"));
}

// Case: half-closed-client
#[test]
fn a_client_may_end_its_side_while_lb_connects_or_after_the_response_has_started() {
    let (_socket, _queue, address) = hanging();
    let lb = Lb::start(&format!(
        "{NO_CHECKS}[timeouts]\nconnect = \"300ms\"\n[retry]\nattempts = 0\n{}",
        servers(&[("hanging", address, 1)])
    ));
    let mut client = half_closed(&lb, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 504);

    // More than the buffers hold, so that most of it is still to come.
    const LENGTH: usize = 20 << 20;
    let server =
        Server::responding(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n{}", "x".repeat(LENGTH)));
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(client.rest().expect("all of it").len(), LENGTH);
}
