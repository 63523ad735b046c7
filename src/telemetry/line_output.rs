//! Whole lines on an output that may fail, or take only a part, at any byte.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The first and the longest pause while an output that does not block takes nothing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// An output, and the rest of the line that it has taken only a part of.
#[derive(Debug)]
pub(super) struct LineOutput<W> {
    out: W,
    rest: Vec<u8>,
    lost: u64,
}

impl<W: Write> LineOutput<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, rest: Vec::new(), lost: 0 }
    }

    /// The number of lines that were lost since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Whether the last line that was written is not complete.
    pub(super) fn is_torn(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Gives up the rest of a line, because it no longer fits to what is at the end of the output.
    pub(super) fn forget_rest(&mut self) {
        if self.is_torn() {
            self.rest.clear();
            self.lost += 1;
        }
    }

    /// Writes whole lines. Those that an error leaves out are counted as lost; the rest of one that was begun is
    /// written first the next time.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if let Err(error) = self.push(&rest, true) {
            self.lost += count(lines);
            return Err(error);
        }
        self.push(lines, false)?;
        self.out.flush()
    }

    /// Writes `text`; `in_line` says whether it continues a line.
    fn push(&mut self, mut text: &[u8], mut in_line: bool) -> io::Result<()> {
        let mut pause = PAUSES.0;
        while !text.is_empty() {
            let error = match self.out.write(text) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    in_line = text[written - 1] != b'\n';
                    text = &text[written..];
                    pause = PAUSES.0;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A pipe that another process has made non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
                Err(error) => error,
            };
            self.stop_at(text, in_line);
            return Err(error);
        }
        Ok(())
    }

    /// Keeps the rest of the line that was begun, and counts the lines after it as lost.
    fn stop_at(&mut self, unwritten: &[u8], in_line: bool) {
        let end = memchr::memchr(b'\n', unwritten).map_or(unwritten.len(), |at| at + 1);
        let (rest, lost) = unwritten.split_at(if in_line { end } else { 0 });
        self.rest.extend_from_slice(rest);
        self.lost += count(lost);
    }
}

/// The number of lines in a text of whole lines.
fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// The count of lines lost since the start, which can be read at any time from any thread.
#[derive(Debug, Clone, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// Lines that were dropped because the writer was behind, or that could not be written.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that takes so many bytes at each write, or fails.
    struct Scripted {
        steps: Vec<io::Result<usize>>,
        taken: Vec<u8>,
    }

    impl Write for Scripted {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let step = if self.steps.is_empty() { Ok(usize::MAX) } else { self.steps.remove(0) };
            let taken = step?.min(text.len());
            self.taken.extend_from_slice(&text[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    #[test]
    fn a_line_is_whole_or_absent_whatever_fails() {
        for (steps, taken, lost) in [
            (vec![], "a1\na2\nb1\nc1\n", 0),
            (vec![Ok(1), Err(io::ErrorKind::Interrupted.into()), Ok(3)], "a1\na2\nb1\nc1\n", 0),
            (vec![Err(io::ErrorKind::WouldBlock.into()), Ok(1)], "a1\na2\nb1\nc1\n", 0),
            // The first line is begun, so it is completed later.
            (vec![Ok(1), Err(full())], "a1\nb1\nc1\n", 1),
            (vec![Ok(3), Err(full())], "a1\nb1\nc1\n", 1),
            (vec![Ok(4), Err(full())], "a1\na2\nb1\nc1\n", 0),
            (vec![Err(full())], "b1\nc1\n", 2),
            (vec![Ok(0)], "b1\nc1\n", 2),
            // Still full the next time.
            (vec![Ok(1), Err(full()), Err(full())], "a1\nc1\n", 2),
            (vec![Ok(1), Err(full()), Ok(1), Err(full())], "a1\nc1\n", 2),
        ] {
            let mut output = LineOutput::new(Scripted { steps, taken: Vec::new() });
            for lines in ["a1\na2\n", "b1\n", "c1\n"] {
                // Its lines are counted.
                let _ = output.write(lines.as_bytes());
            }
            assert_eq!((output.take_lost(), String::from_utf8_lossy(&output.out.taken).as_ref()), (lost, taken));
        }
    }

    #[test]
    fn the_rest_of_a_line_can_be_given_up() {
        let mut output = LineOutput::new(Scripted { steps: vec![Ok(1), Err(full())], taken: Vec::new() });
        assert!(output.write(b"a1\n").is_err() && output.is_torn());
        output.forget_rest();
        output.forget_rest();
        assert!(!output.is_torn());
        assert!(output.write(b"b1\n").is_ok());
        assert_eq!((output.take_lost(), output.out().taken.as_slice()), (1, &b"ab1\n"[..]));
    }
}
