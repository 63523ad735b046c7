//! The configuration: what `lb.toml` says, resolved. Equal by value, so that two can be compared.
//!
//! Every value that exists here is right: names are unique, routes point at pools that exist,
//! durations and sizes are numbers. The file as it was typed never leaves [`mod@file`].

mod defaults;
pub mod diff;
pub mod edit;
pub mod file;
pub mod guard;
pub mod problem;
pub mod schema;
pub mod source;
mod suggest;
pub mod units;
mod values;
mod wire;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use values::overlap;

/// The name of the pool that top-level `[[server]]` tables form.
pub const DEFAULT_POOL: &str = "default";

/// One configuration: everything that a generation runs by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Where clients connect; at least one, addresses and names unique.
    #[serde(rename = "listener")]
    pub listeners: Vec<ListenerConfig>,
    /// The read-only API.
    pub admin: AdminConfig,
    /// What concerns the request path as a whole.
    pub proxy: ProxyConfig,
    /// How edits are read and guarded.
    pub reload: ReloadConfig,
    /// Process and access log.
    pub log: LogConfig,
    /// Trace export and sampling.
    pub tracing: TracingConfig,
    /// How long anything may take.
    pub timeouts: TimeoutsConfig,
    /// How much of anything is accepted.
    pub limits: LimitsConfig,
    /// Which pool gets which request; names unique. Never empty: without any in the file there is
    /// one that sends everything to [`DEFAULT_POOL`].
    #[serde(rename = "route")]
    pub routes: Vec<RouteConfig>,
    /// Servers and the rules to choose among them, sorted by name; names unique.
    #[serde(rename = "pool")]
    pub pools: Vec<Arc<PoolConfig>>,
}

impl Config {
    /// The pool of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<PoolConfig>> {
        let place = self.pools.binary_search_by(|pool| pool.name.as_str().cmp(name)).ok()?;
        self.pools.get(place)
    }

    /// Lets go the pools that are as they were in `before` for those, which are compared and kept for less.
    pub fn share_with(&mut self, before: &Self) {
        for pool in &mut self.pools {
            let same = |before: &&Arc<PoolConfig>| Arc::ptr_eq(before, pool) || *before == pool;
            if let Some(same) = before.pool(&pool.name).filter(same) {
                *pool = Arc::clone(same);
            }
        }
    }
}

/// An address that takes clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerConfig {
    /// Used in metrics and logs; the address as typed unless the file names it.
    pub name: String,
    /// Bound once and kept as long as it is configured.
    pub address: SocketAddr,
}

/// The read-only API, `/metrics` and the dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Host names it answers to beside IP literals and `localhost`, in lower case.
    pub hosts: Vec<String>,
}

/// What concerns the request path as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// Networks whose `X-Forwarded-*` and `Forwarded` are believed and extended.
    pub trusted_proxies: Vec<IpNet>,
    /// Request threads; 0 means one for each core. The only key that needs a restart.
    pub workers: usize,
}

/// How edits are read and guarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadConfig {
    /// How long a file written in place must be unchanged before it is read.
    #[serde(with = "wire::duration")]
    pub quiet: Duration,
    /// Time between content checks; zero means file events only.
    #[serde(with = "wire::duration")]
    pub poll: Duration,
    /// An edit that removes or disables more than this share of a pool's servers is refused (0 to 1).
    #[serde(with = "wire::percent")]
    pub max_removed: f64,
    /// Whether an edit may leave a pool without an enabled server.
    pub allow_empty: bool,
    /// How long a pool whose servers are all new keeps its old ones while none of the new is up.
    #[serde(with = "wire::duration")]
    pub hold: Duration,
    /// Where the last good configuration is kept, if anywhere.
    pub state_dir: Option<PathBuf>,
    /// How many reloads `/api/reloads` remembers.
    pub history: usize,
}

/// Process and access log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// A filter in `tracing`'s syntax; it has been parsed once, so it is valid.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// One line for each request.
    pub access: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Trace export and sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracingConfig {
    /// Zipkin's span collector, if spans go there.
    pub zipkin: Option<String>,
    /// An OTLP collector over HTTP, if spans go there.
    pub otlp: Option<String>,
    /// The service name of the balancer's own spans.
    pub service: String,
    /// Share of the traces that start here which are recorded (0 to 1).
    pub sample: f64,
}

