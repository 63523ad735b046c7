//! The access log: one line a request, on a path of its own so that no request ever waits for it.
//!
//! Each worker formats into a buffer of its own and hands it over full, or at its tick, to the one
//! thread that writes. While that thread is too far behind (a full disk, a stuck pipe), lines are
//! dropped and counted.

mod line;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

pub use line::Entry;

use self::line::Clock;
use super::seldom::LogThrottle;
use crate::config::LogFormat;

/// Bytes at which a worker hands its buffer over; a buffer that grew past twice this is not kept.
const FLUSH_AT: usize = 64 * 1024;
/// Buffers that may wait for the writer: 4 MiB, some 50 ms of lines at a rate no disk is asked for.
const QUEUE: usize = 256;
/// Written buffers that may wait for their worker to use them again.
const SPARE: usize = 4;

/// The writer thread and what workers need to reach it.
#[derive(Debug)]
pub struct AccessLogWriter {
    to_writer: SyncSender<Batch>,
    ended: Receiver<()>,
    losses: Losses,
}

impl AccessLogWriter {
    /// Starts the thread that writes to `out`, which is standard output but in tests.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (to_writer, batches) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::sync_channel(1);
        let losses = Losses::default();
        let mut writer = Writer { out, torn: false, losses: losses.clone(), complaint: LogThrottle::default() };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run(&batches);
            // Nobody waits any more if this fails.
            let _ = end.try_send(());
        })?;
        Ok(Self { to_writer, ended, losses })
    }

    /// A log for one more worker.
    #[must_use]
    pub fn worker(&self) -> AccessLog {
        let (home, spare) = mpsc::sync_channel(SPARE);
        AccessLog {
            buffer: Vec::with_capacity(FLUSH_AT * 2),
            lines: 0,
            clock: Clock::default(),
            to_writer: self.to_writer.clone(),
            home,
            spare,
            losses: self.losses.clone(),
        }
    }

    /// The lines that were lost, to be read at any time from any thread.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// Waits until all is written, but not longer than `deadline`. True if all was; it cannot be
    /// while a worker's [`AccessLog`] still exists.
    #[must_use]
    pub fn finish(self, deadline: Duration) -> bool {
        drop(self.to_writer);
        self.ended.recv_timeout(deadline) != Err(RecvTimeoutError::Timeout)
    }
}

/// How many lines were lost since the start.
#[derive(Debug, Clone, Default)]
pub struct Losses(Arc<AtomicU64>);

impl Losses {
    /// Lines that were dropped because the writer was behind, or could not be written.
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
    /// How many are in the buffer.
    lines: u64,
    clock: Clock,
    to_writer: SyncSender<Batch>,
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    losses: Losses,
}

impl AccessLog {
    /// Adds one line. Neither waits nor, as a rule, allocates.
    pub fn line(&mut self, format: LogFormat, entry: &Entry<'_>) {
        match format {
            LogFormat::Text => entry.write_text(&mut self.clock, &mut self.buffer),
            LogFormat::Json => entry.write_json(&mut self.clock, &mut self.buffer),
        }
        self.lines += 1;
        if self.buffer.len() >= FLUSH_AT {
            self.flush();
        }
    }

    /// Hands over what is buffered. To be called some ten times a second, so that a quiet log is
    /// still a prompt one.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let empty = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(FLUSH_AT * 2));
        let batch = Batch {
            text: std::mem::replace(&mut self.buffer, empty),
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
            // A worker that has spares enough, or is gone, needs no more.
            let _ = self.home.try_send(self.text);
        }
    }
}

struct Writer<W> {
    out: W,
    /// An error left half a line behind.
    torn: bool,
    losses: Losses,
    complaint: LogThrottle,
}

impl<W: Write> Writer<W> {
    fn run(&mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            let error = self.write(&batch.text).err();
            if error.is_some() {
                self.losses.add(batch.lines);
            }
            batch.recycle();
            if let Some(lines) = self.complaint.due(self.losses.lines(), Instant::now()) {
                let error = error.map_or_else(|| "output is too slow".to_owned(), |error| error.to_string());
                tracing::error!(lines, error, "access log lines were lost");
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_all(b"\n")?;
        }
        self.write_all(text)?;
        self.out.flush()
    }

