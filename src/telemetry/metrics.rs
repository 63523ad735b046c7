//! Metrics: the collector that reads the live state, and the page that Prometheus scrapes.
//!
//! Nothing is registered per route or server. A scrape walks through the active snapshot and adds up
//! the workers' counters, so a series ends with its route or server. Label values bypass the
//! library's hashing, which confuses `("a", "bc")` with `("ab", "c")`; the snapshot's names already
//! make the series distinct.

mod calls;
mod family;
pub mod names;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use crate::live::availability::PoolUse;
use crate::live::counters::{Histogram, HistogramTotal};
use crate::live::listener::HandshakeResult;
use crate::live::method;
use crate::live::pool::{Member, Membership};
use crate::live::reloads::Outcome;
use crate::live::retry_budget::RetryReason;
use crate::live::route::LiveRoute;
use crate::live::snapshot::Snapshot;
use crate::live::state::State;
use crate::live::tls::LiveCertificate;
use crate::tls::certificate::Certificate;
pub use family::{Family, counter, gauge};
use names::*;

/// The `Content-Type` of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The `method` and `code` of requests that were counted after a tally's slots were full.
const OVERFLOW: (&str, &str) = ("OTHER", "other");

/// The series of a route that exist from the start, so that the first request or error shows in a rate: the most common one,
/// and one for each status of lb's own that says that no server responded. Few, because there may be thousands of routes.
const FIRST_OF_ROUTE: [(Method, u16); 4] =
    [(Method::GET, 200), (Method::GET, 502), (Method::GET, 503), (Method::GET, 504)];
/// Likewise of a server.
const FIRST_OF_SERVER: [u32; 3] = [200, 500, 503];

/// The metrics of the live state. Those of the process are handed in, because other parts keep them.
const STATE_METRICS: [&Family; 32] = [
    &REQUESTS,
    &GRPC_RESPONSES,
    &REQUEST_DURATION,
    &SERVER_REQUESTS,
    &SERVER_REQUEST_DURATION,
    &SERVER_ACTIVE_REQUESTS,
    &SERVER_CONNECTIONS,
    &SERVER_MEMORY,
    &SERVER_UP,
    &SERVER_WEIGHT,
    &SERVER_ENABLED,
    &SERVER_CHECKS,
    &SERVER_EJECTIONS,
    &RETRIES,
    &POOL_HOLDING,
    &POOL_ROUTED,
    &POOL_TLS_UNVERIFIED,
    &CLIENT_CONNECTIONS,
    &CERTIFICATE_EXPIRY,
    &CERTIFICATE_NOT_BEFORE,
    &TLS_HANDSHAKES,
    &GENERATION,
    &LAST_RELOAD_SUCCESSFUL,
    &LAST_RELOAD_TIMESTAMP,
    &CONFIG_INFO,
    &UNWATCHED,
    &OVERFLOWS,
    &LAST_GOOD_SAVED,
    &RELOADS,
    &RELOAD_DURATION,
    &ACME_ORDERS,
    &BUILD_INFO,
];

/// All metrics of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Held while a page is built, so that only one is at a time: with thousands of servers, each takes much memory.
    building: Arc<Mutex<()>>,
}

/// A counter or gauge without labels, of the process as a whole.
pub struct ProcessMetric {
    family: Family,
    read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl ProcessMetric {
    /// A metric whose value is read by `read` at each scrape; it must not block.
    #[must_use]
    pub fn new(family: Family, read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { family, read: Box::new(read) }
    }
}

impl fmt::Debug for ProcessMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProcessMetric").field(&self.family.name).finish()
    }
}

impl Metrics {
    /// The metrics of `state` and `process`, and those that the system reports about this process.
    ///
    /// # Errors
    /// If a name in `process` is not valid, or is taken.
    pub fn new(state: Arc<State>, process: Vec<ProcessMetric>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(StateCollector::new(state, process)?))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { registry, building: Arc::default() })
    }

    /// Returns the current values in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let _building = self.building.lock();
        let mut text = String::new();
        if let Err(error) = TextEncoder.encode_utf8(&self.registry.gather(), &mut text) {
            // It rejects families without a name or a series; the registry omits the latter.
            tracing::error!(%error, "metrics are incomplete");
        }
        text
    }
}

