//! The paths to watch, and the files in which two reads differ.

use std::collections::HashMap;
use std::path::Path;

use super::{Source, Sources};
use crate::config::file::Include;
use crate::config::source::SourceFile;
use crate::control::reload::completeness::{ChangedFile, FileText};
use crate::control::reload::trail::Trail;

impl Source {
    /// The paths to watch so that no change of these files goes unnoticed: the files, and every directory
    /// in which one of them, or a symbolic link on the way to it, can be replaced.
    #[must_use]
    pub fn trail(&self, sources: &Sources) -> Trail {
        let mut trail = self.own_trail(sources);
        sources.referenced.trail(&mut trail);
        sources.in_force.trail(&mut trail);
        trail
    }

    /// The same without the files that the configuration refers to.
    pub(in crate::control::reload) fn own_trail(&self, sources: &Sources) -> Trail {
        let mut trail = Trail::default();
        trail.follow(&self.path);
        for file in sources.files.iter().skip(1) {
            trail.follow(&file.path);
        }
        for Include { pattern, .. } in &sources.includes {
            for directory in self.directories(pattern) {
                trail.follow(&directory);
            }
        }
        trail
    }

    /// The files in which a read differs from the one before it.
    #[must_use]
    pub fn changed(&self, last: &Sources, now: &Sources) -> Vec<ChangedFile> {
        let changed_file = |path: &Path, text: FileText| {
            let mut trail = Trail::default();
            trail.follow(path);
            ChangedFile { entries: trail.entries, text }
        };
        let (before, after) = (by_path(last), by_path(now));
        let mut changed = Vec::new();
        for file in now.files.iter().filter(|file| before.get(file.path.as_path()) != Some(file)) {
            // A new file that others are included with adds nothing as long as it is empty.
            let is_emptied =
                file.bytes.is_empty() && (file.path == self.path || before.contains_key(file.path.as_path()));
            changed.push(changed_file(&file.path, if is_emptied { FileText::Empty } else { FileText::Some }));
        }
        for file in last.files.iter().filter(|file| !after.contains_key(file.path.as_path())) {
            let text = if file.path == self.path { FileText::NoMain } else { FileText::None };
            changed.push(changed_file(&file.path, text));
        }
        let in_force = last.in_force.changed(&now.in_force);
        for path in last.referenced.changed(&now.referenced).into_iter().chain(in_force) {
            // An incomplete one harms nothing: its old content is kept.
            changed.push(changed_file(&path, FileText::None));
        }
        if changed.is_empty() {
            // Other problems than before.
            changed.push(changed_file(&self.path, FileText::None));
        }
        changed
    }
}

fn by_path(sources: &Sources) -> HashMap<&Path, &SourceFile> {
    sources.files.iter().map(|file| (file.path.as_path(), file)).collect()
}
