//! The memory of connections that rest.

use super::lb;
use crate::support::eventually;
use crate::support::h2::{self, DATA, END_STREAM, HEADERS, RawH2};
use crate::support::lb::Lb;
use crate::support::replies::page;
use crate::support::servers::{Server, respond};

const CLIENTS: u64 = 200;
/// The streams that are open at once. `h2` keeps some memory for as many as there were.
const STREAMS: u32 = 2;
/// The most that a resting connection may cost, in KiB. With the buffers that the release of `h2` keeps, it is 27.
const MOST: u64 = 18;

/// The resident memory in KiB.
fn resident(lb: &Lb) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lb.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().split(' ').next()?.parse().ok()
}

/// Clients that have been served: enough for their buffers to have been full.
fn served(lb: &Lb, count: u64) -> Vec<RawH2> {
    let one = || {
        let mut client = RawH2::connect(lb.address());
        let value = "v".repeat(100);
        for round in 0..10 {
            let streams = (0..STREAMS).map(|number| 2 * (STREAMS * round + number) + 1);
            streams.for_each(|id| assert!(client.request(id, &h2::get("/", &[("x", &value), ("y", &value)]), true)));
            let mut open = STREAMS;
            while open > 0 {
                let frame = client.next().expect("a frame");
                open -= u32::from(matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0);
            }
        }
        client
    };
    (0..count).map(|_| one()).collect()
}

#[test]
fn a_resting_connection_holds_no_buffers() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, page(&"x".repeat(600)));
        }
    });
    let lb = lb(&server, "[proxy]\nworkers = 1\n");
    // The code and the memory of the process itself.
    drop(served(&lb, 2));
    let Some(before) = resident(&lb) else { return };
    let clients = served(&lb, CLIENTS);
    let most = before + CLIENTS * MOST;
    eventually("memory is returned", || resident(&lb).filter(|now| *now <= most));
    drop(clients);
}
