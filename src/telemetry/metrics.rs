//! Metrics: every name that `/metrics` shows, and the one collector that reads them from the live state.
//!
//! Nothing is registered for a route or a server. A scrape walks through the snapshot in force and
//! adds up what the workers counted, so a series ends with the route or server that it tells of.
//! Label values never pass through the library's hashing, which takes `("a", "bc")` and `("ab", "c")`
//! for the same: a series is told from the next by the names it has in the snapshot.

mod family;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use crate::live::counters::{Histogram, HistogramTotal};
use crate::live::method;
use crate::live::pool::{Member, Membership};
use crate::live::reloads::Outcome;
use crate::live::retry_budget::RetryReason;
use crate::live::state::State;
use crate::live::{route::LiveRoute, snapshot::Snapshot};
use family::{Family, counter, gauge, histogram};

/// The `Content-Type` of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The `code`, and the `method`, of what came after a tally's slots were full.
const OVERFLOW: (&str, &str) = ("OTHER", "other");

// ---- The names. They are part of the contract with dashboards and alerts: add, but do not rename. ----

const REQUESTS: Family = counter(
    "lb_requests_total",
    "Requests answered; route \"-\" is what no route took, code \"other\" what exceeds the codes told apart.",
    &["route", "method", "code"],
);
const REQUEST_DURATION: Family =
    histogram("lb_request_duration_seconds", "Time from a request's head to the end of its answer.", &["route"]);
const SERVER_REQUESTS: Family = counter(
    "lb_server_requests_total",
    "Answers of a server; a try that it did not answer is not among them.",
    &["pool", "server", "code"],
);
const SERVER_REQUEST_DURATION: Family = histogram(
    "lb_server_request_duration_seconds",
    "Time from the beginning of a try to the end of the server's answer.",
    SERVER,
);
const SERVER_ACTIVE_REQUESTS: Family =
    gauge("lb_server_active_requests", "Requests that the server has not finished answering.", SERVER);
const SERVER_CONNECTIONS: Family =
    gauge("lb_server_connections", "Open connections to a server, idle ones included.", SERVER);
const SERVER_MEMORY: Family =
    gauge("lb_server_memory_bytes", "Resident memory as the server itself says; absent when it does not.", SERVER);
const SERVER_UP: Family =
    gauge("lb_server_up", "Whether a server's health lets it take requests (1), enabled or not.", SERVER);
const SERVER_WEIGHT: Family = gauge("lb_server_weight", "A server's weight.", SERVER);
const SERVER_ENABLED: Family =
    gauge("lb_server_enabled", "Whether a server is in the file and enabled there (1).", SERVER);
const SERVER_CHECKS: Family =
    counter("lb_server_checks_total", "Health checks of a server by result.", &["pool", "server", "result"]);
const SERVER_EJECTIONS: Family =
    counter("lb_server_ejections_total", "Times that a server was taken out because its requests failed.", SERVER);
const RETRIES: Family =
    counter("lb_retries_total", "Tries after a request's first, by why the try before failed.", &["pool", "reason"]);
const CLIENT_CONNECTIONS: Family =
    gauge("lb_client_connections", "Open client connections of a listener.", &["listener"]);
const GENERATION: Family = gauge("lb_config_generation", "Number of the configuration in force, from 1.", &[]);
const LAST_RELOAD_SUCCESSFUL: Family =
    gauge("lb_config_last_reload_successful", "Whether the newest reload was not rejected (1).", &[]);
/// Of the last success, as Prometheus' own figure of this kind: it stands still while edits are rejected.
const LAST_RELOAD_TIMESTAMP: Family = gauge(
    "lb_config_last_reload_timestamp_seconds",
    "Time since the Unix epoch at which the configuration in force was accepted.",
    &[],
);
const CONFIG_INFO: Family =
    gauge("lb_config_info", "The configuration in force by its SHA-256; the value is 1.", &["hash"]);
const UNWATCHED: Family = gauge(
    "lb_config_unwatched_paths",
    "Paths of whose changes no file event tells, so that only the poll finds them.",
    &[],
);
const OVERFLOWS: Family = counter(
    "lb_config_watch_overflows_total",
    "How often the system lost file events, after which all files were looked at.",
    &[],
);
const RELOADS: Family = counter("lb_reloads_total", "Attempts to bring the file into force, by result.", &["result"]);
const RELOAD_DURATION: Family =
    histogram("lb_reload_duration_seconds", "Time from the first look at a changed file to the reload's end.", &[]);
const BUILD_INFO: Family = gauge("lb_build_info", "What runs, by its version; the value is 1.", &["version"]);

/// The labels of a server.
const SERVER: &[&str] = &["pool", "server"];

const FAMILIES: [&Family; 23] = [
    &REQUESTS,
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
    &CLIENT_CONNECTIONS,
    &GENERATION,
    &LAST_RELOAD_SUCCESSFUL,
    &LAST_RELOAD_TIMESTAMP,
    &CONFIG_INFO,
    &UNWATCHED,
    &OVERFLOWS,
    &RELOADS,
    &RELOAD_DURATION,
    &BUILD_INFO,
];

/// What the process measures, to be shown at any time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Held while a text is made: of thousands of servers it takes much memory.
    turn: Arc<Mutex<()>>,
}

/// A figure of the process as a whole that some other part keeps.
pub struct Extra {
    /// The metric's name; a counter's ends in `_total`, a gauge's does not.
    pub name: &'static str,
    /// What is told.
    pub help: &'static str,
    /// Reads the figure; must not block.
    pub read: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Extra").field(&self.name).finish()
    }
}

