//! A connection to a server: sends requests and receives their responses, one at a time.

mod error;

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll};

use http::{Method, Version};

pub use self::error::{BadResponse, ResponseError, Unsendable};
use crate::http1::body::{BodyError, BodyLength, BodyReader, BodyWriter};
use crate::http1::framing::{self, BadFraming, Framing, Sender};
use crate::http1::head::{HeadLimits, RequestHead, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http1::persistence::keeps_alive;
use crate::http1::resources::Resources;
use crate::http1::server::line;
use crate::transport::Transport;

/// The limits for the head of a response.
pub const RESPONSE_LIMITS: HeadLimits = HeadLimits { bytes: 128 * 1024, headers: 256 };

/// A connection to a server, on which `lb` is the client.
#[derive(Debug)]
pub struct ClientConnection {
    transport: Transport,
    /// Bytes that have been received and not yet consumed; empty between exchanges.
    input: Vec<u8>,
    progress: ClientProgress,
}

/// The state of the current exchange, shared by its two halves.
#[derive(Debug, Default)]
struct ClientProgress {
    sent: Cell<Sent>,
    /// Whether the whole response has been received and the server keeps the connection open.
    reusable: Cell<bool>,
}

/// How much of a request has been sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sent {
    /// The connection broke before the system accepted a byte.
    Nothing,
    /// An unknown part, perhaps nothing.
    #[default]
    Part,
    /// All of it.
    All,
}

/// A request as it is sent to a server.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingRequest<'a> {
    pub head: &'a RequestHead,
    /// The target, if it is not the one that the client sent.
    pub target: Option<&'a [u8]>,
    /// The protocol that the client offers to switch to.
    pub upgrade: Option<&'a [u8]>,
    /// The length of its body.
    pub length: BodyLength,
    /// Whether it is the last one on its connection.
    pub closes: bool,
}

impl ClientConnection {
    /// A connection that has carried no request yet.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self { transport, input: Vec::new(), progress: ClientProgress::default() }
    }

    /// Whether the server has neither closed the connection nor sent anything unexpected on it.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.transport.is_quiet()
    }

    /// Tells the server that the connection is about to be closed, with TLS.
    pub fn announce_end(&self) {
        // If it fails, the server learns of it by the end of the connection.
        let _ = self.transport.announce_end();
    }

    /// The error that ended TLS, if one did.
    #[must_use]
    pub fn tls_error(&self) -> Option<rustls::Error> {
        self.transport.tls_error()
    }

    /// Ready once the connection may no longer be quiet.
    pub fn poll_stirs(&self, context: &mut Context<'_>) -> Poll<()> {
        self.transport.poll_stirs(context)
    }

    /// Like [`ClientConnection::is_quiet`], but as of now: costs a system call.
    #[must_use]
    pub fn is_quiet_now(&self) -> bool {
        self.transport.is_quiet_now()
    }

    /// Whether the connection can carry another request.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.progress.reusable.get() && self.progress.sent.get() == Sent::All
    }

    /// Starts an exchange; the head of the request is sent with the first piece of its body.
    pub fn start<'c>(
        &'c mut self,
        request: OutgoingRequest<'_>,
        resources: &'c Resources,
    ) -> (Http1RequestWriter<'c>, Http1ResponseReader<'c>) {
        self.progress = ClientProgress::default();
        let Self { transport, input, progress } = self;
        let chunked = request.length == BodyLength::Unknown;
        let head = write_head(request, resources.buffers.take());
        let writer = BodyWriter::new(transport, &resources.buffers, head, chunked);
        let reader = Http1ResponseReader {
            reader: BodyReader::new(transport, input, &resources.buffers, Sender::Server, Framing::None),
            progress,
            method: request.head.method.clone(),
            offers_upgrade: request.upgrade.is_some(),
            framing: Framing::None,
            persistent: false,
        };
        (Http1RequestWriter { writer, progress, transport, ends: false }, reader)
    }
}

