//! Bodies: streamed both ways, complete, and limited.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};

use crate::support::client::{Client, Piece};
use crate::support::lb::Lb;
use crate::support::servers::{Request, Server, respond};
use crate::support::{DEADLINE, eventually};

/// A server that sends each request's body back, with the same kind of framing.
pub(crate) fn echo() -> Server {
    Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            if request.values("content-length").is_empty() {
                respond(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in request.body.chunks(7_777) {
                    respond(&mut stream, format!("{:x}\r\n", piece.len()));
                    respond(&mut stream, [piece, b"\r\n"].concat());
                }
                respond(&mut stream, "0\r\n\r\n");
            } else {
                respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
                respond(&mut stream, &request.body);
            }
        }
    })
}

/// Random bytes, in which any loss, repetition or exchange shows.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(length as u64);
    (0..length).map(|_| rng.u8(..)).collect()
}

/// A receiver that several threads may hold.
fn gate() -> (std::sync::mpsc::Sender<()>, Mutex<Receiver<()>>) {
    let (sender, receiver) = channel();
    (sender, Mutex::new(receiver))
}

fn wait(gate: &Mutex<Receiver<()>>) {
    gate.lock().expect("a gate").recv_timeout(DEADLINE).expect("the gate is opened");
}

#[test]
fn bodies_of_any_size_are_forwarded_complete_in_both_framings() {
    let server = echo();
    let lb = Lb::in_front_of(&server, "");
    let address = lb.address();
    let mut client = Client::connect(address);
    for length in [0, 1, 8 << 10, 1 << 20, 20 << 20] {
        let body = content(length);
        for chunked in [false, true] {
            let mut writer = client.socket();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let framing = if chunked {
                        "Transfer-Encoding: chunked".to_owned()
                    } else {
                        format!("Content-Length: {length}")
                    };
                    write!(writer, "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").expect("sent");
                    if !chunked {
                        return writer.write_all(&body).expect("sent");
                    }
                    for piece in body.chunks(10_000) {
                        write!(writer, "{:X};x=y\r\n", piece.len()).expect("sent");
                        writer.write_all(&[piece, b"\r\n"].concat()).expect("sent");
                    }
                    writer.write_all(b"0\r\n\r\n").expect("sent");
                });
                let response = client.response();
                assert_eq!(response.status, 200);
                assert!(response.body == body, "{length} bytes, chunked {chunked}: {} received", response.body.len());
                let framing = if chunked { "transfer-encoding" } else { "content-length" };
                assert!(response.header(framing).is_some(), "{:?}", response.headers);
            });
        }
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 10);
    assert!(requests.iter().all(Request::is_canonical));
}

#[test]
fn a_response_is_streamed() {
    let (open, opened) = gate();
    let server = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            wait(&opened);
            respond(&mut stream, "4\r\nlast\r\n0\r\n\r\n");
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"first".to_vec()));
    // Only now is the rest sent.
    open.send(()).expect("a server that waits");
    assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"last".to_vec()));
    assert_eq!(client.chunk().expect("the last chunk"), Piece::End(Vec::new()));
}

#[test]
fn an_upload_is_streamed() {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        let mut first = [0; 5];
        stream.read_exact(&mut first).expect("five bytes");
        sender.lock().expect("a sender").send(first).expect("a test that waits");
        request.body.resize(4, 0);
        stream.read_exact(&mut request.body).expect("the rest");
        recorder.add(&request);
        respond(&mut stream, "HTTP/1.1 204 No Content\r\n\r\n");
    });
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfirst");
    assert_eq!(&receiver.recv_timeout(DEADLINE).expect("the first bytes"), b"first");
    client.send("last");
    assert_eq!(client.response().status, 204);
    assert_eq!(server.requests()[0].body, b"last");
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let server = Server::responding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let (status, headers) = client.try_head().expect("a head");
    assert_eq!(status, 200);
    assert!(!headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")), "{headers:?}");
    assert_eq!(client.rest().expect("an end"), b"hello");
}

#[test]
fn a_body_over_the_limit_is_413_however_it_is_framed() {
    let server = echo();
    let lb = Lb::in_front_of(&server, "[limits]\nbody_bytes = \"10B\"\n");
    let address = lb.address();
    let cases = [
        ("Content-Length: 10\r\n\r\n0123456789", 200),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200),
        ("Content-Length: 11\r\n\r\n01234567890", 413),
        ("Content-Length: 11\r\n\r\n", 413),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n567890\r\n0\r\n\r\n", 413),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n567890\r\n", 413),
    ];
    for (framing, status) in cases {
        let mut client = Client::connect(address);
        let response = client.request(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}"));
        assert_eq!(response.status, status, "{framing}: {response:?}");
        assert!(status == 200 || client.is_closed(), "{framing}");
    }
    assert_eq!(server.requests().len(), 2, "no server gets a body over the limit");
}

#[test]
fn a_response_may_arrive_during_its_request() {
    const LENGTH: usize = 20 << 20;
    // Sends each byte back as it arrives.
    let server = Server::scripted(|mut stream, _| {
        if Request::read_head(&mut stream).is_some() {
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            let mut writer = stream.get_ref().try_clone().expect("a socket");
            std::io::copy(&mut stream.take(LENGTH as u64), &mut writer).expect("the whole body");
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let (body, sent) = (&content(LENGTH), &AtomicUsize::new(0));
    let mut client = Client::connect(lb.address());
    let mut writer = client.socket();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n").expect("sent");
            for piece in body.chunks(64 << 10) {
                writer.write_all(piece).expect("sent");
                sent.fetch_add(piece.len(), SeqCst);
            }
        });
        assert_eq!(client.try_head().expect("a head").0, 200);
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", lb.pid())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok())
        };
        let before = resident();
        // Nobody reads yet, so the upload stalls once all buffers are full, and `lb` must not buffer more.
        let (mut last, mut equal) = (0, 0);
        eventually("the upload stalls", || {
            let now = sent.load(SeqCst);
            equal = if now == last { equal + 1 } else { 0 };
            last = now;
            (equal > 20).then_some(())
        });
        if let (Some(before), Some(after)) = (before, resident()) {
            assert!(after < before + (8 << 10), "{before} KiB grew to {after}");
        }
        assert!(client.read(LENGTH) == *body, "another body");
    });
}
