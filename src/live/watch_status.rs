//! How well edits of the files can be noticed, for the API and the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

/// Lives as long as the process. The reader is the only writer.
#[derive(Debug, Default)]
pub struct WatchStatus {
    warnings: ArcSwap<Vec<String>>,
    unwatched: AtomicU64,
    overflows: AtomicU64,
}

impl WatchStatus {
    /// Conditions under which edits may go unnoticed, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Arc<Vec<String>> {
        self.warnings.load_full()
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