fn write_head(request: OutgoingRequest<'_>, mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(request.head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.target.unwrap_or(request.head.target()));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    request.head.headers.write(&mut out);
    if request.length == BodyLength::Unknown {
        line(&mut out, "Transfer-Encoding", b"chunked");
    }
    if let Some(protocol) = request.upgrade {
        line(&mut out, "Connection", b"upgrade");
        line(&mut out, "Upgrade", protocol);
    } else if request.closes {
        line(&mut out, "Connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The sending half of an exchange.
#[derive(Debug)]
pub struct Http1RequestWriter<'c> {
    writer: BodyWriter<'c>,
    progress: &'c ClientProgress,
    transport: &'c Transport,
    /// Whether the current piece is the last.
    ends: bool,
}

impl Http1RequestWriter<'_> {
    /// Sends a piece of the body without waiting; `end` marks the last one and has the trailers. False if some of it is left
    /// for [`Http1RequestWriter::flush`].
    ///
    /// # Errors
    /// The system's error.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        self.ends = end.is_some();
        let result = self.writer.offer(piece, end);
        if !matches!(result, Ok(false)) {
            self.note(result.is_ok());
        }
        result
    }

    /// Sends what is left of a piece.
    ///
    /// # Errors
    /// The system's error.
    pub async fn flush(&mut self) -> io::Result<()> {
        let result = self.writer.flush().await;
        self.note(result.is_ok());
        result
    }

    /// Notes how much of the request has been sent when a piece has, or could not be.
    fn note(&self, ok: bool) {
        if ok && self.ends {
            self.progress.sent.set(Sent::All);
        } else if !ok && !self.has_begun() {
            self.progress.sent.set(Sent::Nothing);
        }
    }

    /// Whether the system has accepted some of the request.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.writer.sent() > 0
    }

    /// How much of the request has been sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.progress.sent.get()
    }

    /// Like [`Http1RequestWriter::offer`], for bytes of a tunnel.
    ///
    /// # Errors
    /// The system's error.
    pub fn offer_raw(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.writer.offer_raw(bytes)
    }

    /// Ends this direction of a tunnel.
    ///
    /// # Errors
    /// The system's error.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.transport.shutdown_write()
    }
}

/// The receiving half of an exchange.
#[derive(Debug)]
pub struct Http1ResponseReader<'c> {
    reader: BodyReader<'c>,
    progress: &'c ClientProgress,
    /// The request's method, on which the framing of the response depends.
    method: Method,
    offers_upgrade: bool,
    framing: Framing,
    /// Whether the server keeps the connection open after this response.
    persistent: bool,
}

impl Http1ResponseReader<'_> {
    /// Waits for the head of a response, which may be an interim one (1xx).
    ///
    /// # Errors
    /// [`ResponseError`].
    pub async fn read_head(&mut self, head: &mut ResponseHead) -> Result<(), ResponseError> {
        loop {
            let input = self.reader.input();
            if !input.is_empty()
                && let Some(length) = head.parse(input, RESPONSE_LIMITS).map_err(BadResponse::Head)?
            {
                input.drain(..length);
                return if head.is_interim() { Ok(()) } else { self.accept(head) };
            }
            let is_empty = input.is_empty();
            if !matches!(self.reader.read().await, Ok(1..)) {
                return Err(match is_empty {
                    true => ResponseError::Closed(self.progress.sent.get()),
                    false => ResponseError::TruncatedHead,
                });
            }
        }
    }

    fn accept(&mut self, head: &mut ResponseHead) -> Result<(), ResponseError> {
        let framing = framing::response(&head.headers, head.version, head.status, &self.method)
            .map_err(|BadFraming| BadResponse::Framing)?;
        if head.status == 101 && !(self.offers_upgrade && head.headers.has(HeaderName::Upgrade)) {
            return Err(BadResponse::Switch.into());
        }
        framing::normalise_length(&mut head.headers);
        self.framing = framing;
        self.reader.set_framing(framing);
        self.persistent = framing != Framing::UntilClose
            && head.status != 101
            && head.version == Version::HTTP_11
            && keeps_alive(&head.headers, head.version);
        Ok(())
    }

    /// The length of the body, once the final head has been read.
    #[must_use]
    pub fn length(&self) -> BodyLength {
        self.framing.into()
    }

    /// Consumes the current piece of the body and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the body is malformed or ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        self.reader.advance().await
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        self.reader.piece()
    }

    /// Consumes the current piece and gives its memory back.
    pub fn release_piece(&mut self) {
        self.reader.release_piece();
    }

    /// The trailer section, each line with its CRLF; empty until [`Http1ResponseReader::is_done`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        self.reader.trailers()
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Treats everything from here to the end of the connection as the body.
    pub fn tunnel(&mut self) {
        self.reader.tunnel();
    }
}

impl Drop for Http1ResponseReader<'_> {
    fn drop(&mut self) {
        // Bytes after the response belong to no request, so the connection must not carry another one.
        self.progress.reusable.set(self.persistent && self.reader.is_clean());
    }
}
