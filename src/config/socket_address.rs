//! Where a socket listens or connects to: an IP address with a port, or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, absolute};
use std::sync::Arc;

/// The text before the path of a Unix socket in an address.
pub(super) const UNIX: &str = "unix:";

/// The host of a Unix socket, which has none.
pub const LOCALHOST: &str = "localhost";

/// Where a socket listens or connects to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    Ip(SocketAddr),
    Unix(SocketPath),
}

/// The absolute path of a Unix socket. It says the same whatever the directory of the process that reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketPath(Arc<Path>);

impl SocketPath {
    /// A path, which is relative to the working directory. Spellings that only differ in `.` and repeated slashes are the
    /// same path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let path = absolute(path).unwrap_or_else(|_| path.to_owned());
        Self(path.components().collect::<std::path::PathBuf>().into())
    }

    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl SocketAddress {
    /// The address, if it is one of IP.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Its `Host` header. A Unix socket has no host, so that is `localhost`.
    #[must_use]
    pub fn host(&self) -> String {
        self.ip().map_or_else(|| LOCALHOST.to_owned(), |address| address.to_string())
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNIX}{}", self.0.display())
    }
}
