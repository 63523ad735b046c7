//! What a client is told when its request cannot be answered by a server: the one place where failures become answers.

use std::io::Write;

use http::StatusCode;

use crate::http1::head::HeadError;
use crate::http1::rejection::Rejection;

/// Why a request gets an answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request itself cannot be accepted.
    Refused(Rejection),
    /// `OPTIONS *`: a question to us, not to a server (RFC 9110, section 9.3.7).
    Options,
    /// No route takes it.
    NoRoute,
    /// It expects something that we do not know (RFC 9110, sections 10.1.1 and 15.5.18).
    Expectation,
    /// Its head cannot be read.
    BadHead(HeadError),
    /// A body over `limits.body_bytes` (RFC 9110, section 15.5.14).
    BodyTooLarge,
    /// The body is not what its head says (RFC 9112, section 7.1), or ended early (section 8).
    BadBody,
    /// The client was too slow with its body.
    ClientTooSlow,
    /// The client has left: nobody is told.
    ClientGone,
    /// The server broke off in the middle of its answer: the client sees that.
    AnswerCut,
    /// The pool has no server to send it to.
    NoServer,
    /// No server could be connected to.
    Unreachable,
    /// No server accepted a connection in time.
    ConnectTimeout,
    /// The server broke off before its answer, or answered what is not HTTP.
    BadAnswer,
    /// The server did not answer in time.
    AnswerTimeout,
}

/// nginx' status for a client that left before its answer.
const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

impl Failure {
    /// The answer's status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Options => StatusCode::NO_CONTENT,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::BadHead(HeadError::Malformed) => StatusCode::BAD_REQUEST,
            Self::BadHead(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::BadHead(HeadError::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Self::BadHead(HeadError::TooLarge | HeadError::TooManyHeaders) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BadBody => StatusCode::BAD_REQUEST,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone => CLIENT_GONE,
            Self::NoServer => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::BadAnswer | Self::AnswerCut => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::AnswerTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// One word for logs and spans (OpenTelemetry's `error.type`).
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused(_) => "bad_request",
            Self::Options => "options",
            Self::NoRoute => "no_route",
            Self::Expectation => "expectation",
            Self::BadHead(HeadError::TooLarge | HeadError::TargetTooLong) => "head_too_large",
            Self::BadHead(HeadError::TooManyHeaders) => "too_many_fields",
            Self::BadHead(HeadError::Malformed | HeadError::Version) => "bad_request",
            Self::BodyTooLarge => "body_too_large",
            Self::BadBody => "bad_body",
            Self::ClientTooSlow => "client_too_slow",
            Self::ClientGone => "client_gone",
            Self::AnswerCut => "answer_cut",
            Self::NoServer => "no_server",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTimeout => "answer_timeout",
        }
    }

    /// One sentence for the client, which names nothing internal.
    fn detail(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.detail(),
            Self::Options => "",
            Self::NoRoute => "Nothing is configured for this host and path.",
            Self::Expectation => "The only expectation that is met is 100-continue.",
            Self::BadHead(HeadError::Malformed) => "The request's head is not valid HTTP/1.1.",
            Self::BadHead(HeadError::Version) => "Only HTTP/1.1 and HTTP/1.0 are spoken here.",
            Self::BadHead(HeadError::TooLarge) => "The request's head is larger than is accepted.",
            Self::BadHead(HeadError::TargetTooLong) => "The request's target is longer than is accepted.",
            Self::BadHead(HeadError::TooManyHeaders) => "The request has too many header headers.",
            Self::BodyTooLarge => "The request's body is larger than is accepted.",
            Self::BadBody => "The request's body broke off, or is not valid chunked coding.",
            Self::ClientTooSlow => "The request's body came too slowly.",
            Self::NoServer => "No server is available at the moment.",
            Self::Unreachable => "No server could be reached.",
            Self::ConnectTimeout => "No server could be reached in time.",
            Self::ClientGone => "",
            Self::BadAnswer | Self::AnswerCut => "The server broke off or gave an answer that is not valid.",
            Self::AnswerTimeout => "The server did not answer in time.",
        }
    }

    /// Whether the client's connection ends with the answer.
    #[must_use]
    pub fn closes(self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.closes(),
            Self::BadHead(_) | Self::BodyTooLarge | Self::BadBody | Self::ClientTooSlow => true,
            _ => false,
        }
    }

    /// Writes the answer, with `application/problem+json` (RFC 9457) as its body, which is left out
    /// after a HEAD; how long the body is.
    pub fn write(self, out: &mut Vec<u8>, date: &str, is_head: bool, close: bool) -> usize {
        let status = self.status();
        let (code, title) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
        let body = match self {
            Self::Options => String::new(),
            _ => format!("{{\"status\":{code},\"title\":\"{title}\",\"detail\":\"{}\"}}\n", self.detail()),
        };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/problem+json\r\n" };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let allow = if code == 405 || self == Self::Options {
            ["Allow: ", Rejection::ALLOW, "\r\n"].concat()
        } else {
            String::new()
        };
        let close = if close { "Connection: close\r\n" } else { "" };
        let body = if is_head { "" } else { &body };
        // Writing to memory does not fail.
        let _ = write!(out, "HTTP/1.1 {code} {title}\r\n{kind}{length}{allow}{close}Date: {date}\r\n\r\n{body}");
        body.len()
    }
}

impl From<Rejection> for Failure {
    fn from(refusal: Rejection) -> Self {
        Self::Refused(refusal)
    }
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        Self::BadHead(error)
    }
}
