//! When servers are checked. Pure, but for the random numbers that are passed in.

use std::time::Duration;

use crate::config::HealthConfig;

/// The most first checks that all begin at once.
const MAX_AT_ONCE: usize = 100;

/// The maximum rate of first checks, per second, if there are more; exceeded if the interval is too short for it.
const MAX_PER_SECOND: f64 = 10_000.0;

/// The shortest time over which more first checks are spread, unless the configured interval is shorter.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// The pace of one server's checks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Whether the last pause was, and the next one is, a whole interval.
    steady: bool,
}

impl Pace {
    /// The time from the start of one check to the next one; `random` is between 0 and 1. It is short if the check failed
    /// or the server is not up: `soon`.
    ///
    /// The first check in peacetime is followed by one at a random point within the interval. What starts many checks
    /// at once, or brings them into step, is usually seen by every replica: a start, an edit, or an outage of a server.
    pub(super) fn pause(&mut self, rule: &HealthConfig, soon: bool, random: f64) -> Duration {
        let was_steady = std::mem::replace(&mut self.steady, !soon);
        match (soon, was_steady) {
            (true, _) => jittered(rule.retry.min(rule.interval), random),
            (false, true) => jittered(rule.interval, random),
            (false, false) => rule.interval.mul_f64(0.1 + random),
        }
    }
}

/// `interval` shortened or prolonged by up to a tenth; `random` is between 0 and 1.
#[must_use]
pub fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random)
}

/// The delay of the first check at `place` among `count`: none, unless there are very many.
pub(super) fn first_delay(place: usize, count: usize, interval: Duration) -> Duration {
    if count <= MAX_AT_ONCE {
        return Duration::ZERO;
    }
    let spread = SOON.max(Duration::from_secs_f64(count as f64 / MAX_PER_SECOND));
    interval.min(spread).mul_f64(place as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_at_most_a_tenth() {
        let interval = Duration::from_secs(10);
        let cases = [(0.0, 9_000), (0.25, 9_500), (0.5, 10_000), (1.0, 11_000)];
        for (random, expected) in cases {
            let millis = jittered(interval, random).as_secs_f64() * 1000.0;
            assert!((millis - f64::from(expected)).abs() < 0.001, "{random}: {millis}");
        }
    }

    #[test]
    fn a_check_in_peacetime_follows_at_a_random_point_and_then_after_the_interval() {
        let rule = HealthConfig {
            interval: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            ..HealthConfig::default()
        };
        let mut pace = Pace::default();
        // Whether the server needs attention, the random number, and the pause in milliseconds.
        let cases = [
            (false, 0.0, 1_000),
            (false, 0.0, 9_000),
            (false, 0.5, 10_000),
            (true, 0.5, 1_000),
            (true, 1.0, 1_100),
            (false, 0.9, 10_000),
            (false, 1.0, 11_000),
        ];
        for (soon, random, expected) in cases {
            let millis = pace.pause(&rule, soon, random).as_secs_f64() * 1000.0;
            assert!((millis - f64::from(expected)).abs() < 0.001, "{soon} {random}: {millis}");
        }
        let long = HealthConfig { retry: Duration::from_secs(60), ..rule };
        assert_eq!(pace.pause(&long, true, 0.5), long.interval, "`retry` never makes it longer");
    }

    #[test]
    fn replicas_that_start_together_are_soon_spread_over_the_interval() {
        let rule = HealthConfig::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..1000 {
            let mut pace = Pace::default();
            let at: Duration = (0..3).map(|_| pace.pause(&rule, false, random.f64())).sum();
            let phase = at.as_secs_f64() / rule.interval.as_secs_f64();
            tenths[(phase.fract() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn many_first_checks_are_spread() {
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(5));
        let cases = [
            (0, 1, long, Duration::ZERO),
            (99, 100, long, Duration::ZERO),
            (0, 10_000, long, Duration::ZERO),
            (5_000, 10_000, long, Duration::from_millis(500)),
            (5_000, 10_000, short, Duration::from_millis(50)),
            (50_000, 100_000, long, Duration::from_millis(2_500)),
            (10_000, 20_000, long, Duration::from_secs(1)),
        ];
        for (place, count, interval, expected) in cases {
            assert_eq!(first_delay(place, count, interval), expected, "{place} of {count}");
        }
    }
}
