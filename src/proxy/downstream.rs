//! The client's side of a request, in whatever protocol it came.

use std::io;

use http::Version;

use crate::http1::body::{BodyError, BodyLength};
use crate::http1::head::ResponseHead;
use crate::http1::rejection::Rejection;
use crate::http1::server::{self, ServerStream};
use crate::http2::server::{Http2RequestBody, Http2ResponseWriter, Http2Stream};
use crate::proxy::error::{Blame, ProxyError};
#[cfg(test)]
use crate::proxy::memory;

/// A request's body and its response.
#[derive(Debug)]
pub enum Downstream<'c> {
    /// The current request of an HTTP/1 connection.
    Http1(ServerStream<'c>),
    /// A stream of an HTTP/2 connection.
    Http2(Http2Stream<'c>),
    /// Memory.
    #[cfg(test)]
    Memory(memory::MemoryRequest),
}

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody<'c> {
    /// See [`Downstream::Http1`].
    Http1(server::Http1RequestBody<'c>),
    /// See [`Downstream::Http2`].
    Http2(Http2RequestBody),
    /// Memory.
    #[cfg(test)]
    Memory(memory::MemoryBody),
}

/// The response to a request.
#[derive(Debug)]
pub enum ResponseWriter<'c> {
    /// See [`Downstream::Http1`].
    Http1(server::Http1ResponseWriter<'c>),
    /// See [`Downstream::Http2`].
    Http2(Http2ResponseWriter<'c>),
    /// Memory.
    #[cfg(test)]
    Memory(memory::MemoryResponse),
}

impl<'c> Downstream<'c> {
    /// Both halves, which are used at the same time.
    #[must_use]
    pub fn split(self) -> (RequestBody<'c>, ResponseWriter<'c>) {
        match self {
            Self::Http1(stream) => (RequestBody::Http1(stream.body), ResponseWriter::Http1(stream.response)),
            Self::Http2(stream) => (RequestBody::Http2(stream.body), ResponseWriter::Http2(stream.response)),
            #[cfg(test)]
            Self::Memory(request) => (RequestBody::Memory(request.body), ResponseWriter::Memory(request.response)),
        }
    }
}

impl RequestBody<'_> {
    /// The length that the request's head declares.
    ///
    /// # Errors
    /// [`Rejection::Framing`].
    pub fn length(&self) -> Result<BodyLength, Rejection> {
        match self {
            Self::Http1(body) => body.length(),
            Self::Http2(body) => body.length(),
            #[cfg(test)]
            Self::Memory(body) => Ok(body.length()),
        }
    }

    /// Makes what has already been received the first piece, without waiting for more.
    ///
    /// # Errors
    /// [`BodyError::Malformed`].
    pub fn start(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Http1(body) => body.start(),
            Self::Http2(body) => body.start(),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Consumes the current piece and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the body ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        match self {
            Self::Http1(body) => body.advance().await,
            Self::Http2(body) => body.advance().await,
            #[cfg(test)]
            Self::Memory(body) => Ok(body.advance().await),
        }
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        match self {
            Self::Http1(body) => body.piece(),
            Self::Http2(body) => body.piece(),
            #[cfg(test)]
            Self::Memory(body) => body.piece(),
        }
    }

    /// The trailer section, each line with its CRLF, once the body is complete.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Http1(body) => body.trailers(),
            Self::Http2(body) => body.trailers(),
            #[cfg(test)]
            Self::Memory(_) => b"",
        }
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_done(),
            Self::Http2(body) => body.is_done(),
            #[cfg(test)]
            Self::Memory(body) => body.is_done(),
        }
    }

    /// Drops the current piece.
    pub fn consume_piece(&mut self) {
        match self {
            Self::Http1(body) => body.consume_piece(),
            Self::Http2(body) => body.consume_piece(),
            #[cfg(test)]
            Self::Memory(body) => body.consume_piece(),
        }
    }

    /// Drops the current piece and gives its memory back: the server may accept no more for long.
    pub fn release_piece(&mut self) {
        match self {
            Self::Http1(body) => body.release_piece(),
            Self::Http2(body) => body.release_piece(),
            #[cfg(test)]
            Self::Memory(body) => body.consume_piece(),
        }
    }

    /// Whether its client can give up the request without its connection.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Waits until the client ends its side. Up to `limit` bytes that follow the current piece are read ahead.
    ///
    /// # Errors
    /// If the client gives the request up.
    pub async fn ended(&mut self, limit: usize) -> io::Result<()> {
        match self {
            Self::Http1(body) => body.ended(limit).await,
            Self::Http2(body) => {
                body.reset().await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            #[cfg(test)]
            Self::Memory(_) => std::future::pending().await,
        }
    }

    /// Waits until the client, which has ended its side, gives the request up.
    pub async fn reset(&self) {
        match self {
            Self::Http1(body) => body.reset().await,
            Self::Http2(body) => body.reset().await,
            #[cfg(test)]
            Self::Memory(_) => std::future::pending().await,
        }
    }

    /// Makes everything that follows the body of a tunnel.
    pub fn tunnel(&mut self) {
        match self {
            Self::Http1(body) => body.tunnel(),
            Self::Http2(body) => body.tunnel(),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }
}

impl ResponseWriter<'_> {
    /// Whether the client may have seen a part of a response, so that no other one can be sent.
    #[must_use]
    pub fn is_started(&self) -> bool {
        match self {
            Self::Http1(response) => response.is_started(),
            Self::Http2(response) => response.is_started(),
            #[cfg(test)]
            Self::Memory(response) => response.is_started(),
        }
    }

    /// The version of HTTP that the client speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::HTTP_11,
            Self::Http2(_) => Version::HTTP_2,
            #[cfg(test)]
            Self::Memory(_) => Version::HTTP_11,
        }
    }

    /// Gives up a response that has started, so that its client does not take it for a whole one. An HTTP/1 connection ends
    /// with it.
    pub fn abandon(&mut self, error: ProxyError) {
        match self {
            Self::Http1(_) => {}
            Self::Http2(response) => response.abandon(error.blame() == Blame::Client),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// Ends a response that has started with these trailers. False if that cannot be: the protocol has no way, or the client
    /// has not accepted all of the last piece.
    pub fn cut(&mut self, trailers: &[u8]) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(response) => response.cut(trailers),
            #[cfg(test)]
            Self::Memory(_) => false,
        }
    }

    /// Makes the response the last one of its connection.
    pub fn close_after(&mut self) {
        match self {
            Self::Http1(response) => response.close_after(),
            // What follows a request in HTTP/2 cannot be misread.
            Self::Http2(_) => {}
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// Makes the connection close without waiting for the client, which has had its time.
    pub fn close_at_once(&mut self) {
        match self {
            Self::Http1(response) => response.close_at_once(),
            Self::Http2(response) => response.abandon(true),
            #[cfg(test)]
            Self::Memory(_) => {}
        }
    }

    /// Sends an interim response (1xx), if the client can take it.
    ///
    /// # Errors
    /// If the client is gone.
    pub async fn send_interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        match self {
            Self::Http1(response) => response.send_interim(head).await,
            Self::Http2(response) => response.send_interim(head),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Starts the response; its head may go out with the first piece. `upgrade` is the protocol that a 101 switches to.
    pub fn start(&mut self, head: &ResponseHead, length: BodyLength, upgrade: Option<&[u8]>) {
        match self {
            Self::Http1(response) => response.start(head, length, upgrade),
            Self::Http2(response) => response.start(head),
            #[cfg(test)]
            Self::Memory(response) => response.start(head),
        }
    }

    /// Sends a piece of the body; `end` marks the last one and has the trailers.
    ///
    /// # Errors
    /// If the client is gone.
    pub async fn send(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<()> {
        match self {
            Self::Http1(response) => response.send(piece, end).await,
            Self::Http2(response) => response.send(piece, end).await,
            #[cfg(test)]
            Self::Memory(response) => {
                response.send(piece, end.is_some());
                Ok(())
            }
        }
    }

    /// Like [`ResponseWriter::send`], but without waiting. False if some of it is left for [`ResponseWriter::flush`]; the
    /// piece is no longer needed.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        match self {
            Self::Http1(response) => response.offer(piece, end),
            Self::Http2(response) => response.offer(piece, end),
            #[cfg(test)]
            Self::Memory(response) => {
                response.send(piece, end.is_some());
                Ok(true)
            }
        }
    }

    /// Like [`ResponseWriter::offer`], for bytes of a tunnel.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn offer_raw(&mut self, bytes: &[u8]) -> io::Result<bool> {
        match self {
            Self::Http1(response) => response.offer_raw(bytes),
            Self::Http2(response) => response.offer(bytes, None),
            #[cfg(test)]
            Self::Memory(response) => {
                response.send(bytes, false);
                Ok(true)
            }
        }
    }

    /// Sends what is left of a piece.
    ///
    /// # Errors
    /// If the client is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(response) => response.flush().await,
            Self::Http2(response) => response.flush().await,
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Ends this direction of a tunnel.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(response) => response.shutdown(),
            Self::Http2(response) => response.offer(b"", Some(b"")).map(drop),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }
}
