//! When the files of an edit are complete, decided for each file: events go in with their times, and out comes the
//! time from which a read counts.
//!
//! A file that is renamed into place is complete. One that is written in place is complete once its writer has closed
//! it, and is read after it has been quiet. Where no event shows who writes, equal reads have to do.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a file that its writer keeps open may be silent before equal reads count instead of the missing close.
pub const OPEN: Duration = Duration::from_secs(5);
/// How long a file that became empty in place must stay so: nobody means that, and more will follow.
pub const EMPTY: Duration = Duration::from_secs(5);
/// How long the main file must be missing: it is often deleted and created again, with its directory or alone.
pub const MISSING: Duration = Duration::from_secs(1);
/// After this many times `quiet`, files that are still renamed into place one after the other are read nevertheless.
const PATIENCE: u32 = 20;

/// One thing that happened to one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileEvent {
    /// It was created by somebody who opened it.
    Created,
    /// A link to an existing file was created.
    Linked,
    Written,
    /// Opened by anybody, for reading or writing.
    Opened,
    /// Closed by somebody who could write. Who only reads is not reported.
    Closed,
    /// Another file was renamed to its path.
    Moved,
    /// It was removed or renamed away.
    Gone,
}

/// A file by the events since it was last read; none of them: no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    Writing(Writing),
    /// Its writer has closed it, or it is a new link, whose writer is unknown.
    Closed(Instant),
    /// It was renamed into place.
    Moved(Instant),
}

/// A file between its first write and the close that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Writing {
    /// The newest write, or its creation.
    last: Instant,
    /// Whether anything was written since it was created.
    written: bool,
    /// How often it was opened since `last`, and closed by somebody who could write. A close that may belong to one of
    /// these opens, such as that of `touch`, does not show that the earlier writer has closed it.
    opened: u32,
    closed: u32,
}

impl FileState {
    fn after(state: Option<Self>, event: FileEvent, now: Instant) -> Option<Self> {
        let begun = |written| Some(Self::Writing(Writing { last: now, written, opened: 0, closed: 0 }));
        match (event, state) {
            (FileEvent::Created, _) => begun(false),
            (FileEvent::Written, _) => begun(true),
            (FileEvent::Moved, _) => Some(Self::Moved(now)),
            (FileEvent::Gone, _) => None,
            (FileEvent::Opened, Some(Self::Writing(writing))) => {
                Some(Self::Writing(Writing { opened: writing.opened + 1, ..writing }))
            }
            (FileEvent::Closed, Some(Self::Writing(writing))) => {
                Some(Writing { closed: writing.closed + 1, ..writing }.or_closed(now))
            }
            // It was renamed before it was closed.
            (FileEvent::Closed, Some(Self::Moved(at))) => Some(Self::Moved(at)),
            // The writes were not seen: a mapping, or a watch that is younger.
            (FileEvent::Closed | FileEvent::Linked, _) => Some(Self::Closed(now)),
            (FileEvent::Opened, state) => state,
        }
    }

    /// The time from which a read counts, as far as this file goes.
    fn ready(self, edit: &UnreadEdit, quiet: Duration) -> Instant {
        match self {
            Self::Writing(Writing { last, .. }) => (last + quiet.max(OPEN)).max(edit.unchanged_since + quiet),
            Self::Closed(at) => at.max(edit.unchanged_since) + quiet,
            Self::Moved(at) if edit.alone => at,
            Self::Moved(at) => at.max(edit.unchanged_since) + quiet,
        }
    }
}

impl Writing {
    /// The file is closed once one of the closes since the last write must be its writer's. The open that creates a
    /// file comes after its creation.
    fn or_closed(self, now: Instant) -> FileState {
        if self.closed >= self.opened + u32::from(self.written) {
            FileState::Closed(now)
        } else {
            FileState::Writing(self)
        }
    }
}

