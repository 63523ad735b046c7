//! The server's side of a request, in whatever protocol it is sent.

use std::io;
use std::task::{Context, Poll};

use crate::http1::body::{BodyError, BodyLength};
use crate::http1::client::{self, ClientConnection, OutgoingRequest, ResponseError, Sent};
use crate::http1::head::ResponseHead;
use crate::http1::resources::Resources;
use crate::http2::exchange::{Http2RequestWriter, Http2ResponseReader};
#[cfg(test)]
use crate::proxy::memory;
use crate::proxy::upstream_pool::StreamPlace;

/// A connection to a server.
#[derive(Debug)]
pub enum Upstream {
    /// Over which HTTP/1.1 is spoken.
    Http1(ClientConnection),
    /// A place on one over which HTTP/2 is spoken.
    Http2(StreamPlace),
    /// Memory.
    #[cfg(test)]
    Memory(memory::MemoryServer),
}

/// The sending half of an exchange with a server.
#[derive(Debug)]
pub enum RequestWriter<'c> {
    /// See [`Upstream::Http1`].
    Http1(client::Http1RequestWriter<'c>),
    /// See [`Upstream::Http2`].
    Http2(Http2RequestWriter),
    /// Memory.
    #[cfg(test)]
    Memory(memory::MemorySender),
}

/// The receiving half of an exchange with a server.
#[derive(Debug)]
pub enum ResponseReader<'c> {
    /// See [`Upstream::Http1`].
    Http1(client::Http1ResponseReader<'c>),
    /// See [`Upstream::Http2`].
    Http2(Http2ResponseReader),
    /// Memory.
    #[cfg(test)]
    Memory(memory::MemoryReceiver),
}

impl Upstream {
    /// Starts an exchange; the head of the request may go out with the first piece of its body.
    pub fn start<'c>(
        &'c mut self,
        request: OutgoingRequest<'_>,
        resources: &'c Resources,
    ) -> (RequestWriter<'c>, ResponseReader<'c>) {
        match self {
            Self::Http1(connection) => {
                let (writer, reader) = connection.start(request, resources);
                (RequestWriter::Http1(writer), ResponseReader::Http1(reader))
            }
            Self::Http2(place) => {
                let (writer, reader) = place.client().start(request);
                (RequestWriter::Http2(writer), ResponseReader::Http2(reader))
            }
            #[cfg(test)]
            Self::Memory(server) => {
                let (sender, receiver) = server.start(request);
                (RequestWriter::Memory(sender), ResponseReader::Memory(receiver))
            }
        }
    }

    /// Whether another request may follow the last one.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_reusable(),
            // The pool keeps it.
            Self::Http2(_) => false,
            #[cfg(test)]
            Self::Memory(_) => true,
        }
    }

    /// Whether the server has neither sent anything unasked nor closed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_quiet(),
            Self::Http2(_) => true,
            #[cfg(test)]
            Self::Memory(_) => true,
        }
    }

    /// Tells the server that the connection is about to be closed, if the protocol has a way.
    pub fn announce_end(&self) {
        match self {
            Self::Http1(connection) => connection.announce_end(),
            Self::Http2(_) => {}
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// The error that ended TLS, if one did.
    #[must_use]
    pub fn tls_error(&self) -> Option<rustls::Error> {
        match self {
            Self::Http1(connection) => connection.tls_error(),
            Self::Http2(place) => place.client().tls_error(),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// Ready once the connection may no longer be quiet.
    pub fn poll_stirs(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(connection) => connection.poll_stirs(context),
            Self::Http2(_) => Poll::Pending,
            #[cfg(test)]
            Self::Memory(_) => Poll::Pending,
        }
    }

    /// Like [`Upstream::is_quiet`], but as of now: costs a system call.
    #[must_use]
    pub fn is_quiet_now(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_quiet_now(),
            Self::Http2(_) => true,
            #[cfg(test)]
            Self::Memory(_) => true,
        }
    }
}

impl RequestWriter<'_> {
    /// Sends a piece of the body without waiting; `end` marks the last one and has the trailers. False if some of it is left
    /// for [`RequestWriter::flush`].
    ///
    /// # Errors
    /// If the server accepts no more.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        match self {
            Self::Http1(writer) => writer.offer(piece, end),
            Self::Http2(writer) => writer.offer(piece, end),
            #[cfg(test)]
            Self::Memory(sender) => sender.send(piece, end.is_some()).map(|()| true),
        }
    }

    /// Sends what is left of a piece.
    ///
    /// # Errors
    /// If the server accepts no more.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(writer) => writer.flush().await,
            Self::Http2(writer) => writer.flush().await,
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Whether the system has accepted some of the request.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        match self {
            Self::Http1(writer) => writer.has_begun(),
            Self::Http2(writer) => writer.has_begun(),
            #[cfg(test)]
            Self::Memory(_) => true,
        }
    }

    /// Whether the server may refuse the request after it has been sent, so that it is to be kept.
    #[must_use]
    pub fn may_be_refused(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// The part of the request that has been sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        match self {
            Self::Http1(writer) => writer.sent(),
            Self::Http2(writer) => writer.sent(),
            #[cfg(test)]
            Self::Memory(_) => Sent::All,
        }
    }

    /// Like [`RequestWriter::offer`], for bytes of a tunnel.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn offer_raw(&mut self, bytes: &[u8]) -> io::Result<bool> {
        match self {
            Self::Http1(writer) => writer.offer_raw(bytes),
            Self::Http2(writer) => writer.offer_raw(bytes),
            #[cfg(test)]
            Self::Memory(sender) => sender.send(bytes, false).map(|()| true),
        }
    }

    /// Ends this direction of a tunnel.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(writer) => writer.shutdown(),
            Self::Http2(writer) => writer.shutdown(),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }
}

