//! Listening sockets: bound once per address, shared by all workers, and closed when an edit removes the listener.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The length of the accept queue; the kernel may shorten it.
const BACKLOG: i32 = 8192;

/// A socket that has its address and does not listen yet: clients are refused, not kept waiting or reset, until everything
/// else that an edit needs is there too.
#[derive(Debug)]
pub struct BoundSocket {
    address: SocketAddr,
    socket: Socket,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    pub address: SocketAddr,
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
    /// Returns advice for the operator.
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
                format!(
                    "port {port} is below 1024 and requires CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                format!(
                    "{} is not an address of this machine: use one of its addresses, or 0.0.0.0 for all",
                    self.address.ip()
                )
            }
            _ => "check the address".to_owned(),
        }
    }
}

impl BoundSocket {
    /// Binds `address`. `closing` are our own sockets that overlap with it and are about to be closed; they do not
    /// prevent it.
    ///
    /// # Errors
    /// [`BindError`], with the system's error.
    pub fn bind(address: SocketAddr, closing: &[&TcpListener]) -> Result<Self, BindError> {
        let bound = new_socket(address).and_then(|socket| {
            beside(closing, &socket, || socket.bind(&address.into()))?;
            Ok(Self { address, socket })
        });
        bound.map_err(|error| BindError { address, error })
    }

    /// Listens, for all workers. `closing` is as for [`BoundSocket::bind`].
    ///
    /// # Errors
    /// [`BindError`], with the system's error: another process may have been faster.
    pub fn listen(self, closing: &[&TcpListener]) -> Result<TcpListener, BindError> {
        let Self { address, socket } = self;
        let listening = beside(closing, &socket, || socket.listen(BACKLOG));
        listening.map(|()| socket.into()).map_err(|error| BindError { address, error })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Allows a port with connections in TIME_WAIT, but not one that another socket listens on.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` accepts IPv4 too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it. Without it, they work with some delay.
    let _ = socket.set_tcp_nodelay(true);
    Ok(socket)
}

/// Tries again, if the address is in use, while `socket` shares its port with those that are `closing`. That is only for a
/// moment, so that no other process can bind it as well.
fn beside(closing: &[&TcpListener], socket: &Socket, attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !closing.is_empty() => {
            let share = |share| {
                let mut sockets = closing.iter().map(|socket| SockRef::from(*socket)).chain([SockRef::from(socket)]);
                sockets.try_for_each(|socket| socket.set_reuse_port(share))
            };
            let result = share(true).and_then(|()| attempt());
            share(false).and(result)
        }
        result => result,
    }
}

/// Drops new SYNs, while queued and half-open connections can still be accepted: closing the socket would
/// reset them. Clients whose SYN was dropped retransmit it, and reach whatever listens by then.
///
/// # Errors
/// The system's error.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn pause_accept(socket: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    /// The offset of the flags in a TCP header, and the flag that opens a connection.
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

/// Undoes [`pause_accept`].
///
/// # Errors
/// The system's error.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn resume_accept(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).detach_filter()
}

/// Unsupported on this system.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn pause_accept(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing on this system.
///
/// # Errors
/// Never.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn resume_accept(_: &TcpListener) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    fn bind(address: SocketAddr, closing: &[&TcpListener]) -> Result<TcpListener, BindError> {
        BoundSocket::bind(address, closing)?.listen(closing)
    }

    #[test]
    fn a_bound_socket_accepts_no_client_and_yields_to_nobody() {
        let bound = BoundSocket::bind("127.0.0.1:0".parse().expect("an address"), &[]).expect("a port");
        let address = bound.socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let refused = TcpStream::connect(address).expect_err("it does not listen");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let other = TcpListener::bind(address);
        match bound.listen(&[]) {
            Ok(_) => drop(other.expect_err("the first one has the port")),
            Err(error) => assert_eq!((error.error.kind(), other.is_ok()), (io::ErrorKind::AddrInUse, true)),
        }
    }

    #[test]
    fn an_overlapping_address_can_be_bound_only_beside_a_closing_socket() {
        let everywhere = bind("0.0.0.0:0".parse().expect("an address"), &[]).expect("a port");
        let port = everywhere.local_addr().expect("an address").port();
        let here = SocketAddr::from(([127, 0, 0, 1], port));
        let error = bind(here, &[]).expect_err("taken");
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        let narrow = bind(here, &[&everywhere]).expect("the other is closing");
        drop(bind(here, &[]).expect_err("taken by the new socket"));
        drop(everywhere);
        let _client = TcpStream::connect(here).expect("a connection");
        narrow.set_nonblocking(false).expect("a socket");
        narrow.accept().expect("the client");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_paused_socket_yields_queued_clients_and_no_new_ones() {
        let socket = bind("127.0.0.1:0".parse().expect("an address"), &[]).expect("a port");
        let address = socket.local_addr().expect("an address");
        let mut early = TcpStream::connect(address).expect("a connection");
        pause_accept(&socket).expect("a filter");
        let late = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(50));
        assert_eq!(late.expect_err("its SYN is dropped").kind(), io::ErrorKind::TimedOut);
        socket.set_nonblocking(false).expect("a socket");
        drop(socket.accept().expect("the queued client"));
        assert_eq!(early.read(&mut [0]).expect("closed without a reset"), 0);
        resume_accept(&socket).expect("no filter");
        TcpStream::connect(address).expect("accepted again");
    }
}
