//! How well edits of the files can be noticed and the last good copy is kept, for the API and the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

/// Lives as long as the process. Written by the reader and, as far as the last good copy goes, by the task that saves it.
#[derive(Debug, Default)]
pub struct WatchStatus {
    warnings: ArcSwap<Vec<String>>,
    unwatched: AtomicU64,
    overflows: AtomicU64,
    copy_warnings: ArcSwap<Vec<String>>,
    copy_failed: AtomicBool,
}

impl WatchStatus {
    /// Conditions under which edits may go unnoticed or a start may fail, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.load().iter().chain(self.copy_warnings.load().iter()).cloned().collect()
    }

    /// Whether the last good copy is up to date, or none is to be kept.
    #[must_use]
    pub fn is_copy_saved(&self) -> bool {
        !self.copy_failed.load(Relaxed)
    }

    /// Sets the warnings about the last good copy, and whether it is up to date.
    pub fn set_copy(&self, warnings: Vec<String>, saved: bool) {
        self.copy_warnings.store(Arc::new(warnings));
        self.copy_failed.store(!saved, Relaxed);
    }

    /// The number of paths that could not be watched.
    #[must_use]
    pub fn unwatched(&self) -> u64 {
        self.unwatched.load(Relaxed)
    }

    /// How often file events were lost, so that all files were read instead.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    pub fn set(&self, warnings: Vec<String>, unwatched: u64, overflows: u64) {
        self.warnings.store(Arc::new(warnings));
        self.unwatched.store(unwatched, Relaxed);
        self.overflows.store(overflows, Relaxed);
    }
}
