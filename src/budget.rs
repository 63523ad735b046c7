//! The retry budget: keeps tries again within a share of the requests, so that a failing pool is not buried in them. Pure.

/// So many tries again need no requests before them, and no more are saved up.
const RESERVE: f64 = 10.0;

/// Each request earns its share of a token, each try again costs one.
#[derive(Debug)]
pub struct Budget {
    tokens: f64,
    /// Requests that have earned.
    earned: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { tokens: RESERVE, earned: 0 }
    }
}

impl Budget {
    /// Whether one more try again is within the budget; if so, it is paid.
    ///
    /// `requests` counts all that ever came, and is only looked at here: a request that is not
    /// tried again costs nothing.
    #[allow(clippy::cast_precision_loss, reason = "few come between two tries again")]
    pub fn spend(&mut self, requests: u64, share: f64) -> bool {
        let news = requests.saturating_sub(self.earned) as f64;
        self.earned = requests;
        self.tokens = (self.tokens + news * share).min(RESERVE);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_spent_first_and_then_a_share() {
        let mut budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.spend(0, 0.2)).count(), 10);
        let spent = (1..=1000).filter(|requests| budget.spend(*requests, 0.2)).count();
        assert!((199..=200).contains(&spent), "{spent} of 1000");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let mut budget = Budget::default();
        assert!(budget.spend(1_000_000, 0.2));
        assert_eq!((0..100).filter(|_| budget.spend(1_000_000, 0.2)).count(), 9);
    }
}
