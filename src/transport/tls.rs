//! A TLS connection over a socket.
//!
//! Reading and writing use memory of the thread, which holds something only within a call. Records are sent in the order in
//! which they were encrypted: what a write has left over goes before the records that the connection itself has to send.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::io::{self, Read};
use std::task::{Context, Poll, ready};

use rustls::ProtocolVersion;

use crate::tls::session::{MAX_PLAINTEXT, Records, Session};
use crate::transport::{BUFFER_SIZE, Buffers, Socket};

#[cfg(test)]
mod tests;

/// A TLS connection after its handshake.
#[derive(Debug)]
pub struct TlsTransport {
    socket: Socket,
    session: RefCell<Session>,
    /// Plaintext that nobody has read yet: some may come with the end of the handshake.
    unread: RefCell<Vec<u8>>,
    /// Records of the connection itself that are to be sent.
    own: RefCell<Vec<u8>>,
    /// Whether `own` has only tickets, which the client gets with its first response.
    can_wait: Cell<bool>,
    /// Whether the caller of a write has records that are to be sent before all others.
    is_writing: Cell<bool>,
    /// Whether the socket's sending direction ends once `own` has been sent.
    ends: Cell<bool>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory for one call.
#[derive(Debug, Default)]
struct Scratch {
    /// Initialized, and of no meaning between calls.
    input: Vec<u8>,
    output: Records,
}

/// How to read from the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    /// As far as the runtime has been told.
    Runtime,
    /// With a system call in any case.
    System,
}

impl TlsTransport {
    pub(super) fn new(socket: Socket, session: Session) -> Self {
        Self {
            socket,
            session: RefCell::new(session),
            unread: RefCell::default(),
            own: RefCell::default(),
            can_wait: Cell::new(false),
            is_writing: Cell::new(false),
            ends: Cell::new(false),
        }
    }

