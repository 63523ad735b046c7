//! What the live state looks like as JSON: one shape for each thing that the admin address tells of.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, Serializer};

use crate::config::problem::ProblemJson;
use crate::config::{self, Address, Algorithm, Config, HostPattern};
use crate::live::listener::LiveListener;
use crate::live::pool::{self, Member, Membership, Status};
use crate::live::reloads::{self, Outcome};
use crate::live::snapshot::{self, Snapshot};
use crate::live::{events, health, method, server};

/// A server in a pool.
#[derive(Serialize)]
pub(super) struct Server<'a> {
    pub(super) pool: &'a str,
    pub(super) name: &'a str,
    pub(super) address: &'a Address,
    weight: u32,
    enabled: bool,
    pub(super) status: Status,
    active_requests: u64,
    requests_total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    share: f64,
    last_check: Option<Check>,
    ejected: Option<Ejection>,
    #[serde(serialize_with = "as_time")]
    since: SystemTime,
}

/// The newest check of a server.
#[derive(Serialize)]
struct Check {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    ok: bool,
    error: Option<String>,
    #[serde(serialize_with = "as_seconds")]
    seconds: Duration,
}

/// Why a server is down although its checks pass.
#[derive(Serialize)]
struct Ejection {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    error: String,
}

/// All servers: pool by pool, each pool's in the file's order, then those that are leaving it.
pub(super) fn servers(snapshot: &Snapshot) -> impl Iterator<Item = Server<'_>> {
    snapshot.pools.iter().flat_map(|pool| servers_of(pool))
}

/// The servers of one pool, in this order.
pub(super) fn servers_of(pool: &pool::Pool) -> impl Iterator<Item = Server<'_>> {
    pool.members.iter().zip(pool.shares()).map(|(member, share)| Server::new(member, share))
}

impl<'a> Server<'a> {
    fn new(member: &'a Member, share: f64) -> Self {
        let live = &member.server;
        Self {
            pool: &live.key.pool,
            name: &live.key.name,
            address: &live.key.address,
            weight: member.weight,
            enabled: member.membership == Membership::Enabled,
            status: member.status(),
            active_requests: live.active_requests(),
            requests_total: live.requests_total(),
            memory_bytes: live.memory(),
            share,
            last_check: live.last_check().as_deref().map(Check::new),
            // Told together with the status, which is what requests see.
            ejected: live.ejection().filter(|_| !member.state.serves()).as_deref().map(Ejection::new),
            since: live.since(),
        }
    }

    /// Whether it takes new requests now. Whoever does has a share of them.
    pub(super) fn is_active(&self) -> bool {
        self.share > 0.0
    }

    /// What `?after=` calls it; no other server is called so.
    pub(super) fn cursor(&self) -> String {
        format!("{}/{}/{}", self.pool, self.name, self.address)
    }
}

impl Check {
    fn new(check: &server::Check) -> Self {
        Self { at: check.at, ok: check.error.is_none(), error: check.error.clone(), seconds: check.took }
    }
}

impl Ejection {
    fn new(ejection: &server::Ejection) -> Self {
        Self { at: ejection.at, error: ejection.error.clone() }
    }
}

/// A pool of the configuration.
#[derive(Serialize)]
pub(super) struct Pool<'a> {
    name: &'a str,
    algorithm: Algorithm,
    sticky: Option<&'a config::StickyConfig>,
    health: &'a config::HealthConfig,
    /// Whether some server takes new requests.
    ready: bool,
    /// Whether servers that left still serve because none of the new ones has passed a check.
    holding: bool,
    servers: Statuses,
    active_requests: u64,
    requests_total: u64,
}

/// How many servers there are of each status.
#[derive(Serialize, Default)]
struct Statuses {
    up: usize,
    down: usize,
    draining: usize,
    disabled: usize,
    checking: usize,
}

/// The pools of the configuration, in its order.
pub(super) fn pools(snapshot: &Snapshot) -> impl Iterator<Item = Pool<'_>> {
    snapshot.pools.iter().take(snapshot.config.pools.len()).map(|pool| Pool::new(pool))
}

impl<'a> Pool<'a> {
    fn new(pool: &'a pool::Pool) -> Self {
        let mut servers = Statuses::default();
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
            sticky: pool.config.balance.sticky.as_ref(),
            health: &pool.config.health,
            ready: pool.is_ready(),
            holding: pool.holding,
            servers,
            active_requests: pool.members.iter().map(|member| member.server.active_requests()).sum(),
            requests_total: pool.live.counters.sum(|set| set.requests.get()),
        }
    }
}

