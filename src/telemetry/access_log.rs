//! The access log: one line per request, written by a separate thread so that no request waits for it.
//!
//! Each worker formats lines into its own buffer and hands the buffer to the writer thread when it is
//! full, and at each tick. While the writer is too far behind (a full disk, a stuck pipe), lines are
//! dropped and counted.

mod line;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

pub use line::AccessLogEntry;

use self::line::TimestampCache;
use super::LOSS_LOG_INTERVAL;
use super::log_throttle::LogThrottle;
use crate::config::LogFormat;

/// The size, in bytes, at which a worker hands over its buffer. A buffer that grew past twice this is not reused.
const FLUSH_AT: usize = 64 * 1024;
/// Buffers that may wait for the writer: about 16 MiB.
const QUEUE: usize = 256;
/// Written buffers that are kept for their worker to reuse.
const SPARE: usize = 4;

/// The writer thread, and the sender to it that workers share.
#[derive(Debug)]
pub struct AccessLogWriter {
    to_writer: SyncSender<Batch>,
    ended: Receiver<()>,
    losses: LostLines,
}

impl AccessLogWriter {
    /// Starts the thread that writes to `out`, which is standard output except in tests.
    ///
    /// # Errors
    /// If the system cannot create the thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (to_writer, batches) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::sync_channel(1);
        let losses = LostLines::default();
        let mut writer = BatchWriter {
            out,
            in_line: false,
            losses: losses.clone(),
            throttle: LogThrottle::every(LOSS_LOG_INTERVAL),
        };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run(&batches);
            // Fails when `finish` was not called, or has given up.
            let _ = end.try_send(());
        })?;
        Ok(Self { to_writer, ended, losses })
    }

    /// Returns a log for one more worker.
    #[must_use]
    pub fn worker(&self) -> AccessLog {
        let (home, spare) = mpsc::sync_channel(SPARE);
        AccessLog {
            buffer: Vec::with_capacity(FLUSH_AT * 2),
            lines: 0,
            clock: TimestampCache::default(),
            to_writer: self.to_writer.clone(),
            home,
            spare,
            losses: self.losses.clone(),
        }
    }

    /// Returns the count of lost lines, which can be read at any time from any thread.
    #[must_use]
    pub fn losses(&self) -> LostLines {
        self.losses.clone()
    }

    /// Waits up to `timeout` until everything is written. Returns whether it was, which requires that
    /// every worker's [`AccessLog`] has been dropped.
    #[must_use]
    pub fn finish(self, timeout: Duration) -> bool {
        drop(self.to_writer);
        self.ended.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
    }
}

/// The count of lines lost since the start.
#[derive(Debug, Clone, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// Lines that were dropped because the writer was behind, or that could not be written.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Relaxed);
    }
}

/// One worker's end of the access log. Flushes when dropped.
#[derive(Debug)]
pub struct AccessLog {
    buffer: Vec<u8>,
    /// The number of lines in the buffer.
    lines: u64,
    clock: TimestampCache,
    to_writer: SyncSender<Batch>,
    /// Sent with each batch, so that the writer can return the buffer to `spare`.
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    losses: LostLines,
}

impl AccessLog {
    /// Adds one line. Never waits, and rarely allocates.
    pub fn line(&mut self, format: LogFormat, entry: &AccessLogEntry<'_>) {
        match format {
            LogFormat::Text => entry.write_text(&mut self.clock, &mut self.buffer),
            LogFormat::Json => entry.write_json(&mut self.clock, &mut self.buffer),
        }
        self.lines += 1;
        if self.buffer.len() >= FLUSH_AT {
            self.flush();
        }
    }

