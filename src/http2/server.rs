//! A stream to a client: receives a request and sends its response.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response, header};

use crate::http1::body::{BodyError, BodyLength};
use crate::http1::framing::{self, Framing};
use crate::http1::head::{RequestHead, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;
use crate::http1::resources::Resources;
use crate::http2::head;

/// A request and its response: two halves that are used at the same time.
#[derive(Debug)]
pub struct Http2Stream<'c> {
    pub body: Http2RequestBody,
    pub response: Http2ResponseWriter<'c>,
}

/// The sending direction, which both halves need: only it tells that the client has reset the stream.
#[derive(Debug)]
enum Sending {
    /// The response has not started.
    Waiting(SendResponse<Bytes>),
    Started(SendStream<Bytes>),
}

impl Sending {
    /// Ready once the client has reset the stream or the connection has ended.
    fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Waiting(respond) => respond.poll_reset(context).map(drop),
            Self::Started(stream) => stream.poll_reset(context).map(drop),
        }
    }

    fn reset(&mut self, reason: Reason) {
        match self {
            Self::Waiting(respond) => respond.send_reset(reason),
            Self::Started(stream) => stream.send_reset(reason),
        }
    }
}

impl<'c> Http2Stream<'c> {
    /// A stream whose request has this head.
    #[must_use]
    pub fn new(head: &RequestHead, body: RecvStream, respond: SendResponse<Bytes>, resources: &'c Resources) -> Self {
        let sending = Rc::new(RefCell::new(Sending::Waiting(respond)));
        let body = Http2RequestBody::new(head, body, Rc::clone(&sending));
        Self { body, response: Http2ResponseWriter::new(sending, resources) }
    }
}

#[derive(Debug)]
pub struct Http2RequestBody {
    body: RecvStream,
    sending: Rc<RefCell<Sending>>,
    piece: Bytes,
    /// The bytes that the client may send again once they have been forwarded.
    unreleased: usize,
    trailers: Vec<u8>,
    length: Result<BodyLength, Rejection>,
    is_done: bool,
    /// Whether what follows the head is for a WebSocket that is not open yet.
    waits: bool,
    /// Whether the body has turned out to be invalid.
    is_broken: bool,
}

impl Http2RequestBody {
    fn new(head: &RequestHead, body: RecvStream, sending: Rc<RefCell<Sending>>) -> Self {
        let is_done = body.is_end_stream();
        let mut this = Self {
            body,
            sending,
            piece: Bytes::new(),
            unreleased: 0,
            trailers: Vec::new(),
            length: Ok(BodyLength::None),
            is_done,
            waits: head.headers.has(HeaderName::Upgrade),
            is_broken: false,
        };
        if this.waits {
            return this;
        }
        // Some clients end every request with an empty frame: that is no body.
        this.receive_now();
        this.length = match framing::request(&head.headers, head.version) {
            Ok(Framing::None) if !(this.is_done && this.piece.is_empty() && this.trailers.is_empty()) => {
                Ok(BodyLength::Unknown)
            }
            Ok(Framing::Length(1..)) if is_done => Err(Rejection::Framing),
            framing => framing.map(BodyLength::from),
        };
        this
    }

    /// The length that the request's head declares.
    ///
    /// # Errors
    /// [`Rejection::Framing`].
    pub fn length(&self) -> Result<BodyLength, Rejection> {
        self.length
    }

    /// Checks what was received with the head, which is the first piece.
    ///
    /// # Errors
    /// [`BodyError::Truncated`].
    pub fn start(&mut self) -> Result<(), BodyError> {
        if self.is_broken { Err(BodyError::Truncated) } else { Ok(()) }
    }

    /// Takes the first piece if it is there.
    fn receive_now(&mut self) {
        if let Poll::Ready(received) = self.poll_piece(&mut Context::from_waker(Waker::noop())) {
            self.is_broken = received.is_err();
        }
    }

