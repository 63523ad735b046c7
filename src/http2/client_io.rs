//! The transport of a connection to a server, as `h2` reads and writes it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::client::Pulse;
use crate::http2::io::{Unsent, first_pieces};
use crate::transport::{Buffers, Transport};

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
    unsent: Unsent,
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
        Self { transport, buffers, pulse, input: Vec::new(), consumed: 0, unsent: Unsent::default(), first_frame }
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
        let this = &mut *self;
        this.unsent.poll_write(&this.transport, context, [bytes])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.unsent.poll_write(&this.transport, context, first_pieces(slices))
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.unsent.poll_flush(&this.transport, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
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
