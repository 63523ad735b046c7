//! Certificates between edits: new contents while the file itself is not in force, and the warnings in the log.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Gateway;
use super::apply::NotApplied;
use crate::config::problem::Problem;
use crate::control::reload::source::Sources;
use crate::control::resolver::Addresses;
use crate::live::tls::warnings;

/// The time between two looks at the calendar.
pub(super) const CALENDAR: Duration = Duration::from_secs(60);

impl Gateway {
    /// Puts new contents of the files in force that the running configuration refers to, because the edit in `sources`,
    /// which has them, is not applied. Returns whether that was recorded.
    pub(super) fn renew(&mut self, edit: &Sources, began: Instant) -> bool {
        if *edit.hash == *self.state.snapshot.load().hash {
            // It is the running configuration.
            return false;
        }
        let new = &edit.in_force;
        if self.config.references() != new.references() {
            // Read before the newest edit was applied. The reader sends its files.
            return false;
        }
        if self.files.are(new) {
            self.kept.clear();
            return false;
        }
        let sources = Sources { referenced: new.clone(), ..self.sources.clone() };
        let result = self.prepare(&Arc::clone(&self.config), &sources, &Addresses::new());
        if let Err(NotApplied::Pending(problems) | NotApplied::Rejected(problems)) = &result {
            if *problems == self.kept {
                return false;
            }
            self.kept.clone_from(problems);
        }
        self.conclude(&sources, began, result.map(Some));
        true
    }

    /// The problems of the newest reload, if it was of these files and they are not in force.
    pub(super) fn recorded(&self, sources: &Sources) -> Vec<Problem> {
        let reloads = self.state.reloads();
        let newest = reloads.newest().next().filter(|newest| *newest.hash == *sources.hash);
        newest.map_or_else(Vec::new, |newest| newest.problems.clone())
    }

    /// Whether there is a certificate that could expire.
    pub(super) fn has_certificates(&self) -> bool {
        self.files.certificates().next().is_some()
    }

    /// Logs each warning about certificates that is not yet in the log. The API repeats them while they apply.
    pub(super) fn warn_of_certificates(&mut self) {
        let snapshot = self.state.snapshot.load();
        let warnings = warnings(&self.config, snapshot.tls.as_deref(), SystemTime::now());
        for warning in warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warned = warnings;
    }
}
