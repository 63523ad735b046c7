//! One probe of a server: its health check, or a GET that reads no more of the response than needed.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, Response};

use crate::config::units::format_duration;
use crate::config::{self, HealthKind, StatusRanges};
use crate::http_client::{HttpConnection, SendError};
use crate::live::server::Server;
use crate::transport;

const USER: &str = concat!("lb-health/", env!("CARGO_PKG_VERSION"));

/// A GET request of a probe.
#[derive(Debug, Clone, Copy)]
pub struct ProbeRequest<'a> {
    /// With its query, if any.
    pub path: &'a str,
    pub accept: &'static str,
    /// In bytes; `None` leaves the response's body unread.
    pub body_limit: Option<usize>,
    /// From connecting to the end of the response.
    pub timeout: Duration,
}

/// Why a check failed. Displays as it is logged and shown by the API.
#[derive(Debug)]
pub enum CheckError {
    /// The server's host name has not been resolved.
    Unresolved,
    Send(SendError),
    /// The response's status, and those that were expected.
    Status(u16, StatusRanges),
}

/// Checks `server` once, according to `rule`.
///
/// # Errors
/// Why the check failed.
pub async fn check(server: &Server, rule: &config::HealthConfig) -> Result<(), CheckError> {
    match rule.kind {
        HealthKind::None => Ok(()),
        HealthKind::Tcp => connect(server, rule.timeout).await.map(drop),
        HealthKind::Http => {
            let request = ProbeRequest { path: &rule.path, accept: "*/*", body_limit: None, timeout: rule.timeout };
            let status = get(server, request).await?.status().as_u16();
            if rule.expect.contains(status) { Ok(()) } else { Err(CheckError::Status(status, rule.expect.clone())) }
        }
    }
}

/// Sends `request` to `server` on a new connection. The response may have any status.
///
/// # Errors
/// Why there is no response.
pub async fn get(server: &Server, request: ProbeRequest<'_>) -> Result<Response<Bytes>, CheckError> {
    let ProbeRequest { path, accept, body_limit, timeout } = request;
    let request = Request::get(path)
        .header(HOST, server.key.address.to_string())
        .header(USER_AGENT, USER)
        .header(ACCEPT, accept)
        .header(CONNECTION, "close")
        .body(Bytes::new())
        .map_err(SendError::from)?;
    Ok(connect(server, timeout).await?.send(request, body_limit).await?)
}

async fn connect(server: &Server, timeout: Duration) -> Result<HttpConnection, CheckError> {
    let target = server.target().ok_or(CheckError::Unresolved)?;
    Ok(HttpConnection::open(target, timeout).await?)
}

impl From<SendError> for CheckError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl CheckError {
    /// Whether the server accepted the connection.
    #[must_use]
    pub fn connected(&self) -> bool {
        use SendError::{Connect, ConnectTimeout, InvalidRequest};
        !matches!(self, Self::Unresolved | Self::Send(InvalidRequest(_) | Connect(_) | ConnectTimeout(_)))
    }

    /// Whether this process could not make the attempt, so that the server's state stays unknown.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Send(SendError::Connect(error)) if transport::is_local_shortage(error))
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("host name not resolved"),
            Self::Send(error) if self.is_ours() => {
                write!(f, "not checked, because this process is out of file descriptors or ports: {error}")
            }
            // In the units of the configuration.
            Self::Send(SendError::ConnectTimeout(limit)) => {
                write!(f, "no connection within {}", format_duration(*limit))
            }
            Self::Send(SendError::ResponseTimeout(limit)) => {
                write!(f, "no response within {}", format_duration(*limit))
            }
            Self::Send(error) => error.fmt(f),
            Self::Status(status, expected) => write!(f, "status {status}, expected {expected}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn errors_are_in_plain_words() {
        let refused = io::Error::from_raw_os_error(111);
        let files = io::Error::from_raw_os_error(24);
        let cases = [
            (CheckError::Unresolved, "host name not resolved"),
            (SendError::Connect(refused).into(), "connection refused"),
            (SendError::ConnectTimeout(Duration::from_millis(1500)).into(), "no connection within 1500ms"),
            (SendError::ResponseTimeout(Duration::from_secs(2)).into(), "no response within 2s"),
            (SendError::Closed.into(), "connection closed before a response"),
            (SendError::NotHttp.into(), "the response is not HTTP/1.1"),
            (CheckError::Status(503, StatusRanges(vec![200..=399])), "status 503, expected 200-399"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
            assert!(!error.is_ours(), "{text}");
        }
        assert!(CheckError::Send(SendError::Connect(files)).is_ours());
    }

    #[test]
    fn only_some_errors_follow_a_connection() {
        assert!(!CheckError::Send(SendError::Connect(io::ErrorKind::ConnectionRefused.into())).connected());
        assert!(!CheckError::Send(SendError::ConnectTimeout(Duration::ZERO)).connected());
        assert!(CheckError::Send(SendError::ResponseTimeout(Duration::ZERO)).connected());
        assert!(CheckError::Status(500, StatusRanges(Vec::new())).connected());
    }
}
