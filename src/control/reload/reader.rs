//! The reader: waits until the files may have changed, reads them when they are complete, and hands on what is new.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use crate::config::file::amend::Baseline;
use crate::config::units::format_duration;
use crate::control::reload::source::{Loaded, Source, Sources};
use crate::control::reload::watcher::{FileWatcher, Wake, settle};
use crate::live::watch_status::WatchStatus;

/// Content that may become a generation.
#[derive(Debug)]
pub struct ParsedConfig {
    /// What was read, and what it means.
    pub loaded: Loaded,
    /// When the change was noticed.
    pub since: Instant,
    /// Somebody wants to know about this content, even if it is the same as before.
    pub asked: bool,
}

/// How the reader goes about it; reloadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadRules {
    /// `reload.quiet`
    pub quiet: Duration,
    /// `reload.poll`; zero for none.
    pub poll: Duration,
}

/// Follows the files of one configuration. Events and polls only say when to look: what counts is
/// the content.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    watch: FileWatcher,
    pace: watch::Receiver<ReloadRules>,
    asked: Arc<Notify>,
    /// What was read last, whatever came of it.
    last: Sources,
    /// What was read last and is a configuration.
    good: Option<Baseline>,
    /// What everybody may know of how well the files are seen; its warnings were said once.
    sight: Arc<WatchStatus>,
}

impl Reader {
    /// A reader that has handed `last` on already. A permit of `asked` makes it look at once.
    #[must_use]
    pub fn new(
        source: Source,
        last: Sources,
        pace: watch::Receiver<ReloadRules>,
        asked: Arc<Notify>,
        sight: Arc<WatchStatus>,
    ) -> Self {
        Self { source, watch: FileWatcher::new(), pace, asked, last, good: None, sight }
    }

    /// Has it read on until nobody takes candidates any more, on a thread of its own: of a large file the
    /// control plane, which has checks and the admin address to look after, gets what it means.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(self, candidates: mpsc::Sender<ParsedConfig>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let reader = std::thread::Builder::new().name("reader".to_owned());
        reader.spawn(move || runtime.block_on(self.run(candidates))).map(drop)
    }

    async fn run(mut self, candidates: mpsc::Sender<ParsedConfig>) {
        self.rewatch();
        loop {
            let (wake, asked) = tokio::select! {
                reason = self.wait() => reason,
                () = candidates.closed() => return,
            };
            let since = Instant::now();
            let pace = *self.pace.borrow();
            let found = self.read();
            if found == self.last && !asked {
                self.rewatch();
                continue;
            }
            let path = self.source.path().display().to_string();
            let restless = || tracing::warn!(file = %path, "the file keeps changing; waiting until it is complete");
            let found = settle(&self.watch, wake, pace.quiet, found, || self.read(), restless).await;
            let news = found != self.last;
            self.last = found;
            if news || asked {
                let loaded = self.last.clone().load_after(self.good.as_ref(), &env);
                self.good = loaded.baseline().or(self.good.take());
                let candidate = ParsedConfig { loaded, since, asked };
                if candidates.send(candidate).await.is_err() {
                    return;
                }
            }
            self.rewatch();
        }
    }

    fn read(&self) -> Sources {
        self.source.read_again(&self.last, &env)
    }

    /// Until there is a reason to look; whether somebody asked for it.
    async fn wait(&mut self) -> (Wake, bool) {
        let poll = self.pace.borrow_and_update().poll;
        let poll = async { if poll.is_zero() { std::future::pending().await } else { tokio::time::sleep(poll).await } };
        tokio::select! {
            wake = self.watch.wake() => (wake, false),
            () = self.asked.notified() => (Wake::Other, true),
            () = poll => (Wake::Other, false),
            // Another pace: look, and wait anew.
            Ok(()) = self.pace.changed() => (Wake::Other, false),
        }
    }

    fn rewatch(&mut self) {
        self.watch.rewatch(&self.source.trail(&self.last));
        let warnings = self.warnings();
        let told = self.sight.warnings();
        for warning in warnings.iter().filter(|warning| !told.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.sight.set(warnings, self.watch.unwatched() as u64, self.watch.overflows());
    }

    /// Why edits may not be seen.
    fn warnings(&self) -> Vec<String> {
        let poll = self.pace.borrow().poll;
        let instead = if poll.is_zero() {
            "and `reload.poll` is 0s: edits are seen only when SIGHUP asks for it".to_owned()
        } else {
            format!("the files are looked at every {} all the same", format_duration(poll))
        };
        let mut warnings: Vec<String> =
            self.watch.problems().iter().map(|problem| format!("{problem}; {instead}")).collect();
        if self.last.unlinked {
            let file = self.source.path().display();
            warnings.push(format!(
                "{file} was replaced or deleted where it was mounted from, so no edit of it will be seen here any more: \
                 mount its directory, not the file by itself, and start anew"
            ));
        }
        warnings
    }
}

/// The process' environment, for `${NAME}`.
#[must_use]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