    /// Consumes the current piece and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the client resets the stream.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        self.consume_piece();
        if self.is_broken {
            return Err(BodyError::Truncated);
        }
        if self.waits {
            return Ok(false);
        }
        poll_fn(|context| self.poll_piece(context)).await
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        if self.is_done {
            return Poll::Ready(Ok(false));
        }
        match ready!(self.body.poll_data(context)) {
            Some(Ok(piece)) => {
                self.unreleased = piece.len();
                self.piece = piece;
                self.is_done = self.body.is_end_stream();
                Poll::Ready(Ok(true))
            }
            Some(Err(_)) => Poll::Ready(Err(BodyError::Truncated)),
            None => {
                let trailers = ready!(self.body.poll_trailers(context)).map_err(|_| BodyError::Truncated)?;
                self.trailers = trailers.as_ref().map(head::trailer_lines).unwrap_or_default();
                self.is_done = true;
                Poll::Ready(Ok(false))
            }
        }
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        &self.piece
    }

    /// The trailer section, each line with its CRLF, once the body is complete.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done || self.waits
    }

    /// Makes everything that follows the body of a tunnel.
    pub fn tunnel(&mut self) {
        self.waits = false;
    }

    /// Waits until the client resets the stream.
    pub async fn reset(&self) {
        poll_fn(|context| self.sending.borrow_mut().poll_reset(context)).await;
    }

    /// Drops the current piece, which has been forwarded, and lets the client send as much again.
    pub fn consume_piece(&mut self) {
        self.piece = Bytes::new();
        let bytes = std::mem::take(&mut self.unreleased);
        if bytes > 0 {
            // It fails only if the stream is gone.
            let _ = self.body.flow_control().release_capacity(bytes);
        }
    }

    /// Drops the current piece, although it is still to be forwarded.
    pub fn release_piece(&mut self) {
        self.piece = Bytes::new();
    }
}

/// How a response ends after its last piece.
#[derive(Debug)]
enum ResponseEnd {
    /// Another piece follows.
    Open,
    Plain,
    Trailers(HeaderMap),
}

#[derive(Debug)]
pub struct Http2ResponseWriter<'c> {
    sending: Rc<RefCell<Sending>>,
    resources: &'c Resources,
    /// The head, until the first piece is sent.
    head: Option<Response<()>>,
    /// The part of the current piece that the client does not accept yet.
    rest: Bytes,
    end: ResponseEnd,
    is_complete: bool,
}

impl<'c> Http2ResponseWriter<'c> {
    fn new(sending: Rc<RefCell<Sending>>, resources: &'c Resources) -> Self {
        Self { sending, resources, head: None, rest: Bytes::new(), end: ResponseEnd::Open, is_complete: false }
    }

    /// A writer for the response to a request that is not served.
    #[must_use]
    pub fn to_bad_head(respond: SendResponse<Bytes>, resources: &'c Resources) -> Self {
        Self::new(Rc::new(RefCell::new(Sending::Waiting(respond))), resources)
    }

    /// Whether the client may have received a part of a response, so that no other can be sent.
    #[must_use]
    pub fn is_started(&self) -> bool {
        matches!(*self.sending.borrow(), Sending::Started(_))
    }

