//! Wake-ups when files change. Events are hints: they say when to look, never what has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::control::reload::completeness::{Because, Completeness, FileEvent, UnreadEdit};
use crate::control::reload::trail::Trail;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// Anything but a move.
    Other,
    /// A complete file was moved onto an entry that leads to a configuration file.
    Moved,
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

    /// Waits for `at_most`, or until a file is moved into place.
    pub async fn pause(&self, at_most: Duration) {
        let moved = async { while self.wake().await != Wake::Moved {} };
        // The time is over in most cases.
        let _ = tokio::time::timeout(at_most, moved).await;
    }

    /// The time from which a read of the edit counts, and what it waits for.
    #[must_use]
    pub fn ready(&self, edit: &UnreadEdit, quiet: Duration) -> (Instant, Because) {
        self.events.state.lock().completeness.ready(edit, quiet)
    }

    /// Whether any of these files is open for writing, as far as it is known.
    #[must_use]
    pub fn is_open(&self, entries: &BTreeSet<PathBuf>) -> bool {
        self.events.state.lock().completeness.is_open(entries)
    }

    /// Forgets the events about files that were complete when a read began.
    pub fn forget(&self, read: Instant) {
        let watched: BTreeSet<PathBuf> = self.watched.keys().cloned().collect();
        self.events.state.lock().completeness.forget(read, &watched);
    }
}

impl Default for FileWatcher {
    fn default() -> Self {
        Self::new()
    }
}

/// The event of one file in an event of the system, with its path. The end of an earlier file of that name, which may
/// be reported after the new one, is none.
fn file_event(event: &Event) -> Option<(&Path, FileEvent)> {
    let of_file = match event.kind {
        EventKind::Access(AccessKind::Open(_)) => FileEvent::Opened,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => FileEvent::Closed,
        EventKind::Create(kind) if kind != CreateKind::Folder => match event.paths.first() {
            Some(path) if is_link(path) => FileEvent::Linked,
            _ => FileEvent::Created,
        },
        EventKind::Modify(ModifyKind::Data(_)) => FileEvent::Written,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => FileEvent::Moved,
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
            return event.paths.get(1).map(|path| (path.as_path(), FileEvent::Moved));
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => FileEvent::Gone,
        _ => return None,
    };
    let path = event.paths.first()?;
    (of_file != FileEvent::Gone || path.symlink_metadata().is_err()).then_some((path, of_file))
}

/// Whether the path is a symbolic link, or a further name of an existing file. Nobody has opened it to create it.
fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
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
    /// The entries of the trail. A file that is moved onto one of them is read soon.
    entries: BTreeSet<PathBuf>,
    /// The events, by file.
    completeness: Completeness,
    /// Watched paths that have lost their watch, because the file was removed or moved away.
    lost: BTreeSet<PathBuf>,
    /// Whether any watch may be lost, because events were dropped.
    all_lost: bool,
    overflows: u64,
}

impl EventState {
    /// Takes an event into account. `None` if it is only of somebody who reads, such as the reader itself, which
    /// would never end otherwise.
    fn apply(&mut self, event: &Event, now: Instant) -> Option<Wake> {
        let Some((path, of_file)) = file_event(event) else {
            let reads = matches!(event.kind, EventKind::Access(AccessKind::Read | AccessKind::Close(AccessMode::Read)));
            return (!reads).then_some(Wake::Other);
        };
        let is_news = self.completeness.apply(path, of_file, now);
        let is_entry = self.entries.contains(path);
        // Another file in a watched directory, such as a log, may be written all the time. What appears there may be
        // one that an include names; its writes are seen once it is an entry.
        if !is_entry && matches!(of_file, FileEvent::Written | FileEvent::Closed) {
            return None;
        }
        let moved = of_file == FileEvent::Moved && is_entry;
        is_news.then_some(if moved { Wake::Moved } else { Wake::Other })
    }
}

impl FileEvents {
    fn handle(&self, event: &notify::Result<Event>) {
        let mut state = self.state.lock();
        if event.as_ref().is_ok_and(Event::need_rescan) {
            state.all_lost = true;
            state.overflows += 1;
            state.completeness.doubt();
        }
        if let Ok(event) = event
            && let EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) = event.kind
        {
            state.lost.extend(event.paths.iter().cloned());
        }
        let wake = match event {
            Ok(event) => state.apply(event, Instant::now()),
            Err(_) => Some(Wake::Other),
        };
        drop(state);
        if let Some(wake) = wake {
            self.wake(wake);
        }
    }

    fn wake(&self, wake: Wake) {
        let mut state = self.state.lock();
        state.pending = state.pending.max(Some(wake));
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