/// A route of the configuration.
#[derive(Serialize)]
pub(super) struct Route<'a> {
    name: &'a str,
    host: &'a HostPattern,
    path: &'a str,
    pool: &'a str,
    requests_total: u64,
    responses: Classes,
}

/// Answers by the class of their status.
#[derive(Serialize, Default)]
struct Classes {
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
    /// Of statuses beyond those that are told apart.
    other: u64,
}

impl<'a> Route<'a> {
    pub(super) fn new(route: &'a config::RouteConfig, live: &snapshot::Route) -> Self {
        let mut responses = Classes::default();
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
            requests_total,
            responses,
        }
    }
}

/// An address that takes clients, or still has some.
#[derive(Serialize)]
pub(super) struct Listener<'a> {
    name: &'a str,
    address: SocketAddr,
    connections: u64,
}

impl<'a> Listener<'a> {
    pub(super) fn new(listener: &'a LiveListener) -> Self {
        Self { name: &listener.name, address: listener.address, connections: listener.connections() }
    }
}

/// The configuration in force. It holds no secrets, except where a URL of `[tracing]` carries one.
#[derive(Serialize)]
pub(super) struct Configuration<'a> {
    generation: u64,
    hash: &'a str,
    files: Vec<File<'a>>,
    #[serde(serialize_with = "as_time")]
    applied_at: SystemTime,
    state: Truth,
    /// Why edits may not be seen.
    warnings: &'a [String],
    config: &'a Config,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a Path,
    hash: &'a str,
}

/// How what is in force stands to what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It is what the file says.
    Current,
    /// It is what the file says, but a pool still serves from its old servers.
    Holding,
    /// The file was rejected, and this is the last that was not.
    LastGood,
}

impl Truth {
    /// `rejected` says that the newest reload was.
    pub(super) fn of(snapshot: &Snapshot, rejected: bool) -> Self {
        match (snapshot.pools.iter().any(|pool| pool.holding), rejected) {
            (true, _) => Self::Holding,
            (false, true) => Self::LastGood,
            (false, false) => Self::Current,
        }
    }
}

impl<'a> Configuration<'a> {
    /// `rejected` says that the newest reload was.
    pub(super) fn new(snapshot: &'a Snapshot, rejected: bool, warnings: &'a [String]) -> Self {
        Self {
            generation: snapshot.generation,
            hash: &snapshot.hash,
            files: snapshot.files.iter().map(|file| File { path: &file.path, hash: &file.hash }).collect(),
            applied_at: snapshot.applied_at,
            state: Truth::of(snapshot, rejected),
            warnings,
            config: &snapshot.config,
        }
    }
}

/// A reload.
#[derive(Serialize)]
pub(super) struct Reload<'a> {
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

/// The reloads that are kept, the newest first, each with its number in the row of all.
pub(super) fn reloads(record: &reloads::Record) -> Vec<(u64, Arc<reloads::Reload>)> {
    let all = Outcome::ALL.map(|outcome| record.total(outcome)).iter().sum::<u64>();
    (1..=all).rev().zip(record.newest().map(Arc::clone)).collect()
}

impl<'a> Reload<'a> {
    pub(super) fn new(reload: &'a reloads::Reload) -> Self {
        Self {
            generation: reload.generation,
            hash: &reload.hash,
            outcome: reload.outcome,
            at: reload.at,
            seconds: reload.took,
            changes: &reload.changes,
            problems: reload.problems.iter().map(|problem| problem.json()).collect(),
        }
    }
}

/// What a server's checks came to say.
#[derive(Serialize)]
pub(super) struct HealthChange<'a> {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    pool: &'a str,
    server: &'a str,
    address: &'a Address,
    from: health::HealthState,
    to: health::HealthState,
    error: Option<&'a str>,
}

impl<'a> HealthChange<'a> {
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

/// RFC 3339 in UTC with milliseconds.
pub(super) fn as_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // A clock that was never set may stand before 1970, which the library does not bear.
    serializer.collect_str(&humantime::format_rfc3339_millis((*time).max(SystemTime::UNIX_EPOCH)))
}

fn as_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
