//! The harness of all tests: live states without sockets, servers that do as a test wants, a plain client, and `lb` as
//! a process.
//!
//! A test binary that needs it says `mod support;`; those of `tests/outside/` share one.

#![allow(dead_code, unused_imports, reason = "each test binary has its own copy and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

pub(crate) mod ask;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod demo;
pub(crate) mod fake_acme;
mod fixture;
pub(crate) mod h2;
pub(crate) mod http2;
pub(crate) mod lb;
pub(crate) mod pebble;
pub(crate) mod prometheus;
pub(crate) mod replies;
pub(crate) mod servers;
pub(crate) mod tls;
pub(crate) mod tls_client;

use std::time::{Duration, Instant};

pub(crate) use fixture::{Fixture, WORKERS, config, pool, server, three};

/// The limit of every wait in a test. Nothing takes that long except on a very busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Polls `condition` until it returns a value.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "did not happen within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A text as a value in a query.
pub(crate) fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
