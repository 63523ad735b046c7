//! The ways in which a request can fail. Only this file decides what each one means: its status, its label, who is
//! to blame, and whether a retry makes sense.

mod convert;
mod rule;

use std::fmt;
use std::io;

use http::StatusCode;

use crate::http1::chunked::BadChunk;
use crate::http1::client::{BadResponse, Sent, Unsendable};
use crate::http1::head::HeadError;
use crate::http1::rejection::Rejection;
use crate::live::retry_budget::RetryReason;
use crate::proxy::retry::Progress;
use crate::tls::failure::TlsFailure;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError {
    /// The request is invalid.
    Rejected(Rejection),
    /// The head of the request is invalid or too large.
    BadHead(HeadError),
    /// No route matches.
    NoRoute,
    /// An expectation other than 100-continue (RFC 9110, sections 10.1.1 and 15.5.18).
    Expectation,
    /// The body of the request exceeds `limits.body_bytes` (RFC 9110, section 15.5.14).
    BodyTooLarge,
    /// The body of the request has invalid framing (RFC 9112, section 7.1).
    BadBody(BadChunk),
    /// The client sends its request, or accepts the response, too slowly.
    ClientTooSlow,
    /// The client has closed the connection.
    ClientGone,
    /// The pool has no eligible server.
    NoServer,
    /// The server's host name has not been resolved.
    Unresolved,
    /// Connecting to the server failed.
    Unreachable(io::ErrorKind),
    /// There is no TLS with the server.
    Tls(TlsFailure),
    /// The server ended TLS after the handshake, before it responded.
    TlsEnded(TlsFailure, Sent),
    /// `lb` has no descriptor or port for another connection.
    LocalShortage,
    /// The server did not accept the connection in time.
    ConnectTimeout,
    /// The server closed a new connection before it responded.
    Closed(Sent),
    /// The server closed a reused connection before it responded: probably it had been idle for too long.
    IdleClosed(Sent),
    /// The server reset the stream before it responded (HTTP/2).
    Reset(Sent),
    /// The server said that it had not processed the request (HTTP/2).
    Refused {
        /// Whether a part of the body is gone, so that the request cannot be sent again.
        consumed: bool,
    },
    /// The request cannot be expressed in the server's protocol.
    Unsendable(Unsendable),
    /// The server closed the connection in the middle of the response's head.
    TruncatedHead,
    /// The server's response is not valid HTTP.
    BadResponse(BadResponse),
    /// The server did not respond, or did not accept the request, in time.
    ResponseTimeout,
    /// Checks took the server down while the request waited for its response.
    ServerDown,
    /// The server's response has a status that is retried, or that counts as a failure.
    Status(u16),
    /// The response to a gRPC call is UNAVAILABLE without a message, and calls are retried then.
    CallUnavailable {
        /// Whether a part of the body is gone, so that the request cannot be sent again.
        consumed: bool,
    },
    /// The deadline of a gRPC call, which its client has set, has passed.
    DeadlineExceeded,
    /// The body of the response ended early.
    ResponseTruncated,
    /// The server sends the body of its response too slowly.
    ResponseTooSlow,
    /// A tunnel ended with an error.
    TunnelBroken,
    /// No byte passed through a tunnel for too long.
    TunnelTimeout,
    /// `lb` aborted the request: a drain timeout was reached, or the process ended.
    Aborted,
    /// The request was ended by a panic.
    Panicked,
}

/// The party that a failure is blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Client,
    /// The server of the attempt; the failure counts towards its ejection.
    Server,
    /// Neither of them: `lb` itself, its configuration, or a server that may be up nevertheless.
    Neither,
}

/// nginx's status for a client that disconnected before its response.
const CLIENT_GONE: u16 = 499;

