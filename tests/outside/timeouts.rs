//! Clients and servers that exceed each timeout.
//!
//! The timeouts are short here. Slow requests that must survive last for many times their timeout.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::client::{Client, Piece};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Gate, Request, Server, respond};
use crate::support::{DEADLINE, eventually};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(crate) const STEP: Duration = Duration::from_millis(50);

/// Sends `piece` every [`STEP`] until the peer sends something or closes, at most for `limit`. Returns how long it took.
pub(crate) fn trickle(mut socket: &TcpStream, piece: &[u8], limit: Duration) -> Duration {
    let start = Instant::now();
    let mut byte = [0];
    while start.elapsed() < limit && socket.write_all(piece).is_ok() {
        socket.set_read_timeout(Some(STEP)).expect("a socket");
        match socket.peek(&mut byte) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
    start.elapsed()
}

#[test]
fn an_idle_connection_is_closed_after_its_timeout() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"1h\"\nidle = \"200ms\"\n");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 200);
    assert!(client.is_closed());
    eventually("it is no longer counted", || {
        (lb.metric("lb_client_connections{listener=\"127.0.0.1:0\"}") == Some(0.0)).then_some(())
    });
}

#[test]
fn a_server_that_stops_reading_an_upload_is_504() {
    let (test, over) = channel::<()>();
    let over = Mutex::new(over);
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(head) = Request::read_head(&mut stream) else { return };
        recorder.add(&head);
        // Reads no more, and does not close before the test ends.
        let _ = over.lock().expect("a receiver").recv();
    });
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"300ms\"\n");
    let mut client = Client::connect(lb.address());
    let mut writer = client.socket();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // More than all buffers hold; built before the timeout starts.
            let body = vec![b'x'; 64 << 20];
            let _ = write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 64 << 20);
            let _ = writer.write_all(&body);
        });
        assert_eq!(client.response().status, 504);
        drop(client);
    });
    drop(test);
}

#[test]
fn a_stalled_response_is_aborted() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        }
    });
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"200ms\"\n");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"hello".to_vec()));
    assert!(client.is_closed(), "without a last chunk");
    lb.logs("the aborted request", |line| line.contains("response_too_slow"));
}

/// A server that sends a head, or early hints, until the balancer closes the connection.
pub(crate) fn trickling() -> Server {
    Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let (first, piece) = match request.path() {
                "/hints" => ("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
                _ => ("HTTP/1.1 200 OK\r\nX: ", "x"),
            };
            respond(&mut stream, first);
            trickle(stream.get_ref(), piece.as_bytes(), DEADLINE);
        }
    })
}

#[test]
fn the_response_timeout_runs_however_the_head_arrives() {
    let server = trickling();
    let lb = Lb::in_front_of(&server, "[timeouts]\nresponse_header = \"400ms\"\n");
    for path in ["/head", "/hints"] {
        let mut client = Client::connect(lb.address());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut status = 103;
        while status == 103 {
            status = client.try_head().expect("a head").0;
        }
        assert_eq!(status, 504, "{path}");
        lb.logs(path, |line| line.contains(path) && line.contains("\" 504 ") && line.contains("response_timeout"));
    }
    assert_eq!(server.requests().len(), 2, "neither is retried");
}

pub(crate) fn listener(name: &str, address: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

#[test]
fn the_clients_of_a_closed_listener_drain_until_the_timeout() {
    let (test, over) = channel::<()>();
    let over = Mutex::new(over);
    let gate = Gate::default();
    let late_gate = gate.clone();
    let server = Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            if request.path() == "/late" {
                late_gate.pass();
            }
            if request.path() == "/never" {
                let _ = over.lock().expect("a receiver").recv();
            }
            respond(&mut stream, OK);
        }
    });
    let file = |listeners: &str| {
        let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
        format!("{listeners}{admin}{NO_CHECKS}[timeouts]\ndrain = \"2s\"\n{}", server.table("server1"))
    };
    let (stays, goes) = (listener("stays", "127.0.0.1:0"), listener("goes", "127.0.0.2:0"));
    let lb = Lb::start_file(&file(&format!("{goes}{stays}")));
    let address = lb.address();
    let (mut late, mut never) = (Client::connect(address), Client::connect(address));
    late.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    never.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both requests are open", || (server.requests().len() == 2).then_some(()));
    lb.edit_file(&file(&stays));
    lb.reaches(2);
    gate.open();
    assert_eq!(late.response().status, 200);
    assert!(never.is_closed());
    lb.logs("the aborted request", |line| line.contains("/never") && line.contains("error=aborted"));
    drop(test);
}

/// A server whose responses are longer than all buffers hold.
pub(crate) fn endless() -> Server {
    Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 256 << 20));
            let block = vec![b'x'; 1 << 20];
            for _ in 0..256 {
                if stream.get_mut().write_all(&block).is_err() {
                    return;
                }
            }
        }
    })
}

#[test]
fn a_client_that_stops_reading_is_aborted() {
    let server = endless();
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"300ms\"\n");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request has begun", || (!server.requests().is_empty()).then_some(()));
    eventually("it is aborted", || (lb.server("server1")["active_requests"] == 0).then_some(()));
    let rest = client.rest().map_or(0, |bytes| bytes.len());
    assert!(rest < 256 << 20, "{rest} bytes received");
    lb.logs("the aborted request", |line| line.contains("client_too_slow"));
}

#[test]
fn a_steady_upload_keeps_its_response_alive() {
    let server = Server::scripted(|mut stream, recorder| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        respond(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        if request.read_body(&mut stream).is_some() {
            recorder.add(&request);
            respond(&mut stream, "4\r\nlast\r\n0\r\n\r\n");
        }
    });
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"400ms\"\n[limits]\nbody_rate = \"100B\"\n");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n";
    let (mut steady, mut slow) = (Client::connect(lb.address()), Client::connect(lb.address()));
    for client in [&mut steady, &mut slow] {
        client.send(head);
        assert_eq!(client.try_head().expect("a head").0, 200);
    }
    std::thread::scope(|scope| {
        // The minimum rate holds after the response has begun, too.
        scope.spawn(|| {
            let took = trickle(&slow.socket(), b"x", DEADLINE);
            assert!(took < DEADLINE / 2, "{took:?}");
            assert!(slow.is_closed());
        });
        let took = trickle(&steady.socket(), &[b'x'; 200], 25 * STEP);
        assert!(took >= 25 * STEP, "{took:?}");
        steady.send(vec![b'x'; 10_000]);
        assert_eq!(steady.chunk().expect("a chunk"), Piece::Data(b"last".to_vec()));
    });
    lb.logs("the aborted request", |line| line.contains("client_too_slow"));
}
