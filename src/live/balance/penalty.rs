//! The penalty of a server whose requests fail. Least-connections counts a failed request as open for a while; otherwise a
//! server that fails at once would look idle and attract the requests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A failure counts for about this long, which is longer than most responses take.
const PERIOD: Duration = Duration::from_secs(5);
const PERIOD_MILLIS: u64 = PERIOD.as_millis() as u64;

/// The recent failures of one server. Only a failure writes it, and nothing has to be done when it expires: the count
/// follows from the time at which it is read.
#[derive(Debug)]
pub struct Penalty {
    /// The time from which periods are counted.
    start: Instant,
    /// The failures of the latest period that has any, and of the period before it; 0 if there are none that count.
    failures: AtomicU64,
}

/// The content of [`Penalty::failures`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Failures {
    /// The number of the period, from 1.
    period: u32,
    current: u16,
    before: u16,
}

impl Penalty {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { start: now, failures: AtomicU64::new(0) }
    }

    /// Records a failure.
    pub fn add(&self, now: Instant) {
        let millis = self.millis(now);
        let add = |failures| Some(Failures::unpack(failures).with_one_at(millis).pack());
        // It cannot fail, because the closure always returns a value.
        let _ = self.failures.fetch_update(Relaxed, Relaxed, add);
    }

    /// The number of open requests that the failures count as. Reads the clock only if there are any.
    #[must_use]
    pub fn count(&self, now: impl FnOnce() -> Instant) -> u64 {
        let failures = self.failures.load(Relaxed);
        if failures == 0 {
            return 0;
        }
        let millis = self.millis(now());
        let read = Failures::unpack(failures);
        if read.is_over_at(millis) {
            // The next readers need no clock. If there is a new failure by now, it stays.
            let _ = self.failures.compare_exchange(failures, 0, Relaxed, Relaxed);
        }
        read.count_at(millis)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Failures {
    fn pack(self) -> u64 {
        u64::from(self.period) << 32 | u64::from(self.current) << 16 | u64::from(self.before)
    }

    #[allow(clippy::cast_possible_truncation, reason = "each part is cut out")]
    fn unpack(packed: u64) -> Self {
        Self { period: (packed >> 32) as u32, current: (packed >> 16) as u16, before: packed as u16 }
    }

    /// The failures as seen from the period of this time.
    fn at(self, millis: u64) -> Self {
        let period = u32::try_from(millis / PERIOD_MILLIS + 1).unwrap_or(u32::MAX);
        match period.saturating_sub(self.period) {
            0 => self,
            1 => Self { period, current: 0, before: self.current },
            _ => Self { period, current: 0, before: 0 },
        }
    }

    fn with_one_at(self, millis: u64) -> Self {
        let now = self.at(millis);
        Self { current: now.current.saturating_add(1), ..now }
    }

    /// All of this period, and of the one before as many as the part of it that is less than a period ago, to the nearest.
    fn count_at(self, millis: u64) -> u64 {
        let now = self.at(millis);
        let part = PERIOD_MILLIS - millis % PERIOD_MILLIS;
        u64::from(now.current) + (u64::from(now.before) * part + PERIOD_MILLIS / 2) / PERIOD_MILLIS
    }

    fn is_over_at(self, millis: u64) -> bool {
        let now = self.at(millis);
        now.current == 0 && now.before == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_for_about_a_period() {
        // The times of the failures, then of the look, in seconds; the count.
        let cases: [(&[f64], f64, u64); 9] = [
            (&[], 0.0, 0),
            (&[0.0], 0.0, 1),
            (&[0.0], 4.9, 1),
            (&[0.0], 7.4, 1),
            (&[0.0], 7.6, 0),
            (&[4.9], 5.0, 1),
            (&[4.0, 4.1, 4.2, 4.3, 6.0], 7.5, 3),
            (&[4.0, 4.1, 4.2, 4.3, 6.0], 10.0, 1),
            (&[1.0; 9], 3600.0, 0),
        ];
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs_f64(seconds);
        for (failures, look, expected) in cases {
            let penalty = Penalty::new(start);
            failures.iter().for_each(|at| penalty.add(after(*at)));
            assert_eq!(penalty.count(|| after(look)), expected, "{failures:?} at {look}");
        }
    }

    #[test]
    fn the_count_is_bounded_and_ends_whatever_it_was() {
        let start = Instant::now();
        let penalty = Penalty::new(start);
        (0..100_000).for_each(|_| penalty.add(start));
        assert_eq!(penalty.count(|| start), u64::from(u16::MAX));
        assert_eq!(penalty.count(|| start + 2 * PERIOD), 0);
        assert_eq!(penalty.count(|| unreachable!("there are none, so no clock is read")), 0);
        penalty.add(start + 2 * PERIOD);
        assert_eq!(penalty.count(|| start + 2 * PERIOD), 1);
    }
}
