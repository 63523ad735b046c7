//! One destination of the access log: a thread that writes, and the bounded queue to it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use super::file::{AccessLogFile, Followed};
use crate::config::AccessLogTarget;
use crate::telemetry::LOSS_LOG_INTERVAL;
use crate::telemetry::line_output::{LineOutput, LostLines};
use crate::telemetry::log_throttle::LogThrottle;

/// Batches that may wait for the writer: about 16 MiB.
pub(super) const QUEUE: usize = 256;

/// A destination, as those who write to it see it. Its thread ends with the last of them.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) destination: AccessLogTarget,
    to_writer: SyncSender<Message>,
    /// Set when the file is to be opened again, for a queue that is full.
    reopen: Arc<AtomicBool>,
    losses: Losses,
}

/// A destination whose file may still be being opened. Dropping it ends its thread.
#[derive(Debug)]
pub struct NewOutput {
    pub(super) output: Output,
    /// The result of opening it.
    opened: Receiver<io::Result<()>>,
    /// Receives a message when all lines are written.
    pub(super) ended: Receiver<()>,
}

/// Something for the writer to do.
#[derive(Debug)]
enum Message {
    Lines(Batch),
    /// Open the file again.
    Reopen,
}

/// Whole lines on their way to the writer.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) text: Vec<u8>,
    pub(super) lines: u64,
    /// Takes the buffer back when it is written.
    pub(super) home: SyncSender<Vec<u8>>,
}

impl Batch {
    fn recycle(mut self) {
        if self.text.capacity() <= super::FLUSH_AT * 2 {
            self.text.clear();
            // Fails when the worker has enough spare buffers, or has ended.
            let _ = self.home.try_send(self.text);
        }
    }
}

/// The lost lines of one destination, and those of all.
#[derive(Debug, Clone)]
struct Losses {
    own: LostLines,
    all: LostLines,
}

impl Losses {
    fn add(&self, lines: u64) {
        self.own.add(lines);
        self.all.add(lines);
    }
}

impl NewOutput {
    /// Starts the thread of a destination, which first calls `open`.
    pub(super) fn start<W: Write + Send + 'static>(
        destination: AccessLogTarget,
        all_losses: &LostLines,
        open: impl FnOnce() -> io::Result<Sink<W>> + Send + 'static,
    ) -> io::Result<Self> {
        let (to_writer, messages) = mpsc::sync_channel(QUEUE);
        let (open_sender, opened) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let losses = Losses { own: LostLines::default(), all: all_losses.clone() };
        let output = Output { destination, to_writer, reopen: Arc::default(), losses: losses.clone() };
        let reopen = Arc::clone(&output.reopen);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let (sink, result) = match open() {
                Ok(sink) => (Some(sink), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // The receivers are dropped if nobody waits any more.
            let _ = open_sender.send(result);
            if let Some(sink) = sink {
                let throttle = LogThrottle::every(LOSS_LOG_INTERVAL);
                BatchWriter { sink: LineOutput::new(sink), reopen, losses, throttle }.run(&messages);
            }
            let _ = end.try_send(());
        })?;
        Ok(Self { output, opened, ended })
    }

    /// Waits up to `limit` until it is open. `None` if that takes longer; then this can be called again.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<io::Result<()>> {
        match self.opened.recv_timeout(limit) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl Output {
    /// Hands lines to the writer. If it is too far behind, they are lost.
    pub(super) fn send(&self, batch: Batch) {
        if let Err(
            mpsc::TrySendError::Full(Message::Lines(batch)) | mpsc::TrySendError::Disconnected(Message::Lines(batch)),
        ) = self.to_writer.try_send(Message::Lines(batch))
        {
            self.losses.add(batch.lines);
            batch.recycle();
        }
    }

    /// Has the file opened again before the next line.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Relaxed);
        // If the queue is full, the writer sees the flag.
        let _ = self.to_writer.try_send(Message::Reopen);
    }
}

/// The end that a destination writes to.
#[derive(Debug)]
pub(super) enum Sink<W> {
    Stream(W),
    File(AccessLogFile),
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(out) => out.write(text),
            Self::File(file) => file.write(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// The writer of one destination.
struct BatchWriter<W> {
    sink: LineOutput<Sink<W>>,
    reopen: Arc<AtomicBool>,
    losses: Losses,
    throttle: LogThrottle,
}

impl<W: Write> BatchWriter<W> {
    fn run(&mut self, messages: &Receiver<Message>) {
        for message in messages {
            let error = match message {
                Message::Lines(batch) => {
                    let error = self.write(&batch.text, batch.lines).err();
                    batch.recycle();
                    error
                }
                Message::Reopen => self.follow().err(),
            };
            self.losses.add(self.sink.take_lost());
            self.report(error);
        }
        self.sink.forget_rest();
        self.losses.add(self.sink.take_lost());
    }

    fn write(&mut self, text: &[u8], lines: u64) -> io::Result<()> {
        self.follow().inspect_err(|_| self.losses.add(lines))?;
        let result = self.sink.write(text);
        if let (Err(_), Sink::File(file)) = (&result, self.sink.out()) {
            file.note_failure();
        }
        result
    }

    /// Opens the file again if that is needed.
    fn follow(&mut self) -> io::Result<()> {
        let Sink::File(file) = self.sink.out() else { return Ok(()) };
        if file.follow(self.reopen.swap(false, Relaxed))? == Followed::Changed {
            self.sink.forget_rest();
        }
        Ok(())
    }

    /// Logs lines that were lost, now and then.
    fn report(&mut self, error: Option<io::Error>) {
        if let Some(lines) = self.throttle.growth(self.losses.own.lines(), Instant::now()) {
            let error = error.map_or_else(|| "output is too slow".to_owned(), |error| error.to_string());
            let output = match self.sink.out() {
                Sink::Stream(_) => "standard output".into(),
                Sink::File(file) => file.path().to_string_lossy(),
            };
            tracing::error!(lines, error, %output, "access log lines were lost");
        }
    }
}
