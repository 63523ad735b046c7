//! A connected stream socket: TCP or Unix.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{Interest, Ready};
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

impl Socket {
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
