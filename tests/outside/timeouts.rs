//! Clients and servers that take too long, at each place where that is limited.
//!
//! Limits are short here, and what must not be cut is given many times its limit to be slow in.

use std::io::{ErrorKind, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::client::{Client, Piece};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Request, Server, answer};
use crate::support::{DEADLINE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(crate) const STEP: Duration = Duration::from_millis(50);

/// Sends `piece` step by step until it is answered or ended, or the time is `over`. Returns how long that took.
pub(crate) fn trickle(client: &Client, piece: &[u8], over: Duration) -> Duration {
    let (mut socket, began) = (client.socket(), Instant::now());
    let mut byte = [0];
    while began.elapsed() < over && socket.write_all(piece).is_ok() {
        socket.set_read_timeout(Some(STEP)).expect("a socket");
        match socket.peek(&mut byte) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
    began.elapsed()
}

#[test]
fn an_idle_connection_ends_at_its_time() {
    let server = Server::saying(OK);
    let lb = Lb::before(&server, "[timeouts]\nrequest_header = \"1h\"\nidle = \"200ms\"\n");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 200);
    let began = Instant::now();
    assert!(client.is_closed());
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
    eventually("it is counted no more", || {
        (lb.metric("lb_client_connections{listener=\"127.0.0.1:0\"}") == Some(0.0)).then_some(())
    });
}

#[test]
fn a_server_that_takes_no_upload_is_504_and_not_its_clients_fault() {
    let (test, over) = channel::<()>();
    let over = Mutex::new(over);
    let server = Server::scripted(move |mut stream, note| {
        let Some(head) = Request::read_head(&mut stream) else { return };
        note.seen(&head);
        // It reads no more, and does not close before the test is over.
        let _ = over.lock().expect("a receiver").recv();
    });
    let lb = Lb::before(&server, "[timeouts]\nbody_idle = \"300ms\"\n");
    let mut client = Client::connect(lb.address());
    let mut writer = client.socket();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // More than all buffers on the way hold; made before its time to be sent begins.
            let body = vec![b'x'; 64 << 20];
            let _ = write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 64 << 20);
            let _ = writer.write_all(&body);
        });
        assert_eq!(client.answer().status, 504);
        drop(client);
    });
    drop(test);
}

#[test]
fn an_answer_that_stands_still_is_cut() {
    let server = Server::scripted(|mut stream, note| {
        while note.next(&mut stream).is_some() {
            answer(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        }
    });
    let lb = Lb::before(&server, "[timeouts]\nbody_idle = \"200ms\"\n");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"hello".to_vec()));
    assert!(client.is_closed(), "without a last chunk");
    lb.logs("the cut", |line| line.contains("response_too_slow"));
}

#[test]
fn an_answers_head_has_its_time_however_it_comes() {
    let server = Server::scripted(|mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            // Early hints, or a field that never ends: either goes on until the balancer has enough.
            let (first, piece) = match request.path() {
                "/hints" => ("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
                _ => ("HTTP/1.1 200 OK\r\nX: ", "x"),
            };
            let mut sent = stream.get_mut().write_all(first.as_bytes());
            while sent.is_ok() {
                std::thread::sleep(STEP);
                sent = stream.get_mut().write_all(piece.as_bytes());
            }
        }
    });
    let lb = Lb::before(&server, "[timeouts]\nresponse_header = \"400ms\"\n");
    for path in ["/head", "/hints"] {
        let (mut client, began) = (Client::connect(lb.address()), Instant::now());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut status = 103;
        while status == 103 {
            status = client.try_head().expect("a head").0;
        }
        assert_eq!(status, 504, "{path}");
        assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < DEADLINE / 2, "{path}");
        lb.logs(path, |line| line.contains(path) && line.contains("\" 504 ") && line.contains("response_timeout"));
    }
    assert_eq!(server.requests().len(), 2, "neither is asked for again");
}

#[test]
fn the_clients_of_a_closed_listener_have_their_time_to_finish_and_no_more() {
    let (test, over) = channel::<()>();
    let over = Mutex::new(over);
    let server = Server::scripted(move |mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            if request.path() == "/late" {
                std::thread::sleep(4 * STEP);
            }
            if request.path() == "/never" {
                let _ = over.lock().expect("a receiver").recv();
            }
            answer(&mut stream, OK);
        }
    });
    let file = |listeners: &str| {
        let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
        format!("{listeners}{admin}{NO_CHECKS}[timeouts]\ndrain = \"1s\"\n{}", server.table("server1"))
    };
    let [stays, goes] = [("stays", "127.0.0.1:0"), ("goes", "127.0.0.2:0")]
        .map(|(name, address)| format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    let lb = Lb::start_file(&file(&format!("{goes}{stays}")));
    let address = lb.address();
    let (mut late, mut never) = (Client::connect(address), Client::connect(address));
    late.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    never.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are under way", || (server.requests().len() == 2).then_some(()));
    let began = Instant::now();
    lb.edit_file(&file(&stays));
    assert_eq!(late.answer().status, 200);
    assert!(never.is_closed());
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    lb.logs("the cut", |line| line.contains("/never") && line.contains("error=aborted"));
    drop(test);
}

/// A server that answers with more than all buffers on the way hold.
pub(crate) fn endless() -> Server {
    Server::scripted(|mut stream, note| {
        while note.next(&mut stream).is_some() {
            answer(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 256 << 20));
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
fn a_client_that_does_not_read_is_cut() {
    let server = endless();
    let lb = Lb::before(&server, "[timeouts]\nbody_idle = \"300ms\"\n");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request begins", || (!server.requests().is_empty()).then_some(()));
    eventually("it is cut", || (lb.server("server1")["active_requests"] == 0).then_some(()));
    let rest = client.rest().map_or(0, |bytes| bytes.len());
    assert!(rest < 256 << 20, "{rest} bytes came");
    lb.logs("the cut", |line| line.contains("client_too_slow"));
}

#[test]
fn an_upload_that_goes_on_keeps_an_answer_alive_that_has_begun() {
    let server = Server::scripted(|mut stream, note| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        answer(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        if request.read_body(&mut stream).is_some() {
            note.seen(&request);
            answer(&mut stream, "4\r\nlast\r\n0\r\n\r\n");
        }
    });
    let lb = Lb::before(&server, "[timeouts]\nbody_idle = \"400ms\"\n[limits]\nbody_rate = \"100B\"\n");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n";
    let (mut steady, mut slow) = (Client::connect(lb.address()), Client::connect(lb.address()));
    for client in [&mut steady, &mut slow] {
        client.send(head);
        assert_eq!(client.try_head().expect("a head").0, 200);
    }
    std::thread::scope(|scope| {
        // It has no more leave to be slow than without an answer.
        scope.spawn(|| {
            let took = trickle(&slow, b"x", DEADLINE);
            assert!(took < DEADLINE / 2, "{took:?}");
            assert!(slow.is_closed());
        });
        let took = trickle(&steady, &[b'x'; 200], 25 * STEP);
        assert!(took >= 25 * STEP, "{took:?}");
        steady.send(vec![b'x'; 10_000]);
        assert_eq!(steady.chunk().expect("a chunk"), Piece::Data(b"last".to_vec()));
    });
    lb.logs("the cut", |line| line.contains("client_too_slow"));
}
