//! The JSON forms of the live state, one type for each thing that the API shows.

mod certificate;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, Serializer};

pub(super) use self::certificate::{CertificateView, certificates, certificates_for};
pub(super) use self::server::{ServerView, servers, servers_of};

use crate::config::problem::ProblemJson;
use crate::config::{self, Address, Algorithm, Config, HostPattern, SocketAddress};
use crate::live::availability::{Availability, PoolUse};
use crate::live::listener::LiveListener;
use crate::live::pool::{self, Status};
use crate::live::reloads::{self, Outcome};
use crate::live::snapshot::{self, Snapshot};
use crate::live::{events, health, method};

#[derive(Serialize)]
pub(super) struct PoolView<'a> {
    name: &'a str,
    algorithm: Algorithm,
    sticky: Option<config::ShownTable<'a, config::StickyConfig>>,
    health: config::ShownTable<'a, config::HealthConfig>,
    /// TLS to its servers, if they use it.
    tls: Option<config::ShownTable<'a, config::UpstreamTlsConfig>>,
    /// Whether a route leads to it.
    routed: bool,
    /// Whether any server is active, or old servers serve its routes.
    ready: bool,
    /// The state of its own servers.
    availability: Availability,
    /// Whether old servers serve its routes because no server of it has passed a health check yet.
    holding: bool,
    /// Whether no server of it has been up for longer than `reload.hold`, since its servers were replaced or since the
    /// configuration was applied.
    overdue: bool,
    servers: StatusCountsView,
    active_requests: u64,
    requests_total: u64,
}

/// The number of servers by status.
#[derive(Serialize, Default)]
struct StatusCountsView {
    up: usize,
    down: usize,
    draining: usize,
    disabled: usize,
    checking: usize,
}

/// The configured pools. In the snapshot, others follow them while servers of removed pools drain.
pub(super) fn pools(snapshot: &Snapshot) -> impl Iterator<Item = PoolView<'_>> {
    let uses = snapshot.pool_uses().into_iter().enumerate();
    let is_old = snapshot.applied_at.elapsed().is_ok_and(|age| age >= snapshot.config.reload.hold);
    snapshot.pools.iter().zip(uses).map(move |(pool, (index, PoolUse { routed, hold }))| {
        let availability = Availability::of(pool);
        let is_late = hold.map_or(is_old, |hold| hold.overdue);
        PoolView {
            routed,
            ready: snapshot.is_ready(index),
            availability,
            holding: hold.is_some(),
            overdue: is_late && availability != Availability::Available,
            ..PoolView::new(pool)
        }
    })
}

impl<'a> PoolView<'a> {
    /// A pool without routes.
    fn new(pool: &'a pool::Pool) -> Self {
        let mut servers = StatusCountsView::default();
        for member in &pool.members {
            *match member.status() {
                Status::Up => &mut servers.up,
                Status::Down => &mut servers.down,
                Status::Draining => &mut servers.draining,
                Status::Disabled => &mut servers.disabled,
                Status::Checking => &mut servers.checking,
            } += 1;
        }
        Self {
            name: &pool.live.name,
            algorithm: pool.config.balance.algorithm,
            sticky: pool.config.balance.sticky.as_ref().map(|sticky| pool.config.env.table("balance.sticky", sticky)),
            health: pool.config.env.table("health", &pool.config.health),
            tls: pool.config.upstream.tls.as_ref().map(|tls| pool.config.env.table("upstream.tls", tls)),
            routed: false,
            ready: pool.is_ready(),
            availability: Availability::Empty,
            holding: false,
            overdue: false,
            servers,
            active_requests: pool.members.iter().map(|member| member.server.active_requests()).sum(),
            requests_total: pool.live.counters.sum(|set| set.requests.get()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct RouteView<'a> {
    name: &'a str,
    host: &'a HostPattern,
    path: &'a str,
    pool: &'a str,
    /// The pool whose old servers serve it, during a hold.
    held_by: Option<&'a str>,
    requests_total: u64,
    responses: ResponseCountsView,
}

/// The number of responses by status class.
#[derive(Serialize, Default)]
struct ResponseCountsView {
    #[serde(rename = "1xx")]
    informational: u64,
    #[serde(rename = "2xx")]
    successful: u64,
    #[serde(rename = "3xx")]
    redirection: u64,
    #[serde(rename = "4xx")]
    client_error: u64,
    #[serde(rename = "5xx")]
    server_error: u64,
    /// Statuses outside these classes, and those beyond the number that is counted individually.
    other: u64,
}

impl<'a> RouteView<'a> {
    pub(super) fn new(route: &'a config::RouteConfig, live: &snapshot::Route, snapshot: &'a Snapshot) -> Self {
        let mut responses = ResponseCountsView::default();
        let mut requests_total = 0;
        for (key, count) in live.live.counters.iter().flat_map(|set| set.codes.iter()) {
            requests_total += count;
            *match key.map(|key| method::method_and_status(key).1 / 100) {
                Some(1) => &mut responses.informational,
                Some(2) => &mut responses.successful,
                Some(3) => &mut responses.redirection,
                Some(4) => &mut responses.client_error,
                Some(5) => &mut responses.server_error,
                Some(_) | None => &mut responses.other,
            } += count;
        }
        Self {
            name: &route.name,
            host: &route.host,
            path: &route.path,
            pool: route.pool.name(),
            held_by: (live.serving != live.pool).then(|| &*snapshot.serving(live.serving).live.name),
            requests_total,
            responses,
        }
    }
}

/// A listener that accepts clients, or a removed one that still has connections.
#[derive(Serialize)]
pub(super) struct ListenerView<'a> {
    name: &'a str,
    address: &'a SocketAddress,
    connections: u64,
}

impl<'a> ListenerView<'a> {
    pub(super) fn new(listener: &'a LiveListener) -> Self {
        Self { name: &listener.name, address: &listener.address, connections: listener.connections() }
    }
}

/// The configuration in force. It contains no secrets, unless a URL in `[tracing]` has one.
#[derive(Serialize)]
pub(super) struct ConfigView<'a> {
    generation: u64,
    hash: &'a str,
    files: Vec<FileView<'a>>,
    #[serde(serialize_with = "as_time")]
    applied_at: SystemTime,
    state: ConfigState,
    /// Things that need attention, and advice.
    warnings: &'a [String],
    config: &'a Config,
}

#[derive(Serialize)]
struct FileView<'a> {
    path: &'a Path,
    hash: &'a str,
}

