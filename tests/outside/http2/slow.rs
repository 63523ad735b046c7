//! Streams of HTTP/2 that are too slow: each ends by itself, and the others of its connection go on.

use std::io::Write as _;
use std::time::Duration;

use crate::support::h2::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, RST_STREAM, RawH2, WINDOW_UPDATE, block, frame,
};
use crate::support::replies::{always, page};
use crate::support::servers::{Request, Server, respond};

use super::lb;

// Case: h2-slow-stream
#[test]
fn a_stream_whose_window_stays_shut_ends_and_the_others_go_on() {
    let server = always(page(&"x".repeat(100_000)));
    let lb = lb(&server, "[timeouts]\nbody_idle = \"300ms\"\n");
    // Streams get no window at first.
    let mut client = RawH2::with_settings(lb.address(), &[(4, 0)]);
    client.request(1, &h2::get("/", &[]), true);
    client.request(3, &h2::get("/", &[]), true);
    client.send(&frame(WINDOW_UPDATE, 0, 3, &200_000_u32.to_be_bytes()));
    client.send(&frame(WINDOW_UPDATE, 0, 0, &200_000_u32.to_be_bytes()));
    let mut received = 0;
    let mut ends = Vec::new();
    while ends.len() < 2
        && let Some(frame) = client.next()
    {
        match frame.kind {
            DATA => received += frame.payload.len(),
            RST_STREAM => ends.push((frame.stream, u32::from_be_bytes(frame.payload[..4].try_into().unwrap()))),
            _ => {}
        }
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            ends.push((frame.stream, 0));
        }
    }
    assert_eq!((ends, received), (vec![(3, 0), (1, h2::CANCEL)], 100_000));
}

/// Sends a frame every 50 ms, until the connection or the test ends.
fn drip(client: &RawH2, bytes: Vec<u8>) {
    let mut socket = client.stream.try_clone().expect("a socket");
    std::thread::spawn(move || {
        for _ in 0..400 {
            if socket.write_all(&bytes).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

// Case: h2-slow-stream
#[test]
fn a_stream_whose_window_opens_byte_by_byte_ends_and_the_others_go_on() {
    let server = always(page(&"x".repeat(100_000)));
    let lb = lb(&server, "[timeouts]\nbody_idle = \"500ms\"\n");
    let mut client = RawH2::with_settings(lb.address(), &[(4, 0)]);
    client.send(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes()));
    client.request(1, &h2::get("/", &[]), true);
    drip(&client, frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()));
    for stream in [3, 5, 7] {
        client.request(stream, &h2::get("/", &[]), true);
        client.send(&frame(WINDOW_UPDATE, 0, stream, &200_000_u32.to_be_bytes()));
        assert_eq!(client.outcome(stream), Outcome::Status(200));
    }
    assert_eq!(client.outcome(1), Outcome::Reset(h2::CANCEL));
    client.request(9, &h2::get("/", &[]), true);
    client.send(&frame(WINDOW_UPDATE, 0, 9, &200_000_u32.to_be_bytes()));
    assert_eq!(client.outcome(9), Outcome::Status(200));
}

// Case: h2-slow-stream
#[test]
fn a_request_body_that_comes_byte_by_byte_ends_and_the_others_go_on() {
    let server = Server::scripted(|mut stream, _| {
        while Request::read(&mut stream).is_some() {
            respond(&mut stream, page("hello"));
        }
    });
    let lb = lb(&server, "[timeouts]\nbody_idle = \"500ms\"\n");
    let mut client = RawH2::connect(lb.address());
    client.send(&frame(HEADERS, END_HEADERS, 1, &block(&h2::get("/", &[("content-length", "5000")]))));
    drip(&client, frame(DATA, 0, 1, b"x"));
    for stream in [3, 5, 7] {
        client.request(stream, &h2::get("/", &[]), true);
        assert_eq!(client.outcome(stream), Outcome::Status(200));
    }
    // A response may say so first; then the rest of the request is not wanted.
    let outcome = client.outcome(1);
    assert!(matches!(outcome, Outcome::Reset(_) | Outcome::Status(0)), "{outcome:?}");
    lb.logs("the slow request", |line| line.contains(" HTTP/2\" 408 ") && line.contains("client_too_slow"));
    client.request(9, &h2::get("/", &[]), true);
    assert_eq!(client.outcome(9), Outcome::Status(200));
}
