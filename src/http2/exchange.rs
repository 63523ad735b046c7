//! One stream to a server: a request and its response.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::Method;

use crate::http1::body::{BodyError, BodyLength};
use crate::http1::client::{BadResponse, OutgoingRequest, ResponseError, Sent};
use crate::http1::head::ResponseHead;
use crate::http2::client::Pulse;
use crate::http2::{fields, request_head, response_head, websocket};

/// The sending half of an exchange.
#[derive(Debug)]
pub struct Http2RequestWriter {
    /// `None` if the head could not be sent.
    stream: Option<SendStream<Bytes>>,
    sent: Rc<Cell<Sent>>,
    /// The rest of the current piece, which waits for the server's window.
    pending: Bytes,
    /// The trailers that follow it, if it is the last.
    end: Option<Vec<u8>>,
    /// Whether a piece has been sent.
    has_sent: bool,
}

/// The receiving half of an exchange.
#[derive(Debug)]
pub struct Http2ResponseReader {
    state: ReaderState,
    sent: Rc<Cell<Sent>>,
    method: Method,
    /// `Sec-WebSocket-Accept`, if the request asks for a WebSocket.
    accept: Option<String>,
    length: BodyLength,
    piece: Bytes,
    /// The bytes of the window that the current piece occupies, until the client has been sent it.
    occupied: usize,
    /// Set while the client does not read.
    stalled: Option<Stalled>,
    pulse: Rc<Pulse>,
    trailers: Vec<u8>,
    is_done: bool,
}

/// Counts a stream whose client does not read.
#[derive(Debug)]
struct Stalled(Rc<Pulse>);

impl Stalled {
    fn new(pulse: &Rc<Pulse>) -> Self {
        pulse.stall();
        Self(Rc::clone(pulse))
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.0.resume();
    }
}

#[derive(Debug)]
enum ReaderState {
    /// There is no stream, for this reason.
    Failed(ResponseError),
    Head(ResponseFuture),
    Body(RecvStream),
}

/// Starts a stream with the head of the request.
pub(super) fn start(
    mut requests: SendRequest<Bytes>,
    request: OutgoingRequest<'_>,
    (is_secure, offers_websocket): (bool, bool),
    pulse: &Rc<Pulse>,
) -> (Http2RequestWriter, Http2ResponseReader) {
    let ends = !request.length.has_body();
    let sent = Rc::new(Cell::new(if ends { Sent::All } else { Sent::Part }));
    let accept = websocket::accept(request);
    let is_whole = ends && accept.is_none();
    let started = request_head::request(request, is_secure, offers_websocket)
        .map_err(ResponseError::Unsendable)
        .and_then(|head| requests.send_request(head, is_whole).map_err(|error| failure(&error, Sent::Nothing, pulse)));
    let (stream, state) = match started {
        Ok((response, stream)) => (Some(stream), ReaderState::Head(response)),
        Err(error) => {
            sent.set(Sent::Nothing);
            (None, ReaderState::Failed(error))
        }
    };
    let writer = Http2RequestWriter {
        stream: stream.filter(|_| !is_whole),
        sent: Rc::clone(&sent),
        pending: Bytes::new(),
        end: None,
        has_sent: false,
    };
    let reader = Http2ResponseReader {
        state,
        sent,
        method: request.head.method.clone(),
        accept,
        length: BodyLength::None,
        piece: Bytes::new(),
        occupied: 0,
        stalled: None,
        pulse: Rc::clone(pulse),
        trailers: Vec::new(),
        is_done: false,
    };
    (writer, reader)
}

/// Why there is no response: the server has not processed the request if it says so (RFC 9113, section 8.7).
/// An error of another stream may have ended the connection, which says nothing about this one.
fn failure(error: &h2::Error, sent: Sent, pulse: &Pulse) -> ResponseError {
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        ResponseError::Refused
    } else if error.is_library() && !(error.is_go_away() && pulse.has_settings()) {
        BadResponse::Http2.into()
    } else if error.is_reset() {
        ResponseError::Reset(sent)
    } else {
        ResponseError::Closed(sent)
    }
}

