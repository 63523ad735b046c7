//! Counters that one worker writes and any thread reads: no lock, no atomic read-modify-write, no label lookup.
//!
//! Each worker has its own set, so that an update is a plain load and store. Readers add up the sets.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_utils::CachePadded;

/// Upper bounds of the buckets of latency histograms, in seconds; the last, infinite bucket is implied.
pub const BUCKETS: [f64; 15] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The same bounds in microseconds, so that they are compared as integers.
const BUCKET_MICROS: [u64; BUCKETS.len()] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// A `T` for each worker, created when that worker first uses it.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[OnceLock<Box<CachePadded<T>>>]>);

impl<T: Default> PerWorker<T> {
    /// Creates room for `workers` sets.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| OnceLock::new()).collect())
    }

    /// The number of workers that there is room for.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// The set of worker number `worker`, which only that worker may write.
    ///
    /// # Panics
    /// If there is no such worker.
    #[inline]
    #[must_use]
    pub fn of(&self, worker: usize) -> &T {
        self.0[worker].get_or_init(Box::default)
    }

    /// The sets of the workers that have used theirs.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get).map(|set| &***set)
    }

    /// How many have started but not finished.
    pub fn open(&self, started: impl Fn(&T) -> &Counter, finished: impl Fn(&T) -> &Counter) -> u64 {
        self.sum(|set| {
            // `finished` is read first: one that finishes in between makes the result too large, but never negative.
            let finished = finished(set).get();
            started(set).get().saturating_sub(finished)
        })
    }

    /// The sum of what `read` returns for each set.
    pub fn sum(&self, read: impl Fn(&T) -> u64) -> u64 {
        self.iter().map(read).sum()
    }
}

/// A number that only one thread adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Must only be called by the thread that owns the set.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A latency histogram that only one thread writes.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].add(1);
        self.micros.add(micros);
    }

    /// The count of each bucket, not cumulative; the last bucket is the infinite one.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }
}

/// The sum of several [`Histogram`]s.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramTotal {
    /// The count of each bucket, not cumulative; the last bucket is the infinite one.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// The sum of all durations.
    pub seconds: f64,
}

impl HistogramTotal {
    /// Adds one worker's histogram.
    pub fn add(&mut self, other: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&other.buckets) {
            *total += bucket.get();
        }
        #[allow(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
        let seconds = other.micros.get() as f64 / 1e6;
        self.seconds += seconds;
    }

    /// The number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Estimates the `q`-quantile, in seconds, from the buckets of a [`Histogram`], assuming that the durations within a bucket are
/// spread evenly. Durations in the infinite bucket count as the last bound. `None` if there are no durations.
#[must_use]
pub fn quantile(buckets: &[u64; BUCKETS.len() + 1], q: f64) -> Option<f64> {
    let count: u64 = buckets.iter().sum();
    #[allow(clippy::cast_precision_loss, reason = "a quantile is no more precise")]
    let (rank, float) = (q * count as f64, |count: u64| count as f64);
    let mut below = 0;
    for (place, bucket) in buckets.iter().enumerate().filter(|(_, bucket)| **bucket > 0) {
        if float(below + bucket) >= rank {
            let Some(upper) = BUCKETS.get(place) else { break };
            let lower = if place == 0 { 0.0 } else { BUCKETS[place - 1] };
            return Some(lower + (upper - lower) * ((rank - float(below)) / float(*bucket)).max(0.0));
        }
        below += bucket;
    }
    (count > 0).then_some(BUCKETS[BUCKETS.len() - 1])
}

/// Counts by key. The first `N` distinct keys have a slot each; all further keys share one.
///
/// Keys must not be 0. A server mostly uses a few keys, which come first, so finding a slot takes a comparison or two.
#[derive(Debug)]
pub struct Tally<const N: usize> {
    slots: [(AtomicU32, Counter); N],
    rest: Counter,
}

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Default::default()), rest: Counter::default() }
    }
}

impl<const N: usize> Tally<N> {
    /// Counts one of `key`.
    #[inline]
    pub fn add(&self, key: u32) {
        for (slot, count) in &self.slots {
            let taken = slot.load(Relaxed);
            if taken == 0 {
                // Only this thread writes, so no other can take the slot in between.
                slot.store(key, Relaxed);
            } else if taken != key {
                continue;
            }
            return count.add(1);
        }
        self.rest.add(1);
    }

    /// Each key with its count; `None` is the count of keys without a slot, if there were any.
    pub fn iter(&self) -> impl Iterator<Item = (Option<u32>, u64)> {
        let rest = Some((None, self.rest.get())).filter(|(_, count)| *count > 0);
        self.slots
            .iter()
            .map(|(key, count)| (key.load(Relaxed), count.get()))
            .take_while(|(key, _)| *key != 0)
            .map(|(key, count)| (Some(key), count))
            .chain(rest)
    }

    /// The sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for (micros, bucket) in [(0, 0), (500, 0), (501, 1), (30_000_000, 14), (30_000_001, 15)] {
            histogram.observe(Duration::from_micros(micros));
            let mut total = HistogramTotal::default();
            total.add(&histogram);
            assert!(total.buckets[bucket] > 0, "{micros} µs in bucket {bucket}");
        }
        let mut total = HistogramTotal::default();
        total.add(&histogram);
        assert_eq!(total.count(), 5);
        assert!((total.seconds - 60.001_002).abs() < 1e-9);
    }

    #[test]
    fn the_bounds_in_seconds_and_in_microseconds_agree() {
        for (seconds, micros) in BUCKETS.iter().zip(BUCKET_MICROS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_micros(micros));
        }
    }

    #[test]
    fn a_quantile_is_interpolated_in_its_bucket() {
        let of = |counts: [(usize, u64); 2]| {
            let mut buckets = [0; BUCKETS.len() + 1];
            counts.iter().for_each(|(place, count)| buckets[*place] += count);
            buckets
        };
        assert_eq!(quantile(&of([(0, 0), (3, 0)]), 0.5), None);
        let cases = [
            ([(0, 1), (1, 0)], 0.5, 0.000_25),
            ([(0, 10), (1, 0)], 1.0, 0.000_5),
            ([(0, 0), (1, 100)], 0.5, 0.000_75),
            ([(1, 99), (10, 1)], 0.5, 0.000_5 + 0.000_5 * 50.0 / 99.0),
            ([(1, 98), (10, 2)], 0.99, 0.75),
            ([(0, 0), (15, 3)], 0.5, 30.0),
            ([(0, 1), (15, 99)], 0.99, 30.0),
        ];
        for (counts, q, expected) in cases {
            let found = quantile(&of(counts), q);
            assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{counts:?}: {found:?}");
        }
    }

    #[test]
    fn keys_without_a_slot_are_counted_together() {
        let tally = Tally::<2>::default();
        for key in [200, 404, 200, 500, 501] {
            tally.add(key);
        }
        let counts: Vec<_> = tally.iter().collect();
        assert_eq!(counts, [(Some(200), 2), (Some(404), 1), (None, 2)]);
        assert_eq!(tally.total(), 5);
    }

    #[test]
    fn the_sets_of_workers_are_added_up() {
        let sets = PerWorker::<Counter>::new(3);
        sets.of(0).add(1);
        sets.of(2).add(5);
        assert_eq!(sets.sum(Counter::get), 6);
        assert_eq!(sets.iter().count(), 2);
    }
}
