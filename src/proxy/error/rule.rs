//! The rule that ended a request, for the access log.

use std::io;

use super::ProxyError;
use crate::http1::head::HeadError;

impl ProxyError {
    /// The `rule` of the access log: which of the rules with the same [`ProxyError::label`] ended the request, as one word.
    #[must_use]
    pub fn rule(self) -> Option<&'static str> {
        Some(match self {
            Self::Rejected(rejection) => rejection.rule(),
            Self::BadHead(error) => head_rule(error),
            Self::HeadTimeout => "request_header",
            Self::BodyTooLarge => "body_bytes",
            Self::BadBody => "chunk",
            Self::Unresolved => "unresolved",
            Self::LocalShortage => "local_shortage",
            Self::Unreachable(io::ErrorKind::ConnectionRefused) => "refused",
            Self::Closed(_) | Self::IdleClosed(_) => "closed",
            Self::TruncatedHead => "truncated_head",
            Self::BadResponse => "head",
            // Their labels say it all.
            Self::Unreachable(_)
            | Self::NoRoute
            | Self::Expectation
            | Self::ClientTooSlow
            | Self::ClientGone
            | Self::NoServer
            | Self::ConnectTimeout
            | Self::ResponseTimeout
            | Self::ResponseTruncated
            | Self::ResponseTooSlow
            | Self::TunnelBroken
            | Self::TunnelTimeout
            | Self::Aborted
            | Self::Panicked => return None,
        })
    }
}

/// The rule or limit that a head violates, as one word.
fn head_rule(error: HeadError) -> &'static str {
    match error {
        HeadError::Malformed => "head",
        HeadError::Version => "version",
        HeadError::TooLarge => "head_bytes",
        HeadError::TargetTooLong => "target_length",
        HeadError::TooManyHeaders => "headers",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::client::Sent;
    use crate::http1::rejection::Rejection;

    #[test]
    fn a_rule_is_one_word_and_says_more_than_the_label() {
        let cases = [
            (ProxyError::Rejected(Rejection::BadText), "bad_request", Some("bad_text")),
            (ProxyError::BadHead(HeadError::TooLarge), "head_too_large", Some("head_bytes")),
            (ProxyError::BadHead(HeadError::TargetTooLong), "head_too_large", Some("target_length")),
            (ProxyError::BodyTooLarge, "body_too_large", Some("body_bytes")),
            (ProxyError::Closed(Sent::All), "bad_response", Some("closed")),
            (ProxyError::TruncatedHead, "bad_response", Some("truncated_head")),
            (ProxyError::Unreachable(io::ErrorKind::ConnectionRefused), "unreachable", Some("refused")),
            (ProxyError::Unreachable(io::ErrorKind::HostUnreachable), "unreachable", None),
            (ProxyError::NoRoute, "no_route", None),
        ];
        for (error, label, rule) in cases {
            assert_eq!((error.label(), error.rule()), (label, rule), "{error:?}");
        }
    }
}
