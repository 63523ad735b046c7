//! Wake-ups when files change. Events are hints: they say when to look, never what has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::control::reload::trail::Trail;

/// Time between two reads of files that are being written.
const STEP: Duration = Duration::from_millis(50);

/// Watches a [`Trail`] and wakes the reader. Where files cannot be watched there are no wake-ups, and polling has
/// to find every change.
#[derive(Debug)]
pub struct FileWatcher {
    watcher: Option<RecommendedWatcher>,
    events: Arc<FileEvents>,
    /// Each watched path with the file that was there when the watch was set, because a watch stays with the
    /// file and not with its name.
    watched: BTreeMap<PathBuf, Identity>,
    problems: Vec<String>,
    /// Number of paths that should be watched and are not.
    unwatched: usize,
}

/// Something may have changed. Every event leads to a read; its kind decides only how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// A complete file was moved onto an entry that leads to a configuration file.
    Moved,
    /// Such a file is being written in place.
    Written,
    /// Anything else.
    Other,
}

impl FileWatcher {
    /// Watches nothing yet. Where the system has no file events, that is one of [`FileWatcher::problems`].
    #[must_use]
    pub fn new() -> Self {
        let events = Arc::new(FileEvents::default());
        let handler = {
            let events = Arc::clone(&events);
            move |event: notify::Result<Event>| events.handle(&event)
        };
        let (watcher, problems) = match notify::recommended_watcher(handler) {
            Ok(watcher) => (Some(watcher), Vec::new()),
            Err(error) => (None, vec![format!("file events are not available: {error}")]),
        };
        Self { watcher, events, watched: BTreeMap::new(), problems, unwatched: 0 }
    }

    /// Watches exactly the paths of the trail. Called after every read, because a file that was replaced needs a
    /// new watch, and while a file is missing, its directory is watched for it. If nothing changed, this costs a
    /// `stat` per path. Changes before a watch was set went unseen, so setting one causes a wake-up.
    pub fn rewatch(&mut self, trail: &Trail) {
        let Some(watcher) = &mut self.watcher else {
            self.unwatched = trail.watched.len();
            return;
        };
        let (lost, all_lost) = self.events.set_entries(trail.entries.clone());
        self.problems.clear();
        let outdated = |path: &PathBuf, identity: &mut Identity| {
            all_lost || !trail.watched.contains(path) || lost.contains(path) || Identity::of(path) != Some(*identity)
        };
        for (path, _) in self.watched.extract_if(.., outdated) {
            // Fails if the watch ended with its file.
            let _ = watcher.unwatch(&path);
        }
        let mut unseen_before = false;
        for path in &trail.watched {
            let Some(identity) = Identity::of(path) else {
                unseen_before = true;
                continue;
            };
            if self.watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), identity);
                    unseen_before = true;
                }
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => unseen_before = true,
                Err(error) => {
                    let path = path.display();
                    self.problems.push(format!("{path} cannot be watched: {error}"));
                }
            }
        }
        self.unwatched = self.problems.len();
        if unseen_before {
            self.events.wake(Wake::Other);
        }
    }

    /// Messages about what cannot be watched, and why.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Number of paths that cannot be watched.
    #[must_use]
    pub fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// How often the system dropped events because its queue was full. Each time, the reader wakes up and sets
    /// every watch again.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.events.state.lock().overflows
    }

    /// Waits until something may have changed since the last call; several events become one wake-up.
    /// Cancel safe: dropping the future loses no event.
    pub async fn wake(&self) -> Wake {
        loop {
            if let Some(wake) = self.events.state.lock().pending.take() {
                return wake;
            }
            self.events.arrived.notified().await;
        }
    }

    /// Waits for `at_most`, or until a file is moved into place. Returns the events of that time as one.
    async fn pause(&self, at_most: Duration) -> Option<Wake> {
        let until = tokio::time::Instant::now() + at_most;
        let mut events = None;
        while events != Some(Wake::Moved)
            && let Ok(wake) = tokio::time::timeout_at(until, self.wake()).await
        {
            events = Some(wake.after(events));
        }
        events
    }
}