impl ResponseReader<'_> {
    /// Waits for the head of a response, which may be an interim one (1xx).
    ///
    /// # Errors
    /// If there is none, or none that is valid.
    pub async fn read_head(&mut self, head: &mut ResponseHead) -> Result<(), ResponseError> {
        match self {
            Self::Http1(reader) => reader.read_head(head).await,
            Self::Http2(reader) => reader.read_head(head).await,
            #[cfg(test)]
            Self::Memory(receiver) => receiver.read_head(head).await,
        }
    }

    /// The length of the body, once the final head has been read.
    #[must_use]
    pub fn length(&self) -> BodyLength {
        match self {
            Self::Http1(reader) => reader.length(),
            Self::Http2(reader) => reader.length(),
            #[cfg(test)]
            Self::Memory(receiver) => receiver.length(),
        }
    }

    /// Consumes the current piece of the body and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the body ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        match self {
            Self::Http1(reader) => reader.advance().await,
            Self::Http2(reader) => reader.advance().await,
            #[cfg(test)]
            Self::Memory(receiver) => Ok(receiver.advance().await),
        }
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        match self {
            Self::Http1(reader) => reader.piece(),
            Self::Http2(reader) => reader.piece(),
            #[cfg(test)]
            Self::Memory(receiver) => receiver.piece(),
        }
    }

    /// Consumes the current piece and gives its memory back: the client may accept no more for long.
    pub fn release_piece(&mut self) {
        match self {
            Self::Http1(reader) => reader.release_piece(),
            Self::Http2(reader) => reader.release_piece(),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// The trailer section, each line with its CRLF, once the body is complete.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Http1(reader) => reader.trailers(),
            Self::Http2(reader) => reader.trailers(),
            #[cfg(test)]
            Self::Memory(_) => b"",
        }
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Http1(reader) => reader.is_done(),
            Self::Http2(reader) => reader.is_done(),
            #[cfg(test)]
            Self::Memory(receiver) => receiver.is_done(),
        }
    }

    /// Makes everything that follows the body of a tunnel.
    pub fn tunnel(&mut self) {
        match self {
            Self::Http1(reader) => reader.tunnel(),
            // The rest of the stream is that already.
            Self::Http2(_) => {}
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }
}
