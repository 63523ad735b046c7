//! The retry budget: keeps tries again within a share of the recent requests, so that a failing pool is not buried in them. Pure.

use std::time::{Duration, Instant};

/// What came longer ago is not recent.
const WINDOW: Duration = Duration::from_secs(10);
/// So many tries again in the window are free, for where few requests come.
const RESERVE: f64 = 10.0;

/// Each request earns its share of a token, which fades as the request grows old; each try again costs one.
#[derive(Debug)]
pub struct Budget {
    /// Free ones that are left.
    reserve: f64,
    /// What recent requests have earned and none has spent.
    earned: f64,
    /// Requests that have earned.
    requests: u64,
    looked: Instant,
}

impl Budget {
    /// Before any request.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { reserve: RESERVE, earned: 0.0, requests: 0, looked: now }
    }

    /// Whether one more try again is within the budget; if so, it is paid. A share of nothing allows none.
    ///
    /// `requests` counts all that ever came, and is only looked at here: a request that is not
    /// tried again costs nothing. So of a long time without a try again, each part counts as busy
    /// as the whole.
    #[allow(clippy::cast_precision_loss, reason = "few come between two tries again")]
    pub fn spend(&mut self, requests: u64, share: f64, now: Instant) -> bool {
        if share <= 0.0 {
            return false;
        }
        let windows = now.saturating_duration_since(self.looked).as_secs_f64() / WINDOW.as_secs_f64();
        let news = requests.saturating_sub(self.requests) as f64 / windows.max(1.0);
        (self.requests, self.looked) = (requests, now);
        self.earned = self.earned * (1.0 - windows).max(0.0) + news * share;
        self.reserve = (self.reserve + RESERVE * windows).min(RESERVE);
        for purse in [&mut self.reserve, &mut self.earned] {
            if *purse >= 1.0 {
                *purse -= 1.0;
                return true;
            }
        }
        false
    }
}

impl Default for Budget {
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
        let mut budget = Budget::new(now);
        assert_eq!((0..100).filter(|_| budget.spend(0, 0.2, now)).count(), 10);
        let spent = (1..=1000).filter(|requests| budget.spend(*requests, 0.2, now)).count();
        assert!((199..=200).contains(&spent), "{spent} of 1000");
    }

    #[test]
    fn few_requests_have_a_few_tries_again_free_in_time() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        // One request a second, each of which breaks, for an hour.
        let spent = (1..=3600).filter(|second| budget.spend(*second, 0.001, begin + Duration::from_secs(*second)));
        assert_eq!(spent.count(), 3600);
        assert!(!Budget::new(begin).spend(1000, 0.0, begin), "none are where none are allowed");
        // Ten a second: as many are free as before, beside the share.
        let mut budget = Budget::new(begin);
        let spent = (1..=36_000).filter(|n| budget.spend(*n, 0.2, begin + Duration::from_millis(n * 100))).count();
        assert!((10_500..=10_850).contains(&spent), "{spent} of 36000: a share of 0.2, and one a second");
    }

    #[test]
    fn what_recent_requests_earned_is_there_at_once_and_what_old_ones_did_is_not() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        // Requests, over how many seconds, and how many tries again they are good for.
        for (requests, seconds, good_for) in [(1000, 1, 210), (1000, 10, 210), (1000, 100, 30), (0, 100, 10)] {
            let mut budget = Budget::new(begin);
            let spent = (0..1000).filter(|_| budget.spend(requests, 0.2, after(seconds))).count();
            assert_eq!(spent, good_for, "{requests} in {seconds} s");
            assert!(!budget.spend(requests, 0.2, after(seconds)));
        }
        let mut budget = Budget::new(begin);
        assert!(budget.spend(1000, 0.2, after(1)));
        assert_eq!((0..1000).filter(|_| budget.spend(1000, 0.2, after(11))).count(), 10, "they are old by now");
    }
}