/// The collector of the live state.
struct StateCollector {
    state: Arc<State>,
    process: Vec<ProcessMetric>,
    /// The registry uses these to reject duplicate names.
    descriptions: Vec<Desc>,
}

impl StateCollector {
    fn new(state: Arc<State>, process: Vec<ProcessMetric>) -> prometheus::Result<Self> {
        let families = STATE_METRICS.into_iter().chain(process.iter().map(|metric| &metric.family));
        let descriptions = families
            .map(|family| {
                let labels = family.labels.iter().copied().map(String::from).collect();
                Desc::new(family.name.into(), family.help.into(), labels, HashMap::new())
            })
            .collect::<prometheus::Result<_>>()?;
        Ok(Self { state, process, descriptions })
    }
}

impl Collector for StateCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.state.snapshot.load_full();
        let mut families = Vec::with_capacity(self.descriptions.len());
        families.extend(routes(&snapshot));
        families.extend(servers(&snapshot));
        families.extend(config(&snapshot));
        families.extend(reloads(&self.state));
        families.extend(watching(&self.state));
        families.extend(acme(&snapshot));
        families.push(retries(&snapshot));
        families.extend(pool_uses(&snapshot));
        families.push(unverified(&snapshot));
        families.push(client_connections(&self.state));
        families.extend(certificates(&snapshot));
        families.push(tls_handshakes(&self.state, &snapshot));
        families.push(BUILD_INFO.of([BUILD_INFO.value(&[env!("CARGO_PKG_VERSION")], 1.0)]));
        families.extend(self.process.iter().map(|metric| {
            let ProcessMetric { family, read } = metric;
            family.of([family.value(&[], float(read()))])
        }));
        families
    }
}

fn routes(snapshot: &Snapshot) -> [MetricFamily; 3] {
    let routes = || snapshot.routes.iter().map(|route| &route.live).chain([&snapshot.unrouted]);
    let first = FIRST_OF_ROUTE.map(|(method, code)| method::key(&method, code));
    // No route matches a request, or it is invalid.
    let unrouted = [method::key(&Method::GET, 404), method::key_without_method(400)];
    let requests = |route: &Arc<LiveRoute>| {
        let first = if Arc::ptr_eq(route, &snapshot.unrouted) { &unrouted[..] } else { &first };
        let codes = add_up(first, route.counters.iter().flat_map(|set| set.codes.iter()));
        codes
            .into_iter()
            .map(|(key, count)| {
                let (method, code) = match key.map(method::method_and_status) {
                    Some((method, code)) => (method, code.to_string()),
                    None => (OVERFLOW.0, OVERFLOW.1.to_owned()),
                };
                REQUESTS.value(&[&route.name, method, &code], float(count))
            })
            .collect::<Vec<_>>()
    };
    let durations = |route: &Arc<LiveRoute>| {
        let total = total(route.counters.iter().map(|set| &set.seconds));
        REQUEST_DURATION.histogram(&[&route.name], &total)
    };
    [
        REQUESTS.of(routes().flat_map(requests)),
        REQUEST_DURATION.of(routes().map(durations)),
        GRPC_RESPONSES.of(routes().flat_map(|route| calls::series(route))),
    ]
}

