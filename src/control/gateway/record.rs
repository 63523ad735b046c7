//! The record of a reload: the same facts in the log, in `/api/reloads`, in the events and in the metrics.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Gateway;
use crate::config::problem::Problem;
use crate::live::events::Event;
use crate::live::reloads::{Outcome, Reload};
use crate::live::snapshot::Snapshot;

impl Gateway {
    /// Records the outcome of a reload.
    pub(super) fn record(&self, reload: Reload) {
        let Reload { generation, hash, outcome, took, changes, problems, .. } = &reload;
        match outcome {
            Outcome::Applied if *generation == 1 => {
                let servers: usize = self.config.pools.iter().map(|pool| pool.servers.len()).sum();
                let (pools, routes) = (self.config.pools.len(), self.config.routes.len());
                tracing::info!(generation, %hash, ?took, servers, pools, routes, "configuration applied at start");
            }
            Outcome::Applied => {
                tracing::info!(generation, %hash, ?took, changes = changes.join("; "), "configuration applied");
            }
            Outcome::Unchanged => {
                tracing::info!(generation, %hash, "configuration unchanged");
            }
            Outcome::Pending => {
                tracing::warn!(generation, %hash, "configuration pending; the generation stays in force until it can be applied");
                for problem in problems {
                    tracing::warn!("{problem}");
                }
            }
            Outcome::Rejected => {
                tracing::error!(generation, %hash, problems = problems.len(), "configuration rejected; the generation stays in force");
                for problem in problems {
                    tracing::error!("{problem}");
                }
            }
        }
        let reload = Arc::new(reload);
        self.state.reloads().add(Arc::clone(&reload), self.config.reload.history);
        self.state.events.publish(Event::Reload(reload));
    }
}

/// The record of the first generation.
pub(super) fn started(snapshot: &Snapshot, since: Instant) -> Reload {
    Reload {
        generation: snapshot.generation,
        hash: Arc::clone(&snapshot.hash),
        outcome: Outcome::Applied,
        at: snapshot.applied_at,
        took: since.elapsed(),
        changes: Vec::new(),
        problems: Vec::new(),
    }
}

/// The record of the files that a start could not use, so that it fell back to the last good copy.
pub(super) fn fallen_back(hash: Arc<str>, since: Instant, problems: Vec<Problem>) -> Reload {
    tracing::error!(
        "configuration invalid or missing: started from the last good copy; fix the file and it is applied immediately"
    );
    Reload {
        generation: 1,
        hash,
        outcome: Outcome::Rejected,
        at: SystemTime::now(),
        took: since.elapsed(),
        changes: Vec::new(),
        problems,
    }
}
