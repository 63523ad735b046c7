//! History: what the counters said over the last minutes, so that rates, shares and quantiles can be told of a time.
//!
//! Counters only grow; the control plane notes them every [`STEP`]. Of each server and route the last minute is kept,
//! of the whole [`SAMPLES`] points for a chart. How much that is depends on the file alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::live::counters::{BUCKETS, Histogram, quantile};
use crate::live::method;
use crate::live::server::Server;
use crate::live::{route::LiveRoute, snapshot::Snapshot};

/// The time between two looks at the counters.
pub const STEP: Duration = Duration::from_secs(5);
/// How many steps the chart goes back: a quarter of an hour.
pub const SAMPLES: usize = 180;
/// How many steps servers and routes go back: a minute.
const WINDOW: usize = 12;
/// How many steps a rate goes back, so that it soon follows what happens and yet does not flicker.
const RATE: usize = 2;

/// What the counters said, at some times in a row.
#[derive(Debug, Default)]
pub struct History {
    /// When the counters were looked at, the newest last; at most [`WINDOW`] times.
    times: VecDeque<Instant>,
    /// By the server's id.
    servers: HashMap<u64, Trail>,
    /// By name.
    routes: HashMap<Arc<str>, Trail>,
    samples: VecDeque<Sample>,
}

/// A point of the chart: all requests of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When the step ended.
    pub at: SystemTime,
    /// Answers a second.
    pub per_second: f64,
    /// Those of them that were failures (5xx).
    pub errors_per_second: f64,
    /// Seconds that half of the requests did not exceed.
    pub p50: Option<f64>,
    /// Seconds that 99 % of the requests did not exceed.
    pub p99: Option<f64>,
}

/// The last minute of a server, of a route, or of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Recent {
    /// Answers a second, over the last steps.
    pub per_second: f64,
    /// Failures a second, likewise.
    pub errors_per_second: f64,
    /// The minute's sums.
    pub minute: Counts,
}

/// Counts that only grow, or the difference of two. 32 bits, as they are kept by the thousand: in a minute, no
/// difference grows beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Answers.
    pub requests: u32,
    /// Failures: 5xx, and of a server tries that it did not answer.
    pub errors: u32,
    buckets: [u32; BUCKETS.len() + 1],
}

/// The counts of one server or route at [`History::times`], as far back as it was there.
type Trail = VecDeque<Counts>;

impl History {
    /// Looks at the counters of `snapshot`.
    pub fn sample(&mut self, snapshot: &Snapshot, now: Instant, at: SystemTime) {
        let (mut step, before) = (Counts::default(), self.times.back().copied());
        let routes = snapshot.routes.iter().map(|route| &route.live).chain([&snapshot.unrouted]);
        let old = std::mem::take(&mut self.routes);
        self.routes =
            follow(old, routes.map(|live| (Arc::clone(&live.name), Counts::of_route(live))), |news| step += news);
        let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
        let old = std::mem::take(&mut self.servers);
        self.servers = follow(old, members.map(|member| (member.server.id, Counts::of_server(&member.server))), |_| {});
        push(&mut self.times, now, WINDOW);
        // Before the first look, nothing is known of when it came.
        if let Some(before) = before {
            let seconds = now.duration_since(before).as_secs_f64().max(f64::MIN_POSITIVE);
            let sample = Sample {
                at,
                per_second: f64::from(step.requests) / seconds,
                errors_per_second: f64::from(step.errors) / seconds,
                p50: step.quantile(0.5),
                p99: step.quantile(0.99),
            };
            push(&mut self.samples, sample, SAMPLES);
        }
    }

    /// The chart's points, the newest last.
    pub fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.samples.iter()
    }

    /// The last minute of a server.
    #[must_use]
    pub fn of_server(&self, server: &Server, now: Instant) -> Recent {
        self.recent(self.servers.get(&server.id), Counts::of_server(server), now)
    }

    /// The last minute of a route.
    #[must_use]
    pub fn of_route(&self, route: &LiveRoute, now: Instant) -> Recent {
        self.recent(self.routes.get(&route.name), Counts::of_route(route), now)
    }

    fn recent(&self, trail: Option<&Trail>, counts: Counts, now: Instant) -> Recent {
        let Some(newest) = self.times.back() else { return Recent::default() };
        let Some(trail) = trail else {
            // It came after the last look, and its counters began at zero.
            return Recent::over(counts, counts, now.duration_since(*newest));
        };
        let first = self.times.len() - trail.len();
        let at = trail.len().saturating_sub(RATE);
        let oldest = trail.front().copied().unwrap_or_default();
        let elapsed = now.duration_since(self.times[first + at]);
        Recent::over(counts.since(&oldest), counts.since(&trail[at]), elapsed)
    }
}

impl Recent {
    fn over(minute: Counts, lately: Counts, elapsed: Duration) -> Self {
        // So soon after the first look there is no telling a rate.
        let seconds = elapsed.as_secs_f64().max(0.1);
        Self {
            per_second: f64::from(lately.requests) / seconds,
            errors_per_second: f64::from(lately.errors) / seconds,
            minute,
        }
    }
}

impl std::ops::AddAssign for Recent {
    fn add_assign(&mut self, other: Self) {
        self.per_second += other.per_second;
        self.errors_per_second += other.errors_per_second;
        self.minute += other.minute;
    }
}

impl Counts {
    fn of_server(server: &Server) -> Self {
        let mut counts = Self::default();
        for set in server.counters().iter() {
            let (finished, before) = (set.finished.get(), counts.requests);
            counts.add(set.codes.iter().map(|(code, count)| (code.unwrap_or_default(), count)), &set.seconds);
            let unanswered = grown(low(finished), counts.requests.wrapping_sub(before));
            counts.errors = counts.errors.wrapping_add(unanswered);
        }
        counts
    }

