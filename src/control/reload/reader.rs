//! The reader: waits until the files may have changed, reads them once they are complete, and parses new content.
//!
//! It has its own thread, because parsing a large file would delay the health checks and the admin address,
//! which share the control plane's thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use crate::config::Config;
use crate::config::file::amend::Baseline;
use crate::config::references::Reference;
use crate::config::units::format_duration;
use crate::control::reload::completeness::{Because, UnreadEdit};
use crate::control::reload::source::{LoadedConfig, Source, Sources};
use crate::control::reload::trail::Trail;
use crate::control::reload::watcher::{FileWatcher, Wake};
use crate::live::watch_status::WatchStatus;

/// The time before the first read, unless a file was renamed into place.
const BURST: Duration = Duration::from_millis(5);
/// The time between two reads of files that are not complete yet.
const STEP: Duration = Duration::from_millis(50);
/// How long files may be incomplete before that is logged; longer if `quiet` is long.
const RESTLESS: Duration = Duration::from_secs(1);

/// Content that may become a generation.
#[derive(Debug)]
pub struct ParsedConfig {
    /// The files, and their configuration or problems.
    pub loaded: LoadedConfig,
    /// When the change was noticed.
    pub noticed: Instant,
    /// Whether SIGHUP asked for this read, so that its outcome is recorded even if nothing changed.
    pub requested: bool,
}

/// The reader's own settings, which a reload may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadRules {
    /// `reload.quiet`
    pub quiet: Duration,
    /// `reload.poll`; zero turns polling off.
    pub poll: Duration,
    /// The files that the configuration in force refers to. They are read whatever is in its own files by now.
    pub files: Arc<[Reference]>,
}

impl From<&Config> for ReloadRules {
    fn from(config: &Config) -> Self {
        Self { quiet: config.reload.quiet, poll: config.reload.poll, files: config.references().into() }
    }
}

/// The reason to read the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadReason {
    /// A file event.
    Event(Wake),
    /// SIGHUP.
    Request,
    /// The poll, or new rules for it.
    Time,
}

/// The control plane's end of the reader. Dropping it ends the reader.
#[derive(Debug)]
pub struct ReaderHandle {
    parsed: mpsc::Receiver<ParsedConfig>,
    rules: watch::Sender<ReloadRules>,
    read_now: Arc<Notify>,
}

impl ReaderHandle {
    /// Waits for new content, or for the outcome of a requested read. `None` if the reader has ended.
    pub async fn next(&mut self) -> Option<ParsedConfig> {
        self.parsed.recv().await
    }

    /// Requests a read, whether or not anything changed. Requests made during a read become one.
    pub fn read_now(&self) {
        self.read_now.notify_one();
    }

    /// Makes the reader follow other rules from now on.
    pub fn set_rules(&self, rules: ReloadRules) {
        self.rules.send_replace(rules);
    }

    /// Ends the reader.
    pub fn stop(&mut self) {
        self.parsed.close();
    }
}

/// Follows the files of one configuration. Events and polls only say when to look; only the content decides
/// whether there is an edit.
#[derive(Debug)]
pub struct ConfigReader {
    source: Source,
    watcher: FileWatcher,
    new_rules: watch::Receiver<ReloadRules>,
    /// The rules that the reader waits by and that its warnings mention.
    rules: ReloadRules,
    read_now: Arc<Notify>,
    /// The newest read, valid or not. Only content that differs from it is an edit.
    last: Sources,
    /// Whether `last` has files that the control plane has not got.
    unsent: bool,
    /// The newest read that was valid.
    good: Option<Baseline>,
    /// Published for the API and the metrics. A warning that is in it has been logged.
    status: Arc<WatchStatus>,
}

impl ConfigReader {
    /// Starts the reader's thread. `last` has been applied already, so it is not handed over again.
    ///
    /// # Errors
    /// If the system cannot create the thread or its runtime.
    pub fn start(
        source: Source,
        last: Sources,
        rules: ReloadRules,
        status: Arc<WatchStatus>,
    ) -> io::Result<ReaderHandle> {
        let (mut reader, parsed, handle) = Self::new(source, last, rules, status);
        // Before the thread runs, so that no edit after the start goes unseen.
        reader.rewatch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name("reader".to_owned());
        thread.spawn(move || runtime.block_on(reader.run(parsed)))?;
        Ok(handle)
    }

    fn new(
        source: Source,
        last: Sources,
        rules: ReloadRules,
        status: Arc<WatchStatus>,
    ) -> (Self, mpsc::Sender<ParsedConfig>, ReaderHandle) {
        let (rules_sender, new_rules) = watch::channel(rules.clone());
        let (sender, parsed) = mpsc::channel(1);
        let read_now = Arc::new(Notify::new());
        let handle = ReaderHandle { parsed, rules: rules_sender, read_now: Arc::clone(&read_now) };
        let watcher = FileWatcher::new();
        (Self { source, watcher, new_rules, rules, read_now, last, unsent: false, good: None, status }, sender, handle)
    }

    async fn run(mut self, parsed: mpsc::Sender<ParsedConfig>) {
        self.rewatch();
        loop {
            let reason = tokio::select! {
                reason = self.wait() => reason,
                () = parsed.closed() => return,
            };
            let (noticed, requested) = (Instant::now(), reason == ReadReason::Request);
            let (sources, read) = self.complete_read(reason).await;
            self.watcher.forget(read);
            let unsent = std::mem::take(&mut self.unsent);
            let changed = sources != self.last || unsent;
            self.last = sources;
            if changed || requested {
                let loaded = self.last.clone().load_after(self.good.as_ref(), &env);
                self.good = loaded.baseline().or(self.good.take());
                self.last.referenced.clone_from(&loaded.sources.referenced);
                if parsed.send(ParsedConfig { loaded, noticed, requested }).await.is_err() {
                    return;
                }
            }
            self.rewatch();
        }
    }