impl ProxyError {
    /// The status of the response. A request that gets no response is counted under this status.
    #[must_use]
    pub fn status(self) -> u16 {
        let status = match self {
            Self::Rejected(rejection) => rejection.status(),
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::BadHead(HeadError::Malformed(_)) | Self::BadBody(_) => StatusCode::BAD_REQUEST,
            Self::BadHead(HeadError::MethodTooLong) => StatusCode::NOT_IMPLEMENTED,
            Self::BadHead(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::BadHead(HeadError::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Self::BadHead(HeadError::TooLarge | HeadError::TooManyHeaders) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone => return CLIENT_GONE,
            Self::Status(status) => return status,
            Self::NoServer | Self::LocalShortage | Self::CallUnavailable { .. } | Self::Aborted | Self::Panicked => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ConnectTimeout | Self::ResponseTimeout | Self::ResponseTooSlow | Self::DeadlineExceeded => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Unresolved
            | Self::Unreachable(_)
            | Self::Tls(_)
            | Self::TlsEnded(..)
            | Self::Closed(_)
            | Self::IdleClosed(_)
            | Self::Reset(_)
            | Self::Refused { .. }
            | Self::Unsendable(_)
            | Self::TruncatedHead
            | Self::BadResponse(_)
            | Self::ServerDown
            | Self::ResponseTruncated
            | Self::TunnelBroken
            | Self::TunnelTimeout => StatusCode::BAD_GATEWAY,
        };
        status.as_u16()
    }

    /// The `error` of the access log, and OpenTelemetry's `error.type`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Rejected(_) | Self::BadHead(HeadError::Malformed(_) | HeadError::Version) => "bad_request",
            Self::BadHead(HeadError::TooLarge | HeadError::MethodTooLong | HeadError::TargetTooLong) => {
                "head_too_large"
            }
            Self::BadHead(HeadError::TooManyHeaders) => "too_many_headers",
            Self::NoRoute => "no_route",
            Self::Expectation => "expectation",
            Self::BodyTooLarge => "body_too_large",
            Self::BadBody(_) => "bad_body",
            Self::ClientTooSlow => "client_too_slow",
            Self::ClientGone => "client_gone",
            Self::NoServer => "no_server",
            Self::Unresolved | Self::Unreachable(_) | Self::LocalShortage => "unreachable",
            Self::Tls(_) | Self::TlsEnded(..) => "tls",
            Self::ConnectTimeout => "connect_timeout",
            Self::Closed(_) | Self::IdleClosed(_) | Self::Reset(_) | Self::TruncatedHead | Self::BadResponse(_) => {
                "bad_response"
            }
            Self::Refused { .. } => "refused",
            Self::Unsendable(_) => "unsendable",
            Self::ResponseTimeout => "response_timeout",
            Self::ServerDown => "server_down",
            Self::Status(_) | Self::CallUnavailable { .. } => "status",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResponseTruncated => "response_truncated",
            Self::ResponseTooSlow => "response_too_slow",
            Self::TunnelBroken => "tunnel_broken",
            Self::TunnelTimeout => "tunnel_timeout",
            Self::Aborted => "aborted",
            Self::Panicked => "panic",
        }
    }