    fn of_route(route: &LiveRoute) -> Self {
        let mut counts = Self::default();
        for set in route.counters.iter() {
            let codes =
                set.codes.iter().map(|(key, count)| (key.map_or(0, |key| method::method_and_status(key).1), count));
            counts.add(codes, &set.seconds);
        }
        counts
    }

    fn add(&mut self, codes: impl Iterator<Item = (u32, u64)>, seconds: &Histogram) {
        for (code, count) in codes {
            self.requests = self.requests.wrapping_add(low(count));
            if code >= 500 {
                self.errors = self.errors.wrapping_add(low(count));
            }
        }
        for (total, count) in self.buckets.iter_mut().zip(seconds.counts()) {
            *total = total.wrapping_add(low(count));
        }
    }

    /// What came since `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        buckets.iter_mut().zip(earlier.buckets).for_each(|(count, earlier)| *count = grown(*count, earlier));
        Self { requests: grown(self.requests, earlier.requests), errors: grown(self.errors, earlier.errors), buckets }
    }

    /// Seconds that a share `q` of the requests did not exceed.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        quantile(&self.buckets.map(u64::from), q)
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.wrapping_add(other.requests);
        self.errors = self.errors.wrapping_add(other.errors);
        self.buckets.iter_mut().zip(other.buckets).for_each(|(count, other)| *count = count.wrapping_add(other));
    }
}

/// Adds a look to the trails of all that are there, and lets the others go; tells what came since the look before.
fn follow<K: std::hash::Hash + Eq>(
    mut old: HashMap<K, Trail>,
    found: impl Iterator<Item = (K, Counts)>,
    mut tell: impl FnMut(Counts),
) -> HashMap<K, Trail> {
    let mut trails = HashMap::with_capacity(old.len());
    for (key, counts) in found {
        let mut trail = old.remove(&key).unwrap_or_default();
        tell(counts.since(&trail.back().copied().unwrap_or_default()));
        push(&mut trail, counts, WINDOW);
        trails.insert(key, trail);
    }
    trails
}

fn push<T>(row: &mut VecDeque<T>, value: T, most: usize) {
    if row.len() == most {
        row.pop_front();
    }
    row.push_back(value);
}

/// How far a count has come since it was `earlier`. One that fell back (tries that end while they are being counted; a
/// route that left and came back in between) has not come far.
fn grown(count: u32, earlier: u32) -> u32 {
    let grown = count.wrapping_sub(earlier);
    if grown < u32::MAX / 2 { grown } else { 0 }
}

#[allow(clippy::cast_possible_truncation, reason = "differences are what counts")]
fn low(count: u64) -> u32 {
    count as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::live::health::HealthState;
    use crate::live::server::ServerKey;

    fn server() -> Server {
        let address = Address::Name("backend".into(), 80);
        Server::new(7, ServerKey { pool: "default".into(), name: "server1".into(), address }, HealthState::Up, 2)
    }

    /// `count` answers of this code, each within a millisecond.
    fn answer(server: &Server, code: u32, count: u64) {
        let set = server.counters().of(0);
        for _ in 0..count {
            set.codes.add(code);
            set.seconds.observe(Duration::from_micros(900));
            set.finished.add(1);
        }
    }

    impl History {
        /// A look at one server alone.
        fn look(&mut self, server: &Server, now: Instant) {
            let old = std::mem::take(&mut self.servers);
            self.servers = follow(old, [(server.id, Counts::of_server(server))].into_iter(), |_| {});
            push(&mut self.times, now, WINDOW);
        }
    }

    #[test]
    fn a_rate_is_of_the_last_steps_and_a_sum_of_the_last_minute() {
        let (server, start, mut history) = (server(), Instant::now(), History::default());
        assert_eq!(history.of_server(&server, start), Recent::default(), "before the first look");
        answer(&server, 200, 1000);
        // Step by step 50 answers, 10 a second; the thousand fall out of the minute.
        for step in 0..=u32::try_from(WINDOW).expect("small") {
            history.look(&server, start + step * STEP);
            answer(&server, 200, 50);
        }
        let now = start + 13 * STEP;
        let recent = history.of_server(&server, now);
        assert!((recent.per_second - 10.0).abs() < 1e-9, "{recent:?}");
        assert_eq!((recent.minute.requests, recent.minute.errors), (600, 0));
        assert_eq!(recent.minute.quantile(0.5), Some(0.000_75));
        answer(&server, 503, 5);
        server.counters().of(1).finished.add(15);
        let recent = history.of_server(&server, now);
        assert_eq!(recent.minute.errors, 20, "what it said was wrong, and what it did not say");
        assert!((recent.errors_per_second - 2.0).abs() < 1e-9, "{recent:?}");
    }

    #[test]
    fn who_came_after_the_last_look_began_at_zero() {
        let (old, start, mut history) = (server(), Instant::now(), History::default());
        history.look(&old, start);
        let new = Server::new(8, old.key.clone(), HealthState::Up, 1);
        answer(&new, 200, 20);
        let recent = history.of_server(&new, start + Duration::from_secs(2));
        assert!((recent.per_second - 10.0).abs() < 1e-9, "{recent:?}");
        assert_eq!(recent.minute.requests, 20);
    }

    #[test]
    fn counts_wrap_around_and_never_go_back() {
        for (count, earlier, expected) in [(7, 5, 2), (5, 5, 0), (1, u32::MAX, 2), (4, 5, 0), (0, 1_000_000, 0)] {
            assert_eq!(grown(count, earlier), expected, "{count} after {earlier}");
        }
    }
}
