//! The decision whether a failed attempt is followed by another, or its request is sent again on a new connection. Pure.

use http::Method;

use crate::live::retry_budget::RetryReason;

/// The stage that an attempt reached before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    NotConnected,
    /// The connection closed before any byte of the request was sent.
    NotSent,
    /// The server said that it had not processed the request (RFC 9113, section 8.7), of which all can be sent again.
    Refused,
    /// The server reset the stream, of whose request at least a part was sent. Others on its connection go on.
    Reset,
    /// At least a part of the request was sent, and no response was received.
    Sent,
}

impl Progress {
    /// Whether the connection of the attempt has closed, so that other idle ones may have, too.
    #[must_use]
    pub fn ends_connection(self) -> bool {
        matches!(self, Self::NotSent | Self::Sent)
    }
}

/// The facts about a request that decide whether it is retried.
#[derive(Debug, Clone, Copy)]
pub struct RetryContext<'a> {
    pub method: &'a Method,
    /// Whether the request has a body, which can be sent only once.
    pub has_body: bool,
    /// The attempts so far, at least 1.
    pub attempts: u32,
    /// The limit of attempts after the first (`retry.attempts`).
    pub max_retries: u32,
}

/// Returns the reason for another attempt, or `None` if there should be none.
///
/// A request that was never sent may go to any server, whatever its method. One that was sent may have
/// been executed, so it is retried only if its method is idempotent (RFC 9110, section 9.2.2), and only
/// without a body, because the body has been consumed.
#[must_use]
pub fn decide(progress: Progress, context: RetryContext<'_>) -> Option<RetryReason> {
    if context.attempts > context.max_retries || !may_repeat(progress, context.method, context.has_body) {
        return None;
    }
    Some(match progress {
        Progress::NotConnected => RetryReason::Connect,
        Progress::NotSent => RetryReason::NotSent,
        Progress::Refused => RetryReason::Refused,
        Progress::Reset | Progress::Sent => RetryReason::Broken,
    })
}

/// Whether a request that got this far may be sent again.
#[must_use]
pub fn may_repeat(progress: Progress, method: &Method, has_body: bool) -> bool {
    match progress {
        Progress::NotConnected | Progress::NotSent | Progress::Refused => true,
        Progress::Reset | Progress::Sent => method.is_idempotent() && !has_body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_retried_only_if_that_is_safe() {
        use Progress::{NotConnected, NotSent, Refused, Reset, Sent};
        use RetryReason::{Broken, Connect};
        let cases = [
            (NotConnected, Method::POST, true, 1, Some(Connect)),
            (NotSent, Method::POST, false, 2, Some(RetryReason::NotSent)),
            (Refused, Method::POST, true, 2, Some(RetryReason::Refused)),
            (Refused, Method::POST, true, 3, None),
            (Reset, Method::POST, false, 1, None),
            (Reset, Method::GET, false, 1, Some(Broken)),
            (Sent, Method::POST, false, 1, None),
            (Sent, Method::PATCH, false, 1, None),
            (Sent, Method::GET, false, 1, Some(Broken)),
            (Sent, Method::DELETE, false, 2, Some(Broken)),
            (Sent, Method::PUT, true, 1, None),
            (NotConnected, Method::GET, false, 3, None),
        ];
        for (progress, method, has_body, attempts, expected) in cases {
            let context = RetryContext { method: &method, has_body, attempts, max_retries: 2 };
            assert_eq!(decide(progress, context), expected, "{progress:?} {context:?}");
        }
    }
}
