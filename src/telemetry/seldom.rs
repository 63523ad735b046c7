//! Says how much was lost, at most once a minute. Pure.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(60);

/// Watches a count that only grows.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    said_at: Option<Instant>,
    said: u64,
}

impl LogThrottle {
    /// How much `total` grew since the last time this said so; none if it did not, or if that was
    /// less than a minute ago.
    pub(super) fn due(&mut self, total: u64, now: Instant) -> Option<u64> {
        let quiet = self.said_at.is_none_or(|at| now.duration_since(at) >= PAUSE);
        if total == self.said || !quiet {
            return None;
        }
        self.said_at = Some(now);
        Some(total - std::mem::replace(&mut self.said, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_passes_between_complaints_and_none_is_forgotten() {
        let start = Instant::now();
        let mut seldom = LogThrottle::default();
        for (second, total, due) in
            [(0, 0, None), (1, 2, Some(2)), (2, 3, None), (60, 9, None), (61, 9, Some(7)), (500, 9, None)]
        {
            assert_eq!(seldom.due(total, start + Duration::from_secs(second)), due, "at {second} s");
        }
    }
}
