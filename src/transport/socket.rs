//! A connected stream socket: TCP or Unix.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls a method that both kinds of socket have.
macro_rules! either {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

/// A connected stream socket that no runtime polls.
#[derive(Debug)]
pub enum DetachedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl DetachedSocket {
    /// Hands the socket to the current runtime.
    ///
    /// # Errors
    /// If the runtime cannot poll it.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

impl Socket {
    /// Takes the socket from its runtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(DetachedSocket::Tcp),
            Self::Unix(stream) => stream.into_std().map(DetachedSocket::Unix),
        }
    }

    /// The address of the other end; `None` for a Unix socket.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The address of this end; `None` for a Unix socket.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Whether it is connected to itself: if nothing listens on a local port, the kernel may assign that very port to our
    /// end.
    #[must_use]
    pub fn is_connected_to_itself(&self) -> bool {
        self.peer_address().is_some_and(|peer| self.local_address() == Some(peer))
    }

    /// Ready once there may be something to read.
    ///
    /// # Errors
    /// If the runtime ends.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(context))
    }

    /// Ready once the system may accept more.
    ///
    /// # Errors
    /// If the runtime ends.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(context))
    }

    /// Waits for one of `interest`.
    ///
    /// # Errors
    /// If the runtime ends.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, stream => stream.ready(interest).await)
    }

    /// Reads into `buffer` without waiting.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(buffer))
    }

    /// Appends to `buffer`, within its capacity, without waiting.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_read_buf(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        either!(self, stream => stream.try_read_buf(buffer))
    }

    /// Tells the runtime that there is nothing to read, which saves the system call that would find out.
    pub fn clear_readable(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = either!(self, stream => stream.try_io(Interest::READABLE, nothing));
    }

    /// Writes without waiting.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_write(bytes))
    }

    /// Writes without waiting.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.try_write_vectored(slices))
    }

    /// Ends the sending direction.
    ///
    /// # Errors
    /// The system's error.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.options().shutdown(Shutdown::Write)
    }

    /// Makes the system ask a silent peer whether it is still there. A Unix peer cannot vanish without notice.
    pub fn set_keepalive(&self, keepalive: &TcpKeepalive) {
        if let Self::Tcp(stream) = self {
            // If setting it fails, the connection still works.
            let _ = SockRef::from(stream).set_tcp_keepalive(keepalive);
        }
    }

    /// Limits what the system queues beyond the bytes in flight. A Unix socket has no such limit.
    pub fn set_unsent(&self, bytes: u32) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Self::Tcp(stream) = self {
            // If setting it fails, the connection still works.
            let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
        }
    }

    /// The options that both kinds have.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        either!(self, stream => SockRef::from(stream))
    }
}

/// For code that is not on the request path.
impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}