fn servers(snapshot: &Snapshot) -> [MetricFamily; 10] {
    let members = members(snapshot);
    let each = |family: &Family, read: fn(&Member) -> Option<f64>| {
        let one = |member: &&Member| Some(family.value(&labels(member), read(member)?));
        family.of(members.iter().filter_map(one))
    };
    let requests = |member: &&Member| {
        let [pool, server] = labels(member);
        let codes = add_up(&FIRST_OF_SERVER, member.server.counters().iter().flat_map(|set| set.codes.iter()));
        codes
            .into_iter()
            .map(|(code, count)| {
                let code = code.map_or_else(|| OVERFLOW.1.to_owned(), |code| code.to_string());
                SERVER_REQUESTS.value(&[pool, server, &code], float(count))
            })
            .collect::<Vec<_>>()
    };
    let durations = |member: &&Member| {
        let total = total(member.server.counters().iter().map(|set| &set.seconds));
        SERVER_REQUEST_DURATION.histogram(&labels(member), &total)
    };
    let checks = |member: &&Member| {
        let [pool, server] = labels(member);
        let [passed, failed] = member.server.checks();
        [("passed", passed), ("failed", failed)]
            .map(|(result, count)| SERVER_CHECKS.value(&[pool, server, result], float(count)))
    };
    [
        SERVER_REQUESTS.of(members.iter().flat_map(requests)),
        SERVER_REQUEST_DURATION.of(members.iter().map(durations)),
        SERVER_CHECKS.of(members.iter().flat_map(checks)),
        each(&SERVER_EJECTIONS, |member| Some(float(member.server.ejections()))),
        each(&SERVER_ACTIVE_REQUESTS, |member| Some(float(member.server.active_requests()))),
        each(&SERVER_CONNECTIONS, |member| Some(float(member.server.connections()))),
        each(&SERVER_MEMORY, |member| member.server.memory().map(float)),
        each(&SERVER_UP, |member| Some(f64::from(u8::from(member.state.serves())))),
        each(&SERVER_WEIGHT, |member| Some(f64::from(member.weight))),
        each(&SERVER_ENABLED, |member| Some(f64::from(u8::from(member.membership == Membership::Enabled)))),
    ]
}

fn retries(snapshot: &Snapshot) -> MetricFamily {
    let series = snapshot.pools.iter().flat_map(|pool| {
        RetryReason::ALL.map(|reason| {
            let count = pool.live.counters.sum(|set| set.retries[reason as usize].get());
            RETRIES.value(&[&pool.live.name, reason.label()], float(count))
        })
    });
    RETRIES.of(series)
}

fn pool_uses(snapshot: &Snapshot) -> [MetricFamily; 2] {
    let uses = snapshot.pool_uses();
    let each = |family: &Family, read: fn(&PoolUse) -> bool| {
        let pools = snapshot.pools.iter().zip(&uses);
        family.of(pools.map(|(pool, uses)| family.value(&[&pool.live.name], f64::from(u8::from(read(uses))))))
    };
    [each(&POOL_HOLDING, |uses| uses.hold.is_some()), each(&POOL_ROUTED, |uses| uses.routed)]
}

fn unverified(snapshot: &Snapshot) -> MetricFamily {
    let tls = snapshot.pools.iter().filter_map(|pool| Some((pool, pool.config.upstream.tls.as_ref()?)));
    POOL_TLS_UNVERIFIED
        .of(tls.map(|(pool, tls)| POOL_TLS_UNVERIFIED.value(&[&pool.live.name], f64::from(u8::from(!tls.verify)))))
}

fn client_connections(state: &State) -> MetricFamily {
    // A listener that moved to another address is listed twice until the old one's clients have left.
    let mut open = BTreeMap::<Arc<str>, u64>::new();
    for listener in state.listeners().iter() {
        *open.entry(Arc::clone(&listener.name)).or_default() += listener.connections();
    }
    CLIENT_CONNECTIONS.of(open.iter().map(|(name, open)| CLIENT_CONNECTIONS.value(&[name], float(*open))))
}

fn certificates(snapshot: &Snapshot) -> [MetricFamily; 2] {
    let certificates = || snapshot.tls.iter().flat_map(|tls| &tls.certificates);
    let each = |family: &Family, read: fn(&Certificate) -> SystemTime| {
        let seconds = |live: &LiveCertificate| {
            let since = read(&live.certificate).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            family.value(&[&live.name], since.as_secs_f64())
        };
        family.of(certificates().map(seconds))
    };
    [
        each(&CERTIFICATE_EXPIRY, |certificate| certificate.not_after),
        each(&CERTIFICATE_NOT_BEFORE, |certificate| certificate.not_before),
    ]
}

