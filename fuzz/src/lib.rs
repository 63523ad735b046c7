//! Shared by several targets: the comparison with hyper, and the whole request path in memory.

pub mod gateway;
#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use http::Method;

use oracle::because::{Because, difference};
use oracle::ours::Why;
use oracle::{Reading, hyper, ours};

/// Asserts that we read requests as hyper does, or a rule explains the difference.
pub fn requests_agree(bytes: &[u8]) {
    agree(bytes, None, &ours::requests(bytes), &hyper::requests(bytes));
}

/// Asserts that we read the response to a request with this method as hyper does, or a rule explains the difference.
pub fn answers_agree(method: &Method, bytes: &[u8]) {
    agree(bytes, Some(method), &ours::answer(method, bytes), &hyper::answer(method, bytes));
}

fn agree(bytes: &[u8], asked: Option<&Method>, (ours, why): &(Reading, Option<Why>), theirs: &Reading) {
    if let Some(difference) = difference(ours, *why, theirs) {
        let because: Option<Because> = difference.because(bytes, asked);
        assert!(because.is_some(), "no rule explains \"{}\"\n{difference:#?}", bytes.escape_ascii());
    }
}
