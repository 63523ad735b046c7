//! The rule that ended a request, for the access log.

use std::io;

use super::ProxyError;

impl ProxyError {
    /// The `rule` of the access log: which of the rules with the same [`ProxyError::label`] ended the request, as one word.
    #[must_use]
    pub fn rule(self) -> Option<&'static str> {
        Some(match self {
            Self::Rejected(rejection) => rejection.rule(),
            Self::BadHead(error) => error.rule(),
            Self::BodyTooLarge => "body_bytes",
            Self::BadBody(bad) => bad.rule(),
            Self::Unresolved => "unresolved",
            Self::LocalShortage => "local_shortage",
            Self::Unreachable(io::ErrorKind::ConnectionRefused) => "refused",
            Self::Tls(failure) | Self::TlsEnded(failure, _) => failure.word(),
            Self::Closed(_) | Self::IdleClosed(_) => "closed",
            Self::Reset(_) => "reset",
            Self::TruncatedHead => "truncated_head",
            Self::BadResponse(bad) => bad.rule(),
            Self::Unsendable(reason) => reason.rule(),
            // Their labels say it all.
            Self::Unreachable(_)
            | Self::NoRoute
            | Self::Expectation
            | Self::ClientTooSlow
            | Self::ClientGone
            | Self::NoServer
            | Self::ConnectTimeout
            | Self::Refused { .. }
            | Self::ResponseTimeout
            | Self::ServerDown
            | Self::Status(_)
            | Self::CallUnavailable { .. }
            | Self::DeadlineExceeded
            | Self::ResponseTruncated
            | Self::ResponseTooSlow
            | Self::TunnelBroken
            | Self::TunnelTimeout
            | Self::Aborted
            | Self::Panicked => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::chunked::BadChunk;
    use crate::http1::client::{BadResponse, Sent};
    use crate::http1::head::{BadLine, HeadError, HeadRule};
    use crate::http1::rejection::Rejection;
    use crate::tls::failure::TlsFailure;

    const BAD_LINE: HeadError = HeadError::Malformed(BadLine { rule: HeadRule::Name, number: 2 });

    #[test]
    fn a_rule_is_one_word_and_says_more_than_the_label() {
        let cases = [
            (ProxyError::Rejected(Rejection::Overlong), "bad_request", Some("overlong")),
            (ProxyError::BadHead(HeadError::TooLarge), "head_too_large", Some("head_bytes")),
            (ProxyError::BadHead(HeadError::TargetTooLong), "head_too_large", Some("target_length")),
            (ProxyError::BadHead(BAD_LINE), "bad_request", Some("header_name")),
            (ProxyError::BadResponse(BadResponse::Head(BAD_LINE)), "bad_response", Some("header_name")),
            (ProxyError::BadResponse(BadResponse::Chunk(BadChunk::Size)), "bad_response", Some("chunk_size")),
            (ProxyError::BadBody(BadChunk::LineEnd), "bad_body", Some("chunk_end")),
            (ProxyError::BodyTooLarge, "body_too_large", Some("body_bytes")),
            (ProxyError::Closed(Sent::All), "bad_response", Some("closed")),
            (ProxyError::TruncatedHead, "bad_response", Some("truncated_head")),
            (ProxyError::Unreachable(io::ErrorKind::ConnectionRefused), "unreachable", Some("refused")),
            (ProxyError::Unreachable(io::ErrorKind::HostUnreachable), "unreachable", None),
            (ProxyError::Tls(TlsFailure::WrongName), "tls", Some("wrong_name")),
            (ProxyError::NoRoute, "no_route", None),
        ];
        for (error, label, rule) in cases {
            assert_eq!((error.label(), error.rule()), (label, rule), "{error:?}");
        }
    }
}