/// One read that differs from the last accepted one, and what it consists of.
#[derive(Debug, Clone)]
pub struct UnreadEdit {
    /// Every entry that leads to one of its files, or to one of the files before it.
    pub entries: BTreeSet<PathBuf>,
    /// The files that differ, or are new or missing.
    pub changed: Vec<ChangedFile>,
    /// Whether no file includes others. Then nothing can follow a rename.
    pub alone: bool,
    /// When the first difference was read.
    pub noticed: Instant,
    /// Since when each read has been the same.
    pub unchanged_since: Instant,
}

/// A file of an edit.
#[derive(Debug, Clone)]
pub struct ChangedFile {
    /// The entries that lead to it.
    pub entries: BTreeSet<PathBuf>,
    pub text: FileText,
}

/// The content of a file, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileText {
    /// It is missing or cannot be read.
    None,
    /// The same of the main file, without which there is no configuration.
    NoMain,
    Empty,
    Some,
}

/// Why an edit is not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A file's writer has it open.
    Open,
    /// A file has just become empty.
    Empty,
    /// Something changed a moment ago.
    Quiet,
}

/// The states of all files that events have been about since they were last read.
#[derive(Debug, Default)]
pub struct Completeness {
    files: HashMap<PathBuf, FileState>,
}

impl Completeness {
    /// Takes an event into account. Returns whether it shows anything new.
    pub fn apply(&mut self, path: &Path, event: FileEvent, now: Instant) -> bool {
        let before = self.files.get(path).copied();
        let after = FileState::after(before, event, now);
        match after {
            _ if before == after => {}
            Some(state) => drop(self.files.insert(path.to_owned(), state)),
            None => drop(self.files.remove(path)),
        }
        event != FileEvent::Opened
    }

    /// Forgets what a read that began at `read` has seen: files that were complete by then. Files outside of `watched`
    /// are forgotten too, because no event will tell how they go on.
    pub fn forget(&mut self, read: Instant, watched: &BTreeSet<PathBuf>) {
        self.files.retain(|path, state| match state {
            FileState::Closed(at) | FileState::Moved(at) => *at > read,
            FileState::Writing(_) => {
                watched.contains(path) || path.parent().is_some_and(|parent| watched.contains(parent))
            }
        });
    }

    /// Forgets that files are complete, because events about them may have been lost.
    pub fn doubt(&mut self) {
        self.files.retain(|_, state| matches!(state, FileState::Writing(_)));
    }

    /// Whether any of these files is open for writing, as far as it is known.
    #[must_use]
    pub fn is_open(&self, entries: &BTreeSet<PathBuf>) -> bool {
        entries.iter().any(|entry| matches!(self.files.get(entry), Some(FileState::Writing(_))))
    }

    /// The time from which a read of the edit counts, and what it waits for.
    #[must_use]
    pub fn ready(&self, edit: &UnreadEdit, quiet: Duration) -> (Instant, Because) {
        let states = || edit.entries.iter().filter_map(|entry| self.files.get(entry));
        let mut ready = (edit.noticed, Because::Quiet);
        let mut all_moved = true;
        let mut wait = |until: Instant, because| {
            if until > ready.0 {
                ready = (until, because);
            }
        };
        for state in states() {
            all_moved &= matches!(state, FileState::Moved(_));
            let open = matches!(state, FileState::Writing(_));
            wait(state.ready(edit, quiet), if open { Because::Open } else { Because::Quiet });
        }
        for file in &edit.changed {
            let states = || file.entries.iter().filter_map(|entry| self.files.get(entry));
            let moved = states().any(|state| matches!(state, FileState::Moved(_)));
            match file.text {
                FileText::Some | FileText::Empty if moved => continue,
                FileText::Empty => wait(edit.unchanged_since + quiet.max(EMPTY), Because::Empty),
                FileText::NoMain => wait(edit.unchanged_since + quiet.max(MISSING), Because::Quiet),
                FileText::Some if states().next().is_some() => {}
                FileText::Some | FileText::None => wait(edit.unchanged_since + quiet, Because::Quiet),
            }
            all_moved = false;
        }
        // A file that is replaced again and again is complete each time.
        if all_moved {
            ready.0 = ready.0.min(edit.noticed + quiet * PATIENCE);
        }
        ready
    }
}

#[cfg(test)]
mod tests;
