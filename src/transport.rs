//! The only code on the request path that reads and writes sockets, and the buffers that connections share.
//!
//! An idle connection holds no buffer: one is taken when there is something to read, and put back
//! when all of it has been consumed.

mod accept;
pub mod connect;
pub mod handshake;
mod peer;
mod socket;
mod tls;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::io::Interest;

pub use self::accept::{Acceptor, ListeningSocket};
pub use self::peer::{ClientAddress, Peer};
pub use self::socket::{DetachedSocket, Socket};
pub use self::tls::TlsTransport;

/// The size of a buffer, and so the most that is read or forwarded at once. A peer that accepts nothing costs up to a buffer:
/// with the rest of its connection, that is at most 60 KiB. A body of 100 KiB still takes only two reads.
pub const BUFFER_SIZE: usize = 51 * 1024;
/// The silence after which the system asks a peer whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// The time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The number of questions without an answer after which the peer counts as gone.
const KEEPALIVE_RETRIES: u32 = 4;
/// The most unused buffers that a worker keeps.
const MAX_UNUSED: usize = 256;

/// A worker's unused buffers.
#[derive(Debug, Default)]
pub struct Buffers {
    unused: RefCell<Vec<Vec<u8>>>,
    /// The fewest unused buffers since the last sweep: that many were not needed.
    fewest: Cell<usize>,
}

impl Buffers {
    /// Takes an empty buffer.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        let mut unused = self.unused.borrow_mut();
        let buffer = unused.pop();
        self.fewest.set(self.fewest.get().min(unused.len()));
        buffer.unwrap_or_else(|| Vec::with_capacity(BUFFER_SIZE))
    }

    /// Puts a buffer back. It is freed if its capacity is below [`BUFFER_SIZE`] or above twice that, or if there are
    /// enough unused ones.
    pub fn put(&self, mut buffer: Vec<u8>) {
        let mut unused = self.unused.borrow_mut();
        if (BUFFER_SIZE..=2 * BUFFER_SIZE).contains(&buffer.capacity()) && unused.len() < MAX_UNUSED {
            buffer.clear();
            unused.push(buffer);
        }
    }

    /// Puts the buffer of a connection back if it is empty, and leaves the connection without one.
    pub fn release(&self, buffer: &mut Vec<u8>) {
        if buffer.is_empty() && buffer.capacity() > 0 {
            self.put(std::mem::take(buffer));
        }
    }

    /// Like [`Buffers::release`], but if there are bytes in the buffer, leaves it with no more memory than they need. For a
    /// connection that may have to wait for long.
    pub fn shrink(&self, buffer: &mut Vec<u8>) {
        if buffer.capacity() - buffer.len() >= BUFFER_SIZE / 8 {
            let exact = buffer.to_vec();
            self.put(std::mem::replace(buffer, exact));
        }
    }

    /// Whether there are no unused buffers for a sweep to free.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unused.borrow().is_empty()
    }

    /// Frees half of the buffers that were not needed since the last sweep, so that memory is returned after a
    /// burst of requests.
    pub fn sweep(&self) {
        let mut unused = self.unused.borrow_mut();
        unused.drain(..self.fewest.get().div_ceil(2));
        self.fewest.set(unused.len());
    }
}

/// A byte stream to a client or a server.
///
/// Methods take `&self`, so that one task can read from a connection while it writes to it.
#[derive(Debug)]
pub enum Transport {
    /// A connection without TLS.
    Plain(Socket),
    /// A connection with TLS, after the handshake.
    Tls(Box<TlsTransport>),
}

impl Transport {
    /// A new connection to a server.
    #[must_use]
    pub fn of_server(socket: Socket) -> Self {
        if let Socket::Tcp(stream) = &socket {
            // Without it, a small request may wait for an acknowledgement. If setting it fails, the socket still works.
            let _ = stream.set_nodelay(true);
        }
        Self::Plain(socket)
    }

