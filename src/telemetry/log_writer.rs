//! The way of the process's log to standard error: a bounded queue and a thread that writes, so that nobody who logs ever
//! waits for a reader of standard error.
//!
//! Lines that find the queue full, or that cannot be written, are dropped and counted. The log says how many as soon
//! as a line can be written again.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

use super::line_output::{LineOutput, LostLines};

/// The size, in bytes, of the lines that may wait.
const QUEUE: usize = 1 << 20;
/// The largest buffer that is kept when there is nothing to write.
const KEPT: usize = 64 * 1024;

/// Lines on their way to the writer thread.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    waiting: Mutex<QueuedLines>,
    /// Notified when a line arrives, and when all lines are written.
    changed: Condvar,
    losses: LostLines,
}

#[derive(Debug, Default)]
struct QueuedLines {
    lines: Vec<u8>,
    /// The number of lines that were dropped after those in `lines`.
    dropped: u64,
    /// Whether the thread is writing lines that it has taken.
    is_writing: bool,
}

impl LogQueue {
    pub(super) fn losses(&self) -> LostLines {
        self.losses.clone()
    }

    /// Adds a line. Never waits.
    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        // Later lines do not overtake those that were dropped.
        if waiting.dropped > 0 || waiting.lines.len() + line.len() > QUEUE {
            waiting.dropped += 1;
            self.losses.add(1);
            return;
        }
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// Waits for lines and moves them to `lines`. Returns the number of those that were dropped after them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        lines.clear();
        lines.shrink_to(KEPT);
        let mut waiting = self.waiting.lock();
        waiting.is_writing = false;
        if waiting.lines.is_empty() {
            self.changed.notify_all();
        }
        self.changed.wait_while(&mut waiting, |waiting| waiting.lines.is_empty());
        waiting.is_writing = true;
        std::mem::swap(&mut waiting.lines, lines);
        std::mem::take(&mut waiting.dropped)
    }

    /// Waits up to `limit` until everything is written. Returns whether it was.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut waiting = self.waiting.lock();
        let is_busy = |waiting: &mut QueuedLines| waiting.is_writing || !waiting.lines.is_empty();
        !self.changed.wait_while_until(&mut waiting, is_busy, end).timed_out()
    }
}

/// Starts the thread that writes the queue's lines to `out`, for as long as the process lives.
pub(super) fn start(queue: Arc<LogQueue>, out: impl Write + Send + 'static, json: Arc<AtomicBool>) -> io::Result<()> {
    let mut writer = LogWriter { queue, out: LineOutput::new(out), json, unreported: 0 };
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.run()).map(drop)
}

#[derive(Debug)]
struct LogWriter<W> {
    queue: Arc<LogQueue>,
    out: LineOutput<W>,
    json: Arc<AtomicBool>,
    /// The number of lines that were lost before the next one that is written.
    unreported: u64,
}

impl<W: Write> LogWriter<W> {
    fn run(&mut self) {
        let mut lines = Vec::new();
        loop {
            let dropped = self.queue.take(&mut lines);
            self.report();
            let written = self.out.write(&lines);
            let failed = self.out.take_lost();
            self.queue.losses.add(failed);
            self.unreported += failed + dropped;
            // Nobody can be told about an error before it is over.
            if written.is_ok() {
                self.report();
            }
        }
    }

    /// Writes how many lines were lost, if any were. This line passes neither the filter nor the queue, so it appears
    /// where they would have been.
    fn report(&mut self) {
        if self.unreported > 0 && self.out.write(notice(self.unreported, self.json.load(Relaxed)).as_bytes()).is_ok() {
            self.unreported = 0;
        }
        // This line itself is not one of those that were lost.
        self.out.take_lost();
    }
}

/// The line about lost lines, like those of [`super::logs`].
fn notice(lines: u64, json: bool) -> String {
    const MESSAGE: &str = "log lines were lost; standard error was too slow or failed";
    // The module that users know as the log.
    const TARGET: &str = "lb::telemetry::logs";
    let time = humantime::format_rfc3339_micros(SystemTime::now());
    let mut line = String::new();
    // Writing to a string does not fail.
    let _ = if json {
        let fields = format_args!("\"message\":\"{MESSAGE}\",\"lines\":{lines},\"target\":\"{TARGET}\"");
        writeln!(line, "{{\"timestamp\":\"{time}\",\"level\":\"ERROR\",{fields}}}")
    } else {
        writeln!(line, "{time} ERROR {TARGET}: {MESSAGE} lines={lines}")
    };
    line
}

/// Hands each line to the queue.
#[derive(Debug, Clone)]
pub(super) struct ToQueue(pub(super) Arc<LogQueue>);

impl<'w> MakeWriter<'w> for ToQueue {
    type Writer = &'w Self;

    fn make_writer(&'w self) -> &'w Self {
        self
    }
}

impl Write for &ToQueue {
    /// Takes one line; the library writes each in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that takes nothing until it is told to.
    struct Gated {
        gate: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // Once the sender is dropped, the gate is open.
            let _ = self.gate.recv();
            self.written.lock().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_costs_lines_that_the_log_counts_where_they_are_missing() {
        const SOON: Duration = Duration::from_secs(20);
        for json in [false, true] {
            let (queue, written) = (Arc::new(LogQueue::default()), Arc::<Mutex<Vec<u8>>>::default());
            let (open, gate) = mpsc::channel();
            let out = Gated { gate, written: Arc::clone(&written) };
            start(Arc::clone(&queue), out, Arc::new(AtomicBool::new(json))).expect("a thread");
            assert!(queue.flush(Duration::ZERO), "there is nothing to write");
            let mut sent = 0;
            while queue.losses.lines() < 10 {
                queue.add(format!("{sent:0>999}\n").as_bytes());
                sent += 1;
                assert!(sent < 4 * QUEUE / 1000, "nothing was dropped");
            }
            assert!(!queue.flush(Duration::from_millis(10)));
            drop(open);
            assert!(queue.flush(SOON));
            queue.add(b"after\n");
            assert!(queue.flush(SOON));
            let text = String::from_utf8(std::mem::take(&mut *written.lock())).expect("ASCII");
            let lines: Vec<&str> = text.lines().collect();
            let numbers: Vec<usize> = lines.iter().map_while(|line| line.parse().ok()).collect();
            assert_eq!(numbers, (0..sent - 10).collect::<Vec<_>>());
            let [notice, "after"] = lines[numbers.len()..] else { panic!("{:?}", &lines[numbers.len()..]) };
            if json {
                let notice: serde_json::Value = serde_json::from_str(notice).expect("JSON");
                assert_eq!((&notice["lines"], &notice["level"]), (&10.into(), &"ERROR".into()));
            } else {
                assert!(notice.contains(" ERROR lb::telemetry::logs: ") && notice.ends_with(" lines=10"), "{notice}");
            }
        }
    }
}
