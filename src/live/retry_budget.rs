//! The retry budget: limits retries to a share of the recent requests, so that they do not overload a failing pool. Pure.

use std::time::{Duration, Instant};

/// Requests count as recent for this long.
const WINDOW: Duration = Duration::from_secs(10);
/// Retries per window that are free, for when traffic is low.
const RESERVE: f64 = 10.0;

/// Why a request was retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// Connecting to the server took too long, or failed for lack of descriptors or ports.
    Connect,
    /// The new connection was closed before the request was sent.
    NotSent,
    /// The server said that it had not processed the request.
    Refused,
    /// The connection failed after the request was sent and before a response.
    Broken,
    /// Checks took the server down while the request waited for its response.
    Down,
    /// The server responded with a status of `retry.statuses`.
    Status,
}

impl RetryReason {
    pub const ALL: [Self; 6] = [Self::Connect, Self::NotSent, Self::Refused, Self::Broken, Self::Down, Self::Status];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Down => "down",
            Self::Status => "status",
        }
    }
}

/// A token bucket: each request earns its share of a token, which expires as the request ages; each retry costs one.
#[derive(Debug)]
pub struct RetryBudget {
    /// Free tokens left.
    reserve: f64,
    /// Tokens that recent requests earned and no retry has spent.
    earned: f64,
    /// The number of requests at the last call.
    requests: u64,
    /// The time of the last call.
    updated: Instant,
}

impl RetryBudget {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { reserve: RESERVE, earned: 0.0, requests: 0, updated: now }
    }

    /// Spends a token for a retry, and returns whether there was one. A share of 0 allows no retries.
    ///
    /// `requests` is the number of requests so far. It is read only here, so that requests without retries cost nothing;
    /// requests since the last call are assumed to have arrived evenly.
    #[allow(clippy::cast_precision_loss, reason = "few requests arrive between two retries")]
    pub fn spend(&mut self, requests: u64, share: f64, now: Instant) -> bool {
        if share <= 0.0 {
            return false;
        }
        let windows = now.saturating_duration_since(self.updated).as_secs_f64() / WINDOW.as_secs_f64();
        let new = requests.saturating_sub(self.requests) as f64 / windows.max(1.0);
        (self.requests, self.updated) = (requests, now);
        self.earned = self.earned * (1.0 - windows).max(0.0) + new * share;
        self.reserve = (self.reserve + RESERVE * windows).min(RESERVE);
        for tokens in [&mut self.reserve, &mut self.earned] {
            if *tokens >= 1.0 {
                *tokens -= 1.0;
                return true;
            }
        }
        false
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_spent_first_and_then_a_share() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        assert_eq!((0..100).filter(|_| budget.spend(0, 0.2, now)).count(), 10);
        let spent = (1..=1000).filter(|requests| budget.spend(*requests, 0.2, now)).count();
        assert!((199..=200).contains(&spent), "{spent} of 1000");
    }

    #[test]
    fn a_few_retries_are_free_in_each_window() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        // One request per second, each of which fails, for an hour.
        let spent = (1..=3600).filter(|second| budget.spend(*second, 0.001, start + Duration::from_secs(*second)));
        assert_eq!(spent.count(), 3600);
        assert!(!RetryBudget::new(start).spend(1000, 0.0, start), "a share of 0 allows none");
        // Ten per second: as many are free as before, on top of the share.
        let mut budget = RetryBudget::new(start);
        let spent = (1..=36_000).filter(|n| budget.spend(*n, 0.2, start + Duration::from_millis(n * 100))).count();
        assert!((10_500..=10_850).contains(&spent), "{spent} of 36000: a share of 0.2, and one per second");
    }

    #[test]
    fn only_recent_requests_earn_retries() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        // Requests, over how many seconds, and the retries that they earn.
        for (requests, seconds, retries) in [(1000, 1, 210), (1000, 10, 210), (1000, 100, 30), (0, 100, 10)] {
            let mut budget = RetryBudget::new(start);
            let spent = (0..1000).filter(|_| budget.spend(requests, 0.2, after(seconds))).count();
            assert_eq!(spent, retries, "{requests} in {seconds} s");
            assert!(!budget.spend(requests, 0.2, after(seconds)));
        }
        let mut budget = RetryBudget::new(start);
        assert!(budget.spend(1000, 0.2, after(1)));
        assert_eq!((0..1000).filter(|_| budget.spend(1000, 0.2, after(11))).count(), 10, "they have expired");
    }
}
