//! Listening sockets: bound once for their address, shared by all workers, closed when no edit names them any more.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Clients that may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 8192;

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// The address, as configured.
    pub address: SocketAddr,
    /// Why, as the system says.
    pub error: io::Error,
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)
    }
}

impl BindError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let port = self.address.port();
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "port {port} is taken: stop the process that has it (`ss -ltnp 'sport = :{port}'` names it), or choose another"
                )
            }
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): choose a higher one than {port}")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("{} is no address of this machine: use one that is, or 0.0.0.0 for all", self.address.ip())
            }
            _ => "see whether the address is right".to_owned(),
        }
    }
}

/// A socket that listens on `address`, for workers to accept from together.
///
/// # Errors
/// When the system refuses.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A port whose last connections still linger is free; one that somebody listens on is not.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bind().map_err(|error| BindError { address, error })
}
