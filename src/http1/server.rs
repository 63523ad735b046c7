//! The connection to a client: reads requests and writes their responses, one after the other.
//!
//! Persistence is decided here and nowhere else: [`Http1ResponseWriter::start`] announces it in the head of
//! a response, [`ServerConnection::next`] acts on it.

use std::cell::Cell;
use std::io;

use http::Version;

use crate::http1::body::{BodyError, BodyLength, BodyReader, BodyWriter};
use crate::http1::framing::{self, Framing};
use crate::http1::head::{HeadError, HeadLimits, RequestHead, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http1::persistence::keeps_alive;
use crate::http1::rejection::Rejection;
use crate::http1::resources::Resources;
use crate::transport::Transport;

/// A client connection.
#[derive(Debug)]
pub struct ServerConnection {
    transport: Transport,
    /// Received and not consumed yet.
    input: Vec<u8>,
    progress: ServerProgress,
}

/// The state of the current request and its response, shared by the two halves of a [`ServerStream`].
#[derive(Debug, Default)]
struct ServerProgress {
    /// The client would send another request.
    keeps_alive: Cell<bool>,
    /// The request has a body.
    has_body: Cell<bool>,
    /// The request has been received to its end.
    received: Cell<bool>,
    response: Cell<ResponseState>,
    /// The response leaves the connection open for another request.
    persistent: Cell<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ResponseState {
    #[default]
    NotStarted,
    /// Some of an interim response may have been sent.
    Interim,
    /// Some of the response may have been sent.
    Started,
    Complete,
    /// The connection was a tunnel.
    Tunnel,
}

/// The fate of a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It may carry another request.
    Request,
    /// It is closed once the client has had the chance to read all of the response.
    Linger,
    /// It is closed at once.
    Close,
}

impl ServerConnection {
    /// A connection on which nothing has been received yet.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self { transport, input: Vec::new(), progress: ServerProgress::default() }
    }

    /// Waits for the head of the next request; `None` if the client closes the connection first. `limits` is
    /// called whenever a part of the head has been received, and has to return the limits for it.
    ///
    /// # Errors
    /// If the head is invalid or exceeds the limits.
    pub async fn read_head(
        &mut self,
        resources: &Resources,
        limits: impl Fn() -> HeadLimits,
    ) -> Result<Option<RequestHead>, HeadError> {
        loop {
            if !self.input.is_empty() {
                let mut head = RequestHead::new(resources.heads.take());
                if let Some(length) = head.parse(&self.input, limits())? {
                    self.input.drain(..length);
                    self.release(resources);
                    return Ok(Some(head));
                }
                resources.heads.put(head.headers);
            }
            if !matches!(self.transport.read(&mut self.input, &resources.buffers).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// Starts the exchange for a request whose head was read. While `closing` is set, a response ends the connection.
    pub fn stream<'c>(
        &'c mut self,
        head: &RequestHead,
        resources: &'c Resources,
        closing: &'c Cell<bool>,
    ) -> ServerStream<'c> {
        let framing = framing::request(&head.headers, head.version);
        let has_body = framing.is_ok_and(Framing::has_body);
        self.progress = ServerProgress {
            keeps_alive: Cell::new(keeps_alive(&head.headers, head.version)),
            has_body: Cell::new(has_body || framing.is_err()),
            received: Cell::new(framing.is_ok() && !has_body),
            ..ServerProgress::default()
        };
        let Self { transport, input, progress } = self;
        let reader = BodyReader::new(transport, input, &resources.buffers, framing.unwrap_or(Framing::None));
        ServerStream {
            body: Http1RequestBody { reader, progress, length: framing.map(BodyLength::from) },
            response: Http1ResponseWriter {
                transport,
                resources,
                progress,
                closing,
                version: head.version,
                writer: None,
            },
        }
    }

    /// A writer for the response to something that is not a valid head. The connection cannot be used after it.
    pub fn respond_to_bad_head<'c>(
        &'c mut self,
        resources: &'c Resources,
        closing: &'c Cell<bool>,
    ) -> Http1ResponseWriter<'c> {
        self.progress = ServerProgress { has_body: Cell::new(true), ..ServerProgress::default() };
        let Self { transport, progress, .. } = self;
        Http1ResponseWriter { transport, resources, progress, closing, version: Version::HTTP_11, writer: None }
    }

    /// The fate of the connection after the exchange.
    #[must_use]
    pub fn next(&self) -> Next {
        let progress = &self.progress;
        match progress.response.get() {
            ResponseState::Complete if progress.persistent.get() => Next::Request,
            // The client asked for the end, and sent nothing that could make the system reset the connection.
            ResponseState::Complete
                if !progress.keeps_alive.get() && !progress.has_body.get() && self.input.is_empty() =>
            {
                Next::Close
            }
            ResponseState::Complete => Next::Linger,
            ResponseState::NotStarted | ResponseState::Interim | ResponseState::Started | ResponseState::Tunnel => {
                Next::Close
            }
        }
    }

    /// Closes so that the client can read the last response to its end: bytes that are still coming in are
    /// discarded until the client closes too, because unread bytes would make the system reset the
    /// connection (RFC 9112, section 9.6).
    pub async fn linger(&mut self, resources: &Resources) {
        if self.transport.shutdown_write().is_err() {
            return;
        }
        let mut discarded = Vec::new();
        while matches!(self.transport.read(&mut discarded, &resources.buffers).await, Ok(1..)) {
            discarded.clear();
        }
        resources.buffers.put(discarded);
    }

    /// Puts an empty buffer back.
    pub fn release(&mut self, resources: &Resources) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            resources.buffers.put(std::mem::take(&mut self.input));
        }
    }
}

