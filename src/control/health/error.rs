//! Why a check fails, in words, and how to change the file if the check itself is at fault.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::config::SocketAddress;
use crate::config::units::format_duration;
use crate::control::health::grpc::HealthFault;
use crate::http1::client::BadResponse;
use crate::tls::failure::{TlsError, TlsFailure};
use crate::transport;

/// Why a check failed. Displays as it is logged and shown by the API.
#[derive(Debug)]
pub enum CheckError {
    /// The server's host name has not been resolved.
    Unresolved,
    /// Connecting to this address failed.
    Connect(SocketAddress, io::Error),
    /// This address did not accept the connection within this time.
    ConnectTimeout(SocketAddress, Duration),
    /// The TLS handshake failed.
    Tls(TlsError),
    /// The TLS handshake with this address did not end within this time.
    HandshakeTimeout(SocketAddress, Duration),
    /// The request, as a method and a path, and the fault of its response.
    Response { request: String, fault: ResponseFault },
}

/// The fault of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseFault {
    /// There was none within this time.
    Timeout(Duration),
    /// The connection ended before the response.
    Closed,
    /// The connection ended in the middle of the head.
    TruncatedHead,
    Invalid(BadResponse),
    /// There was none, because TLS failed after the handshake.
    Tls(TlsFailure),
    /// Its status, and the statuses that were expected.
    Status(u16, String),
    /// The body was not complete within this time.
    BodyTimeout(Duration),
    /// The connection ended in the middle of the body.
    Truncated,
    /// The body has more than this many bytes.
    BodyTooLong(usize),
    /// The body does not contain this text.
    Missing(String),
    /// The gRPC health service does not say that the server serves.
    Grpc(HealthFault),
}

impl CheckError {
    /// Whether the server accepted the connection.
    #[must_use]
    pub fn connected(&self) -> bool {
        matches!(self, Self::Response { .. })
    }

    /// Whether this process could not make the attempt, so that the server's state stays unknown.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Connect(_, error) if transport::is_local_shortage(error))
    }

    /// Whether the server's host refused the connection, which takes no time.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect(_, error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether the server is silent: it accepted no connection, or did not respond.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        use ResponseFault::{Closed, Timeout, TruncatedHead};
        match self {
            Self::Unresolved | Self::Tls(_) => false,
            Self::HandshakeTimeout(..) => true,
            Self::Connect(..) | Self::ConnectTimeout(..) => !self.is_ours(),
            Self::Response { fault, .. } => matches!(fault, Timeout(_) | Closed | TruncatedHead),
        }
    }

    /// The status of the response, if it was wrong.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Response { fault: ResponseFault::Status(status, _), .. } => Some(*status),
            _ => None,
        }
    }

    /// A way to mend TLS, or to change the check if the server may be well and only the request may be wrong for it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Tls(error) => return Some(error.failure.hint()),
            Self::Response { fault: ResponseFault::Tls(failure), .. } => return Some(failure.hint()),
            Self::Response { fault: ResponseFault::Grpc(fault), .. } => return fault.hint(),
            _ => {}
        }
        match self.status()? {
            400 | 421 => Some(
                "set `health.host` if the server responds only to its own name, or `health.path`, or `health.kind = \"tcp\"`",
            ),
            401 | 403 => {
                Some("set `health.path` to a page that needs no login, or `health.headers`, or `health.kind = \"tcp\"`")
            }
            404 => Some("set `health.path` to a page that shows the server's health, or `health.kind = \"tcp\"`"),
            405 | 501 => Some("set `health.path` or `health.method`, or `health.kind = \"tcp\"`"),
            _ => None,
        }
    }
}