    /// The session, for its facts.
    #[must_use]
    pub fn session(&self) -> Ref<'_, Session> {
        self.session.borrow()
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Gives the socket back after a handshake that failed.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Performs the handshake. The last records of TLS 1.3 go out with the first data; those of a client at the latest when it
    /// waits for the server's.
    pub(super) async fn handshake(&self) -> io::Result<()> {
        while self.session().is_handshaking() {
            poll_fn(|context| self.poll_own(context)).await?;
            poll_fn(|context| self.socket.poll_read_ready(context)).await?;
            let mut unread = self.unread.borrow_mut();
            match self.receive(&mut unread, BUFFER_SIZE, Readiness::Runtime) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts the session, and gives it bytes that have been received before.
    pub(super) fn start(&self, received: &[u8]) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.output.clear();
            let mut session = self.session.borrow_mut();
            let mut result = session.start(&mut scratch.output);
            if result.is_ok() && !received.is_empty() {
                let input = &mut received.to_vec();
                result = session.receive(input, &mut self.unread.borrow_mut(), &mut scratch.output);
            }
            let sent = self.send_own(&scratch.output);
            result.map_err(violation)?;
            sent
        })
    }

    /// See [`super::Transport::read`]. An end without `close_notify` is [`io::ErrorKind::UnexpectedEof`].
    pub(super) async fn read(&self, buffer: &mut Vec<u8>, buffers: &Buffers) -> io::Result<usize> {
        loop {
            if self.has_unread() {
                let unread = self.unread.take();
                if buffer.capacity() == 0 {
                    *buffer = buffers.take();
                }
                buffer.extend_from_slice(&unread);
                return Ok(unread.len());
            }
            if self.session().peer_closed() && (self.own.borrow().is_empty() || self.can_wait.get()) {
                return Ok(0);
            }
            poll_fn(|context| {
                let readable = self.socket.poll_read_ready(context);
                // A response could have taken them along, but none comes before the peer has sent more.
                let is_due = !self.own.borrow().is_empty() && !self.can_wait.get();
                if readable.is_pending() && is_due && !self.is_writing.get() {
                    let _ = self.poll_own(context)?;
                }
                readable
            })
            .await?;
            let before = buffer.len();
            if buffer.capacity() == 0 {
                *buffer = buffers.take();
            } else if buffer.capacity() - before < MAX_PLAINTEXT {
                buffer.reserve(BUFFER_SIZE);
            }
            let room = buffer.capacity() - before;
            let result = self.receive(buffer, room, Readiness::Runtime);
            let received = buffer.len() - before;
            buffers.release(buffer);
            match result {
                _ if received > 0 => return Ok(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
    }

    /// Receives what there is, without waiting, up to about `room` bytes, and processes it. Ok means only that the peer has
    /// sent something.
    fn receive(&self, plaintext: &mut Vec<u8>, room: usize, source: Readiness) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|Scratch { input, output }| {
            let mut session = self.session.borrow_mut();
            output.clear();
            let kept = session.incomplete().len();
            let end = room.max(kept + MAX_PLAINTEXT);
            if input.len() < end {
                input.resize(end, 0);
            }
            input[..kept].copy_from_slice(session.incomplete());
            let free = &mut input[kept..end];
            let received = match source {
                Readiness::Runtime => self.socket.try_read(free)?,
                Readiness::System => (&*self.socket.options()).read(free)?,
            };
            if received == 0 {
                return if session.peer_closed() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if source == Readiness::Runtime && received < free.len() {
                // A short read has emptied the socket.
                self.socket.clear_readable();
            }
            let was_handshaking = session.is_handshaking();
            let result = session.receive(&mut input[..kept + received], plaintext, output);
            // Before TLS 1.3, the peer may wait for them.
            let is_last =
                was_handshaking && !session.is_handshaking() && session.version() == Some(ProtocolVersion::TLSv1_3);
            if result.is_ok() && is_last {
                self.own.borrow_mut().extend_from_slice(output.filled());
                self.can_wait.set(session.is_server());
                return Ok(());
            }
            let sent = self.send_own(output);
            result.map_err(violation)?;
            sent
        })
    }

    /// Sends records of the connection itself, now or later.
    fn send_own(&self, output: &Records) -> io::Result<()> {
        if output.filled().is_empty() {
            return Ok(());
        }
        self.can_wait.set(false);
        let mut own = self.own.borrow_mut();
        own.extend_from_slice(output.filled());
        if !self.is_writing.get() {
            self.send_front(&mut own)?;
        }
        Ok(())
    }

    /// Sends records as far as the system accepts them now, and returns the rest.
    fn send_some<'r>(&self, mut records: &'r [u8]) -> io::Result<&'r [u8]> {
        while !records.is_empty() {
            match self.socket.try_write(records) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(accepted) => records = &records[accepted..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// Sends the first of `own` as far as the system accepts them now.
    fn send_front(&self, own: &mut Vec<u8>) -> io::Result<()> {
        let left = self.send_some(own)?.len();
        own.drain(..own.len() - left);
        own.shrink_to_fit();
        Ok(())
    }

    /// Ready once the records of the connection itself have been sent.
    fn poll_own(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut own = self.own.borrow_mut();
        while !own.is_empty() {
            ready!(self.socket.poll_write_ready(context))?;
            self.send_front(&mut own)?;
        }
        if self.ends.take() {
            self.socket.shutdown_write()?;
        }
        Poll::Ready(Ok(()))
    }

    /// See [`super::Transport::write_now`]. The rest is of records, not of `pieces`.
    pub(super) fn write_now(&self, pieces: &[&[u8]], written: &mut u64) -> io::Result<Vec<u8>> {
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Ok(Vec::new());
        }
        if self.is_writing.get() {
            return Err(io::Error::other("the rest of the last write is missing"));
        }
        SCRATCH.with_borrow_mut(|Scratch { output, .. }| {
            output.clear();
            let own = self.own.take();
            self.can_wait.set(false);
            output.extend(&own);
            let result = self.session.borrow_mut().encrypt(pieces, output);
            let rest = self.send_some(output.filled())?;
            *written += (output.filled().len() - rest.len()) as u64;
            result.map_err(violation)?;
            self.is_writing.set(!rest.is_empty());
            Ok(rest.to_vec())
        })
    }

    /// See [`super::Transport::write_more`].
    pub(super) async fn write_more(&self, rest: &mut Vec<u8>, written: &mut u64) -> io::Result<()> {
        poll_fn(|context| self.socket.poll_write_ready(context)).await?;
        let left = self.send_some(rest)?.len();
        let accepted = rest.len() - left;
        *written += accepted as u64;
        rest.drain(..accepted);
        rest.shrink_to_fit();
        if rest.is_empty() {
            self.is_writing.set(false);
            let own = self.own.take();
            let left = self.send_some(&own)?;
            *self.own.borrow_mut() = left.to_vec();
        }
        Ok(())
    }

    /// See [`super::Transport::announce_end`].
    pub(super) fn announce_end(&self) -> io::Result<()> {
        // Within a record, an alert would be a part of it.
        if self.is_writing.get() {
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|Scratch { output, .. }| {
            output.clear();
            self.session.borrow_mut().close(output);
            self.send_own(output)
        })
    }

    /// See [`super::Transport::shutdown_write`].
    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        self.announce_end()?;
        if self.own.borrow().is_empty() {
            return self.socket.shutdown_write();
        }
        // Whoever reads on sends the rest.
        self.ends.set(true);
        Ok(())
    }

    /// See [`super::Transport::is_quiet_now`].
    pub(super) fn is_quiet_now(&self) -> bool {
        self.stays_quiet(Readiness::System)
    }

    /// See [`super::Transport::is_quiet`]. Tickets and key updates are processed.
    pub(super) fn is_quiet(&self) -> bool {
        self.stays_quiet(Readiness::Runtime)
    }

    fn stays_quiet(&self, source: Readiness) -> bool {
        loop {
            if self.has_unread() || self.session().peer_closed() {
                return false;
            }
            let mut unread = self.unread.borrow_mut();
            if let Err(error) = self.receive(&mut unread, BUFFER_SIZE, source) {
                return error.kind() == io::ErrorKind::WouldBlock;
            }
        }
    }

    /// See [`super::Transport::poll_stirs`].
    pub(super) fn poll_stirs(&self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.socket.poll_read_ready(context)).is_err() || !self.is_quiet() {
                return Poll::Ready(());
            }
        }
    }

    fn has_unread(&self) -> bool {
        !self.unread.borrow().is_empty()
    }
}

fn violation(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