/// How the configuration in force relates to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigState {
    /// It is the configuration in the file.
    Current,
    /// It is, but old servers still serve because no new one has passed a check.
    Holding,
    /// The file refers to something that is not available yet; this is the last accepted configuration.
    Pending,
    /// The file was rejected; this is the last accepted configuration.
    LastGood,
}

impl ConfigState {
    /// `last` is the outcome of the newest reload. If several states apply, the more serious one is returned.
    pub(super) fn of(snapshot: &Snapshot, last: Option<Outcome>) -> Self {
        match last {
            Some(Outcome::Rejected) => Self::LastGood,
            Some(Outcome::Pending) => Self::Pending,
            _ if snapshot.is_holding() => Self::Holding,
            _ => Self::Current,
        }
    }
}

impl<'a> ConfigView<'a> {
    /// `last` is the outcome of the newest reload.
    pub(super) fn new(snapshot: &'a Snapshot, last: Option<Outcome>, warnings: &'a [String]) -> Self {
        Self {
            generation: snapshot.generation,
            hash: &snapshot.hash,
            files: snapshot.files.iter().map(|file| FileView { path: &file.path, hash: &file.hash }).collect(),
            applied_at: snapshot.applied_at,
            state: ConfigState::of(snapshot, last),
            warnings,
            config: &snapshot.config,
        }
    }
}

#[derive(Serialize)]
pub(super) struct ReloadView<'a> {
    generation: u64,
    hash: &'a str,
    outcome: Outcome,
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    #[serde(serialize_with = "as_seconds")]
    seconds: Duration,
    changes: &'a [String],
    problems: Vec<ProblemJson<'a>>,
}

/// The recorded reloads, newest first, numbered from the first one of the process, so that numbers stay valid as
/// reloads are added and dropped.
pub(super) fn numbered_reloads(record: &reloads::ReloadHistory) -> Vec<(u64, Arc<reloads::Reload>)> {
    let all = Outcome::ALL.map(|outcome| record.total(outcome)).iter().sum::<u64>();
    (1..=all).rev().zip(record.newest().map(Arc::clone)).collect()
}

impl<'a> ReloadView<'a> {
    pub(super) fn new(reload: &'a reloads::Reload) -> Self {
        Self {
            generation: reload.generation,
            hash: &reload.hash,
            outcome: reload.outcome,
            at: reload.at,
            seconds: reload.took,
            changes: &reload.changes,
            problems: reload.problems.iter().map(|problem| problem.to_json()).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct HealthChangeView<'a> {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    pool: &'a str,
    server: &'a str,
    address: &'a Address,
    from: health::HealthState,
    to: health::HealthState,
    error: Option<&'a str>,
}

impl<'a> HealthChangeView<'a> {
    pub(super) fn new(change: &'a events::HealthChange) -> Self {
        Self {
            at: change.at,
            pool: &change.key.pool,
            server: &change.key.name,
            address: &change.key.address,
            from: change.from,
            to: change.to,
            error: change.error.as_deref(),
        }
    }
}

/// Serializes as RFC 3339 in UTC with milliseconds.
pub(super) fn as_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // humantime cannot format times before 1970, where a clock that was never set may be.
    serializer.collect_str(&humantime::format_rfc3339_millis((*time).max(SystemTime::UNIX_EPOCH)))
}

fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
