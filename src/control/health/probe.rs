//! One look at a server: the check that its pool asks for, and a GET that reads no more than it must.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::config::units::format_duration;
use crate::config::{self, HealthKind, StatusRanges};
use crate::live::server::Server;
use crate::transport;

const USER: &str = concat!("lb-health/", env!("CARGO_PKG_VERSION"));

/// What to ask a server for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The path, with its query if it has one.
    pub path: &'a str,
    /// Which types of answer are wanted.
    pub accept: &'static str,
    /// The most bytes that the answer's body may have; `None` leaves it unread.
    pub body: Option<usize>,
    /// For connecting, asking and reading together.
    pub timeout: Duration,
}

/// Why a look at a server brought nothing. Displays as what people are told.
#[derive(Debug)]
pub enum CheckError {
    /// Its host name has not been resolved.
    Unresolved,
    /// It could not be connected to.
    Connect(io::Error),
    /// It could not be connected to in this time.
    ConnectTimeout(Duration),
    /// It took the connection and gave no answer in this time.
    AnswerTimeout(Duration),
    /// It ended the connection before its answer was complete.
    Closed,
    /// What it sent is not HTTP/1.1.
    NotHttp,
    /// Its answer's status is not among the expected.
    Status(u16, StatusRanges),
    /// Its answer's body is longer than what is read of it.
    TooLong(usize),
    /// No request can be made of this path.
    Path(String),
}

/// Checks `server` once, as `rule` says.
///
/// # Errors
/// Why the check failed.
pub async fn check(server: &Server, rule: &config::HealthConfig) -> Result<(), CheckError> {
    match rule.kind {
        HealthKind::None => Ok(()),
        HealthKind::Tcp => connect(server, rule.timeout).await.map(drop),
        HealthKind::Http => {
            let question = Question { path: &rule.path, accept: "*/*", body: None, timeout: rule.timeout };
            let (status, _) = get(server, question).await?;
            if rule.expect.contains(status) { Ok(()) } else { Err(CheckError::Status(status, rule.expect.clone())) }
        }
    }
}

/// Asks `server` on a connection of its own; returns the answer's status and, if wanted, its body.
///
/// # Errors
/// Why there is no such answer.
pub async fn get(server: &Server, question: Question<'_>) -> Result<(u16, Bytes), CheckError> {
    let Question { path, accept, body, timeout } = question;
    let request = Request::get(path)
        .header(HOST, server.key.address.to_string())
        .header(USER_AGENT, USER)
        .header(ACCEPT, accept)
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| CheckError::Path(path.to_owned()))?;
    let deadline = Instant::now() + timeout;
    let stream = connect(server, timeout).await?;
    timeout_at(deadline, exchange(stream, request, body)).await.map_err(|_| CheckError::AnswerTimeout(timeout))?
}

async fn exchange(
    stream: TcpStream,
    request: Request<Empty<Bytes>>,
    body: Option<usize>,
) -> Result<(u16, Bytes), CheckError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status().as_u16();
        let Some(limit) = body else { return Ok((status, Bytes::new())) };
        match Limited::new(answer.into_body(), limit).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(CheckError::TooLong(limit)),
            Err(_) => Err(CheckError::Closed),
        }
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection is over; what it brought is still to be taken.
        _ = connection => answer.await,
    }
}

async fn connect(server: &Server, timeout: Duration) -> Result<TcpStream, CheckError> {
    let target = server.target().ok_or(CheckError::Unresolved)?;
    let stream = tokio::time::timeout(timeout, TcpStream::connect(target))
        .await
        .map_err(|_| CheckError::ConnectTimeout(timeout))?
        .map_err(CheckError::Connect)?;
    // Where nobody listens on a local port, the system may lend just that port to our own end,
    // and the connection meets itself.
    if stream.local_addr().is_ok_and(|local| local == target) {
        return Err(CheckError::Connect(io::ErrorKind::ConnectionRefused.into()));
    }
    Ok(stream)
}

fn broken(error: &hyper::Error) -> CheckError {
    let by_io = error.source().is_some_and(|source| source.is::<io::Error>());
    if by_io || error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        CheckError::Closed
    } else {
        CheckError::NotHttp
    }
}

impl CheckError {
    /// Whether a connection to the server came about.
    #[must_use]
    pub fn connected(&self) -> bool {
        !matches!(self, Self::Unresolved | Self::Connect(_) | Self::ConnectTimeout(_) | Self::Path(_))
    }

    /// Whether this process could not even try, so that nothing is known of the server.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Connect(error) if transport::is_local_shortage(error))
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
        match self {
            Self::Unresolved => f.write_str("host name not resolved"),
            Self::Connect(error) if self.is_ours() => {
                write!(f, "not checked, for want of files or ports here: {error}")
            }
            Self::Connect(error) => match error.kind() {
                // These are plain words; the error itself would add a number.
                kind @ (ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable) => kind.fmt(f),
                _ => error.fmt(f),
            },
            Self::ConnectTimeout(limit) => write!(f, "no connection within {}", format_duration(*limit)),
            Self::AnswerTimeout(limit) => write!(f, "no answer within {}", format_duration(*limit)),
            Self::Closed => f.write_str("connection closed before an answer"),
            Self::NotHttp => f.write_str("the answer is not HTTP/1.1"),
            Self::Status(status, expected) => write!(f, "status {status}, expected {expected}"),
            Self::TooLong(limit) => write!(f, "the answer is longer than {limit} bytes"),
            Self::Path(path) => write!(f, "`{path}` is no path to ask for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_in_words() {
        let refused = io::Error::from_raw_os_error(111);
        let files = io::Error::from_raw_os_error(24);
        let cases = [
            (CheckError::Unresolved, "host name not resolved"),
            (CheckError::Connect(refused), "connection refused"),
            (CheckError::ConnectTimeout(Duration::from_millis(1500)), "no connection within 1500ms"),
            (CheckError::AnswerTimeout(Duration::from_secs(2)), "no answer within 2s"),
            (CheckError::Closed, "connection closed before an answer"),
            (CheckError::NotHttp, "the answer is not HTTP/1.1"),
            (CheckError::Status(503, StatusRanges(vec![200..=399])), "status 503, expected 200-399"),
        ];
        for (failure, words) in cases {
            assert_eq!(failure.to_string(), words);
            assert!(!failure.is_ours(), "{words}");
        }
        assert!(CheckError::Connect(files).is_ours());
    }

    #[test]
    fn what_follows_a_connection_is_known() {
        assert!(!CheckError::Connect(io::ErrorKind::ConnectionRefused.into()).connected());
        assert!(!CheckError::ConnectTimeout(Duration::ZERO).connected());
        assert!(CheckError::AnswerTimeout(Duration::ZERO).connected());
        assert!(CheckError::Status(500, StatusRanges(Vec::new())).connected());
    }
}