impl Default for FileWatcher {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads until the files are complete: until two equal reads are `quiet` apart with no write event in between.
/// `first` was read after `wake`. There are further reads in between, so that the end of a long write is noticed
/// soon. A file that was moved into place is complete: one read after the move is enough, and later writes to it
/// are another edit. Calls `restless` once if the files keep changing for 20 times `quiet`.
pub async fn settle<T: PartialEq>(
    watcher: &FileWatcher,
    mut wake: Wake,
    quiet: Duration,
    first: T,
    mut read: impl FnMut() -> T,
    restless: impl FnOnce(),
) -> T {
    let started = Instant::now();
    let mut last = first;
    let mut unchanged_since = started;
    let mut restless = Some(restless);
    loop {
        let remaining = quiet.saturating_sub(unchanged_since.elapsed());
        if wake == Wake::Moved || remaining.is_zero() {
            return last;
        }
        let events = watcher.pause(remaining.min(STEP)).await;
        wake = events.map_or(wake, |events| events.after(Some(wake)));
        let next = read();
        // The event counts as well: a file that is rewritten again and again may be empty at each read.
        if next != last || events == Some(Wake::Written) {
            unchanged_since = Instant::now();
            last = next;
        }
        if started.elapsed() > quiet * 20
            && let Some(restless) = restless.take()
        {
            restless();
        }
    }
}

impl Wake {
    fn of(event: &notify::Result<Event>, entries: &BTreeSet<PathBuf>) -> Option<Self> {
        let Ok(event) = event else {
            return Some(Self::Other);
        };
        let leads = |path: Option<&PathBuf>| path.is_some_and(|path| entries.contains(path));
        match event.kind {
            // Reading causes these events, so to read again after each would never end. They change nothing.
            EventKind::Access(AccessKind::Open(_) | AccessKind::Read)
            | EventKind::Access(AccessKind::Close(AccessMode::Read)) => None,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) if leads(event.paths.first()) => Some(Self::Moved),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) if leads(event.paths.get(1)) => Some(Self::Moved),
            EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_) if leads(event.paths.first()) => {
                Some(Self::Written)
            }
            _ => Some(Self::Other),
        }
    }

    /// Both as one wake-up: the newest event about a file itself counts.
    fn after(self, earlier: Option<Self>) -> Self {
        match (self, earlier) {
            (Self::Other, Some(earlier)) => earlier,
            _ => self,
        }
    }
}

/// Passes events from the thread that receives them to the task that waits for them.
#[derive(Debug, Default)]
struct FileEvents {
    state: Mutex<EventState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct EventState {
    /// The events since the last wake-up, as one.
    pending: Option<Wake>,
    /// The entries of the trail, by which [`Wake::of`] judges an event.
    entries: BTreeSet<PathBuf>,
    /// Watched paths that have lost their watch, because the file was removed or moved away.
    lost: BTreeSet<PathBuf>,
    /// Whether any watch may be lost, because events were dropped.
    all_lost: bool,
    overflows: u64,
}

impl FileEvents {
    fn handle(&self, event: &notify::Result<Event>) {
        let mut state = self.state.lock();
        if event.as_ref().is_ok_and(Event::need_rescan) {
            state.all_lost = true;
            state.overflows += 1;
        }
        if let Ok(event) = event
            && let EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) = event.kind
        {
            state.lost.extend(event.paths.iter().cloned());
        }
        let wake = Wake::of(event, &state.entries);
        drop(state);
        if let Some(wake) = wake {
            self.wake(wake);
        }
    }

    fn wake(&self, wake: Wake) {
        let mut state = self.state.lock();
        state.pending = Some(wake.after(state.pending));
        drop(state);
        self.arrived.notify_one();
    }

    /// Replaces the entries. Returns the paths whose watch is lost, and whether any other may be.
    fn set_entries(&self, entries: BTreeSet<PathBuf>) -> (BTreeSet<PathBuf>, bool) {
        let mut state = self.state.lock();
        state.entries = entries;
        (std::mem::take(&mut state.lost), std::mem::take(&mut state.all_lost))
    }
}

/// Distinguishes two files that had the same name in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

#[cfg(test)]
mod tests;
