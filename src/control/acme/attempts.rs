//! Earlier attempts at certificates, so that edits and signals do not ask a server more often than it allows.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// The time between two attempts at the same certificate, however often an edit or a signal asks for one.
const PACE: Duration = Duration::from_secs(10);
/// Earlier attempts, by the server's directory and the certificate's first name. It outlives edits, so that they cannot ask a
/// server more often than it allows.
#[derive(Debug, Default)]
pub(super) struct AttemptHistory(Mutex<HashMap<(String, String), Attempts>>);

#[derive(Debug, Clone, Copy)]
struct Attempts {
    /// Failures in a row.
    failures: u32,
    /// No attempt may be made before.
    not_before: SystemTime,
}

impl AttemptHistory {
    /// The earliest time of the next attempt.
    pub(super) fn earliest(&self, key: &(String, String)) -> SystemTime {
        self.0.lock().get(key).map_or(SystemTime::UNIX_EPOCH, |attempts| attempts.not_before)
    }

    pub(super) fn began(&self, key: &(String, String)) {
        let mut all = self.0.lock();
        let attempts = all.entry(key.clone()).or_insert(Attempts { failures: 0, not_before: SystemTime::UNIX_EPOCH });
        attempts.failures = attempts.failures.saturating_add(1);
        attempts.not_before = SystemTime::now() + PACE;
    }

    /// Attempts in a row that did not succeed, with the one that has just begun.
    pub(super) fn failures(&self, key: &(String, String)) -> u32 {
        self.0.lock().get(key).map_or(1, |attempts| attempts.failures)
    }

    pub(super) fn succeeded(&self, key: &(String, String)) {
        if let Some(attempts) = self.0.lock().get_mut(key) {
            attempts.failures = 0;
        }
    }

    pub(super) fn forbid(&self, key: &(String, String), until: SystemTime) {
        if let Some(attempts) = self.0.lock().get_mut(key) {
            attempts.not_before = until;
        }
    }
}