    /// As [`Write::write_all`], but it knows whether an error tore a line, and it waits where the
    /// output is a pipe that someone made non-blocking.
    fn write_all(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            match self.out.write(text) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.torn = text[written - 1] != b'\n';
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
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    const SOON: Duration = Duration::from_secs(20);

    /// An output that takes one permit for each write, of so many bytes or an error.
    struct Gate {
        written: Arc<Mutex<Vec<u8>>>,
        permits: Receiver<Permit>,
    }

    type Permit = io::Result<usize>;

    impl Write for Gate {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // With nobody left to give permits, all is let through.
            let taken = self.permits.recv().unwrap_or(Ok(usize::MAX))?.min(text.len());
            self.written.lock().expect("the gate's text").extend_from_slice(&text[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Gate, mpsc::Sender<Permit>, Arc<Mutex<Vec<u8>>>) {
        let (permit, permits) = mpsc::channel();
        let written = Arc::default();
        (Gate { written: Arc::clone(&written), permits }, permit, written)
    }

    fn text(written: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(written.lock().expect("the gate's text").clone()).expect("ASCII")
    }

    fn entry(path: &str) -> Entry<'_> {
        Entry { path, ..Entry::example(UNIX_EPOCH) }
    }

    /// The paths that were logged, in order.
    fn paths(text: &str) -> Vec<String> {
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"))
            .map(|line| line["path"].as_str().expect("a path").to_owned())
            .collect()
    }

    #[test]
    fn all_lines_are_written_in_order_when_the_workers_end() {
        let (out, permit, written) = gate();
        drop(permit);
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
    fn a_stuck_output_costs_lines_and_not_time() {
        let (out, permit, written) = gate();
        let writer = AccessLogWriter::start(out).expect("a thread");
        let losses = writer.losses();
        let mut log = writer.worker();
        // One batch is stuck in the writer, QUEUE wait, and the rest has no place.
        let mut sent = 0;
        while losses.lines() < 10 {
            assert!(sent < 2 * QUEUE, "nothing was dropped");
            log.line(LogFormat::Json, &entry(&format!("/{sent}")));
            log.flush();
            sent += 1;
        }
        assert!(sent >= QUEUE + 10, "lines were dropped too early: after {sent}");
        // Once the output moves again, so do the lines, in order.
        drop(permit);
        drop(log);
        assert!(writer.finish(SOON));
        let written = paths(&text(&written));
        assert_eq!(written.len() as u64, sent as u64 - losses.lines());
        assert!(written.is_sorted_by_key(|path| path[1..].parse::<usize>().expect("a number")));
    }

    #[test]
    fn the_wait_for_a_stuck_output_ends() {
        let (out, permit, _) = gate();
        let writer = AccessLogWriter::start(out).expect("a thread");
        writer.worker().line(LogFormat::Text, &entry("/"));
        assert!(!writer.finish(Duration::from_millis(20)));
        drop(permit);
    }

    #[test]
    fn an_error_loses_its_batch_and_leaves_whole_lines() {
        let (out, permit, written) = gate();
        let writer = AccessLogWriter::start(out).expect("a thread");
        let losses = writer.losses();
        let mut log = writer.worker();
        permit.send(Ok(10)).expect("a writer");
        permit.send(Err(io::ErrorKind::Interrupted.into())).expect("a writer");
        permit.send(Err(io::ErrorKind::StorageFull.into())).expect("a writer");
        log.line(LogFormat::Json, &entry("/torn"));
        log.flush();
        log.line(LogFormat::Json, &entry("/whole"));
        drop(log);
        drop(permit);
        assert!(writer.finish(SOON));
        assert_eq!(losses.lines(), 1);
        let text = text(&written);
        let (torn, whole) = text.split_once('\n').expect("two lines");
        assert_eq!(torn.len(), 10);
        assert_eq!(paths(whole), ["/whole"]);
    }

    #[test]
    fn buffers_come_back() {
        let (out, permit, _) = gate();
        let writer = AccessLogWriter::start(out).expect("a thread");
        let mut log = writer.worker();
        let first = log.buffer.as_ptr();
        log.line(LogFormat::Text, &entry("/"));
        log.flush();
        permit.send(Ok(usize::MAX)).expect("a writer");
        let spare = log.spare.recv_timeout(SOON).expect("the buffer");
        assert_eq!((spare.as_ptr(), spare.len()), (first, 0));
    }
}
