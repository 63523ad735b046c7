//! Streamed bodies: received in any framing, and sent in the framing that the recipient needs.

use std::io::{self, Write};

use crate::http1::chunked::{BadChunk, Decoder};
use crate::http1::framing::{Framing, Sender};
use crate::transport::{Buffers, Transport};

/// The length of a body, as far as the head of the message declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// No body.
    None,
    /// This many bytes, possibly 0.
    Known(u64),
    /// Known only when the body ends.
    Unknown,
}

impl BodyLength {
    /// Whether anything has to be read to find the end of the body.
    #[must_use]
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Known(0))
    }
}

impl From<Framing> for BodyLength {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::None,
            Framing::Length(length) => Self::Known(length),
            Framing::Chunked | Framing::UntilClose => Self::Unknown,
        }
    }
}

/// A body being received.
#[derive(Debug)]
pub struct BodyReader<'c> {
    transport: &'c Transport,
    /// Bytes that have been received and not yet consumed: the rest of the body, then whatever follows it.
    input: &'c mut Vec<u8>,
    buffers: &'c Buffers,
    sender: Sender,
    state: BodyState,
    /// The length of the current piece, which is at the start of `input`; 0 if the piece is in `decoded`.
    piece_length: usize,
    /// The current piece, if the body is chunked.
    decoded: Vec<u8>,
    /// The trailer section, once the body is complete.
    trailers: Vec<u8>,
}

#[derive(Debug)]
enum BodyState {
    /// This many bytes are left.
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    Done,
}

/// Why a body could not be received completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The connection ended or broke.
    Truncated,
    /// The framing is invalid: two readers could disagree about where the body ends.
    Malformed(BadChunk),
}

impl From<io::Error> for BodyError {
    fn from(_: io::Error) -> Self {
        Self::Truncated
    }
}

impl From<BadChunk> for BodyError {
    fn from(bad: BadChunk) -> Self {
        Self::Malformed(bad)
    }
}

impl<'c> BodyReader<'c> {
    /// A reader for the body that follows a head. `input` has the bytes that were already received.
    #[must_use]
    pub fn new(
        transport: &'c Transport,
        input: &'c mut Vec<u8>,
        buffers: &'c Buffers,
        sender: Sender,
        framing: Framing,
    ) -> Self {
        let mut reader = Self {
            transport,
            input,
            buffers,
            sender,
            state: BodyState::Done,
            piece_length: 0,
            decoded: Vec::new(),
            trailers: Vec::new(),
        };
        reader.set_framing(framing);
        reader
    }

    /// Treats the bytes that follow as a body with this framing.
    pub fn set_framing(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::None | Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Chunked(Box::new(Decoder::new(self.sender))),
            Framing::UntilClose => BodyState::UntilClose,
        };
    }

    /// Takes the bytes that were received with the head as the first piece, without waiting for more.
    ///
    /// # Errors
    /// [`BodyError::Malformed`].
    pub fn start(&mut self) -> Result<(), BodyError> {
        self.next_piece()
    }

    /// Consumes the current piece and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the body is malformed or ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        self.consume_piece();
        loop {
            self.next_piece()?;
            if !self.piece().is_empty() {
                return Ok(true);
            }
            self.release();
            if self.is_done() {
                return Ok(false);
            }
            if self.read().await? == 0 {
                return match self.state {
                    BodyState::UntilClose => {
                        self.state = BodyState::Done;
                        Ok(false)
                    }
                    _ => Err(BodyError::Truncated),
                };
            }
        }
    }

    fn next_piece(&mut self) -> Result<(), BodyError> {
        match &mut self.state {
            BodyState::Length(left) => {
                let length = u64::try_from(self.input.len()).unwrap_or(u64::MAX).min(*left);
                *left -= length;
                // Cannot fail: it is at most the length of the input.
                self.piece_length = usize::try_from(length).unwrap_or(usize::MAX);
                if *left == 0 {
                    self.state = BodyState::Done;
                }
            }
            BodyState::UntilClose => self.piece_length = self.input.len(),
            BodyState::Chunked(decoder) if !self.input.is_empty() => {
                if self.decoded.capacity() == 0 {
                    self.decoded = self.buffers.take();
                }
                let step = decoder.decode(self.input, &mut self.decoded)?;
                self.input.drain(..step.consumed);
                if step.done {
                    self.trailers.extend_from_slice(decoder.trailers());
                    self.state = BodyState::Done;
                }
            }
            BodyState::Chunked(_) | BodyState::Done => {}
        }
        Ok(())
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        if self.piece_length > 0 { &self.input[..self.piece_length] } else { &self.decoded }
    }

    /// The trailer section, each line with its CRLF; empty until [`BodyReader::is_done`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    /// Whether the whole body has been received, and nothing after it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_done() && self.piece_length == self.input.len()
    }

    /// Reads ahead until the peer ends its sending direction, and keeps the current piece. Never returns once more
    /// than `limit` bytes have been read ahead.
    ///
    /// # Errors
    /// The system's error, if the connection breaks.
    pub async fn ended(&mut self, limit: usize) -> io::Result<()> {
        while self.read().await? > 0 {
            self.buffers.shrink(self.input);
            if self.input.len() > limit {
                std::future::pending::<()>().await;
            }
        }
        self.release();
        Ok(())
    }

    /// Waits until the peer, which has ended its sending direction, resets the connection.
    pub async fn reset(&self) {
        self.transport.reset().await;
    }

    /// Treats everything from here to the end of the connection as the body, and keeps the connection alive.
    pub fn tunnel(&mut self) {
        self.consume_piece();
        self.set_framing(Framing::UntilClose);
        self.transport.keep_alive();
    }

    pub fn consume_piece(&mut self) {
        self.input.drain(..self.piece_length);
        self.piece_length = 0;
        self.decoded.clear();
    }

    /// Consumes the current piece and gives its memory back: the recipient has it, but may accept no more for long.
    pub fn release_piece(&mut self) {
        self.consume_piece();
        self.buffers.release(&mut self.decoded);
        self.buffers.shrink(self.input);
    }

    /// The bytes that have been received while there is no piece, which begin with a head.
    pub(super) fn input(&mut self) -> &mut Vec<u8> {
        self.input
    }

    pub(super) async fn read(&mut self) -> io::Result<usize> {
        self.transport.read(self.input, self.buffers).await
    }

    /// Puts empty buffers back.
    fn release(&mut self) {
        self.buffers.release(self.input);
        self.buffers.release(&mut self.decoded);
    }
}