impl Metrics {
    /// Metrics of `state` and `extras`, and what the system says of this process.
    ///
    /// # Errors
    /// If an extra's name is no metric name, or is taken.
    pub fn new(state: Arc<State>, extras: Vec<Extra>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(Live::new(state, extras)?))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self { registry, turn: Arc::default() })
    }

    /// All of it as it is now, in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        // A panic while it was held leaves nothing behind.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if let Err(error) = TextEncoder.encode_utf8(&self.registry.gather(), &mut text) {
            // It refuses families without a name or a series; the registry leaves out the latter.
            tracing::error!(%error, "the metrics are incomplete");
        }
        text
    }
}

/// The collector over the live state.
struct Live {
    state: Arc<State>,
    extras: Vec<Extra>,
    /// By these the registry finds names that are taken.
    descriptions: Vec<Desc>,
}

impl Live {
    fn new(state: Arc<State>, extras: Vec<Extra>) -> prometheus::Result<Self> {
        let own = FAMILIES.iter().map(|family| (family.name, family.help, family.labels));
        let other = extras.iter().map(|extra| (extra.name, extra.help, &[][..]));
        let descriptions = own
            .chain(other)
            .map(|(name, help, labels)| {
                let labels = labels.iter().copied().map(String::from).collect();
                Desc::new(name.into(), help.into(), labels, HashMap::new())
            })
            .collect::<prometheus::Result<_>>()?;
        Ok(Self { state, extras, descriptions })
    }
}

impl Collector for Live {
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
        families.extend(sight(&self.state));
        families.push(retries(&snapshot));
        families.push(client_connections(&self.state));
        families.push(BUILD_INFO.of([BUILD_INFO.value(&[env!("CARGO_PKG_VERSION")], 1.0)]));
        families.extend(self.extras.iter().map(|extra| {
            let make = if extra.name.ends_with("_total") { counter } else { gauge };
            let family = make(extra.name, extra.help, &[]);
            family.of([family.value(&[], (extra.read)())])
        }));
        families
    }
}

fn routes(snapshot: &Snapshot) -> [MetricFamily; 2] {
    let routes = || snapshot.routes.iter().map(|route| &route.live).chain([&snapshot.unrouted]);
    let requests = |route: &Arc<LiveRoute>| {
        let codes = add_up(route.counters.iter().flat_map(|set| set.codes.iter()));
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
    [REQUESTS.of(routes().flat_map(requests)), REQUEST_DURATION.of(routes().map(durations))]
}

fn servers(snapshot: &Snapshot) -> [MetricFamily; 10] {
    let members = members(snapshot);
    let each = |family: &Family, read: fn(&Member) -> Option<f64>| {
        let one = |member: &&Member| Some(family.value(&labels(member), read(member)?));
        family.of(members.iter().filter_map(one))
    };
    let requests = |member: &&Member| {
        let [pool, server] = labels(member);
        let codes = add_up(member.server.counters().iter().flat_map(|set| set.codes.iter()));
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

fn client_connections(state: &State) -> MetricFamily {
    // A listener that moved to another address is there twice while clients are left at the old one.
    let mut open = BTreeMap::<Arc<str>, u64>::new();
    for listener in state.listeners().iter() {
        *open.entry(Arc::clone(&listener.name)).or_default() += listener.connections();
    }
    CLIENT_CONNECTIONS.of(open.iter().map(|(name, open)| CLIENT_CONNECTIONS.value(&[name], float(*open))))
}

fn config(snapshot: &Snapshot) -> [MetricFamily; 3] {
    let accepted = snapshot.applied_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    [
        GENERATION.of([GENERATION.value(&[], float(snapshot.generation))]),
        LAST_RELOAD_TIMESTAMP.of([LAST_RELOAD_TIMESTAMP.value(&[], accepted.as_secs_f64())]),
        CONFIG_INFO.of([CONFIG_INFO.value(&[&snapshot.hash], 1.0)]),
    ]
}

fn sight(state: &State) -> [MetricFamily; 2] {
    [
        UNWATCHED.of([UNWATCHED.value(&[], float(state.watch_status.unwatched()))]),
        OVERFLOWS.of([OVERFLOWS.value(&[], float(state.watch_status.overflows()))]),
    ]
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

/// The members that metrics tell of: one for each name in a pool. Where a name has moved to another
/// address and the old one still drains, that is the one in the file: its counters begin at zero,
/// which Prometheus takes for what it is, while sums would fall when the old one's drain ends.
fn members(snapshot: &Snapshot) -> Vec<&Member> {
    let mut told = HashSet::new();
    // A pool's members stand in this order.
    snapshot.pools.iter().flat_map(|pool| &pool.members).filter(|member| told.insert(labels(member))).collect()
}

fn labels(member: &Member) -> [&str; 2] {
    [&member.server.key.pool, &member.server.key.name]
}

/// The workers' tallies as one.
fn add_up(counts: impl Iterator<Item = (Option<u32>, u64)>) -> BTreeMap<Option<u32>, u64> {
    let mut totals = BTreeMap::new();
    for (key, count) in counts {
        *totals.entry(key).or_default() += count;
    }
    totals
}

/// The workers' histograms as one.
fn total<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> HistogramTotal {
    let mut total = HistogramTotal::default();
    histograms.for_each(|histogram| total.add(histogram));
    total
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn float(count: u64) -> f64 {
    count as f64
}
