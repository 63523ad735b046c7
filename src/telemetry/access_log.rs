//! The access log: one line per request, written by a separate thread so that no request waits for it.
//!
//! Each worker formats lines into its own buffer and hands the buffer to the thread of its destination when it is
//! full, and at each tick. While that thread is too far behind (a full disk, a stuck pipe), lines are dropped and
//! counted. A destination lives as long as a generation that names it, or that still serves requests.

mod file;
mod line;
mod output;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use self::line::AccessLogEntry;
pub use self::output::NewOutput;

use self::file::AccessLogFile;
use self::line::{ClfCache, TimestampCache};
use self::output::{Batch, Output, Sink};
use super::line_output::LostLines;
use crate::config::{AccessFormat, AccessLogTarget, LogConfig, LogFormat};

/// The size, in bytes, at which a worker hands over its buffer. A buffer that grew past twice this is not reused.
const FLUSH_AT: usize = 64 * 1024;
/// Written buffers that are kept for their worker to reuse.
const SPARE: usize = 4;

/// The destinations, as the control plane sees them.
#[derive(Debug)]
pub struct AccessLogWriter {
    outputs: Arc<Destinations>,
    /// One for each destination whose thread may still run.
    ended: Vec<Receiver<()>>,
}

/// The destinations, as workers see them.
#[derive(Debug, Default)]
struct Destinations {
    list: ArcSwap<Vec<Arc<Output>>>,
    losses: LostLines,
}

impl Destinations {
    fn find(&self, destination: &AccessLogTarget) -> Option<Arc<Output>> {
        self.list.load().iter().find(|output| output.destination == *destination).map(Arc::clone)
    }
}

impl AccessLogWriter {
    /// Starts the thread that writes to `out`, which is standard output except in tests.
    ///
    /// # Errors
    /// If the system cannot create the thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let mut writer = Self { outputs: Arc::default(), ended: Vec::new() };
        let stream = || Ok(Sink::Stream(out));
        writer.commit(Some(NewOutput::start(AccessLogTarget::Stdout, &writer.outputs.losses, stream)?));
        Ok(writer)
    }

    /// Returns a log for one more worker.
    #[must_use]
    pub fn worker(&self) -> AccessLog {
        let (home, spare) = mpsc::sync_channel(SPARE);
        AccessLog {
            buffer: Vec::with_capacity(FLUSH_AT * 2),
            lines: 0,
            clocks: Clocks::default(),
            outputs: Arc::clone(&self.outputs),
            current: None,
            home,
            spare,
        }
    }

    /// Returns the count of lost lines, which can be read at any time from any thread.
    #[must_use]
    pub fn losses(&self) -> LostLines {
        self.outputs.losses.clone()
    }

    /// Begins to open the file of a destination. `None` if there is nothing to open.
    ///
    /// # Errors
    /// If the system cannot create a thread.
    pub fn open(&self, destination: &AccessLogTarget) -> io::Result<Option<NewOutput>> {
        let AccessLogTarget::File(file) = destination else { return Ok(None) };
        if self.outputs.find(destination).is_some() {
            return Ok(None);
        }
        let path = file.full_path();
        let open = || AccessLogFile::open(path).map(Sink::<io::Sink>::File);
        NewOutput::start(destination.clone(), &self.outputs.losses, open).map(Some)
    }

    /// Adds a destination that is open.
    pub fn commit(&mut self, new: Option<NewOutput>) {
        if let Some(NewOutput { output, ended, .. }) = new {
            self.replace(|outputs| outputs.push(Arc::new(output)));
            self.ended.retain(|ended| ended.try_recv() == Err(TryRecvError::Empty));
            self.ended.push(ended);
        }
    }

    /// Ends the destinations that none of these configurations has, except standard output.
    pub fn retain(&self, used: &[&LogConfig]) {
        let is_used = |output: &Arc<Output>| {
            let destination = &output.destination;
            *destination == AccessLogTarget::Stdout || used.iter().any(|config| config.access == *destination)
        };
        if !self.outputs.list.load().iter().all(is_used) {
            self.replace(|outputs| outputs.retain(is_used));
        }
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Arc<Output>>)) {
        let mut outputs = Vec::clone(&self.outputs.list.load());
        change(&mut outputs);
        self.outputs.list.store(Arc::new(outputs));
    }

    /// Has all files opened again, because somebody has moved them away.
    pub fn reopen(&self) {
        self.outputs.list.load().iter().for_each(|output| output.reopen());
    }

    /// Waits up to `timeout` until everything is written. Returns whether it was, which requires that
    /// every worker's [`AccessLog`] has been dropped.
    #[must_use]
    pub fn finish(self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.replace(Vec::clear);
        let has_ended = |ended: &Receiver<()>| {
            ended.recv_timeout(end.saturating_duration_since(Instant::now())) != Err(RecvTimeoutError::Timeout)
        };
        self.ended.iter().all(has_ended)
    }
}

