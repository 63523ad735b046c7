//! What a failed try says of its server: whether it speaks against it, and in which words.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::live::server::Server;
use crate::proxy::error::Failure;
use crate::proxy::upstream::ConnectError;
use crate::transport;

/// Why a try failed, where that was the server's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its host name leads nowhere.
    Unresolved,
    /// It cannot be connected to.
    Unreachable(io::ErrorKind),
    /// It did not take the connection in time.
    ConnectTimeout,
    /// It ended the connection before its answer.
    Closed,
    /// What it answered is not HTTP.
    NotHttp,
    /// It did not answer, or did not take the request, in time.
    AnswerTimeout,
}

/// A server whose tries failed in a row, as a worker tells it to the control plane.
#[derive(Debug, Clone)]
pub struct Failing {
    /// Which.
    pub server: Arc<Server>,
    /// How many in a row.
    pub failures: u32,
    /// How the last of them did.
    pub fault: Fault,
}

impl Fault {
    /// Of a connection that did not come about; none if this process could not even try.
    #[must_use]
    pub fn of_connecting(error: &ConnectError) -> Option<Self> {
        match error {
            ConnectError::Unresolved => Some(Self::Unresolved),
            ConnectError::Timeout => Some(Self::ConnectTimeout),
            ConnectError::Refused(error) if transport::is_ours(error) => None,
            ConnectError::Refused(error) => Some(Self::Unreachable(error.kind())),
        }
    }

    /// Of what the client is told, where that is all that is known.
    #[must_use]
    pub fn of(failure: Failure) -> Option<Self> {
        match failure {
            Failure::BadAnswer => Some(Self::NotHttp),
            Failure::AnswerTimeout => Some(Self::AnswerTimeout),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("host name not resolved"),
            Self::Unreachable(kind) => kind.fmt(f),
            Self::ConnectTimeout => f.write_str("no connection in time"),
            Self::Closed => f.write_str("connection closed before an answer"),
            Self::NotHttp => f.write_str("the answer is not HTTP/1.1"),
            Self::AnswerTimeout => f.write_str("no answer in time"),
        }
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failures {
            1 => write!(f, "a request failed: {}", self.fault),
            failures => write!(f, "{failures} requests in a row failed: {}", self.fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::live::health::HealthState;
    use crate::live::server::ServerKey;

    #[test]
    fn what_this_process_lacks_is_nobodys_fault() {
        let error = |code| ConnectError::Refused(io::Error::from_raw_os_error(code));
        let (refused, too_many_open_files, no_port) = (error(111), error(24), error(99));
        assert_eq!(Fault::of_connecting(&refused), Some(Fault::Unreachable(io::ErrorKind::ConnectionRefused)));
        assert_eq!(Fault::of_connecting(&too_many_open_files), None);
        assert_eq!(Fault::of_connecting(&no_port), None);
        assert_eq!(Fault::of_connecting(&ConnectError::Timeout), Some(Fault::ConnectTimeout));
    }

    #[test]
    fn what_the_client_did_is_not_the_servers_fault() {
        for failure in [Failure::ClientGone, Failure::ClientTooSlow, Failure::BadBody, Failure::BodyTooLarge] {
            assert_eq!(Fault::of(failure), None, "{failure:?}");
        }
    }

    #[test]
    fn people_are_told_how_many_failed_and_how() {
        let address = Address::Name("backend".to_owned(), 80);
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        let server = Arc::new(Server::new(1, key, HealthState::Up, 1));
        let told = |failures, fault| Failing { server: Arc::clone(&server), failures, fault }.to_string();
        let refused = Fault::Unreachable(io::ErrorKind::ConnectionRefused);
        assert_eq!(told(3, refused), "3 requests in a row failed: connection refused");
        assert_eq!(told(1, Fault::AnswerTimeout), "a request failed: no answer in time");
    }
}
