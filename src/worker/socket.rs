//! Listening sockets: bound once per address, shared by all workers, and closed when an edit removes the listener.

mod file;

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use self::file::SocketFile;
use crate::config::{SocketAddress, SocketMode, SocketPath};
use crate::transport::ListeningSocket;

/// The length of the accept queue; the kernel may shorten it.
const BACKLOG: i32 = 8192;

/// A socket that has its address and does not listen yet: clients are refused, not kept waiting or reset, until everything
/// else that an edit needs is there too.
#[derive(Debug)]
pub enum BoundSocket {
    Tcp {
        address: SocketAddr,
        socket: Socket,
    },
    /// A path at which a socket can be created, as far as that can be told: that is done last, because a dead socket may
    /// have to make way for it.
    Unix {
        path: SocketPath,
        mode: SocketMode,
    },
}

/// A listening socket of ours. Dropping it closes it, as far as workers do not still accept from it, and removes the file
/// of a Unix socket.
#[derive(Debug)]
pub struct OpenSocket {
    socket: ListeningSocket,
    /// Of a Unix socket that is not closing.
    file: Option<SocketFile>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    pub address: SocketAddress,
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
        let address = match &self.address {
            SocketAddress::Ip(address) => *address,
            SocketAddress::Unix(path) => return unix_hint(path, &self.error),
        };
        let port = address.port();
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
                    address.ip()
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
    pub fn bind(address: &SocketAddress, mode: SocketMode, closing: &[&OpenSocket]) -> Result<Self, BindError> {
        let bound = match address {
            SocketAddress::Ip(address) => new_socket(*address).and_then(|socket| {
                beside(closing, &socket, || socket.bind(&(*address).into()))?;
                Ok(Self::Tcp { address: *address, socket })
            }),
            SocketAddress::Unix(path) => SocketFile::check(path).map(|()| Self::Unix { path: path.clone(), mode }),
        };
        bound.map_err(|error| BindError { address: address.clone(), error })
    }

    /// Listens, for all workers. `closing` is as for [`BoundSocket::bind`].
    ///
    /// # Errors
    /// [`BindError`], with the system's error: another process may have been faster.
    pub fn listen(self, closing: &[&OpenSocket]) -> Result<OpenSocket, BindError> {
        let address = self.address();
        let listening = match self {
            Self::Tcp { socket, .. } => beside(closing, &socket, || socket.listen(BACKLOG))
                .map(|()| OpenSocket { socket: ListeningSocket::Tcp(socket.into()), file: None }),
            Self::Unix { path, mode } => SocketFile::create(&path, mode, BACKLOG)
                .map(|(socket, file)| OpenSocket { socket: ListeningSocket::Unix(socket), file: Some(file) }),
        };
        listening.map_err(|error| BindError { address, error })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddress {
        match self {
            Self::Tcp { address, .. } => SocketAddress::Ip(*address),
            Self::Unix { path, .. } => SocketAddress::Unix(path.clone()),
        }
    }
}

impl OpenSocket {
    /// The socket itself.
    #[must_use]
    pub fn socket(&self) -> &ListeningSocket {
        &self.socket
    }

    /// Keeps new clients away, while those that are queued or connecting can still be accepted: closing the socket would
    /// reset them. At a TCP socket, SYNs are dropped: clients retransmit them, and reach whatever listens by then. The
    /// file of a Unix socket is removed.
    ///
    /// # Errors
    /// The system's error.
    pub fn pause_accept(&mut self) -> io::Result<()> {
        self.file = None;
        match self.socket {
            ListeningSocket::Tcp(_) => drop_syns(&self.socket.options()),
            ListeningSocket::Unix(_) => Ok(()),
        }
    }

    /// Whether [`OpenSocket::resume_accept`] would let clients in again: not without a file.
    #[must_use]
    pub fn can_resume(&self) -> bool {
        matches!(self.socket, ListeningSocket::Tcp(_))
    }

    /// Undoes [`OpenSocket::pause_accept`].
    ///
    /// # Errors
    /// The system's error.
    pub fn resume_accept(&self) -> io::Result<()> {
        accept_syns(&self.socket.options())
    }

