//! Listening sockets: TCP or Unix.

use std::future::poll_fn;
use std::io;
use std::net;
use std::os::unix::net as unix;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};

use super::{Peer, Socket};
use crate::config::{SocketAddress, SocketPath};

/// A listening socket that no runtime polls yet. Does not block.
#[derive(Debug)]
pub enum ListeningSocket {
    Tcp(net::TcpListener),
    Unix(unix::UnixListener),
}

/// A listening socket of a runtime.
#[derive(Debug)]
pub enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl ListeningSocket {
    /// A second handle: both accept from the same queue.
    ///
    /// # Errors
    /// If there is no descriptor for it.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// The address that it is bound to, with the port that the system chose if that was left to it.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddress> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(SocketAddress::Ip),
            Self::Unix(socket) => Some(SocketAddress::Unix(SocketPath::new(socket.local_addr().ok()?.as_pathname()?))),
        }
    }

    /// The options that both kinds have.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        }
    }
}

impl Acceptor {
    /// Accepts clients on the current runtime.
    ///
    /// # Errors
    /// If the runtime cannot poll the socket.
    pub fn new(socket: ListeningSocket) -> io::Result<Self> {
        match socket {
            ListeningSocket::Tcp(socket) => TcpListener::from_std(socket).map(Self::Tcp),
            ListeningSocket::Unix(socket) => UnixListener::from_std(socket).map(Self::Unix),
        }
    }

    /// Accepts the next client.
    ///
    /// # Errors
    /// The system's error.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// Accepts a client that is in the queue.
    ///
    /// # Errors
    /// The system's error.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        match self {
            Self::Tcp(socket) => {
                socket.poll_accept(context).map_ok(|(stream, peer)| (Socket::Tcp(stream), peer.into()))
            }
            Self::Unix(socket) => socket.poll_accept(context).map_ok(|(stream, _)| (Socket::Unix(stream), Peer::Unix)),
        }
    }
}

impl From<TcpListener> for Acceptor {
    fn from(socket: TcpListener) -> Self {
        Self::Tcp(socket)
    }
}