    /// Hands the buffered lines to the writer. Called about ten times a second, so that lines appear
    /// promptly even if there are few.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let unused = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(FLUSH_AT * 2));
        let batch = Batch {
            text: std::mem::replace(&mut self.buffer, unused),
            lines: std::mem::take(&mut self.lines),
            home: self.home.clone(),
        };
        if let Err(mpsc::TrySendError::Full(batch) | mpsc::TrySendError::Disconnected(batch)) =
            self.to_writer.try_send(batch)
        {
            self.losses.add(batch.lines);
            batch.recycle();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Whole lines on their way to the writer.
#[derive(Debug)]
struct Batch {
    text: Vec<u8>,
    lines: u64,
    home: SyncSender<Vec<u8>>,
}

impl Batch {
    fn recycle(mut self) {
        if self.text.capacity() <= FLUSH_AT * 2 {
            self.text.clear();
            // Fails when the worker has enough spare buffers, or has ended.
            let _ = self.home.try_send(self.text);
        }
    }
}

struct BatchWriter<W> {
    out: W,
    /// Whether the last write ended within a line.
    in_line: bool,
    losses: LostLines,
    throttle: LogThrottle,
}

impl<W: Write> BatchWriter<W> {
    fn run(&mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            let error = self.write(&batch.text).err();
            if error.is_some() {
                self.losses.add(batch.lines);
            }
            batch.recycle();
            if let Some(lines) = self.throttle.growth(self.losses.lines(), Instant::now()) {
                let error = error.map_or_else(|| "output is too slow".to_owned(), |error| error.to_string());
                tracing::error!(lines, error, "access log lines were lost");
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.in_line {
            self.write_all(b"\n")?;
        }
        self.write_all(text)?;
        self.out.flush()
    }

    /// Like [`Write::write_all`], but remembers whether an error left an incomplete line, and waits if the
    /// output is a pipe that another process has made non-blocking.
    fn write_all(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            match self.out.write(text) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.in_line = text[written - 1] != b'\n';
                    text = &text[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::time::UNIX_EPOCH;

    const SOON: Duration = Duration::from_secs(20);

    /// An output that waits before each write for its result: how many bytes it may take, or an error.
    struct SteppedOutput {
        written: Arc<Mutex<Vec<u8>>>,
        steps: Receiver<Step>,
    }

    type Step = io::Result<usize>;

    impl Write for SteppedOutput {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Once the sender is dropped, everything is written.
            let taken = self.steps.recv().unwrap_or(Ok(usize::MAX))?.min(text.len());
            self.written.lock().extend_from_slice(&text[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stepped() -> (SteppedOutput, mpsc::Sender<Step>, Arc<Mutex<Vec<u8>>>) {
        let (step, steps) = mpsc::channel();
        let written = Arc::default();
        (SteppedOutput { written: Arc::clone(&written), steps }, step, written)
    }

    fn text(written: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(written.lock().clone()).expect("ASCII")
    }

    fn entry(path: &str) -> AccessLogEntry<'_> {
        AccessLogEntry { path, ..AccessLogEntry::example(UNIX_EPOCH) }
    }

    /// The logged paths, in order.
    fn paths(text: &str) -> Vec<String> {
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"))
            .map(|line| line["path"].as_str().expect("a path").to_owned())
            .collect()
    }

    #[test]
    fn all_lines_are_written_in_order_once_the_workers_have_ended() {
        let (out, step, written) = stepped();
        drop(step);
        let writer = AccessLogWriter::start(out).expect("a thread");
        let mut log = writer.worker();
        let expected: Vec<String> = (0..1_000).map(|i| format!("/{i}")).collect();
        for path in &expected {
            log.line(LogFormat::Json, &entry(path));
        }
        drop(log);
        let losses = writer.losses();
        assert!(writer.finish(SOON));
        assert_eq!(paths(&text(&written)), expected);
        assert_eq!(losses.lines(), 0);
    }

    #[test]
    fn a_stuck_output_costs_lines_but_no_time() {
        let (out, step, written) = stepped();
        let writer = AccessLogWriter::start(out).expect("a thread");
        let losses = writer.losses();
        let mut log = writer.worker();
        // One batch is stuck in the writer, QUEUE batches wait, and further ones are dropped.
        let mut sent = 0;
        while losses.lines() < 10 {
            assert!(sent < 2 * QUEUE, "nothing was dropped");
            log.line(LogFormat::Json, &entry(&format!("/{sent}")));
            log.flush();
            sent += 1;
        }
        assert!(sent >= QUEUE + 10, "lines were dropped too early: after {sent}");
        // Once the output accepts data again, the queued lines are written in order.
        drop(step);
        drop(log);
        assert!(writer.finish(SOON));
        let written = paths(&text(&written));
        assert_eq!(written.len() as u64, sent as u64 - losses.lines());
        assert!(written.is_sorted_by_key(|path| path[1..].parse::<usize>().expect("a number")));
    }

    #[test]
    fn waiting_for_a_stuck_output_ends_at_the_timeout() {
        let (out, step, _) = stepped();
        let writer = AccessLogWriter::start(out).expect("a thread");
        writer.worker().line(LogFormat::Text, &entry("/"));
        assert!(!writer.finish(Duration::from_millis(20)));
        drop(step);
    }

    #[test]
    fn an_error_loses_its_batch_and_later_lines_are_complete() {
        let (out, step, written) = stepped();
        let writer = AccessLogWriter::start(out).expect("a thread");
        let losses = writer.losses();
        let mut log = writer.worker();
        step.send(Ok(10)).expect("a writer");
        step.send(Err(io::ErrorKind::Interrupted.into())).expect("a writer");
        step.send(Err(io::ErrorKind::StorageFull.into())).expect("a writer");
        log.line(LogFormat::Json, &entry("/torn"));
        log.flush();
        log.line(LogFormat::Json, &entry("/complete"));
        drop(log);
        drop(step);
        assert!(writer.finish(SOON));
        assert_eq!(losses.lines(), 1);
        let text = text(&written);
        let (torn, complete) = text.split_once('\n').expect("two lines");
        assert_eq!(torn.len(), 10);
        assert_eq!(paths(complete), ["/complete"]);
    }

    #[test]
    fn written_buffers_are_reused() {
        let (out, step, _) = stepped();
        let writer = AccessLogWriter::start(out).expect("a thread");
        let mut log = writer.worker();
        let first = log.buffer.as_ptr();
        log.line(LogFormat::Text, &entry("/"));
        log.flush();
        step.send(Ok(usize::MAX)).expect("a writer");
        let spare = log.spare.recv_timeout(SOON).expect("the buffer");
        assert_eq!((spare.as_ptr(), spare.len()), (first, 0));
    }
}
