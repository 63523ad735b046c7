//! A connection to a client: receives requests and sends their responses, one at a time.
//!
//! [`Http1ResponseWriter::start`] decides whether the connection persists, and announces that in the head of
//! the response. [`ServerConnection::next`] returns the decision after the exchange.

mod request_body;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;

use http::Version;

use crate::http1::body::{BodyLength, BodyReader, BodyWriter};
use crate::http1::framing::{self, Framing, Sender};
use crate::http1::head::{HeadError, HeadLimits, RequestHead, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http1::persistence::keeps_alive;
use crate::http1::resources::Resources;
use crate::transport::Transport;

pub use request_body::Http1RequestBody;

/// A connection to a client, on which `lb` is the server.
#[derive(Debug)]
pub struct ServerConnection {
    transport: Transport,
    /// Bytes that have been received and not yet consumed.
    input: Vec<u8>,
    progress: ServerProgress,
}

/// The state of the current request and its response, shared by the two halves of a [`ServerStream`].
#[derive(Debug, Default)]
struct ServerProgress {
    /// Whether the client would keep the connection open for another request.
    keeps_alive: Cell<bool>,
    /// Whether the request has a body or, if its framing is invalid, may have one.
    has_body: Cell<bool>,
    /// Whether the whole request has been received.
    received: Cell<bool>,
    response: Cell<ResponseState>,
    /// Whether the connection stays open for another request after the response.
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
    /// The connection has become a tunnel.
    Tunnel,
}

impl ServerProgress {
    /// Whether a response that starts now leaves the connection open; `has_end` is whether it can end before the
    /// connection does.
    fn persists(&self, has_end: bool, closing: bool) -> bool {
        self.keeps_alive.get() && self.received.get() && has_end && !closing
    }

    /// See [`ServerConnection::next`]; `has_input` is whether the client has sent more than the request.
    fn next(&self, closing: bool, has_input: bool) -> Next {
        let client_closes = !self.keeps_alive.get() && !self.has_body.get() && !has_input;
        match self.response.get() {
            ResponseState::Complete if self.persistent.get() && !closing => Next::Request,
            // There are no unread bytes that would make the system reset the connection.
            ResponseState::Complete if client_closes => Next::Close,
            ResponseState::Complete | ResponseState::Tunnel => Next::Linger,
            ResponseState::NotStarted | ResponseState::Interim | ResponseState::Started => Next::Close,
        }
    }
}

/// The next step of a connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read another request.
    Request,
    /// Close it once the client has had time to read the whole response.
    Linger,
    /// Close it at once.
    Close,
}

impl ServerConnection {
    /// A connection on which nothing has been received yet.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self { transport, input: Vec::new(), progress: ServerProgress::default() }
    }

    /// Our own address, if it has one.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.transport.local_address()
    }

    /// The connection and what has been received of it, for what comes before the first request.
    #[must_use]
    pub fn into_parts(self) -> (Transport, Vec<u8>) {
        (self.transport, self.input)
    }

    /// The same, borrowed.
    pub fn start(&mut self) -> (&Transport, &mut Vec<u8>) {
        (&self.transport, &mut self.input)
    }

    /// Waits for the head of the next request; `None` if the connection ends first. `limits` is called each
    /// time a part of the head has been received, and returns the limits that apply to the head.
    ///
    /// # Errors
    /// If the head is invalid or exceeds the limits.
    pub async fn read_head(
        &mut self,
        resources: &Resources,
        limits: impl Fn() -> HeadLimits,
    ) -> Result<Option<RequestHead>, HeadError> {
        loop {
            // Empty lines before a head are ignored (RFC 9112, section 2.2), and do not start its timeout.
            while self.input.starts_with(b"\r\n") {
                self.input.drain(..2);
            }
            self.release(resources);
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

    /// Starts the exchange for a request whose head was read. A response that starts while `closing` is set is
    /// the last one on the connection.
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
        let reader =
            BodyReader::new(transport, input, &resources.buffers, Sender::Client, framing.unwrap_or(Framing::None));
        ServerStream {
            body: Http1RequestBody { reader, progress, length: framing.map(BodyLength::from) },
            response: Http1ResponseWriter {
                transport,
                resources,
                progress,
                closing,
                version: head.version,
                writer: None,
                started: ResponseState::Started,
            },
        }
    }

    /// Returns a writer for the response to an invalid head, which is the last one on the connection.
    pub fn respond_to_bad_head<'c>(
        &'c mut self,
        resources: &'c Resources,
        closing: &'c Cell<bool>,
    ) -> Http1ResponseWriter<'c> {
        self.progress = ServerProgress { has_body: Cell::new(true), ..ServerProgress::default() };
        let Self { transport, progress, .. } = self;
        let (version, started) = (Version::HTTP_11, ResponseState::Started);
        Http1ResponseWriter { transport, resources, progress, closing, version, writer: None, started }
    }

    /// The next step of the connection after the exchange; `closing` rules out another request, even if the
    /// response has announced that one may follow.
    #[must_use]
    pub fn next(&self, closing: bool) -> Next {
        self.progress.next(closing, !self.input.is_empty())
    }

    /// Tells the client that nothing follows a complete response, before the connection is closed.
    pub fn announce_end(&self) {
        if self.progress.response.get() == ResponseState::Complete {
            // If it fails, the client is gone.
            let _ = self.transport.announce_end();
        }
    }

    /// Closes the connection in a way that lets the client read the whole response: discards incoming bytes
    /// until the client closes too, because closing with unread bytes would make the system reset the
    /// connection (RFC 9112, section 9.6). `goes_on` is called with the number of bytes of each read, and returns
    /// whether to wait for more.
    pub async fn linger(&mut self, resources: &Resources, mut goes_on: impl FnMut(usize) -> bool) {
        self.input.clear();
        self.release(resources);
        if self.transport.shutdown_write().is_err() {
            return;
        }
        let mut more = true;
        while more && let Ok(bytes @ 1..) = self.transport.read(&mut self.input, &resources.buffers).await {
            self.input.clear();
            self.release(resources);
            more = goes_on(bytes);
        }
    }

    /// Whether the client may still be sending the request that was responded to, or bytes of a tunnel.
    #[must_use]
    pub fn may_be_sending(&self) -> bool {
        !self.progress.received.get() || self.progress.response.get() == ResponseState::Tunnel
    }

    /// Puts the input buffer back if it is empty.
    fn release(&mut self, resources: &Resources) {
        resources.buffers.release(&mut self.input);
    }
}