impl Drop for BodyReader<'_> {
    fn drop(&mut self) {
        self.consume_piece();
        self.release();
    }
}

/// Pieces up to this size are copied to the end of the bytes before them, because the system handles one
/// slice faster than two.
const SMALL_PIECE: usize = 4 * 1024;

/// A message being sent: its head, then its body.
#[derive(Debug)]
pub struct BodyWriter<'c> {
    transport: &'c Transport,
    buffers: &'c Buffers,
    /// Bytes to send before the next piece: the head, or the size of a chunk.
    pending: Vec<u8>,
    chunked: bool,
    /// The number of bytes that the system has accepted.
    sent: u64,
}

impl<'c> BodyWriter<'c> {
    /// A writer that sends `head` with the first piece, and the body in the chunked coding if `chunked`.
    #[must_use]
    pub fn new(transport: &'c Transport, buffers: &'c Buffers, head: Vec<u8>, chunked: bool) -> Self {
        Self { transport, buffers, pending: head, chunked, sent: 0 }
    }

    /// The number of bytes that the system has accepted.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends the pending bytes and a piece of the body. `end` is set for the last piece, and holds the
    /// trailers, which are sent only if the body is chunked.
    ///
    /// # Errors
    /// The system's error.
    pub async fn send(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<()> {
        if self.offer(piece, end)? { Ok(()) } else { self.flush().await }
    }

    /// Like [`BodyWriter::send`], but without waiting. False if the system does not accept everything: what is left is kept,
    /// with no more memory than it needs, for [`BodyWriter::flush`]. The piece is no longer needed.
    ///
    /// # Errors
    /// The system's error.
    pub fn offer(&mut self, piece: &[u8], end: Option<&[u8]>) -> io::Result<bool> {
        let empty: &[u8] = b"";
        let after: [&[u8]; 3] = match (self.chunked, piece.is_empty(), end) {
            (false, ..) | (true, true, None) => [empty; 3],
            (true, false, None) => [b"\r\n", empty, empty],
            (true, true, Some(trailers)) => [b"0\r\n", trailers, b"\r\n"],
            (true, false, Some(trailers)) => [b"\r\n0\r\n", trailers, b"\r\n"],
        };
        let is_small = piece.len() <= SMALL_PIECE;
        if self.pending.capacity() == 0 && (is_small || self.chunked) {
            self.pending = self.buffers.take();
        }
        if self.chunked && !piece.is_empty() {
            // Writing to memory cannot fail.
            let _ = write!(self.pending, "{:x}\r\n", piece.len());
        }
        let rest = if is_small {
            for part in [piece, after[0], after[1], after[2]] {
                self.pending.extend_from_slice(part);
            }
            self.transport.write_now([&self.pending], &mut self.sent)?
        } else {
            let parts = [&self.pending, piece, after[0], after[1], after[2]];
            self.transport.write_now(parts, &mut self.sent)?
        };
        self.release();
        self.pending = rest;
        Ok(self.pending.is_empty())
    }

    /// Like [`BodyWriter::offer`], for bytes of a tunnel. The head must have been sent before.
    ///
    /// # Errors
    /// The system's error.
    pub fn offer_raw(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.release();
        self.pending = self.transport.write_now([bytes], &mut self.sent)?;
        Ok(self.pending.is_empty())
    }

    /// Sends what is left of a piece.
    ///
    /// # Errors
    /// The system's error.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.transport.write_more(&mut self.pending, &mut self.sent).await?;
        }
        Ok(())
    }

    /// Puts the buffer back, so that a connection that waits holds none.
    fn release(&mut self) {
        if self.pending.capacity() > 0 {
            self.buffers.put(std::mem::take(&mut self.pending));
        }
    }
}

impl Drop for BodyWriter<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
