//! Clients of HTTP/2 that cost more than they bring: each is stopped, and costs neither much memory nor a neighbour's time.

use std::time::{Duration, Instant};

use crate::support::h2::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PING, PRIORITY, RST_STREAM, RawH2,
    SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::support::lb::Lb;
use crate::support::replies::{always, page};
use crate::support::servers::Server;

use super::lb;

/// The most memory that a flood may cost, in KiB.
const MEMORY: u64 = 32 * 1024;

/// The bytes of a round, given its number and the stream that it may use.
type Round = fn(u32, u32) -> Vec<u8>;

fn request(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(&h2::get("/", &[])))
}

/// Requests whose streams the other side has to reset by the rules of the protocol (MadeYouReset, CVE-2025-8671).
const MADE_RESETS: [(&str, Round); 6] = [
    ("made resets: a window update of 0", |_, stream| {
        [request(stream, 0), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    }),
    ("made resets: a window that is too large", |_, stream| {
        [request(stream, 0), frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())].concat()
    }),
    ("made resets: data after the end", |_, stream| {
        [request(stream, END_STREAM), frame(DATA, 0, stream, b"more")].concat()
    }),
    ("made resets: a priority of the wrong size", |_, stream| {
        [request(stream, 0), frame(PRIORITY, 0, stream, &[0; 4])].concat()
    }),
    ("made resets: a priority that depends on itself", |_, stream| {
        [request(stream, 0), frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat())].concat()
    }),
    ("made resets: more data than announced", |_, stream| {
        let head = block(&h2::get("/", &[("content-length", "1")]));
        [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, 0, stream, b"more")].concat()
    }),
];

/// Sends rounds until the other side accepts no more, or all of them have been sent. Returns the code of its GOAWAY.
fn flood(lb: &Lb, start: &[u8], rounds: u32, round: Round) -> Option<u32> {
    let mut client = RawH2::connect(lb.address());
    client.send(start);
    for number in 0..rounds {
        if !client.send(&round(number, 2 * number + 3)) {
            break;
        }
    }
    let goaway = std::iter::from_fn(|| client.next()).find(|frame| frame.kind == GOAWAY);
    goaway.map(|frame| u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()))
}

// Case: h2-floods
#[test]
fn each_flood_ends_and_costs_little() {
    let bomb = "x".repeat(120);
    let bomb: Vec<u8> = {
        // One long header in the table, and thousands of references to it.
        let mut block = block(&h2::get("/", &[]));
        block.extend([&[0x40, 1, b'x', 120][..], bomb.as_bytes()].concat());
        block.extend(vec![0xbe; 15_000]);
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &block)
    };
    // The name, what comes first, the rounds and each of them, and whether it has to end with GOAWAY.
    let cases: [(&str, Vec<u8>, u32, Round); 16] = [
        ("rapid reset", Vec::new(), 10_000, |_, stream| {
            [request(stream, END_STREAM), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        }),
        ("pings", Vec::new(), 10_000, |_, _| frame(PING, 0, 0, b"12345678")),
        ("settings", Vec::new(), 10_000, |_, _| frame(SETTINGS, 0, 0, &[])),
        ("window updates", request(1, 0), 10_000, |_, _| frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
        ("connection windows", Vec::new(), 10_000, |_, _| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("priorities", Vec::new(), 10_000, |_, stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1])),
        ("empty data", request(1, 0), 10_000, |_, _| frame(DATA, 0, 1, &[])),
        ("unknown frames", Vec::new(), 10_000, |_, _| frame(0xbe, 0, 0, &[])),
        ("continuations", frame(HEADERS, 0, 1, &block(&h2::get("/", &[]))), 10_000, |_, _| {
            frame(CONTINUATION, 0, 1, &block(&[("x", "y")]))
        }),
        (MADE_RESETS[0].0, Vec::new(), 10_000, MADE_RESETS[0].1),
        (MADE_RESETS[1].0, Vec::new(), 10_000, MADE_RESETS[1].1),
        (MADE_RESETS[2].0, Vec::new(), 10_000, MADE_RESETS[2].1),
        (MADE_RESETS[3].0, Vec::new(), 10_000, MADE_RESETS[3].1),
        (MADE_RESETS[4].0, Vec::new(), 10_000, MADE_RESETS[4].1),
        (MADE_RESETS[5].0, Vec::new(), 10_000, MADE_RESETS[5].1),
        ("a bomb", bomb, 10_000, |_, _| frame(PING, 0, 0, b"12345678")),
    ];
    let server = always(page("hello"));
    let lb = lb(&server, "");
    let answered = |during: &str| {
        let start = Instant::now();
        let mut neighbour = RawH2::connect(lb.address());
        neighbour.request(1, &h2::get("/neighbour", &[]), true);
        assert_eq!(neighbour.outcome(1), Outcome::Status(200), "{during}");
        assert!(start.elapsed() < Duration::from_secs(1), "{during}: {:?}", start.elapsed());
    };
    answered("before");
    let before = lb.resident_kib();
    for (name, start, rounds, round) in cases {
        let goaway = std::thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&lb, &start, rounds, round));
            while !flooding.is_finished() {
                answered(name);
            }
            flooding.join().expect("no panic")
        });
        answered(name);
        assert!(goaway.is_none_or(|code| code != h2::NO_ERROR), "{name}: {goaway:?}");
        let memory = lb.resident_kib().saturating_sub(before);
        assert!(memory < MEMORY, "{name}: {memory} KiB");
    }
    assert!(!lb.has_panicked());
}

// Case: h2-floods
#[test]
fn few_of_the_requests_that_are_reset_at_once_reach_a_server() {
    let reset: Round = |_, stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    for (name, round) in [("rapid reset", reset)].into_iter().chain(MADE_RESETS) {
        let server = Server::named("one");
        let lb = lb(&server, "");
        let mut client = RawH2::connect(lb.address());
        // One by one, so that some requests are accepted before they are reset.
        let sent = (0..10_000_u32).take_while(|number| {
            let stream = 2 * number + 1;
            let head = if name == "rapid reset" { request(stream, END_STREAM) } else { Vec::new() };
            client.send(&head) && client.send(&round(*number, stream))
        });
        let sent = sent.count();
        let frames: Vec<u8> = std::iter::from_fn(|| client.next()).map(|frame| frame.kind).collect();
        assert!(frames.contains(&GOAWAY), "{name}: {sent}");
        assert!(server.requests().len() <= 2000, "{name}: {} of {sent}", server.requests().len());
    }
}
