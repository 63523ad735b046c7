//! Section 4: servers that fail or respond early, and clients that leave.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{assert_well, in_front_of};
use crate::bodies::content;
use crate::failures::{post, resets};
use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Request, Server, hanging, respond};
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
