//! The record of reloads: what `/api/reloads`, the log and the metrics say of each attempt, from one source.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::problem::Problem;
use crate::live::counters::{Histogram, HistogramTotal};

/// One attempt to bring the file into force.
#[derive(Debug, Clone)]
pub struct Reload {
    /// The generation in force afterwards.
    pub generation: u64,
    /// SHA-256 of what was read, in hexadecimal; empty when nothing could be.
    pub hash: Arc<str>,
    /// What came of it.
    pub outcome: Outcome,
    /// When it ended.
    pub at: SystemTime,
    /// From the first look at the changed file to the end.
    pub took: Duration,
    /// The difference in words, one change each.
    pub changes: Vec<String>,
    /// Why it was rejected.
    pub problems: Vec<Problem>,
}

/// What came of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A new generation.
    Applied,
    /// The same content as the one in force.
    Unchanged,
    /// Nothing changed, for the problems that are listed.
    Rejected,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Applied, Self::Unchanged, Self::Rejected];

    /// As logs and labels say it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Rejected => "rejected",
        }
    }
}

/// The newest reloads, and all of them counted. Written by the control plane alone.
#[derive(Debug, Default)]
pub struct Record {
    /// The newest first.
    newest: VecDeque<Arc<Reload>>,
    totals: [u64; Outcome::ALL.len()],
    seconds: Histogram,
}

impl Record {
    /// Takes in one; of the older ones at most `history` in all are kept.
    pub fn add(&mut self, reload: Arc<Reload>, history: usize) {
        self.totals[reload.outcome as usize] += 1;
        self.seconds.observe(reload.took);
        self.newest.push_front(reload);
        self.newest.truncate(history.max(1));
    }

    /// Those that are kept, the newest first.
    pub fn newest(&self) -> impl ExactSizeIterator<Item = &Arc<Reload>> {
        self.newest.iter()
    }

    /// How many ended so, since the process began.
    #[must_use]
    pub fn total(&self, outcome: Outcome) -> u64 {
        self.totals[outcome as usize]
    }

    /// How long they took.
    #[must_use]
    pub fn seconds(&self) -> HistogramTotal {
        let mut total = HistogramTotal::default();
        total.add(&self.seconds);
        total
    }

    /// Whether the newest attempt was no failure.
    #[must_use]
    pub fn last_successful(&self) -> bool {
        self.newest.front().is_none_or(|reload| reload.outcome != Outcome::Rejected)
    }
}
