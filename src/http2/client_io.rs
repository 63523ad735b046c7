//! The transport of a connection to a server, as `h2` reads and writes it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::client::Pulse;
use crate::transport::{Buffers, Transport};

/// The pieces that are written in one system call.
const PIECES: usize = 4;
/// The length of a frame's header (RFC 9113, section 4.1).
const FRAME_HEADER: u64 = 9;

/// A transport that holds a buffer only while there are bytes in it.
#[derive(Debug)]
pub(super) struct ClientIo {
    transport: Transport,
    buffers: Rc<Buffers>,
    pulse: Rc<Pulse>,
    input: Vec<u8>,
    /// The part of `input` that `h2` has.
    consumed: usize,
    /// Bytes that `h2` counts as written and the system has not accepted.
    rest: Vec<u8>,
    /// The end of the first frame, as far as its header has been read.
    first_frame: FirstFrame,
}

/// The first frame from the server, which has to be SETTINGS.
#[derive(Debug, Default)]
struct FirstFrame {
    length: u64,
    read: u64,
}

impl FirstFrame {
    /// Notes bytes that `h2` gets; returns whether it has the whole frame.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if self.read < 3 {
                self.length = self.length << 8 | u64::from(*byte);
            }
            self.read += 1;
            if self.read >= FRAME_HEADER + self.length && self.read >= FRAME_HEADER {
                return true;
            }
        }
        false
    }
}

impl ClientIo {
    pub(super) fn new(transport: Transport, buffers: Rc<Buffers>, pulse: Rc<Pulse>) -> Self {
        let first_frame = FirstFrame::default();
        Self { transport, buffers, pulse, input: Vec::new(), consumed: 0, rest: Vec::new(), first_frame }
    }

    /// Writes what is left of an earlier write.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            ready!(pin!(self.transport.write_more(&mut self.rest, &mut 0)).poll(context))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_pieces<const N: usize>(
        &mut self,
        context: &mut Context<'_>,
        pieces: [&[u8]; N],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(context))?;
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.rest = self.transport.write_now(pieces, &mut 0)?;
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.input.is_empty() {
            let read = ready!(pin!(this.transport.read(&mut this.input, &this.buffers)).poll(context));
            if !matches!(read, Ok(1..))
                && let Some(error) = this.transport.tls_error()
            {
                this.pulse.tls_failed(error);
            }
            if read? == 0 {
                this.buffers.release(&mut this.input);
                return Poll::Ready(Ok(()));
            }
            this.pulse.receive();
        }
        let left = &this.input[this.consumed..];
        let part = &left[..left.len().min(out.remaining())];
        if !this.pulse.has_settings() && this.first_frame.take(part) {
            this.pulse.settings_read();
        }
        out.put_slice(part);
        this.consumed += part.len();
        if this.consumed == this.input.len() {
            this.consumed = 0;
            this.input.clear();
            this.buffers.release(&mut this.input);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_pieces(context, [bytes])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut pieces: [&[u8]; PIECES] = [b""; PIECES];
        let filled = slices.iter().filter(|slice| !slice.is_empty());
        pieces.iter_mut().zip(filled).for_each(|(piece, slice)| *piece = slice);
        self.poll_pieces(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_rest(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(context))?;
        Poll::Ready(self.transport.shutdown_write())
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        // If it fails, the server learns of it by the end of the connection.
        let _ = self.transport.announce_end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_is_complete_with_its_last_byte_however_it_is_split() {
        let frame = [&[0, 0, 6, 4, 0, 0, 0, 0, 0][..], &[0, 3, 0, 0, 0, 100], b"more"].concat();
        for split in 0..frame.len() {
            let mut first = FirstFrame::default();
            assert_eq!(first.take(&frame[..split]), split >= 15, "{split}");
            assert!(split >= 15 || first.take(&frame[split..]), "{split}");
        }
        assert!(FirstFrame::default().take(&[0, 0, 0, 4, 0, 0, 0, 0, 0]), "empty SETTINGS");
        assert!(!FirstFrame::default().take(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "a length of 4.7 MB");
    }
}
