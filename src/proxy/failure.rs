//! What a client is told when its request cannot be answered by a server: the one place where failures become answers.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use super::refusal::Refusal;

/// Why a request gets an answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request itself cannot be accepted.
    Refused(Refusal),
    /// `OPTIONS *`: a question to us, not to a server.
    Options,
    /// No route takes it.
    NoRoute,
    /// It expects something that we do not know.
    Expectation,
    /// More fields than `limits.headers`.
    TooManyFields,
    /// A body over `limits.body_bytes`.
    BodyTooLarge,
    /// The body is not what its head says, or ended early.
    BadBody,
    /// The client was too slow with its body.
    ClientTooSlow,
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

impl Failure {
    /// The answer's status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Options => StatusCode::NO_CONTENT,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BadBody => StatusCode::BAD_REQUEST,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoServer => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::BadAnswer => StatusCode::BAD_GATEWAY,
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
            Self::TooManyFields => "too_many_fields",
            Self::BodyTooLarge => "body_too_large",
            Self::BadBody => "bad_body",
            Self::ClientTooSlow => "client_too_slow",
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
            Self::TooManyFields => "The request has too many header fields.",
            Self::BodyTooLarge => "The request's body is larger than is accepted.",
            Self::BadBody => "The request's body broke off, or is not valid chunked coding.",
            Self::ClientTooSlow => "The request's body came too slowly.",
            Self::NoServer => "No server is available at the moment.",
            Self::Unreachable => "No server could be reached.",
            Self::ConnectTimeout => "No server could be reached in time.",
            Self::BadAnswer => "The server broke off or gave an answer that is not valid.",
            Self::AnswerTimeout => "The server did not answer in time.",
        }
    }

    /// Whether the client's connection ends with the answer.
    fn closes(self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.closes(),
            Self::TooManyFields | Self::BodyTooLarge | Self::BadBody | Self::ClientTooSlow => true,
            _ => false,
        }
    }

    /// The answer: `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn answer(self) -> Response<Bytes> {
        let status = self.status();
        let mut response = Response::new(match self {
            Self::Options => Bytes::new(),
            _ => Bytes::from(format!(
                "{{\"status\":{},\"title\":\"{}\",\"detail\":\"{}\"}}\n",
                status.as_u16(),
                status.canonical_reason().unwrap_or("Error"),
                self.detail()
            )),
        });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if !response_is_empty(status) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED || self == Self::Options {
            headers.insert(ALLOW, HeaderValue::from_static(Refusal::ALLOW));
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn response_is_empty(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
