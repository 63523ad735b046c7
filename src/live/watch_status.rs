//! How well the files are seen: what the reader knows of that, for the API and the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

/// Written by the reader, read by all.
#[derive(Debug, Default)]
pub struct WatchStatus {
    warnings: ArcSwap<Vec<String>>,
    unwatched: AtomicU64,
    overflows: AtomicU64,
}

impl WatchStatus {
    /// What people should do something about: a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Arc<Vec<String>> {
        self.warnings.load_full()
    }

    /// Paths of whose changes no file event tells.
    #[must_use]
    pub fn unwatched(&self) -> u64 {
        self.unwatched.load(Relaxed)
    }

    /// How often file events were lost, and everything was looked at instead.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    /// Notes how things are now.
    pub fn set(&self, warnings: Vec<String>, unwatched: u64, overflows: u64) {
        self.warnings.store(Arc::new(warnings));
        self.unwatched.store(unwatched, Relaxed);
        self.overflows.store(overflows, Relaxed);
    }
}
