//! Limits how often the same thing is logged. Pure.

use std::time::{Duration, Instant};

/// For one kind of message.
#[derive(Debug)]
pub struct LogThrottle {
    interval: Duration,
    logged_at: Option<Instant>,
    /// The total when it was last logged.
    logged_total: u64,
}

impl LogThrottle {
    /// At most one message per `interval`.
    #[must_use]
    pub const fn every(interval: Duration) -> Self {
        Self { interval, logged_at: None, logged_total: 0 }
    }

    /// Whether to log now, which counts as done if so.
    pub fn allows(&mut self, now: Instant) -> bool {
        let allowed = self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= self.interval);
        if allowed {
            self.logged_at = Some(now);
        }
        allowed
    }

    /// Whether to log now that something has been counted, and how many: returns by how much `total`, which
    /// never falls, has grown since the last message, unless it has not or that message is too recent.
    pub fn growth(&mut self, total: u64, now: Instant) -> Option<u64> {
        if total == self.logged_total || !self.allows(now) {
            return None;
        }
        Some(total - std::mem::replace(&mut self.logged_total, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_an_interval_apart() {
        let start = Instant::now();
        let mut throttle = LogThrottle::every(Duration::from_secs(1));
        for (millis, allowed) in [(0, true), (1, false), (999, false), (1_000, true), (1_500, false), (9_000, true)] {
            assert_eq!(throttle.allows(start + Duration::from_millis(millis)), allowed, "at {millis} ms");
        }
        // Another thread may have taken its time a moment before.
        assert!(!throttle.allows(start));
    }

    #[test]
    fn a_minute_passes_between_messages_and_nothing_counted_is_lost() {
        let start = Instant::now();
        let mut throttle = LogThrottle::every(Duration::from_secs(60));
        for (second, total, growth) in
            [(0, 0, None), (1, 2, Some(2)), (2, 3, None), (60, 9, None), (61, 9, Some(7)), (500, 9, None)]
        {
            assert_eq!(throttle.growth(total, start + Duration::from_secs(second)), growth, "at {second} s");
        }
    }
}
