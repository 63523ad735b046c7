//! The connection of a check, with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::HttpProtocol;
use crate::tls::client::UpstreamTls;
use crate::tls::failure::{TlsError, TlsFailure};
use crate::transport::Socket;

/// A connection to a server.
#[derive(Debug)]
pub(super) enum CheckStream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl CheckStream {
    /// Makes the handshake of a new connection, without resuming a session: the server's certificate is verified each time.
    /// Also returns the protocol that the server has chosen.
    pub(super) async fn with_tls(stream: Socket, tls: &UpstreamTls) -> Result<(Self, HttpProtocol), TlsError> {
        let connector = TlsConnector::from(Arc::clone(tls.for_check()));
        let connected = connector.connect(tls.name().clone(), stream).await;
        let stream = connected.map_err(|error| match tls_error(&error) {
            Some(error) => TlsError::new(error, tls.name(), true),
            None => TlsError::closed(),
        })?;
        let protocol = tls.protocol(stream.get_ref().1.alpn_protocol())?;
        Ok((Self::Tls(Box::new(stream)), protocol))
    }

    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.peer_address(),
            Self::Tls(stream) => stream.get_ref().0.peer_address(),
        }
    }
}

/// Why TLS has failed, if an error is about that.
pub(super) fn tls_failure(error: &io::Error) -> Option<TlsFailure> {
    tls_error(error).map(|error| TlsFailure::of(error, false))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Calls a method that both kinds of stream have.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            CheckStream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            CheckStream::Tls($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for CheckStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for CheckStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => stream.poll_shutdown(context))
    }
}
