//! Shared by the targets: hyper as an oracle for messages, rustls for TLS, and the whole request path in memory.

pub mod gateway;
#[path = "../../tests/oracle/mod.rs"]
mod oracle;
pub mod tls;

use http::Method;

use oracle::because::{Because, difference};
use oracle::ours::StopReason;
use oracle::{Reading, hyper, ours};

/// Asserts that requests are read as hyper reads them, or that a rule explains the difference.
pub fn requests_agree(bytes: &[u8]) {
    agree(bytes, None, &ours::requests(bytes), &hyper::requests(bytes));
}

/// Asserts the same for the response to a request with this method.
pub fn responses_agree(method: &Method, bytes: &[u8]) {
    agree(bytes, Some(method), &ours::response(method, bytes), &hyper::response(method, bytes));
}

fn agree(bytes: &[u8], method: Option<&Method>, (ours, stop): &(Reading, Option<StopReason>), theirs: &Reading) {
    if let Some(difference) = difference(ours, *stop, theirs) {
        let because: Option<Because> = difference.because(bytes, method);
        assert!(because.is_some(), "no rule explains \"{}\"\n{difference:#?}", bytes.escape_ascii());
    }
}
