//! The record of reloads, from which `/api/reloads`, the log and the metrics report each of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::problem::Problem;
use crate::live::counters::{Histogram, HistogramTotal};

/// One attempt to apply the files.
#[derive(Debug, Clone)]
pub struct Reload {
    /// The current generation afterwards.
    pub generation: u64,
    /// The SHA-256 of the files, in hexadecimal; empty if none could be read.
    pub hash: Arc<str>,
    pub outcome: Outcome,
    /// The end of the reload.
    pub at: SystemTime,
    /// From when the change was noticed to the end.
    pub took: Duration,
    /// The changes, each described in words.
    pub changes: Vec<String>,
    /// The problems, if it was rejected or is pending.
    pub problems: Vec<Problem>,
}

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The files are a new generation.
    Applied,
    /// The files are the same as those of the current generation.
    Unchanged,
    /// The files have problems, so nothing changed.
    Rejected,
    /// The files refer to something that is not available yet, such as a port in use. Nothing changed; it is tried again.
    Pending,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Applied, Self::Unchanged, Self::Rejected, Self::Pending];

    /// The name in logs and metric labels.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Rejected => "rejected",
            Self::Pending => "pending",
        }
    }
}

/// The newest reloads, and totals of all since the process started. Written only by the control plane.
#[derive(Debug, Default)]
pub struct ReloadHistory {
    /// Newest first.
    newest: VecDeque<Arc<Reload>>,
    totals: [u64; Outcome::ALL.len()],
    seconds: Histogram,
}

impl ReloadHistory {
    /// Adds a reload, and drops the oldest beyond `history`.
    pub fn add(&mut self, reload: Arc<Reload>, history: usize) {
        self.totals[reload.outcome as usize] += 1;
        self.seconds.observe(reload.took);
        self.newest.push_front(reload);
        self.newest.truncate(history.max(1));
    }

    /// The reloads that are kept, newest first.
    pub fn newest(&self) -> impl ExactSizeIterator<Item = &Arc<Reload>> {
        self.newest.iter()
    }

    /// The number of reloads with this outcome since the process started.
    #[must_use]
    pub fn total(&self, outcome: Outcome) -> u64 {
        self.totals[outcome as usize]
    }

    /// How long the reloads took.
    #[must_use]
    pub fn seconds(&self) -> HistogramTotal {
        let mut total = HistogramTotal::default();
        total.add(&self.seconds);
        total
    }

    /// The outcome of the newest reload.
    #[must_use]
    pub fn last_outcome(&self) -> Option<Outcome> {
        self.newest.front().map(|reload| reload.outcome)
    }

    /// Whether the newest reload left the files' configuration in force.
    #[must_use]
    pub fn last_successful(&self) -> bool {
        self.last_outcome().is_none_or(|outcome| !matches!(outcome, Outcome::Rejected | Outcome::Pending))
    }
}