    /// Sends an interim response (1xx).
    ///
    /// # Errors
    /// If the stream is gone.
    pub fn send_interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        match &mut *self.sending.borrow_mut() {
            Sending::Waiting(respond) => respond.send_informational(head::response(head)).map_err(io::Error::other),
            Sending::Started(_) => Ok(()),
        }
    }

    /// Starts the response; its head is sent with the first piece. Until then, another one can be started instead.
    pub fn start(&mut self, head: &ResponseHead) {
        let mut response = head::response(head);
        if let header::Entry::Vacant(date) = response.headers_mut().entry(header::DATE)
            && let Ok(now) = HeaderValue::from_str(&self.resources.date())
        {
            date.insert(now);
        }
        self.head = Some(response);
    }

    /// Sends a piece of the body. `end` is set for the last one, and holds the trailers.
    ///
    /// # Errors
    /// If the stream is gone.
    pub async fn send(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<()> {
        if self.offer(piece, end)? { Ok(()) } else { self.flush().await }
    }

    /// Like [`Http2ResponseWriter::send`], but without waiting. False if the client does not accept all of it yet, and
    /// the rest is left for [`Http2ResponseWriter::flush`]; the piece is no longer needed.
    ///
    /// # Errors
    /// If the stream is gone.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        if self.is_complete {
            return Ok(true);
        }
        self.end = match end {
            None => ResponseEnd::Open,
            Some(b"") => ResponseEnd::Plain,
            Some(lines) => ResponseEnd::Trailers(head::trailers(lines)),
        };
        let sending = &mut *self.sending.borrow_mut();
        if let Some(head) = self.head.take()
            && let Sending::Waiting(respond) = sending
        {
            let is_end = piece.is_empty() && matches!(self.end, ResponseEnd::Plain);
            *sending = Sending::Started(respond.send_response(head, is_end).map_err(io::Error::other)?);
            self.is_complete = is_end;
        }
        let Sending::Started(stream) = sending else { return Ok(true) };
        if self.is_complete {
            return Ok(true);
        }
        if piece.is_empty() {
            self.is_complete = finish(stream, &mut self.end)?;
            return Ok(true);
        }
        stream.reserve_capacity(piece.len());
        let accepted = stream.capacity().min(piece.len());
        let (now, later) = piece.split_at(accepted);
        if later.is_empty() {
            self.is_complete = send_last(stream, Bytes::copy_from_slice(now), &mut self.end)?;
            return Ok(true);
        }
        if accepted > 0 {
            stream.send_data(Bytes::copy_from_slice(now), false).map_err(io::Error::other)?;
        }
        self.rest = Bytes::copy_from_slice(later);
        Ok(false)
    }

    /// Sends what is left of a piece, as the client accepts it.
    ///
    /// # Errors
    /// If the stream is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Sending::Started(stream) = &mut *self.sending.borrow_mut() else { return Poll::Ready(Ok(())) };
        while !self.rest.is_empty() {
            let accepted = stream.capacity().min(self.rest.len());
            if accepted == 0 {
                match ready!(stream.poll_capacity(context)) {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                }
            }
            let part = self.rest.split_to(accepted);
            if self.rest.is_empty() {
                self.is_complete = send_last(stream, part, &mut self.end)?;
            } else {
                stream.send_data(part, false).map_err(io::Error::other)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a response that has started with these trailers. False if the client has not accepted all of the last piece,
    /// behind which they would wait.
    pub fn cut(&mut self, trailers: &[u8]) -> bool {
        let Sending::Started(stream) = &mut *self.sending.borrow_mut() else { return false };
        if self.is_complete || !self.rest.is_empty() || stream.send_trailers(head::trailers(trailers)).is_err() {
            return false;
        }
        self.is_complete = true;
        true
    }

    /// Gives up a response that has started: the client must not take it for a whole one. `by_client` is whether the
    /// client is to blame.
    pub fn abandon(&mut self, by_client: bool) {
        if !std::mem::replace(&mut self.is_complete, true) {
            self.sending.borrow_mut().reset(if by_client { Reason::CANCEL } else { Reason::INTERNAL_ERROR });
        }
    }
}

impl Drop for Http2ResponseWriter<'_> {
    fn drop(&mut self) {
        self.abandon(false);
    }
}

/// Sends the rest of a piece, and the end of the response after its last one. Returns whether that was the last.
fn send_last(stream: &mut SendStream<Bytes>, bytes: Bytes, end: &mut ResponseEnd) -> io::Result<bool> {
    let is_end = matches!(end, ResponseEnd::Plain);
    stream.send_data(bytes, is_end).map_err(io::Error::other)?;
    if is_end { Ok(true) } else { finish(stream, end) }
}

/// Sends the end of the response, unless another piece follows. Returns whether it was sent.
fn finish(stream: &mut SendStream<Bytes>, end: &mut ResponseEnd) -> io::Result<bool> {
    match std::mem::replace(end, ResponseEnd::Open) {
        ResponseEnd::Open => return Ok(false),
        ResponseEnd::Plain => stream.send_data(Bytes::new(), true),
        ResponseEnd::Trailers(trailers) => stream.send_trailers(trailers),
    }
    .map_err(io::Error::other)?;
    Ok(true)
}