/// A request and its response: two halves that are used at the same time.
#[derive(Debug)]
pub struct ServerStream<'c> {
    pub body: Http1RequestBody<'c>,
    pub response: Http1ResponseWriter<'c>,
}

#[derive(Debug)]
pub struct Http1ResponseWriter<'c> {
    transport: &'c Transport,
    resources: &'c Resources,
    progress: &'c ServerProgress,
    closing: &'c Cell<bool>,
    /// The client's HTTP version.
    version: Version,
    writer: Option<BodyWriter<'c>>,
    /// The state of the response once the current piece has been sent.
    started: ResponseState,
}

impl Http1ResponseWriter<'_> {
    /// Whether the client may have received a part of a response, so that no other can be sent.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.progress.response.get() != ResponseState::NotStarted
    }

    /// Makes this response the last one on the connection, because the client's next bytes could be misread.
    pub fn close_after(&mut self) {
        self.progress.keeps_alive.set(false);
        self.progress.has_body.set(true);
    }

    /// Makes the connection close without lingering, although the response or the tunnel has not ended.
    pub fn close_at_once(&mut self) {
        self.progress.response.set(ResponseState::Started);
    }

    /// Sends an interim response (1xx), unless the client speaks HTTP/1.0, which has none.
    ///
    /// # Errors
    /// The system's error.
    pub async fn send_interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        if self.version == Version::HTTP_10 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        bytes.extend_from_slice(b"\r\n");
        // If the write is cancelled halfway, nothing else can be sent on the connection.
        self.progress.response.set(ResponseState::Interim);
        let mut rest = self.transport.write_now([&bytes], &mut 0)?;
        while !rest.is_empty() {
            self.transport.write_more(&mut rest, &mut 0).await?;
        }
        self.progress.response.set(ResponseState::NotStarted);
        Ok(())
    }

    /// Starts the response; its head is sent with the first piece. `upgrade` is the protocol that a 101 switches to.
    ///
    /// Until the first piece is sent, another response can be started instead.
    pub fn start(&mut self, head: &ResponseHead, length: BodyLength, upgrade: Option<&[u8]>) {
        let progress = self.progress;
        let is_http_10 = self.version == Version::HTTP_10;
        // For HTTP/1.0, a body of unknown length ends with the connection.
        let chunked = length == BodyLength::Unknown && !is_http_10;
        let has_end = chunked || length != BodyLength::Unknown;
        let persistent = progress.persists(has_end, self.closing.get());
        progress.persistent.set(persistent);
        self.started = if upgrade.is_some() { ResponseState::Tunnel } else { ResponseState::Started };

        let mut bytes = self.resources.buffers.take();
        head.write(&mut bytes);
        if let Some(protocol) = upgrade {
            line(&mut bytes, "Connection", b"upgrade");
            line(&mut bytes, "Upgrade", protocol);
        } else if !persistent {
            line(&mut bytes, "Connection", b"close");
        } else if is_http_10 {
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

    /// Sends a piece of the body. `end` is set for the last one, and holds the trailers.
    ///
    /// # Errors
    /// The system's error.
    pub async fn send(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<()> {
        if self.offer(piece, end)? { Ok(()) } else { self.flush().await }
    }

    /// Like [`Http1ResponseWriter::send`], but without waiting. False if some of it is left for
    /// [`Http1ResponseWriter::flush`]; the piece is no longer needed.
    ///
    /// # Errors
    /// The system's error.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        let Some(writer) = &mut self.writer else { return Ok(true) };
        self.progress.response.set(self.started);
        if end.is_some() {
            self.started = ResponseState::Complete;
        }
        let all = writer.offer(piece, end)?;
        if all {
            self.progress.response.set(self.started);
        }
        Ok(all)
    }

    /// Like [`Http1ResponseWriter::offer`], for bytes of a tunnel.
    ///
    /// # Errors
    /// The system's error.
    pub fn offer_raw(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Some(writer) = &mut self.writer else { return Ok(true) };
        writer.offer_raw(bytes)
    }

    /// Sends what is left of a piece.
    ///
    /// # Errors
    /// The system's error.
    pub async fn flush(&mut self) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.flush().await?;
        self.progress.response.set(self.started);
        Ok(())
    }

    /// Ends this direction of a tunnel.
    ///
    /// # Errors
    /// The system's error.
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

#[cfg(test)]
mod tests;