/// One request and its response. The halves are used at the same time.
#[derive(Debug)]
pub struct ServerStream<'c> {
    /// The body of the request.
    pub body: Http1RequestBody<'c>,
    /// The response.
    pub response: Http1ResponseWriter<'c>,
}

/// The body of a request.
#[derive(Debug)]
pub struct Http1RequestBody<'c> {
    reader: BodyReader<'c>,
    progress: &'c ServerProgress,
    length: Result<BodyLength, Rejection>,
}

impl Http1RequestBody<'_> {
    /// The length that the request's head declares.
    ///
    /// # Errors
    /// [`Rejection::Framing`].
    pub fn length(&self) -> Result<BodyLength, Rejection> {
        self.length
    }

    /// Makes what was received together with the head the first piece, without waiting for more.
    ///
    /// # Errors
    /// [`BodyError::Malformed`].
    pub fn start(&mut self) -> Result<(), BodyError> {
        self.reader.start()?;
        self.note();
        Ok(())
    }

    /// Consumes the current piece and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the body ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        let more = self.reader.advance().await?;
        self.note();
        Ok(more)
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        self.reader.piece()
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Waits until the client closes the connection, while the current piece waits to be sent. Up to `limit` bytes
    /// are read ahead.
    pub async fn closed(&mut self, limit: usize) {
        self.reader.closed(limit).await;
    }

    /// Drops the current piece.
    pub fn consume_piece(&mut self) {
        self.reader.consume_piece();
    }

    /// Makes everything from here to the end of the connection the body.
    pub fn tunnel(&mut self) {
        self.reader.consume_piece();
        self.reader.set_framing(Framing::UntilClose);
    }

    fn note(&self) {
        self.progress.received.set(self.reader.is_done());
    }
}

/// The response to a request.
#[derive(Debug)]
pub struct Http1ResponseWriter<'c> {
    transport: &'c Transport,
    resources: &'c Resources,
    progress: &'c ServerProgress,
    closing: &'c Cell<bool>,
    /// The client's.
    version: Version,
    writer: Option<BodyWriter<'c>>,
}

impl Http1ResponseWriter<'_> {
    /// Whether the client may have seen a part of a response, so that no other one can be sent.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.progress.response.get() != ResponseState::NotStarted
    }

    /// Ends the connection after this response: its next bytes could be taken for something that they are not.
    pub fn close_after(&mut self) {
        self.progress.keeps_alive.set(false);
        self.progress.has_body.set(true);
    }

    /// Sends an interim response (1xx), unless the client speaks HTTP/1.0 and does not know them.
    ///
    /// # Errors
    /// The system's.
    pub async fn send_interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        if self.version == Version::HTTP_10 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        bytes.extend_from_slice(b"\r\n");
        // Cancelled in the middle of it, the connection cannot take anything else.
        self.progress.response.set(ResponseState::Interim);
        self.transport.write([&bytes], &mut 0).await?;
        self.progress.response.set(ResponseState::NotStarted);
        Ok(())
    }

    /// Starts the response; its head goes out with the first piece. `upgrade` is the protocol that a 101 switches to.
    pub fn start(&mut self, head: &ResponseHead, length: BodyLength, upgrade: Option<&[u8]>) {
        let progress = self.progress;
        let is_old = self.version == Version::HTTP_10;
        // For HTTP/1.0, a body of unknown length ends with the connection.
        let chunked = length == BodyLength::Unknown && !is_old;
        let has_end = chunked || length != BodyLength::Unknown;
        let persistent = progress.keeps_alive.get() && progress.received.get() && has_end && !self.closing.get();
        progress.persistent.set(persistent && upgrade.is_none());
        progress.response.set(ResponseState::Started);

        let mut bytes = self.resources.buffers.take();
        head.write(&mut bytes);
        if let Some(protocol) = upgrade {
            line(&mut bytes, "Connection", b"upgrade");
            line(&mut bytes, "Upgrade", protocol);
        } else if !persistent {
            line(&mut bytes, "Connection", b"close");
        } else if is_old {
            line(&mut bytes, "Connection", b"keep-alive");
        }
        if chunked {
            line(&mut bytes, "Transfer-Encoding", b"chunked");
        }
        if !head.headers.has(HeaderName::Date) {
            line(&mut bytes, "Date", self.resources.date().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        self.writer = Some(BodyWriter::new(self.transport, &self.resources.buffers, bytes, chunked));
    }

    /// Sends a piece of the body; `end` marks the last one and has the trailers.
    ///
    /// # Errors
    /// The system's.
    pub async fn send(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.send(piece, end).await?;
        if end.is_some() {
            self.progress.response.set(ResponseState::Complete);
        }
        Ok(())
    }

    /// Sends bytes of a tunnel.
    ///
    /// # Errors
    /// The system's.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.progress.response.set(ResponseState::Tunnel);
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.send_raw(bytes).await
    }

    /// Ends this direction of a tunnel.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.transport.shutdown_write()
    }
}

/// Writes a header line.
pub(super) fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