/// How long anything may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutsConfig {
    /// For a client to send a request's head.
    #[serde(with = "wire::duration")]
    pub request_header: Duration,
    /// For a kept-alive client connection with no request on it.
    #[serde(with = "wire::duration")]
    pub idle: Duration,
    /// To connect to a server.
    #[serde(with = "wire::duration")]
    pub connect: Duration,
    /// For a server to begin its answer once it has the request.
    #[serde(with = "wire::duration")]
    pub response_header: Duration,
    /// Without a byte of a body, in either direction.
    #[serde(with = "wire::duration")]
    pub body_idle: Duration,
    /// For open requests of what is going away: a server, a listener, the process.
    #[serde(with = "wire::duration")]
    pub drain: Duration,
}

/// How much of anything is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Of a request head, in bytes.
    #[serde(with = "wire::size")]
    pub header_bytes: u64,
    /// Fields in a request head.
    pub headers: usize,
    /// Of a request body, in bytes; 0 means no limit.
    #[serde(with = "wire::size")]
    pub body_bytes: u64,
    /// Bytes a second, over `timeouts.body_idle`, below which a client is too slow.
    #[serde(with = "wire::size")]
    pub body_rate: u64,
    /// Client connections at once; 0 means as many as the process can hold.
    pub connections: usize,
}

/// What requests go where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteConfig {
    /// Used in metrics; host and path unless the file names it.
    pub name: String,
    /// Which `Host` it takes.
    pub host: HostPattern,
    /// A prefix in whole segments; begins with `/`, no trailing slash but for `/` itself.
    pub path: String,
    /// The pool it leads to, which exists.
    pub pool: String,
}

/// Which host names a route takes; all in lower case, without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// One host name or IP literal.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: any name with at least one label before it.
    Wildcard(String),
}

/// Servers that can answer the same requests, and the rules to choose among them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Unique among pools.
    pub name: String,
    /// How a server is chosen.
    pub balance: BalanceConfig,
    /// How a server's health is known.
    pub health: HealthConfig,
    /// When a failed try is followed by another.
    pub retry: RetryConfig,
    /// In the order of the file; names unique.
    #[serde(rename = "server")]
    pub servers: Vec<ServerConfig>,
}

impl PoolConfig {
    /// The rules alone.
    #[must_use]
    pub fn without_servers(&self) -> Self {
        let Self { name, balance, health, retry, servers: _ } = self;
        Self {
            name: name.clone(),
            balance: balance.clone(),
            health: health.clone(),
            retry: retry.clone(),
            servers: Vec::new(),
        }
    }
}

/// How a server is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceConfig {
    /// The rule.
    pub algorithm: Algorithm,
    /// Whether a client keeps its server.
    pub sticky: Option<StickyConfig>,
}

/// The rule by which a server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Exactly in proportion to the weights, evenly spread.
    WeightedRoundRobin,
    /// Each in turn; of the weights only 0 counts.
    RoundRobin,
    /// By chance, in proportion to the weights.
    Random,
    /// The fewest open requests for its weight.
    LeastConnections,
}

/// A cookie that keeps a client at its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyConfig {
    /// The cookie's name.
    pub cookie: String,
    /// How long the client keeps it.
    #[serde(with = "wire::duration")]
    pub max_age: Duration,
}

/// How a server's health is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// What is tried.
    pub kind: HealthKind,
    /// For [`HealthKind::Http`]: what is asked for.
    pub path: String,
    /// For [`HealthKind::Http`]: which statuses pass.
    pub expect: StatusRanges,
    /// From the start of one check to the next, jittered by a tenth.
    #[serde(with = "wire::duration")]
    pub interval: Duration,
    /// For one check as a whole.
    #[serde(with = "wire::duration")]
    pub timeout: Duration,
    /// Passes in a row until a server that was down is up.
    pub rise: NonZeroU32,
    /// Failures in a row until a server that was up is down.
    pub fall: NonZeroU32,
    /// Path of the server's own Prometheus page, if its memory is to be read there.
    pub memory: Option<String>,
}

/// What a health check tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthKind {
    /// A GET whose status must be among the expected.
    Http,
    /// A connection.
    Tcp,
    /// Nothing: a server counts as up.
    None,
}

/// Statuses, as `200-399` or `200, 204, 301-302`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<RangeInclusive<u16>>);

impl StatusRanges {
    /// Whether `status` is among them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// When a failed try is followed by another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryConfig {
    /// Tries after the first.
    pub attempts: u32,
    /// Share of the recent requests that may be tried again (0 to 1).
    #[serde(with = "wire::percent")]
    pub budget: f64,
}

/// One address that answers requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerConfig {
    /// Unique in its pool.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// Its share beside the others', 0 to 1000; 0 takes no new client.
    pub weight: u32,
    /// Whether it takes new requests at all.
    pub enabled: bool,
}

/// Where a server is: an IP address, or a name that is resolved again in the background.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Known for good.
    Ip(SocketAddr),
    /// To be resolved; the host in lower case.
    Name(String, u16),
}
