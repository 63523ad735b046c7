//! Wake-ups when files change. Events are hints: they say when to look, never what has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::control::reload::trail::Trail;

/// Between two looks at files that are being written.
const STEP: Duration = Duration::from_millis(50);

/// Watches a [`Trail`] and wakes whoever waits. Where files cannot be watched this wakes nobody,
/// and polling has to find every change.
#[derive(Debug)]
pub struct FileWatcher {
    watcher: Option<RecommendedWatcher>,
    bell: Arc<Bell>,
    /// What is watched, each with the file that was there when the watch was set: a watch stays
    /// with the file, not with its name.
    watched: BTreeMap<PathBuf, Identity>,
    problems: Vec<String>,
    /// How many paths are to be watched and are not.
    unwatched: usize,
}

/// Something may have changed. What is told is only how soon to read; that it is read takes no more
/// than that something was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// An entry that leads to a file was replaced by what was moved there, which is complete.
    Moved,
    /// Such a file is being written.
    Written,
    /// Anything else.
    Other,
}

impl FileWatcher {
    /// Watches nothing yet. Where the system has no file events, [`FileWatcher::problems`] says so.
    #[must_use]
    pub fn new() -> Self {
        let bell = Arc::new(Bell::default());
        let handler = {
            let bell = Arc::clone(&bell);
            move |event: notify::Result<Event>| bell.hear(&event)
        };
        let (watcher, problems) = match notify::recommended_watcher(handler) {
            Ok(watcher) => (Some(watcher), Vec::new()),
            Err(error) => (None, vec![format!("there are no file events here: {error}")]),
        };
        Self { watcher, bell, watched: BTreeMap::new(), problems, unwatched: 0 }
    }

    /// Watches exactly what the trail names. To be called after every read: a file that was
    /// replaced needs a watch anew, and one that is not there yet is awaited elsewhere. Costs a
    /// look at each path if nothing changed. What happened before a watch was set went unseen, so
    /// setting one wakes once.
    pub fn rewatch(&mut self, trail: &Trail) {
        let Some(watcher) = &mut self.watcher else {
            self.unwatched = trail.watched.len();
            return;
        };
        let (lost, all_lost) = self.bell.set_entries(trail.entries.clone());
        self.problems.clear();
        let gone = |path: &PathBuf, identity: &mut Identity| {
            all_lost || !trail.watched.contains(path) || lost.contains(path) || Identity::of(path) != Some(*identity)
        };
        for (path, _) in self.watched.extract_if(.., gone) {
            // It may have gone with the file.
            let _ = watcher.unwatch(&path);
        }
        let mut fresh = false;
        for path in &trail.watched {
            let Some(identity) = Identity::of(path) else {
                fresh = true;
                continue;
            };
            if self.watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), identity);
                    fresh = true;
                }
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => fresh = true,
                Err(error) => {
                    let path = path.display();
                    self.problems.push(format!("{path} cannot be watched: {error}"));
                }
            }
        }
        self.unwatched = self.problems.len();
        if fresh {
            self.bell.ring(Wake::Other);
        }
    }

    /// What cannot be watched, for people; polling covers it.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// How many paths cannot be watched.
    #[must_use]
    pub fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// How often the system had more events than it keeps. Then it wakes, and every watch is set anew.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.bell.state().overflows
    }

    /// Waits until something may have changed since the last call; many events make one wake-up.
    /// Nothing is lost if the future is dropped.
    pub async fn wake(&self) -> Wake {
        loop {
            if let Some(wake) = self.bell.state().pending.take() {
                return wake;
            }
            self.bell.rung.notified().await;
        }
    }

    /// Waits for `at_most`, or until something is moved into place. What was heard in that time.
    async fn pause(&self, at_most: Duration) -> Option<Wake> {
        let until = tokio::time::Instant::now() + at_most;
        let mut heard = None;
        while heard != Some(Wake::Moved)
            && let Ok(wake) = tokio::time::timeout_at(until, self.wake()).await
        {
            heard = Some(wake.after(heard));
        }
        heard
    }
}

impl Default for FileWatcher {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads on from `first`, which was read after `wake`, until two equal reads are `quiet` apart and no
/// write was heard between them. Between them it looks again and again, so that the end of a long write
/// is seen soon. What was moved into place is complete: one read after that is enough; who goes on
/// writing to it is heard, and makes another edit. `restless` is called once if the files keep changing
/// for twenty times as long.
pub async fn settle<T: PartialEq>(
    watch: &FileWatcher,
    mut wake: Wake,
    quiet: Duration,
    first: T,
    mut read: impl FnMut() -> T,
    restless: impl FnOnce(),
) -> T {
    let begin = Instant::now();
    let mut last = first;
    let mut since = begin;
    let mut restless = Some(restless);
    loop {
        let left = quiet.saturating_sub(since.elapsed());
        if wake == Wake::Moved || left.is_zero() {
            return last;
        }
        let heard = watch.pause(left.min(STEP)).await;
        wake = heard.map_or(wake, |heard| heard.after(Some(wake)));
        let next = read();
        // Of a file that is written again and again, each look may find it empty.
        if next != last || heard == Some(Wake::Written) {
            since = Instant::now();
            last = next;
        }
        if begin.elapsed() > quiet * 20
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
            // Reading makes these, so reading on them would never end. They change nothing.
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

    /// What is known after this, given what was: the last word about a file itself.
    fn after(self, known: Option<Self>) -> Self {
        match (self, known) {
            (Self::Other, Some(known)) => known,
            _ => self,
        }
    }
}

/// Joins the thread that hears events with the task that waits for them.
#[derive(Debug, Default)]
struct Bell {
    state: Mutex<State>,
    rung: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: Option<Wake>,
    entries: BTreeSet<PathBuf>,
    /// Watched paths whose file was removed or moved away, and the watch with it.
    lost: BTreeSet<PathBuf>,
    /// Whether there is no telling which.
    all_lost: bool,
    overflows: u64,
}

impl Bell {
    fn hear(&self, event: &notify::Result<Event>) {
        let mut state = self.state();
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
            self.ring(wake);
        }
    }

    fn ring(&self, wake: Wake) {
        let mut state = self.state();
        state.pending = Some(wake.after(state.pending));
        drop(state);
        self.rung.notify_one();
    }

    /// Takes the entries that lead to files now. The paths whose watch is lost, and whether all may be.
    fn set_entries(&self, entries: BTreeSet<PathBuf>) -> (BTreeSet<PathBuf>, bool) {
        let mut state = self.state();
        state.entries = entries;
        (std::mem::take(&mut state.lost), std::mem::take(&mut state.all_lost))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever a panic left here is still a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one file from another under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> Option<Self> {
        path.exists().then_some(Self { device: 0, inode: 0 })
    }
}

#[cfg(test)]
mod tests;
