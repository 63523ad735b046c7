//! A transport as `h2` reads and writes it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::flood::FrameMeter;
use crate::http2::output::{SentFrames, StreamEnd};
use crate::transport::{Buffers, Transport};

/// The pieces that are written in one system call.
const PIECES: usize = 4;

/// The traffic of a connection as its driver sees it.
#[derive(Debug)]
pub struct Traffic {
    meter: RefCell<FrameMeter>,
    /// Whether this turn may read from the socket.
    may_read: Cell<bool>,
    is_flood: Cell<bool>,
    is_ended: Cell<bool>,
    is_shaken: Cell<bool>,
    written: Cell<u64>,
    sent: RefCell<SentFrames>,
}

impl Traffic {
    /// Nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            meter: RefCell::new(FrameMeter::new(now)),
            may_read: Cell::new(true),
            is_flood: Cell::new(false),
            is_ended: Cell::new(false),
            is_shaken: Cell::new(false),
            written: Cell::new(0),
            sent: RefCell::default(),
        }
    }

    /// Begins a turn of the connection: it reads from the socket once, so that the others of its worker get theirs.
    pub fn start_turn(&self) {
        self.may_read.set(true);
    }

    /// Whether the client sends more control frames or resets than it may.
    #[must_use]
    pub fn is_flood(&self) -> bool {
        self.is_flood.get()
    }

    /// Stops reading at a flood from now on. Before, the handshake must end: only then can the client be told.
    pub fn end_handshake(&self) {
        self.is_shaken.set(true);
    }

    fn is_blocked(&self) -> bool {
        self.is_flood() && self.is_shaken.get()
    }

    /// Lets `h2` read no more; returns whether that was so already.
    pub fn end_input(&self) -> bool {
        self.is_ended.replace(true)
    }

    /// Notes that a request was malformed and its stream reset.
    pub fn reject(&self) {
        if !self.meter.borrow_mut().rejects(Instant::now()) {
            self.is_flood.set(true);
        }
    }

    /// Whether the client has sent its first SETTINGS.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        self.meter.borrow().has_settings()
    }

    /// The number of bytes that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Notes that the stream of a request has been handed over.
    pub fn accept(&self, stream: u32) {
        self.sent.borrow_mut().accept(stream);
    }

    /// The requests that `h2` itself has rejected since the last time.
    pub fn take_ends(&self) -> Vec<StreamEnd> {
        self.sent.borrow_mut().take_ends()
    }

    fn receive(&self, bytes: &[u8]) {
        if !self.meter.borrow_mut().receives(bytes, Instant::now()) {
            self.is_flood.set(true);
        }
    }
}

/// A transport as `h2` reads and writes it. It holds a buffer only while there are bytes in it.
#[derive(Debug)]
pub struct Http2Io<'c> {
    transport: &'c Transport,
    buffers: &'c Buffers,
    traffic: &'c Traffic,
    input: Vec<u8>,
    /// The part of `input` that `h2` has.
    consumed: usize,
    unsent: Unsent,
}

/// Bytes that `h2` counts as written and the system has not accepted.
#[derive(Debug, Default)]
pub(super) struct Unsent(Vec<u8>);

impl Unsent {
    /// Writes what is left of an earlier write.
    pub(super) fn poll_flush(&mut self, transport: &Transport, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.0.is_empty() {
            ready!(pin!(transport.write_more(&mut self.0, &mut 0)).poll(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes these pieces, and keeps what the system does not accept now. Returns their length.
    pub(super) fn poll_write<const N: usize>(
        &mut self,
        transport: &Transport,
        context: &mut Context<'_>,
        pieces: [&[u8]; N],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(transport, context))?;
        self.0 = transport.write_now(pieces, &mut 0)?;
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }
}

/// The slices that are written in one system call.
pub(super) fn first_pieces<'s>(slices: &'s [IoSlice<'_>]) -> [&'s [u8]; PIECES] {
    let mut pieces: [&[u8]; PIECES] = [b""; PIECES];
    let filled = slices.iter().filter(|slice| !slice.is_empty());
    pieces.iter_mut().zip(filled).for_each(|(piece, slice)| *piece = slice);
    pieces
}

impl<'c> Http2Io<'c> {
    /// `received` is the start of what the client has sent.
    #[must_use]
    pub fn new(transport: &'c Transport, buffers: &'c Buffers, traffic: &'c Traffic, received: Vec<u8>) -> Self {
        traffic.receive(&received);
        Self { transport, buffers, traffic, input: received, consumed: 0, unsent: Unsent::default() }
    }

    fn poll_pieces<const N: usize>(
        &mut self,
        context: &mut Context<'_>,
        pieces: [&[u8]; N],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(self.unsent.poll_write(self.transport, context, pieces))?;
        self.traffic.meter.borrow_mut().sends(bytes);
        let mut sent = self.traffic.sent.borrow_mut();
        pieces.iter().for_each(|piece| sent.sends(piece));
        drop(sent);
        self.traffic.written.update(|written| written + bytes as u64);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for Http2Io<'_> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.traffic.is_blocked() {
            // The driver ends the connection in this turn; `h2` need not see what follows.
            return Poll::Pending;
        }
        if this.input.is_empty() {
            if !this.traffic.may_read.get() {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = ready!(pin!(this.transport.read(&mut this.input, this.buffers)).poll(context));
            this.traffic.may_read.set(false);
            if read? == 0 {
                this.buffers.release(&mut this.input);
                return Poll::Ready(Ok(()));
            }
            this.traffic.receive(&this.input);
        }
        if this.traffic.is_blocked() {
            return Poll::Pending;
        }
        let left = &this.input[this.consumed..];
        let part = left.len().min(out.remaining());
        out.put_slice(&left[..part]);
        this.consumed += part;
        if this.consumed == this.input.len() {
            this.consumed = 0;
            this.input.clear();
            this.buffers.release(&mut this.input);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Io<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_pieces(context, [bytes])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_pieces(context, first_pieces(slices))
    }

    fn is_write_vectored(&self) -> bool {
        // TLS seals small pieces as records of their own, so `h2` joins them before.
        matches!(self.transport, Transport::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.unsent.poll_flush(this.transport, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        Poll::Ready(self.transport.shutdown_write())
    }
}