    /// The party that the failure is blamed on.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            // Any page that is asked for a WebSocket responds so: whoever asks decides it.
            Self::BadResponse(BadResponse::WebSocket) => Blame::Neither,
            Self::Rejected(_)
            | Self::BadHead(_)
            | Self::NoRoute
            | Self::Expectation
            | Self::BodyTooLarge
            | Self::BadBody(_)
            | Self::ClientTooSlow
            | Self::ClientGone => Blame::Client,
            Self::Unresolved
            | Self::Unreachable(_)
            | Self::Tls(_)
            | Self::TlsEnded(..)
            | Self::ConnectTimeout
            | Self::Closed(_)
            | Self::Reset(_)
            | Self::TruncatedHead
            | Self::BadResponse(_)
            | Self::ResponseTimeout => Blame::Server,
            // A server that has begun its response is up, and a server may close an idle connection at any time.
            Self::ResponseTruncated
            | Self::ResponseTooSlow
            | Self::TunnelBroken
            | Self::TunnelTimeout
            | Self::ServerDown
            | Self::Status(_)
            | Self::CallUnavailable { .. }
            | Self::DeadlineExceeded
            | Self::IdleClosed(_)
            | Self::Refused { .. }
            | Self::Unsendable(_)
            | Self::NoServer
            | Self::LocalShortage
            | Self::Aborted
            | Self::Panicked => Blame::Neither,
        }
    }

    /// The stage that the attempt had reached, if a retry could succeed.
    #[must_use]
    pub fn progress(self) -> Option<Progress> {
        match self {
            Self::Unresolved | Self::Unreachable(_) | Self::Tls(_) | Self::LocalShortage | Self::ConnectTimeout => {
                Some(Progress::NotConnected)
            }
            Self::Refused { consumed: false } | Self::CallUnavailable { consumed: false } => Some(Progress::Refused),
            Self::Closed(sent) | Self::IdleClosed(sent) | Self::TlsEnded(_, sent) => Some(match sent {
                Sent::Nothing => Progress::NotSent,
                Sent::Part | Sent::All => Progress::Sent,
            }),
            Self::Reset(Sent::Nothing) => Some(Progress::NotSent),
            Self::Reset(_) => Some(Progress::Reset),
            Self::ServerDown | Self::Status(_) => Some(Progress::Sent),
            Self::Rejected(_)
            | Self::BadHead(_)
            | Self::NoRoute
            | Self::Expectation
            | Self::BodyTooLarge
            | Self::BadBody(_)
            | Self::ClientTooSlow
            | Self::ClientGone
            | Self::NoServer
            | Self::Refused { consumed: true }
            | Self::CallUnavailable { consumed: true }
            | Self::DeadlineExceeded
            | Self::Unsendable(_)
            | Self::TruncatedHead
            | Self::BadResponse(_)
            | Self::ResponseTimeout
            | Self::ResponseTruncated
            | Self::ResponseTooSlow
            | Self::TunnelBroken
            | Self::TunnelTimeout
            | Self::Aborted
            | Self::Panicked => None,
        }
    }

    /// The reason for a retry after this failure, if it is not the stage that the attempt had reached.
    #[must_use]
    pub fn retry_reason(self) -> Option<RetryReason> {
        match self {
            Self::ServerDown => Some(RetryReason::Down),
            Self::Status(_) | Self::CallUnavailable { .. } => Some(RetryReason::Status),
            _ => None,
        }
    }

    /// Whether the failure costs no attempt while other servers are untried: connecting failed without taking time.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        let takes_time = matches!(self, Self::Unreachable(io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut));
        !takes_time && matches!(self, Self::Unresolved | Self::Unreachable(_) | Self::Tls(_))
    }

    /// Whether the client's connection must close after the response, because its next bytes could be misread.
    #[must_use]
    pub fn closes(self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.closes(),
            Self::BadHead(_) | Self::BodyTooLarge | Self::BadBody(_) | Self::ClientTooSlow => true,
            // Only what a client has sent can be misread.
            _ => false,
        }
    }

    /// The explanation for the client, in one sentence that reveals nothing internal.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.detail(),
            Self::NoRoute => "No route matches this host and path.",
            Self::Expectation => "Unsupported Expect value.",
            Self::BadHead(HeadError::Malformed(line)) => line.rule.detail(),
            Self::BadHead(HeadError::MethodTooLong) => "The method is too long.",
            Self::BadHead(HeadError::Version) => "Only HTTP/1.1 and HTTP/1.0 are supported.",
            Self::BadHead(HeadError::TooLarge) => "The head of the request is too large.",
            Self::BadHead(HeadError::TargetTooLong) => "The request target is too long.",
            Self::BadHead(HeadError::TooManyHeaders) => "The request has too many headers.",
            Self::BodyTooLarge => "The request body is too large.",
            Self::BadBody(bad) => bad.detail(),
            Self::ClientTooSlow => "The request was received too slowly.",
            Self::NoServer => "No server is available.",
            Self::Unresolved | Self::Unreachable(_) | Self::Tls(_) | Self::TlsEnded(..) | Self::LocalShortage => {
                "No server could be reached."
            }
            Self::ConnectTimeout => "No server could be reached in time.",
            Self::Refused { .. } => "The server refused the request.",
            Self::Unsendable(_) => "The request cannot be sent over the protocol of the server.",
            Self::Closed(_)
            | Self::IdleClosed(_)
            | Self::Reset(_)
            | Self::TruncatedHead
            | Self::BadResponse(_)
            | Self::ResponseTruncated
            | Self::TunnelBroken => "The server closed the connection or sent an invalid response.",
            Self::ResponseTimeout | Self::ResponseTooSlow | Self::ServerDown => "The server did not respond in time.",
            Self::Status(_) | Self::CallUnavailable { .. } => "The server responded with an error.",
            Self::DeadlineExceeded => "The deadline of the call has passed.",
            Self::TunnelTimeout | Self::ClientGone | Self::Aborted | Self::Panicked => "The request was aborted.",
        }
    }
}

/// The explanation for operators, in the log and as the reason for an ejection.
impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("host name not resolved"),
            Self::Unreachable(kind) => kind.fmt(f),
            Self::Tls(failure) | Self::TlsEnded(failure, _) => failure.fmt(f),
            Self::ConnectTimeout => f.write_str("connect timeout"),
            Self::Closed(_) | Self::IdleClosed(_) | Self::TruncatedHead => {
                f.write_str("connection closed before a response")
            }
            Self::Reset(_) => f.write_str("stream reset before a response"),
            Self::BadResponse(bad) => write!(f, "invalid response; {bad}"),
            Self::Refused { .. } => f.write_str("the server refused the request"),
            Self::ResponseTimeout => f.write_str("response timeout"),
            Self::ServerDown => f.write_str("checks took the server down"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::CallUnavailable { .. } => f.write_str("grpc-status 14"),
            Self::DeadlineExceeded => f.write_str("the deadline of the call has passed"),
            other => f.write_str(other.label()),
        }
    }
}

#[cfg(test)]
mod tests;