    fn read(&self) -> Sources {
        self.source.read_again(&self.last, &env)
    }

    /// Reads until the files are complete or the same as before. Returns when the read began, too. There are further
    /// reads in between, because there may be no events. New files are watched from the first read on, which shows who
    /// still writes them.
    ///
    /// A requested read waits for `quiet` although nothing has changed, so that requests in a row become one.
    async fn complete_read(&mut self, reason: ReadReason) -> (Sources, Instant) {
        let noticed = Instant::now();
        if reason == ReadReason::Event(Wake::Other) {
            // What a writer does in one go is mostly over then.
            self.watcher.pause(BURST).await;
        }
        let mut read = Instant::now();
        let mut sources = self.read();
        let mut unchanged_since = read;
        let mut warned = false;
        while reason == ReadReason::Request || sources != self.last {
            // The edit before this one may still be on its way to the control plane, and change it.
            let quiet = self.new_rules.borrow().quiet;
            let (ready, because) = if sources == self.last {
                (noticed + quiet.min(RESTLESS), Because::Quiet)
            } else {
                self.ready(&sources, noticed, unchanged_since, quiet)
            };
            if read >= ready {
                break;
            }
            let now = Instant::now();
            if !warned && now > noticed + (quiet * 20).max(RESTLESS) {
                self.warn_of_wait(because);
                warned = true;
            }
            self.watcher.pause(ready.saturating_duration_since(now).min(STEP)).await;
            // Reading shows nothing while a writer has a file open, and who opens the file then is not told from others.
            if Instant::now() >= ready || !self.watcher.is_open(&self.source.own_trail(&sources).entries) {
                read = Instant::now();
                let next = self.read();
                if next != sources {
                    sources = next;
                    unchanged_since = read;
                }
            }
        }
        (sources, read)
    }

    /// The time from which a read counts that found these files, and what it waits for.
    fn ready(
        &mut self,
        sources: &Sources,
        noticed: Instant,
        unchanged_since: Instant,
        quiet: Duration,
    ) -> (Instant, Because) {
        let trail = self.source.trail(&self.last).and(self.source.trail(sources));
        self.watcher.rewatch(&trail);
        let changed = self.source.changed(&self.last, sources);
        // A certificate's key may follow it.
        let alone = self.last.includes.is_empty()
            && sources.includes.is_empty()
            && self.last.referenced == sources.referenced
            && self.last.in_force == sources.in_force;
        // Of other files, equal reads are enough: an incomplete one does not replace its old content.
        let Trail { entries, .. } = self.source.own_trail(&self.last).and(self.source.own_trail(sources));
        let edit = UnreadEdit { entries, changed, alone, noticed, unchanged_since };
        self.watcher.ready(&edit, quiet)
    }

    fn warn_of_wait(&self, because: Because) {
        let file = self.source.path().display();
        match because {
            Because::Open => {
                tracing::warn!(%file, "a file of the configuration is still open for writing; waiting until it is closed")
            }
            Because::Empty => tracing::warn!(%file, "a file of the configuration is empty; waiting for its content"),
            Because::Quiet => tracing::warn!(%file, "the files keep changing; waiting until they are complete"),
        }
    }

    /// Waits for a reason to read.
    async fn wait(&mut self) -> ReadReason {
        if self.unsent {
            return ReadReason::Time;
        }
        let poll = self.rules.poll;
        let poll = async { if poll.is_zero() { std::future::pending().await } else { tokio::time::sleep(poll).await } };
        tokio::select! {
            wake = self.watcher.wake() => ReadReason::Event(wake),
            () = self.read_now.notified() => ReadReason::Request,
            () = poll => ReadReason::Time,
            // Look once, and wait by the new rules.
            Ok(()) = self.new_rules.changed() => ReadReason::Time,
        }
    }

    /// Watches the files of the newest read and reports what cannot be watched.
    ///
    /// Also takes over the newest rules. Rules that arrive later end the next `wait`, which leads back here. When
    /// `wait` took them over itself, rules that arrived between the two calls did not update the warnings, and if
    /// they turned polling off, nothing woke the reader again.
    fn rewatch(&mut self) {
        self.rules = self.new_rules.borrow_and_update().clone();
        let in_force = self.last.referenced.of(&self.rules.files, &self.last.in_force);
        let is_known = |references| references == in_force.references();
        // Those of the file's own content have been sent with it.
        self.unsent |= !is_known(self.last.referenced.references()) && !is_known(self.last.in_force.references());
        self.last.in_force = in_force;
        self.watcher.rewatch(&self.source.trail(&self.last));
        let warnings = self.warnings();
        let reported = self.status.warnings();
        for warning in warnings.iter().filter(|warning| !reported.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.status.set(warnings, self.watcher.unwatched() as u64, self.watcher.overflows());
    }

    /// Why edits may go unnoticed.
    fn warnings(&self) -> Vec<String> {
        let fallback = if self.rules.poll.is_zero() {
            "and `reload.poll` is 0s: edits are noticed only after SIGHUP".to_owned()
        } else {
            format!("the files are still read every {}", format_duration(self.rules.poll))
        };
        let mut warnings: Vec<String> =
            self.watcher.problems().iter().map(|problem| format!("{problem}; {fallback}")).collect();
        if self.last.unlinked {
            let file = self.source.path().display();
            warnings.push(format!(
                "{file} was replaced or deleted where it was mounted from, so later edits of it cannot be seen: \
                 mount its directory instead of the file, and restart lb"
            ));
        }
        warnings
    }
}

/// The process's environment, for `${NAME}`.
#[must_use]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests;
