//! The body of a request: the receiving half of an exchange.

use std::io;

use super::ServerProgress;
use crate::http1::body::{BodyError, BodyLength, BodyReader};
use crate::http1::rejection::Rejection;

#[derive(Debug)]
pub struct Http1RequestBody<'c> {
    pub(super) reader: BodyReader<'c>,
    pub(super) progress: &'c ServerProgress,
    pub(super) length: Result<BodyLength, Rejection>,
}

impl Http1RequestBody<'_> {
    /// The length that the request's head declares.
    ///
    /// # Errors
    /// [`Rejection::Framing`].
    pub fn length(&self) -> Result<BodyLength, Rejection> {
        self.length
    }

    /// Takes the bytes that were received with the head as the first piece, without waiting for more.
    ///
    /// # Errors
    /// [`BodyError::Malformed`].
    pub fn start(&mut self) -> Result<(), BodyError> {
        self.reader.start()?;
        self.update_progress();
        Ok(())
    }

    /// Consumes the current piece and waits for the next one; false if there is none.
    ///
    /// # Errors
    /// If the body is malformed or ends early.
    pub async fn advance(&mut self) -> Result<bool, BodyError> {
        let more = self.reader.advance().await?;
        self.update_progress();
        Ok(more)
    }

    /// The current piece.
    #[must_use]
    pub fn piece(&self) -> &[u8] {
        self.reader.piece()
    }

    /// The trailer section, each line with its CRLF; empty until [`Http1RequestBody::is_done`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        self.reader.trailers()
    }

    /// Whether the current piece is the last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Waits until the client ends its side of the connection, and keeps the current piece. Never returns once more
    /// than `limit` bytes have been read ahead.
    ///
    /// # Errors
    /// The system's error, if the connection breaks.
    pub async fn ended(&mut self, limit: usize) -> io::Result<()> {
        self.reader.ended(limit).await
    }

    /// Waits until the client, which has ended its side, resets the connection.
    pub async fn reset(&self) {
        self.reader.reset().await;
    }

    pub fn consume_piece(&mut self) {
        self.reader.consume_piece();
    }

    /// Consumes the current piece and gives its memory back.
    pub fn release_piece(&mut self) {
        self.reader.release_piece();
    }

    /// Treats everything from here to the end of the connection as the body.
    pub fn tunnel(&mut self) {
        self.reader.tunnel();
    }

    fn update_progress(&self) {
        self.progress.received.set(self.reader.is_done());
    }
}
