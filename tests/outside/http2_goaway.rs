//! A server of HTTP/2 that goes away while it has requests (RFC 9113, section 6.8).

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::support::client::Client;
use crate::support::h2::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, frame};
use crate::support::lb::{Lb, NO_CHECKS, servers};

/// The requests of the first connection, of which the server processes only the first.
const REQUESTS: usize = 3;

/// Reads the next frame: its kind, its flags and its stream.
fn read(stream: &mut TcpStream) -> Option<(u8, u8, u32)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// Responds to each request of a connection; on one that goes away, to the first, once all have come.
fn serve(mut stream: TcpStream, goes_away: bool) -> Option<()> {
    stream.read_exact(&mut [0; 24]).ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).ok()?;
    let mut complete = HashSet::new();
    loop {
        match read(&mut stream)? {
            (SETTINGS, 0, _) => stream.write_all(&frame(SETTINGS, 1, 0, b"")).ok()?,
            (HEADERS | DATA, flags, id) if flags & END_STREAM != 0 => {
                complete.insert(id);
                let ok = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &[0x88]);
                if !goes_away {
                    stream.write_all(&ok(id)).ok()?;
                } else if complete.len() == REQUESTS {
                    stream.write_all(&ok(1)).ok()?;
                    stream.write_all(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).ok()?;
                }
            }
            _ => {}
        }
    }
}

// Case: h2-refused
#[test]
fn requests_that_a_goaway_leaves_out_are_sent_again_whatever_their_method() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let connections = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in socket.incoming() {
            let is_first = count.fetch_add(1, SeqCst) == 0;
            thread::spawn(move || serve(stream.expect("a connection"), is_first));
        }
    });
    let table = servers(&[("server1", address, 1)]);
    let retry = "[retry]\nattempts = 1\nbudget = \"0%\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}[proxy]\nworkers = 1\n[upstream]\nprotocol = \"h2\"\n{retry}{table}"));
    let post =
        || Client::connect(lb.address()).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status;
    thread::scope(|scope| {
        let posts: Vec<_> = (0..REQUESTS).map(|_| scope.spawn(post)).collect();
        assert!(posts.into_iter().all(|post| post.join().expect("a response") == 200));
    });
    assert_eq!(connections.load(SeqCst), 2);
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"refused\"}"), Some(2.0));
}