    /// Waits for bytes, appends them to `buffer` and returns their number: 0 at the end of the stream.
    /// A `buffer` without capacity is replaced by one from `buffers` once there is something to read; until then, the
    /// connection holds none.
    ///
    /// # Errors
    /// The system's error. With TLS, [`io::ErrorKind::UnexpectedEof`] if the stream ends without the peer's `close_notify`, so
    /// that something may be missing, and [`io::ErrorKind::InvalidData`] if the peer violates the protocol.
    pub async fn read(&self, buffer: &mut Vec<u8>, buffers: &Buffers) -> io::Result<usize> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => return tls.read(buffer, buffers).await,
        };
        loop {
            poll_fn(|context| socket.poll_read_ready(context)).await?;
            if buffer.capacity() == 0 {
                *buffer = buffers.take();
            } else if buffer.len() == buffer.capacity() {
                buffer.reserve(BUFFER_SIZE);
            }
            let room = buffer.capacity() - buffer.len();
            match socket.try_read_buf(buffer) {
                // The runtime takes a new connection to be readable until it has been tried.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffers.release(buffer),
                Ok(read) if read > 0 && read < room => {
                    // A short read has emptied the socket. Telling tokio so saves the system call that would find out.
                    socket.clear_readable();
                    return Ok(read);
                }
                result => return result,
            }
        }
    }

    /// Writes `pieces` in as few system calls as possible, as far as the system accepts them now, and adds the number of
    /// accepted bytes to `written`. Returns the rest, in the form in which it is sent: it must be written before anything
    /// else, by [`Transport::write_more`].
    ///
    /// # Errors
    /// The system's error, or [`io::ErrorKind::WriteZero`] if it accepts nothing.
    pub fn write_now<const N: usize>(&self, pieces: [&[u8]; N], written: &mut u64) -> io::Result<Vec<u8>> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => return tls.write_now(&pieces, written),
        };
        let mut slices = [IoSlice::new(&[]); N];
        let pieces = pieces.iter().filter(|piece| !piece.is_empty());
        let count = slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
        let mut left = &mut slices[..count];
        while !left.is_empty() {
            let result = if let [one] = left { socket.try_write(one) } else { socket.try_write_vectored(left) };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(accepted) => {
                    *written += accepted as u64;
                    IoSlice::advance_slices(&mut left, accepted);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(joined(left)),
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    /// Waits until the system accepts more, and writes the start of `rest`, which has to be written. Removes it from `rest`,
    /// which gives back the memory, and adds its length to `written`.
    ///
    /// # Errors
    /// As [`Transport::write_now`].
    pub async fn write_more(&self, rest: &mut Vec<u8>, written: &mut u64) -> io::Result<()> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => return tls.write_more(rest, written).await,
        };
        poll_fn(|context| socket.poll_write_ready(context)).await?;
        match socket.try_write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(accepted) => {
                *written += accepted as u64;
                rest.drain(..accepted);
                rest.shrink_to_fit();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The address of this end; `None` for a Unix socket.
    #[must_use]
    pub fn local_address(&self) -> Option<std::net::SocketAddr> {
        let socket = self.socket();
        socket.local_address()
    }

    /// Ends the sending direction; the peer may still send.
    ///
    /// # Errors
    /// The system's error.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown_write(),
            Self::Tls(tls) => tls.shutdown_write(),
        }
    }

    /// Tells the peer that everything has been sent (`close_notify`), if the connection is about to be closed. Without TLS,
    /// closing it says so.
    ///
    /// # Errors
    /// The system's error.
    pub fn announce_end(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.announce_end(),
        }
    }

    /// The error that ended TLS, if one did.
    #[must_use]
    pub fn tls_error(&self) -> Option<rustls::Error> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.session().failure().cloned(),
        }
    }

    /// Waits until the peer, which has ended its sending direction, resets the connection.
    pub async fn reset(&self) {
        // An error means that the runtime ends.
        let _ = self.socket().ready(Interest::ERROR).await;
    }

    /// Makes the system ask a silent peer whether it is still there, so that a connection ends soon after its peer
    /// has vanished, and devices on the way do not forget it. One that has not acknowledged what was sent is not asked: the
    /// system gives up sending it again later. A shorter limit for that, `TCP_USER_TIMEOUT`, would also end a connection
    /// whose peer is there and only reads nothing for a while.
    pub fn keep_alive(&self) {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
        self.socket().set_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES));
    }

    /// Limits what the system queues beyond the bytes in flight, so that what is written later, such as the reset of one of
    /// several streams, is not far behind.
    pub fn limit_unsent(&self, bytes: u32) {
        self.socket().set_unsent(bytes);
    }

    /// Like [`Transport::is_quiet`], but as of now: costs a system call.
    #[must_use]
    pub fn is_quiet_now(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => return tls.is_quiet_now(),
        };
        let peeked = socket.options().peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ready once the runtime is told that the peer has sent something or closed.
    pub fn poll_stirs(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(context).map(drop),
            Self::Tls(tls) => tls.poll_stirs(context),
        }
    }

    /// Whether the peer has neither sent anything nor closed, as far as the runtime has been told. Usually costs no system
    /// call if so. Messages of TLS itself, such as tickets, do not count.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => return tls.is_quiet(),
        };
        socket.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }
}

/// The slices as one, with no more memory than they need.
#[cold]
fn joined(slices: &[IoSlice<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
    slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
    bytes
}

/// Whether connecting failed for lack of descriptors or ports on this machine, not because of the peer.
#[must_use]
pub fn is_local_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || is_out_of_descriptors(error)
}

/// Whether the process or the system has no descriptor left.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    /// `EMFILE` and `ENFILE`, which have no [`io::ErrorKind`]; the same on every Unix.
    const NO_FILES: [i32; 2] = [24, 23];
    error.raw_os_error().is_some_and(|code| NO_FILES.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Buffers {
        /// Takes this many buffers at once, and puts them back.
        fn serve(&self, requests: usize) {
            let taken: Vec<_> = (0..requests).map(|_| self.take()).collect();
            taken.into_iter().for_each(|buffer| self.put(buffer));
        }

        fn unused(&self) -> usize {
            self.unused.borrow().len()
        }
    }

    #[test]
    fn a_burst_leaves_only_the_buffers_that_are_still_needed() {
        let buffers = Buffers::default();
        buffers.serve(100);
        assert_eq!(buffers.unused(), 100);
        for _ in 0..20 {
            buffers.serve(10);
            buffers.sweep();
        }
        assert_eq!(buffers.unused(), 10);
        for _ in 0..20 {
            buffers.sweep();
        }
        assert_eq!(buffers.unused(), 0);
    }

    #[test]
    fn buffers_that_are_needed_between_sweeps_are_kept() {
        let buffers = Buffers::default();
        buffers.serve(50);
        buffers.sweep();
        for _ in 0..20 {
            buffers.serve(50);
            buffers.sweep();
        }
        assert_eq!(buffers.unused(), 50);
    }
}
