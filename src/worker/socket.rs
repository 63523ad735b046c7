//! Listening sockets: bound once for their address, shared by all workers, closed when no edit names them any more.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

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

/// A socket that listens on `address`, for workers to accept from together. `making_way` are sockets
/// of ours that overlap with it and are about to be closed: they do not stand in its way.
///
/// # Errors
/// When the system refuses.
pub fn bind(address: SocketAddr, making_way: &[&TcpListener]) -> Result<TcpListener, BindError> {
    let bound = match listen(address, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !making_way.is_empty() => {
            // Shared between the two for this moment only: another process is never let in.
            let share = |share| making_way.iter().try_for_each(|socket| SockRef::from(*socket).set_reuse_port(share));
            let bound = share(true).and_then(|()| listen(address, true));
            share(false).and(bound)
        }
        bound => bound,
    };
    bound.map_err(|error| BindError { address, error })
}

fn listen(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections still linger is free; one that somebody listens on is not.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Every client's socket gets it from here; one that refuses works all the same, only with a delay.
    let _ = socket.set_tcp_nodelay(true);
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(false)?;
    Ok(TcpListener::from(socket))
}

/// Has the system hear no further client at a socket, while those that are connecting or queue
/// already can still be accepted: closing it would reset them. Who is not heard asks again, by the
/// system's own doing, and finds whoever listens then.
///
/// # Errors
/// Where the system cannot do that.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn pause_accept(socket: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    /// Where a TCP header has its flags, and which of them begins a connection.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Has the system hear clients again after [`pause_accept`].
///
/// # Errors
/// Where the system cannot do that.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn resume_accept(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).detach_filter()
}

/// Does nothing here.
///
/// # Errors
/// Always: the system cannot do that.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn pause_accept(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing here.
///
/// # Errors
/// None.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn resume_accept(_: &TcpListener) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn only_what_makes_way_lets_an_overlapping_address_be_bound() {
        let everywhere = bind("0.0.0.0:0".parse().expect("an address"), &[]).expect("a port");
        let port = everywhere.local_addr().expect("an address").port();
        let here = SocketAddr::from(([127, 0, 0, 1], port));
        let error = bind(here, &[]).expect_err("taken");
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        let narrow = bind(here, &[&everywhere]).expect("made way");
        drop(bind(here, &[]).expect_err("taken by the new one"));
        drop(everywhere);
        let _client = TcpStream::connect(here).expect("a connection");
        narrow.set_nonblocking(false).expect("a socket");
        narrow.accept().expect("the client");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_hushed_socket_gives_out_who_queues_and_hears_nobody_new() {
        let socket = bind("127.0.0.1:0".parse().expect("an address"), &[]).expect("a port");
        let address = socket.local_addr().expect("an address");
        let mut early = TcpStream::connect(address).expect("a connection");
        pause_accept(&socket).expect("a filter");
        let late = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(50));
        assert_eq!(late.expect_err("nobody hears it").kind(), io::ErrorKind::TimedOut);
        socket.set_nonblocking(false).expect("a socket");
        drop(socket.accept().expect("who queued"));
        assert_eq!(early.read(&mut [0]).expect("closed in order"), 0);
        resume_accept(&socket).expect("no filter");
        TcpStream::connect(address).expect("heard again");
    }
}
