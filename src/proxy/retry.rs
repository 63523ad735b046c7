//! Whether a failed try is followed by another. Pure.

use http::Method;

use crate::live::retry_budget::RetryReason;

/// How far a try came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No connection to the server came about.
    Refused,
    /// The connection closed before a byte of the request was sent.
    NotSent,
    /// The request was sent, at least in part; no answer came.
    Sent,
}

/// What is known of the request.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Whether it has a body, which can be sent only once.
    pub has_body: bool,
    /// Tries so far, at least 1.
    pub tries: u32,
    /// `retry.attempts`: tries allowed after the first.
    pub attempts: u32,
}

/// Why to try again, or `None` to give up.
///
/// What was never sent may be sent to any server, whatever the method. What was sent may have been
/// executed: only idempotent methods (RFC 9110, section 9.2.2), and only without a body, as that is gone.
#[must_use]
pub fn decide(progress: Progress, attempted: Attempted<'_>) -> Option<RetryReason> {
    if attempted.tries > attempted.attempts {
        return None;
    }
    match progress {
        Progress::Refused => Some(RetryReason::Connect),
        Progress::NotSent => Some(RetryReason::NotSent),
        Progress::Sent => (attempted.method.is_idempotent() && !attempted.has_body).then_some(RetryReason::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_do_harm_is_tried_again() {
        use Progress::{NotSent, Refused, Sent};
        use RetryReason::{Broken, Connect};
        let cases = [
            (Refused, Method::POST, true, 1, Some(Connect)),
            (NotSent, Method::POST, false, 2, Some(RetryReason::NotSent)),
            (Sent, Method::POST, false, 1, None),
            (Sent, Method::PATCH, false, 1, None),
            (Sent, Method::GET, false, 1, Some(Broken)),
            (Sent, Method::DELETE, false, 2, Some(Broken)),
            (Sent, Method::PUT, true, 1, None),
            (Refused, Method::GET, false, 3, None),
        ];
        for (progress, method, has_body, tries, expected) in cases {
            let attempted = Attempted { method: &method, has_body, tries, attempts: 2 };
            assert_eq!(decide(progress, attempted), expected, "{progress:?} {attempted:?}");
        }
    }
}