fn tls_handshakes(state: &State, snapshot: &Snapshot) -> MetricFamily {
    let mut counts = BTreeMap::<(Arc<str>, &str), u64>::new();
    if snapshot.tls.is_some() {
        for listener in state.listeners().iter() {
            for result in HandshakeResult::ALL {
                let count = listener.counters.sum(|set| set.handshakes[result as usize].get());
                *counts.entry((Arc::clone(&listener.name), result.label())).or_default() += count;
            }
        }
    }
    TLS_HANDSHAKES.of(counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|((name, result), count)| TLS_HANDSHAKES.value(&[name, result], float(*count))))
}

fn config(snapshot: &Snapshot) -> [MetricFamily; 3] {
    let applied = snapshot.applied_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    [
        GENERATION.of([GENERATION.value(&[], float(snapshot.generation))]),
        LAST_RELOAD_TIMESTAMP.of([LAST_RELOAD_TIMESTAMP.value(&[], applied.as_secs_f64())]),
        CONFIG_INFO.of([CONFIG_INFO.value(&[&snapshot.hash], 1.0)]),
    ]
}

fn watching(state: &State) -> [MetricFamily; 3] {
    [
        UNWATCHED.of([UNWATCHED.value(&[], float(state.watch_status.unwatched()))]),
        OVERFLOWS.of([OVERFLOWS.value(&[], float(state.watch_status.overflows()))]),
        LAST_GOOD_SAVED.of([LAST_GOOD_SAVED.value(&[], f64::from(u8::from(state.watch_status.is_copy_saved())))]),
    ]
}

fn acme(snapshot: &Snapshot) -> Option<MetricFamily> {
    let (issued, failed) = snapshot.acme.as_ref()?.orders();
    Some(
        ACME_ORDERS
            .of([("issued", issued), ("failed", failed)].map(|(result, n)| ACME_ORDERS.value(&[result], float(n)))),
    )
}

fn reloads(state: &State) -> [MetricFamily; 3] {
    let record = state.reloads();
    let successful = f64::from(u8::from(record.last_successful()));
    let totals = Outcome::ALL.map(|outcome| RELOADS.value(&[outcome.label()], float(record.total(outcome))));
    [
        LAST_RELOAD_SUCCESSFUL.of([LAST_RELOAD_SUCCESSFUL.value(&[], successful)]),
        RELOADS.of(totals),
        RELOAD_DURATION.of([RELOAD_DURATION.histogram(&[], &record.seconds())]),
    ]
}

/// One member for each name in a pool. If a name has moved to another address while the old server
/// drains, only the configured server is included. Its counters start at zero, which Prometheus takes for
/// a restart; the sums of both would fall when the drain ends.
fn members(snapshot: &Snapshot) -> Vec<&Member> {
    let mut names = HashSet::new();
    // A pool lists its configured servers before draining ones.
    snapshot.pools.iter().flat_map(|pool| &pool.members).filter(|member| names.insert(labels(member))).collect()
}

fn labels(member: &Member) -> [&str; 2] {
    [&member.server.key.pool, &member.server.key.name]
}

/// Adds up the workers' tallies. Each of `first` is in the result, even if it was not counted yet.
fn add_up(first: &[u32], counts: impl Iterator<Item = (Option<u32>, u64)>) -> BTreeMap<Option<u32>, u64> {
    let mut totals: BTreeMap<_, _> = first.iter().map(|key| (Some(*key), 0)).collect();
    for (key, count) in counts {
        *totals.entry(key).or_default() += count;
    }
    totals
}

/// Adds up the workers' histograms.
fn total<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> HistogramTotal {
    let mut total = HistogramTotal::default();
    histograms.for_each(|histogram| total.add(histogram));
    total
}

#[allow(clippy::cast_precision_loss, reason = "all values of Prometheus are floats")]
fn float(count: u64) -> f64 {
    count as f64
}