/// One worker's end of the access log. Flushes when dropped.
#[derive(Debug)]
pub struct AccessLog {
    buffer: Vec<u8>,
    /// The number of lines in the buffer.
    lines: u64,
    clocks: Clocks,
    outputs: Arc<Destinations>,
    /// The destination of the lines in the buffer, and the newest generation that was found to have it.
    current: Option<(u64, Arc<Output>)>,
    /// Sent with each batch, so that the writer can return the buffer to `spare`.
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

/// The caches of each format's times.
#[derive(Debug, Default)]
struct Clocks {
    rfc3339: TimestampCache,
    clf: ClfCache,
}

impl AccessLog {
    /// Adds one line as the entry's generation, whose `[log]` is `config`, asks for. Never waits, and rarely allocates.
    pub fn line(&mut self, config: &LogConfig, entry: &AccessLogEntry<'_>) {
        if self.current.as_ref().is_none_or(|(generation, _)| *generation != entry.generation) {
            self.turn_to(config, entry.generation);
        }
        let (clocks, buffer) = (&mut self.clocks, &mut self.buffer);
        match access_format(config) {
            AccessFormat::Text => entry.write_text(&mut clocks.rfc3339, buffer),
            AccessFormat::Json => entry.write_json(&mut clocks.rfc3339, buffer),
            AccessFormat::Combined => entry.write_combined(&mut clocks.clf, buffer),
        }
        self.lines += 1;
        if self.buffer.len() >= FLUSH_AT {
            self.flush();
        }
    }

    /// Makes the destination of this generation the current one.
    fn turn_to(&mut self, config: &LogConfig, generation: u64) {
        let output = match self.current.take() {
            Some((_, output)) if output.destination == config.access => Some(output),
            before => {
                self.current = before;
                self.flush();
                self.outputs.find(&config.access)
            }
        };
        self.current = output.map(|output| (generation, output));
    }

    /// Whether lines wait for [`AccessLog::flush`].
    #[must_use]
    pub fn has_lines(&self) -> bool {
        self.lines > 0
    }

    /// Hands the buffered lines to the writer. Called about ten times a second while there are any, so that lines appear
    /// promptly even if there are few.
    pub fn flush(&mut self) {
        // Without requests, nothing else gives up a destination that is no longer used.
        let output = self.current.take();
        if self.lines == 0 {
            return;
        }
        let unused = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(FLUSH_AT * 2));
        let batch = Batch {
            text: std::mem::replace(&mut self.buffer, unused),
            lines: std::mem::take(&mut self.lines),
            home: self.home.clone(),
        };
        match output {
            Some((_, output)) => output.send(batch),
            // A generation's destination is committed before the generation, and lives as long.
            None => self.outputs.losses.add(batch.lines),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The format of the access log.
#[must_use]
pub fn access_format(config: &LogConfig) -> AccessFormat {
    config.access_format.unwrap_or(match config.format {
        LogFormat::Text => AccessFormat::Text,
        LogFormat::Json => AccessFormat::Json,
    })
}

#[cfg(test)]
mod tests;