impl From<BadResponse> for ResponseFault {
    fn from(bad: BadResponse) -> Self {
        Self::Invalid(bad)
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
        match self {
            Self::Unresolved => f.write_str("host name not resolved"),
            Self::Connect(_, error) if self.is_ours() => {
                write!(f, "not checked, because this process is out of file descriptors or ports: {error}")
            }
            Self::Connect(address, error) => match error.kind() {
                // The kind is in plain words; the error itself would add the system's number.
                kind @ (ConnectionRefused | ConnectionReset) => write!(f, "{kind} by {address}"),
                kind @ (HostUnreachable | NetworkUnreachable) => write!(f, "{kind}: {address}"),
                _ => write!(f, "no connection to {address}: {error}"),
            },
            Self::ConnectTimeout(address, limit) => {
                write!(f, "no connection to {address} within {}", format_duration(*limit))
            }
            Self::Tls(error) => error.fmt(f),
            Self::HandshakeTimeout(address, limit) => {
                write!(f, "no TLS handshake with {address} within {}", format_duration(*limit))
            }
            Self::Response { request, fault } => write!(f, "{request}: {fault}"),
        }
    }
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no response within {}", format_duration(*limit)),
            Self::Tls(failure) => failure.fmt(f),
            Self::Closed => f.write_str("connection closed before a response"),
            Self::TruncatedHead => f.write_str("connection closed in the middle of a response"),
            Self::Invalid(bad) => write!(f, "invalid response; {bad}"),
            Self::Status(status, expected) => write!(f, "status {status}, expected {expected}"),
            Self::BodyTimeout(limit) => {
                write!(f, "the response did not end within {}", format_duration(*limit))
            }
            Self::Truncated => f.write_str("connection closed in the middle of the body"),
            Self::BodyTooLong(limit) => write!(f, "the response is longer than {limit} bytes"),
            Self::Grpc(fault) => fault.fmt(f),
            Self::Missing(text) => write!(f, "the response does not contain {text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddress {
        std::net::SocketAddr::from(([127, 0, 0, 1], 8081)).into()
    }

    fn response(fault: ResponseFault) -> CheckError {
        CheckError::Response { request: "GET /health".to_owned(), fault }
    }

    #[test]
    fn errors_are_in_plain_words_and_name_what_was_tried() {
        let error = |code| io::Error::from_raw_os_error(code);
        let expected = || "200-399".to_owned();
        let cases = [
            (CheckError::Unresolved, "host name not resolved"),
            (CheckError::Connect(address(), error(111)), "connection refused by 127.0.0.1:8081"),
            (CheckError::Connect(address(), error(113)), "host unreachable: 127.0.0.1:8081"),
            (
                CheckError::ConnectTimeout(address(), Duration::from_millis(1500)),
                "no connection to 127.0.0.1:8081 within 1500ms",
            ),
            (response(ResponseFault::Timeout(Duration::from_secs(2))), "GET /health: no response within 2s"),
            (response(ResponseFault::Closed), "GET /health: connection closed before a response"),
            (
                response(BadResponse::Switch.into()),
                "GET /health: invalid response; a switch of protocols that the client did not request",
            ),
            (response(ResponseFault::Status(503, expected())), "GET /health: status 503, expected 200-399"),
            (
                response(ResponseFault::BodyTimeout(Duration::from_secs(2))),
                "GET /health: the response did not end within 2s",
            ),
            (response(ResponseFault::Missing("ok".to_owned())), "GET /health: the response does not contain \"ok\""),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
            assert!(!error.is_ours(), "{text}");
            assert_eq!(error.connected(), text.starts_with("GET"), "{text}");
        }
        let ours = CheckError::Connect(address(), error(24));
        assert!(ours.is_ours() && !ours.connected(), "{ours}");
    }

    #[test]
    fn statuses_that_the_request_may_have_caused_have_a_hint() {
        let hint = |status| response(ResponseFault::Status(status, String::new())).hint();
        let cases = [
            (400, "`health.host`"),
            (401, "`health.headers`"),
            (403, "`health.path`"),
            (404, "`health.path`"),
            (405, "`health.method`"),
            (421, "`health.host`"),
            (501, "`health.method`"),
        ];
        for (status, key) in cases {
            assert!(hint(status).is_some_and(|hint| hint.contains(key) && hint.contains("\"tcp\"")), "{status}");
        }
        assert!([301, 429, 500, 502, 503].into_iter().all(|status| hint(status).is_none()));
        assert_eq!(response(ResponseFault::Closed).hint(), None);
    }
}
