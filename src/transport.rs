//! Sockets and buffers: reading without a buffer while there is nothing to read, writing in one call what belongs together.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// A buffer's size: so much is read or passed on at once.
pub const BUFFER: usize = 64 * 1024;
/// Buffers that a worker keeps for the next request.
const KEEP: usize = 256;

/// A worker's buffers that are not in use.
#[derive(Debug, Default)]
pub struct Buffers {
    unused: RefCell<Vec<Vec<u8>>>,
    /// How few of them there were at some time since the last sweep: so many have been needed by nobody.
    fewest: Cell<usize>,
}

impl Buffers {
    /// An empty buffer.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        let mut unused = self.unused.borrow_mut();
        let buffer = unused.pop();
        self.fewest.set(self.fewest.get().min(unused.len()));
        buffer.unwrap_or_else(|| Vec::with_capacity(BUFFER))
    }

    /// Takes a buffer back; what grew far beyond the usual, or never was one, is let go.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut unused = self.unused.borrow_mut();
        if (BUFFER..=2 * BUFFER).contains(&buffer.capacity()) && unused.len() < KEEP {
            buffer.clear();
            unused.push(buffer);
        }
    }

    /// Lets go of half of those that nobody has needed since the last sweep, so that a rush of
    /// requests does not leave its memory behind for good.
    pub fn sweep(&self) {
        let mut unused = self.unused.borrow_mut();
        unused.drain(..self.fewest.get().div_ceil(2));
        self.fewest.set(unused.len());
    }
}

/// Reads what is there behind what `buffer` holds; 0 at the end of the stream. A buffer is taken
/// only once there is something to read, so that who waits has none.
///
/// # Errors
/// The system's.
pub async fn read(stream: &TcpStream, buffer: &mut Vec<u8>, buffers: &Buffers) -> io::Result<usize> {
    loop {
        poll_fn(|context| stream.poll_read_ready(context)).await?;
        if buffer.capacity() == 0 {
            *buffer = buffers.take();
        } else if buffer.len() == buffer.capacity() {
            buffer.reserve(BUFFER);
        }
        let room = buffer.capacity() - buffer.len();
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(read) if read > 0 && read < room => {
                // All that was there has been read. Said here, it saves the call that would find that out.
                let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                return Ok(read);
            }
            result => return result,
        }
    }
}

/// Writes all of the pieces, in as few calls as the system allows, and counts what was taken.
///
/// # Errors
/// The system's; [`io::ErrorKind::WriteZero`] when it takes nothing.
pub async fn write<const N: usize>(stream: &TcpStream, pieces: [&[u8]; N], count: &mut u64) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); N];
    let there = pieces.iter().filter(|piece| !piece.is_empty());
    let filled = slices.iter_mut().zip(there).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
    let mut left = &mut slices[..filled];
    while !left.is_empty() {
        let result = if let [one] = left { stream.try_write(one) } else { stream.try_write_vectored(left) };
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                *count += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| stream.poll_write_ready(context)).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a connection did not come about for want of files or ports here.
#[must_use]
pub fn is_ours(error: &io::Error) -> bool {
    /// `EMFILE` and `ENFILE`, which have no [`io::ErrorKind`]; the same on every Unix.
    const NO_FILES: [i32; 2] = [24, 23];
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error().is_some_and(|code| NO_FILES.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Buffers {
        /// As many requests as that at once, and their end.
        fn serve(&self, requests: usize) {
            let taken: Vec<_> = (0..requests).map(|_| self.take()).collect();
            taken.into_iter().for_each(|buffer| self.give(buffer));
        }

        fn unused(&self) -> usize {
            self.unused.borrow().len()
        }
    }

    #[test]
    fn a_rush_leaves_no_buffers_behind_but_those_that_are_needed() {
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
    fn what_is_needed_between_any_two_sweeps_stays() {
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
