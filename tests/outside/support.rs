//! What the tests from outside stand on: a running `lb`, servers that do as they are told, a plain client.

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod demo;
pub(crate) mod lb;
pub(crate) mod prometheus;
pub(crate) mod servers;

use std::time::{Duration, Instant};

/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Looks again and again until `look` finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "this did not happen in {DEADLINE:?}: {what}");
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