    /// Sets the permissions of a Unix socket.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_mode(&self, mode: SocketMode) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.set_mode(mode))
    }
}

/// Advice for a Unix socket that cannot be created.
fn unix_hint(path: &SocketPath, error: &io::Error) -> String {
    let file = path.as_path().display();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("a process listens on {file}: stop it (`ss -xlp src {file}` names it), or choose another path")
        }
        io::ErrorKind::AlreadyExists => format!("remove {file}, or choose another path"),
        io::ErrorKind::NotFound => "create the directory first; for one in /run, with tmpfiles.d or the service's \
                                    `RuntimeDirectory`"
            .to_owned(),
        io::ErrorKind::PermissionDenied => format!("let this process create {file}, or choose another directory"),
        _ => "check the path".to_owned(),
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
fn beside(closing: &[&OpenSocket], socket: &Socket, attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !closing.is_empty() => {
            let share = |share| {
                let mut sockets = closing.iter().map(|closing| closing.socket.options()).chain([SockRef::from(socket)]);
                sockets.try_for_each(|socket| socket.set_reuse_port(share))
            };
            let result = share(true).and_then(|()| attempt());
            share(false).and(result)
        }
        result => result,
    }
}

/// Drops new SYNs.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn drop_syns(socket: &SockRef<'_>) -> io::Result<()> {
    use socket2::SockFilter;
    /// The offset of the flags in a TCP header, and the flag that opens a connection.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    socket.attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Undoes [`drop_syns`].
#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_syns(socket: &SockRef<'_>) -> io::Result<()> {
    socket.detach_filter()
}

/// Unsupported on this system.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn drop_syns(_: &SockRef<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing on this system.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn accept_syns(_: &SockRef<'_>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn bound(address: SocketAddr, closing: &[&OpenSocket]) -> Result<BoundSocket, BindError> {
        BoundSocket::bind(&address.into(), SocketMode::default(), closing)
    }

    fn bind(address: SocketAddr, closing: &[&OpenSocket]) -> Result<OpenSocket, BindError> {
        bound(address, closing)?.listen(closing)
    }

    fn address(socket: &OpenSocket) -> SocketAddr {
        socket.socket.address().and_then(|address| address.ip()).expect("an address")
    }

    fn tcp(socket: OpenSocket) -> TcpListener {
        let ListeningSocket::Tcp(socket) = socket.socket else { panic!("not TCP") };
        socket.set_nonblocking(false).expect("a socket");
        socket
    }

    #[test]
    fn a_bound_socket_accepts_no_client_and_yields_to_nobody() {
        let bound = bound("127.0.0.1:0".parse().expect("an address"), &[]).expect("a port");
        let BoundSocket::Tcp { socket, .. } = &bound else { panic!("not TCP") };
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
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
        let here = SocketAddr::from(([127, 0, 0, 1], address(&everywhere).port()));
        let error = bind(here, &[]).expect_err("taken");
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        let narrow = bind(here, &[&everywhere]).expect("the other is closing");
        drop(bind(here, &[]).expect_err("taken by the new socket"));
        drop(everywhere);
        let _client = TcpStream::connect(here).expect("a connection");
        tcp(narrow).accept().expect("the client");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_paused_socket_yields_queued_clients_and_no_new_ones() {
        let mut socket = bind("127.0.0.1:0".parse().expect("an address"), &[]).expect("a port");
        let address = address(&socket);
        let mut early = TcpStream::connect(address).expect("a connection");
        socket.pause_accept().expect("a filter");
        let late = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(50));
        assert_eq!(late.expect_err("its SYN is dropped").kind(), io::ErrorKind::TimedOut);
        let accepting = tcp(OpenSocket { socket: socket.socket.try_clone().expect("a handle"), file: None });
        drop(accepting.accept().expect("the queued client"));
        assert_eq!(early.read(&mut [0]).expect("closed without a reset"), 0);
        socket.resume_accept().expect("no filter");
        TcpStream::connect(address).expect("accepted again");
    }
}
