//! The counters over the last minutes, from which rates, shares and quantiles are computed.
//!
//! Counters only grow, and the control plane samples them every [`STEP`]: the last minute for each server and
//! route, and [`CHART_POINTS`] points for all requests together. Only the configuration determines how much
//! memory that takes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::live::counters::{BUCKETS, Histogram, quantile};
use crate::live::method;
use crate::live::server::{Server, ServerId};
use crate::live::{route::LiveRoute, snapshot::Snapshot};

/// The time between two samples of the counters.
pub const STEP: Duration = Duration::from_secs(5);
/// Points of the chart: a quarter of an hour.
pub const CHART_POINTS: usize = 180;
/// Steps that are kept of each server and route: a minute.
const WINDOW: usize = 12;
/// Steps that a rate is computed over: few enough to follow changes, enough not to flicker.
const RATE: usize = 2;

/// Samples of the counters.
#[derive(Debug, Default)]
pub struct History {
    /// When the samples were taken, the newest last; at most [`WINDOW`].
    times: VecDeque<Instant>,
    /// Each server's samples, by its id.
    servers: HashMap<ServerId, CountsWindow>,
    /// Each route's samples, by its name.
    routes: HashMap<Arc<str>, CountsWindow>,
    chart: VecDeque<ChartPoint>,
}

/// All requests of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct ChartPoint {
    /// The end of the step.
    pub at: SystemTime,
    /// Responses per second.
    pub per_second: f64,
    /// Responses per second that were errors (5xx).
    pub errors_per_second: f64,
    /// The median latency, in seconds.
    pub p50: Option<f64>,
    /// The 99th percentile of the latency, in seconds.
    pub p99: Option<f64>,
}

/// The last minute of a server, a route, or all requests.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RecentCounts {
    /// Responses per second over the last two steps.
    pub per_second: f64,
    /// Errors per second over the same time.
    pub errors_per_second: f64,
    /// Totals of the minute.
    pub minute: Counts,
}

/// Running totals, or the difference of two. Thousands are kept, so they have 32 bits, which no difference within a
/// minute exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Responses.
    pub requests: u32,
    /// 5xx, and for a server also attempts without a response.
    pub errors: u32,
    buckets: [u32; BUCKETS.len() + 1],
}

/// The samples of one server or route, the newest last: fewer than [`History::times`] if it was added later.
type CountsWindow = VecDeque<Counts>;

impl History {
    /// Samples the counters of `snapshot`.
    pub fn sample(&mut self, snapshot: &Snapshot, now: Instant, at: SystemTime) {
        let (mut step, previous) = (Counts::default(), self.times.back().copied());
        let routes = snapshot.routes.iter().map(|route| &route.live).chain([&snapshot.unrouted]);
        let old = std::mem::take(&mut self.routes);
        self.routes =
            extended(old, routes.map(|live| (Arc::clone(&live.name), Counts::of_route(live))), |growth| step += growth);
        let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
        let old = std::mem::take(&mut self.servers);
        self.servers =
            extended(old, members.map(|member| (member.server.id, Counts::of_server(&member.server))), |_| {});
        push(&mut self.times, now, WINDOW);
        // It is unknown when the requests before the first sample were served.
        if let Some(previous) = previous {
            let seconds = now.duration_since(previous).as_secs_f64().max(f64::MIN_POSITIVE);
            let point = ChartPoint {
                at,
                per_second: f64::from(step.requests) / seconds,
                errors_per_second: f64::from(step.errors) / seconds,
                p50: step.quantile(0.5),
                p99: step.quantile(0.99),
            };
            push(&mut self.chart, point, CHART_POINTS);
        }
    }

    /// The points of the chart, the newest last.
    pub fn chart(&self) -> impl DoubleEndedIterator<Item = &ChartPoint> {
        self.chart.iter()
    }

    /// The last minute of a server.
    #[must_use]
    pub fn of_server(&self, server: &Server, now: Instant) -> RecentCounts {
        self.recent(self.servers.get(&server.id), Counts::of_server(server), now)
    }

    /// The last minute of a route.
    #[must_use]
    pub fn of_route(&self, route: &LiveRoute, now: Instant) -> RecentCounts {
        self.recent(self.routes.get(&route.name), Counts::of_route(route), now)
    }

    fn recent(&self, window: Option<&CountsWindow>, counts: Counts, now: Instant) -> RecentCounts {
        let Some(newest) = self.times.back() else { return RecentCounts::default() };
        let Some(window) = window else {
            // It was added after the last sample, and its counters started at zero.
            return RecentCounts::over(counts, counts, now.duration_since(*newest));
        };
        let first = self.times.len() - window.len();
        let at = window.len().saturating_sub(RATE);
        let oldest = window.front().copied().unwrap_or_default();
        let elapsed = now.duration_since(self.times[first + at]);
        RecentCounts::over(counts.since(&oldest), counts.since(&window[at]), elapsed)
    }
}

impl RecentCounts {
    fn over(minute: Counts, lately: Counts, elapsed: Duration) -> Self {
        // Immediately after a sample, a rate would be meaningless.
        let seconds = elapsed.as_secs_f64().max(0.1);
        Self {
            per_second: f64::from(lately.requests) / seconds,
            errors_per_second: f64::from(lately.errors) / seconds,
            minute,
        }
    }
}