impl Http2RequestWriter {
    /// Sends a piece of the body without waiting; `end` marks the last one and has the trailers. False if some of it is left
    /// for [`Http2RequestWriter::flush`].
    ///
    /// # Errors
    /// If the server accepts no more.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        if self.sent.get() == Sent::All && piece.is_empty() {
            return Ok(true);
        }
        self.put(piece, end)
    }

    /// Like [`Http2RequestWriter::offer`], for bytes of a tunnel.
    ///
    /// # Errors
    /// If the server accepts no more.
    pub fn offer_raw(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.put(bytes, None)
    }

    /// Ends this direction of a tunnel.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn shutdown(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stream.send_data(Bytes::new(), true).map_err(io::Error::other)
    }

    fn put(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        self.pending = Bytes::copy_from_slice(piece);
        self.end = end.map(<[u8]>::to_vec);
        // A new stream gets no window before its head is written. So `h2` keeps the first piece, which is no more than a
        // buffer, and the request can still be sent again.
        let is_first = !self.has_sent && !piece.is_empty();
        self.has_sent |= is_first;
        stream.reserve_capacity(piece.len());
        if !is_first && stream.capacity() < piece.len() {
            return Ok(false);
        }
        self.send_part(piece.len()).map(|()| true)
    }

    /// Sends what is left of a piece.
    ///
    /// # Errors
    /// If the server accepts no more.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let granted = match stream.capacity() {
                0 => poll_fn(|context| stream.poll_capacity(context)).await,
                granted => Some(Ok(granted)),
            };
            let granted = granted.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
            self.send_part(granted.min(self.pending.len()))?;
        }
        Ok(())
    }

    /// Sends this much of the pending bytes, and the end if nothing is left.
    fn send_part(&mut self, length: usize) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let part = self.pending.split_to(length);
        let end = if self.pending.is_empty() { self.end.take() } else { None };
        match &end {
            None if part.is_empty() => {}
            None => stream.send_data(part, false).map_err(io::Error::other)?,
            Some(trailers) if trailers.is_empty() => stream.send_data(part, true).map_err(io::Error::other)?,
            Some(trailers) => {
                if !part.is_empty() {
                    stream.send_data(part, false).map_err(io::Error::other)?;
                }
                stream.send_trailers(fields::trailers(trailers)).map_err(io::Error::other)?;
            }
        }
        if end.is_some() {
            self.sent.set(Sent::All);
        }
        Ok(())
    }

    /// Whether some of the request may have been sent.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.sent.get() != Sent::Nothing
    }

    /// How much of the request has been sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.sent.get()
    }
}

impl Http2ResponseReader {
    /// Waits for the head of a response, which may be an interim one (1xx).
    ///
    /// # Errors
    /// [`ResponseError`].
    pub async fn read_head(&mut self, head: &mut ResponseHead) -> Result<(), ResponseError> {
        let response = match &mut self.state {
            ReaderState::Head(response) => response,
            ReaderState::Failed(error) => return Err(*error),
            ReaderState::Body(_) => return Ok(()),
        };
        let received = poll_fn(|context| match response.poll_informational(context) {
            Poll::Ready(Some(Ok(interim))) => Poll::Ready(Ok((interim, None))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
            Poll::Ready(None) | Poll::Pending => std::pin::Pin::new(&mut *response).poll(context).map_ok(|response| {
                let (parts, body) = response.into_parts();
                (http::Response::from_parts(parts, ()), Some(body))
            }),
        });
        let (received, body) = received.await.map_err(|error| failure(&error, self.sent.get(), &self.pulse))?;
        *head = response_head::response(&received)?;
        let Some(body) = body else { return Ok(()) };
        self.is_done = body.is_end_stream();
        if let Some(accept) = self.accept.as_deref().filter(|_| (200..300).contains(&head.status)) {
            *head = response_head::switched(head, accept);
            self.state = ReaderState::Body(body);
            return Ok(());
        }
        self.length = response_head::body_length(head, &self.method, self.is_done)?;
        self.state = ReaderState::Body(body);
        Ok(())
    }

    /// The length of the body, once the final head has been read.
    #[must_use]
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// Consumes the current piece of the body and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// [`BodyError::Truncated`].
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        self.consume_piece();
        let ReaderState::Body(body) = &mut self.state else { return Err(BodyError::Truncated) };
        if self.is_done {
            return Ok(false);
        }
        while let Some(piece) = poll_fn(|context| body.poll_data(context)).await {
            self.piece = piece.map_err(|_| BodyError::Truncated)?;
            self.occupied = self.piece.len();
            self.is_done = body.is_end_stream();
            if !self.piece.is_empty() || self.is_done {
                return Ok(!self.piece.is_empty());
            }
            self.pulse.empty_frame();
        }
        let trailers = poll_fn(|context| body.poll_trailers(context)).await.map_err(|_| BodyError::Truncated)?;
        self.trailers = trailers.map(|trailers| response_head::trailer_lines(&trailers)).unwrap_or_default();
        self.is_done = true;
        Ok(false)
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        &self.piece
    }

    /// Drops the current piece, although the client does not read it yet.
    pub fn release_piece(&mut self) {
        self.piece = Bytes::new();
        self.stalled = Some(Stalled::new(&self.pulse));
    }

    /// Consumes the current piece, and lets the server send as much again.
    fn consume_piece(&mut self) {
        self.piece = Bytes::new();
        self.stalled = None;
        if let ReaderState::Body(body) = &mut self.state {
            // It fails only for more than was received.
            let _ = body.flow_control().release_capacity(std::mem::take(&mut self.occupied));
        }
    }

    /// The trailer section, each line with its CRLF; empty until [`Http2ResponseReader::is_done`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }
}
