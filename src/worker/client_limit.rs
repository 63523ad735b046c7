//! As many clients as may be: what is said of it, once a second, and what is counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines of the log that say the same.
const PAUSE: Duration = Duration::from_secs(1);

/// One for all workers.
#[derive(Debug)]
pub struct ClientLimit {
    /// Clients that there are descriptors for.
    most: usize,
    delayed: AtomicU64,
    said: Mutex<Said>,
}

/// What was said when. Pure.
#[derive(Debug, Default)]
struct Said {
    full: Option<Instant>,
    /// When a client last found no room, until it is said that this is over.
    waited: Option<Instant>,
    refused: Option<Instant>,
}

impl ClientLimit {
    /// Of at most `most` clients.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, delayed: AtomicU64::new(0), said: Mutex::default() }
    }

    /// How many clients may be connected when the file says `configured`, where 0 is no limit.
    #[must_use]
    pub fn limit(&self, configured: usize) -> usize {
        if configured == 0 { self.most } else { configured.min(self.most) }
    }

    /// Clients that had to wait until another had left.
    #[must_use]
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Relaxed)
    }

    /// Counts one more of these.
    pub(super) fn delay(&self) {
        self.delayed.fetch_add(1, Relaxed);
    }

    /// Notes that a client finds no room; says so if nobody has in the last second.
    pub(super) fn full(&self, clients: usize, configured: usize) {
        if self.said().full(Instant::now()) {
            let limit = self.limit(configured);
            let set_by = if limit == configured { "limits.connections" } else { "file descriptors" };
            tracing::warn!(clients, limit, set_by, "clients wait for others to leave");
        }
    }

    /// Says that no client waits any more, once nobody has for a second.
    pub(super) fn look(&self, now: Instant) {
        if self.said().over(now) {
            tracing::info!("clients are served as they come again");
        }
    }

    /// Whether to say now that the system gives no client out.
    pub(super) fn refused(&self) -> bool {
        due(&mut self.said().refused, Instant::now())
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn full(&mut self, now: Instant) -> bool {
        self.waited = Some(now);
        due(&mut self.full, now)
    }

    fn over(&mut self, now: Instant) -> bool {
        self.waited.take_if(|waited| now.saturating_duration_since(*waited) >= PAUSE).is_some()
    }
}

/// Whether something said last at `said` is to be said again; then it is taken to be.
fn due(said: &mut Option<Instant>, now: Instant) -> bool {
    let due = said.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE);
    if due {
        *said = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_said_once_a_second_and_its_end_once() {
        let start = Instant::now();
        let mut said = Said::default();
        // At so many milliseconds: whether a client waits, and whether something is said.
        let steps = [
            (0, false, false),
            (10, true, true),
            (900, true, false),
            (1_010, true, true),
            (1_020, true, false),
            (1_900, false, false),
            (2_020, false, true),
            (3_100, false, false),
            (3_200, true, true),
            (4_200, false, true),
        ];
        for (millis, waits, says) in steps {
            let now = start + Duration::from_millis(millis);
            assert_eq!(if waits { said.full(now) } else { said.over(now) }, says, "at {millis} ms");
        }
    }

    #[test]
    fn the_file_may_allow_fewer_clients_than_the_system_and_not_more() {
        let client_limit = ClientLimit::new(100);
        for (configured, limit) in [(0, 100), (1, 1), (100, 100), (101, 100)] {
            assert_eq!(client_limit.limit(configured), limit);
        }
    }
}