impl std::ops::AddAssign for RecentCounts {
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
            let (finished, previous) = (set.finished.get(), counts.requests);
            counts.add(set.codes.iter().map(|(code, count)| (code.unwrap_or_default(), count)), &set.seconds);
            let without_response = growth(low(finished), counts.requests.wrapping_sub(previous));
            counts.errors = counts.errors.wrapping_add(without_response);
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

    /// The growth since `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        buckets.iter_mut().zip(earlier.buckets).for_each(|(count, earlier)| *count = growth(*count, earlier));
        Self { requests: growth(self.requests, earlier.requests), errors: growth(self.errors, earlier.errors), buckets }
    }

    /// The `q` quantile of the latency, in seconds.
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

/// Returns the windows of all keys in `current`, extended by its counts; other windows are dropped. Calls `add` with the
/// growth of each since the previous sample.
fn extended<K: std::hash::Hash + Eq>(
    mut old: HashMap<K, CountsWindow>,
    current: impl Iterator<Item = (K, Counts)>,
    mut add: impl FnMut(Counts),
) -> HashMap<K, CountsWindow> {
    let mut windows = HashMap::with_capacity(old.len());
    for (key, counts) in current {
        let mut window = old.remove(&key).unwrap_or_default();
        add(counts.since(&window.back().copied().unwrap_or_default()));
        push(&mut window, counts, WINDOW);
        windows.insert(key, window);
    }
    windows
}

/// Appends `value`, dropping the oldest if there are more than `limit`.
fn push<T>(values: &mut VecDeque<T>, value: T, limit: usize) {
    if values.len() == limit {
        values.pop_front();
    }
    values.push_back(value);
}

/// Returns how much a count has grown since it was `earlier`: 0 if it fell, as it can for attempts that end while they
/// are being counted, and for a route that was removed and added again in between.
fn growth(count: u32, earlier: u32) -> u32 {
    let growth = count.wrapping_sub(earlier);
    if growth < u32::MAX / 2 { growth } else { 0 }
}

#[allow(clippy::cast_possible_truncation, reason = "only differences are used")]
fn low(count: u64) -> u32 {
    count as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::live::health::HealthState;
    use crate::live::server::{ServerId, ServerKey};

    fn server() -> Server {
        let address = Address::Name("backend".into(), 80);
        Server::new(
            ServerId(7),
            ServerKey { pool: "default".into(), name: "server1".into(), address },
            HealthState::Up,
            2,
        )
    }

    /// Counts `count` responses with this code, each within a millisecond.
    fn respond(server: &Server, code: u32, count: u64) {
        let set = server.counters().of(0);
        for _ in 0..count {
            set.codes.add(code);
            set.seconds.observe(Duration::from_micros(900));
            set.finished.add(1);
        }
    }

    impl History {
        /// Samples a single server.
        fn sample_server(&mut self, server: &Server, now: Instant) {
            let old = std::mem::take(&mut self.servers);
            self.servers = extended(old, [(server.id, Counts::of_server(server))].into_iter(), |_| {});
            push(&mut self.times, now, WINDOW);
        }
    }

    #[test]
    fn a_rate_covers_the_last_steps_and_a_total_the_last_minute() {
        let (server, start, mut history) = (server(), Instant::now(), History::default());
        assert_eq!(history.of_server(&server, start), RecentCounts::default(), "before the first sample");
        respond(&server, 200, 1000);
        // 50 responses per step, 10 per second; the thousand fall out of the minute.
        for step in 0..=u32::try_from(WINDOW).expect("small") {
            history.sample_server(&server, start + step * STEP);
            respond(&server, 200, 50);
        }
        let now = start + 13 * STEP;
        let recent = history.of_server(&server, now);
        assert!((recent.per_second - 10.0).abs() < 1e-9, "{recent:?}");
        assert_eq!((recent.minute.requests, recent.minute.errors), (600, 0));
        assert_eq!(recent.minute.quantile(0.5), Some(0.000_75));
        respond(&server, 503, 5);
        server.counters().of(1).finished.add(15);
        let recent = history.of_server(&server, now);
        assert_eq!(recent.minute.errors, 20, "error responses, and attempts without a response");
        assert!((recent.errors_per_second - 2.0).abs() < 1e-9, "{recent:?}");
    }

    #[test]
    fn a_server_added_after_the_last_sample_started_at_zero() {
        let (old, start, mut history) = (server(), Instant::now(), History::default());
        history.sample_server(&old, start);
        let new = Server::new(ServerId(8), old.key.clone(), HealthState::Up, 1);
        respond(&new, 200, 20);
        let recent = history.of_server(&new, start + Duration::from_secs(2));
        assert!((recent.per_second - 10.0).abs() < 1e-9, "{recent:?}");
        assert_eq!(recent.minute.requests, 20);
    }

    #[test]
    fn counts_wrap_around_and_never_shrink() {
        for (count, earlier, expected) in [(7, 5, 2), (5, 5, 0), (1, u32::MAX, 2), (4, 5, 0), (0, 1_000_000, 0)] {
            assert_eq!(growth(count, earlier), expected, "{count} after {earlier}");
        }
    }
}
