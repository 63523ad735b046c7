//! Bodies on their way: read in whatever way they are framed, written in the way that suits the other side.

use std::io::{self, Write};

use tokio::net::TcpStream;

use crate::http1::chunked::{BadChunk, Decoder};
use crate::http1::framing::Framing;
use crate::transport::{self, Buffers};

/// A body as it comes in.
#[derive(Debug)]
pub struct Inbound<'a> {
    stream: &'a TcpStream,
    /// What was read and not yet used: first of the body, then of what follows it.
    input: &'a mut Vec<u8>,
    buffers: &'a Buffers,
    state: BodyState,
    /// How much of the input is the piece at hand.
    at_hand: usize,
    /// The piece at hand, if it had to be decoded.
    decoded: Vec<u8>,
    /// The headers behind the body.
    trailers: Vec<u8>,
}

#[derive(Debug)]
enum BodyState {
    /// So many bytes are to come.
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    Done,
}

/// Why a body ends early.
#[derive(Debug)]
pub enum BodyError {
    /// The stream ended or broke.
    Cut,
    /// It is framed in a way that no two readers need agree on.
    Malformed,
}

impl From<io::Error> for BodyError {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

impl From<BadChunk> for BodyError {
    fn from(_: BadChunk) -> Self {
        Self::Malformed
    }
}

impl<'a> Inbound<'a> {
    /// The body that follows a head on `stream`, of which `input` is what was read already.
    #[must_use]
    pub fn new(stream: &'a TcpStream, input: &'a mut Vec<u8>, buffers: &'a Buffers, framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Chunked(Box::default()),
            Framing::UntilClose => BodyState::UntilClose,
        };
        Self { stream, input, buffers, state, at_hand: 0, decoded: Vec::new(), trailers: Vec::new() }
    }

    /// Takes what was read with the head, without waiting for more.
    ///
    /// # Errors
    /// When that is no body.
    pub fn begin(&mut self) -> Result<(), BodyError> {
        self.take();
        self.decode()
    }

    /// Lets go of the piece at hand and gets the next; false when there is none.
    ///
    /// # Errors
    /// When the body ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        self.input.drain(..self.at_hand);
        self.at_hand = 0;
        self.decoded.clear();
        loop {
            self.take();
            self.decode()?;
            if !self.piece().is_empty() {
                return Ok(true);
            }
            if self.is_done() {
                self.release();
                return Ok(false);
            }
            if transport::read(self.stream, self.input, self.buffers).await? == 0 {
                return match self.state {
                    BodyState::UntilClose => {
                        self.state = BodyState::Done;
                        Ok(false)
                    }
                    _ => Err(BodyError::Cut),
                };
            }
        }
    }

    /// Takes what is there of a body that is not coded.
    fn take(&mut self) {
        match &mut self.state {
            BodyState::Length(left) => {
                let there = u64::try_from(self.input.len()).unwrap_or(u64::MAX).min(*left);
                *left -= there;
                // No more than the input's length, which is a usize.
                self.at_hand = usize::try_from(there).unwrap_or(usize::MAX);
                if *left == 0 {
                    self.state = BodyState::Done;
                }
            }
            BodyState::UntilClose => self.at_hand = self.input.len(),
            BodyState::Chunked(_) | BodyState::Done => {}
        }
    }

    /// Decodes what is there of a chunked body.
    fn decode(&mut self) -> Result<(), BodyError> {
        if let BodyState::Chunked(decoder) = &mut self.state
            && !self.input.is_empty()
        {
            let step = decoder.decode(self.input, &mut self.decoded)?;
            self.input.drain(..step.consumed);
            if step.done {
                self.trailers.extend_from_slice(decoder.trailers());
                self.state = BodyState::Done;
            }
        }
        Ok(())
    }

    /// The piece at hand.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        if self.at_hand > 0 { &self.input[..self.at_hand] } else { &self.decoded }
    }

    /// The headers behind the body, each as a line, once [`Inbound::is_done`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether nothing follows the piece at hand.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    /// Whether all was read, and nothing else with it: then the stream is where the next message begins.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_done() && self.at_hand == self.input.len()
    }

    /// Until the other side has left, or has ended its side, which looks the same from here. What it
    /// sends ahead is kept, up to `limit` bytes.
    pub async fn gone(&mut self, limit: usize) {
        self.input.drain(..self.at_hand);
        self.at_hand = 0;
        self.left(limit).await;
    }

    /// Until the other side has left, while the piece at hand waits to be sent. As [`Inbound::gone`],
    /// but nothing is let go.
    pub async fn left(&mut self, limit: usize) {
        while matches!(transport::read(self.stream, self.input, self.buffers).await, Ok(1..)) {
            if self.input.len() > limit {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What was read behind the body.
    pub fn rest(&mut self) -> &mut Vec<u8> {
        self.input.drain(..self.at_hand);
        self.at_hand = 0;
        self.input
    }

    /// Whether some of the body is there already.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.input.is_empty() && !self.is_done()
    }

    /// Gives memory back that nothing is in.
    fn release(&mut self) {
        if self.input.is_empty() {
            self.buffers.give(std::mem::take(self.input));
        }
    }
}

/// A piece of up to so many bytes is copied behind what goes before it: the system takes one piece
/// for less than two.
const SMALL: usize = 4 * 1024;

/// A message as it goes out: its head, then its body.
#[derive(Debug)]
pub struct Outbound<'a> {
    stream: &'a TcpStream,
    chunked: bool,
    buffers: &'a Buffers,
    /// What goes before the next piece: the head, a chunk's size.
    before: Vec<u8>,
    /// Bytes that were sent.
    pub sent: u64,
}

impl<'a> Outbound<'a> {
    /// A message that begins with `head`; its body is to be coded if `chunked` says so.
    #[must_use]
    pub fn new(stream: &'a TcpStream, buffers: &'a Buffers, head: Vec<u8>, chunked: bool) -> Self {
        Self { stream, chunked, buffers, before: head, sent: 0 }
    }

    /// Sends what has not been sent, and a piece of the body; with the last one also the body's end,
    /// which has `trailers` if it is coded.
    ///
    /// # Errors
    /// The system's.
    pub async fn send(&mut self, piece: &[u8], last: Option<&[u8]>) -> io::Result<()> {
        let none: &[u8] = b"";
        let behind: [&[u8]; 3] = match (self.chunked, piece.is_empty(), last) {
            (false, ..) | (true, true, None) => [none; 3],
            (true, false, None) => [b"\r\n", none, none],
            (true, true, Some(trailers)) => [b"0\r\n", trailers, b"\r\n"],
            (true, false, Some(trailers)) => [b"\r\n0\r\n", trailers, b"\r\n"],
        };
        if self.chunked && !piece.is_empty() {
            // Writing to memory does not fail.
            let _ = write!(self.before, "{:x}\r\n", piece.len());
        }
        if piece.len() <= SMALL {
            for part in [piece, behind[0], behind[1], behind[2]] {
                self.before.extend_from_slice(part);
            }
            transport::write(self.stream, [&self.before], &mut self.sent).await?;
        } else {
            transport::write(self.stream, [&self.before, piece, behind[0], behind[1], behind[2]], &mut self.sent)
                .await?;
        }
        self.before.clear();
        if last.is_some() {
            self.release();
        }
        Ok(())
    }

    /// Gives memory back: who waits for an answer has none.
    fn release(&mut self) {
        self.buffers.give(std::mem::take(&mut self.before));
    }
}

impl Drop for Outbound<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
