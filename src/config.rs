//! The configuration: `lb.toml`, resolved. Configurations compare by value, so that two can be diffed.
//!
//! A [`Config`] that exists is valid: names are unique, routes refer to pools that exist, durations and sizes are
//! numbers. The file as it was typed never leaves [`mod@file`].

pub mod acme;
mod defaults;
pub mod diff;
mod edge;
pub mod edit;
mod env_texts;
pub mod file;
pub mod guard;
pub mod log_filter;
pub mod notes;
mod pool;
pub mod problem;
pub mod references;
pub mod schema;
mod secret;
mod socket_address;
pub mod source;
mod suggest;
pub mod units;
mod values;
mod wire;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use acme::{AcmeChallenge, AcmeConfig};
pub use edge::{
    CertificateConfig, CertificateSource, ClientAuth, FilePath, HttpProtocol, HttpsRedirect, ListenerConfig,
    ListenerTlsConfig, ProxyHeaderVersion, SocketMode, TlsVersion, UnknownHost, UpstreamProtocol, UpstreamTlsConfig,
};
pub use env_texts::{EnvTexts, ShownTable};
pub use pool::{
    Address, Algorithm, BalanceConfig, CheckMethod, EjectConfig, HealthConfig, HealthKind, PoolConfig, Resolve,
    RetryConfig, ServerConfig, StatusRanges, StickyConfig, UpstreamConfig,
};
pub use secret::{CollectorUrl, mask};
pub use socket_address::{LOCALHOST, SocketAddress, SocketPath};
pub use values::{overlap, reachable};

/// The name of the pool that top-level `[[server]]` tables form.
pub const DEFAULT_POOL: &str = "default";

/// The configuration of one generation.
// `remote` lets `wire` wrap the derived deserializer, which alone cannot resolve the pools of routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Config {
    /// At least one; addresses and names are unique.
    #[serde(rename = "listener")]
    pub listeners: Vec<ListenerConfig>,
    /// In the order of the file.
    #[serde(rename = "certificate")]
    pub certificates: Vec<CertificateConfig>,
    pub acme: AcmeConfig,
    pub admin: AdminConfig,
    pub proxy: ProxyConfig,
    pub reload: ReloadConfig,
    pub log: LogConfig,
    pub tracing: TracingConfig,
    pub timeouts: TimeoutsConfig,
    pub limits: LimitsConfig,
    /// Names are unique. Never empty: if the file has no route, there is one that sends everything to [`DEFAULT_POOL`].
    #[serde(rename = "route")]
    pub routes: Vec<RouteConfig>,
    /// Sorted by name; names are unique.
    #[serde(rename = "pool")]
    pub pools: Vec<Arc<PoolConfig>>,
    /// Of the tables, from `acme` to `limits`.
    #[serde(default, skip_serializing)]
    pub env: EnvTexts,
}

impl Config {
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<PoolConfig>> {
        self.pools.get(position(&self.pools, name)?)
    }

    /// Reuses `before`'s `Arc` for every pool that has not changed, so that later comparisons are by pointer.
    pub fn share_with(&mut self, before: &Self) {
        for pool in &mut self.pools {
            let unchanged = |before: &&Arc<PoolConfig>| Arc::ptr_eq(before, pool) || *before == pool;
            if let Some(before) = before.pool(&pool.name).filter(unchanged) {
                *pool = Arc::clone(before);
            }
        }
    }
}

fn position(pools: &[Arc<PoolConfig>], name: &str) -> Option<usize> {
    pools.binary_search_by(|pool| pool.name.as_str().cmp(name)).ok()
}

/// The read-only API, `/metrics` and the dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminConfig {
    pub address: SocketAddress,
    /// `Host` values accepted besides IP literals and `localhost`, in lower case.
    pub hosts: Vec<String>,
}

/// Settings that apply to every request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// Networks whose `X-Forwarded-*` and `Forwarded` are trusted and extended.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `Via` is added to requests and responses.
    pub via: bool,
    pub forwarded: ForwardedMode,
    pub path: PathMode,
    /// 0 means one per core. The only key that needs a restart.
    pub workers: usize,
}

/// The headers that describe the client to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedMode {
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Real-IP`.
    #[serde(rename = "x-forwarded")]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    Both,
    None,
}

/// The path that servers get. Routes match the normalized path in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMode {
    /// The bytes that the client sent.
    AsSent,
    /// Without dot segments and without escapes of unreserved characters (RFC 3986 §6.2.2).
    Normalized,
}

impl ProxyConfig {
    /// The number of workers, once `workers` takes effect.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        // The number that a restart would see may change while the process runs; that is not an edit.
        static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, NonZeroUsize::get));
        if self.workers == 0 { *CORES } else { self.workers }
    }
}

/// How edits are read and guarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadConfig {
    /// How long a file written in place must stay unchanged before it is read.
    #[serde(with = "wire::duration")]
    pub quiet: Duration,
    /// The time between comparisons of the content; zero means file events only.
    #[serde(with = "wire::duration")]
    pub poll: Duration,
    /// An edit is rejected if more than this fraction (0 to 1) of a routed pool's enabled servers lose their traffic.
    #[serde(with = "wire::percent")]
    pub max_removed: f64,
    /// Whether an edit may leave a pool without an enabled server.
    pub allow_empty: bool,
    /// How long old servers may be held for new ones, none of which is up, before that is a warning.
    #[serde(with = "wire::duration")]
    pub hold: Duration,
    pub hold_then: HoldThen,
    /// Where the last good configuration is kept, if at all.
    pub state_dir: Option<PathBuf>,
    /// How many reloads `/api/reloads` keeps.
    pub history: usize,
}

/// The fate of a hold that lasts longer than [`ReloadConfig::hold`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldThen {
    /// The old servers stay until a new one is up.
    Keep,
    /// The new servers take over although none of them is up.
    Switch,
}

/// The process's own log and the access log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// A filter of [`log_filter`].
    pub level: String,
    pub format: LogFormat,
    pub access: AccessLogTarget,
    /// The format of the access log; `None` means that of `format`.
    pub access_format: Option<AccessFormat>,
    /// Request headers in the access log, as typed.
    pub headers: Vec<String>,
}

/// The destination of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    Off,
    Stdout,
    File(FilePath),
}

/// The format of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    Text,
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Trace export and sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracingConfig {
    /// The URL of Zipkin's collector.
    pub zipkin: Option<CollectorUrl>,
    /// The URL of an OTLP collector over HTTP.
    pub otlp: Option<CollectorUrl>,
    /// The service name in spans.
    pub service: String,
    /// The share (0 to 1) of the traces started here that is recorded.
    pub sample: f64,
}

/// How long each step of a request may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutsConfig {
    /// A client sending a request's head.
    #[serde(with = "wire::duration")]
    pub request_header: Duration,
    /// A client connection without a request.
    #[serde(with = "wire::duration")]
    pub idle: Duration,
    /// Connecting to a server.
    #[serde(with = "wire::duration")]
    pub connect: Duration,
    /// A server starting its response, from the end of the request.
    #[serde(with = "wire::duration")]
    pub response_header: Duration,
    /// A body, in either direction, without a single byte.
    #[serde(with = "wire::duration")]
    pub body_idle: Duration,
    /// A client's PROXY header and TLS handshake, each.
    #[serde(with = "wire::duration")]
    pub tls_handshake: Duration,
    /// A tunnel without a byte in either direction.
    #[serde(with = "wire::duration")]
    pub tunnel: Duration,
    /// A gRPC stream without a byte in either direction.
    #[serde(with = "wire::duration")]
    pub stream_idle: Duration,
    /// The open requests of a removed or disabled server, a closed listener, or the stopping process.
    #[serde(with = "wire::duration")]
    pub drain: Duration,
}

/// Limits on requests and connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Size of a request's head.
    #[serde(with = "wire::size")]
    pub header_bytes: u64,
    /// Number of headers in a request.
    pub headers: usize,
    /// Size of a request's body; 0 means no limit.
    #[serde(with = "wire::size")]
    pub body_bytes: u64,
    /// A client is too slow if it falls below this many bytes per second, averaged over `timeouts.body_idle`.
    #[serde(with = "wire::size")]
    pub body_rate: u64,
    /// Concurrent client connections; 0 means as many as the process can hold.
    pub connections: usize,
    /// Requests on a client connection, after which it is ended; 0 means no limit.
    pub connection_requests: u64,
    /// Concurrent requests on an HTTP/2 connection of a client.
    pub streams: u32,
    /// Concurrent TLS handshakes with clients; 0 means a number that depends on the cores.
    pub handshakes: usize,
}

/// A rule that maps requests to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteConfig {
    /// The label in metrics; defaults to host and path.
    pub name: String,
    pub host: HostPattern,
    /// A prefix in whole segments; begins with `/` and does not end with one, except for `/` itself.
    pub path: String,
    #[serde(deserialize_with = "wire::unresolved_pool")]
    pub pool: PoolRef,
    #[serde(default, skip_serializing)]
    pub env: EnvTexts,
}

/// A pool of the same configuration; serialized as the pool's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRef {
    name: String,
    index: usize,
}

impl PoolRef {
    /// Finds a pool among `pools`, which are sorted by name.
    #[must_use]
    pub fn find(pools: &[Arc<PoolConfig>], name: &str) -> Option<Self> {
        Some(Self { name: name.to_owned(), index: position(pools, name)? })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pool's index in [`Config::pools`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }
}

/// The hosts that a route matches; in lower case, without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// One host name or IP literal.
    Exact(String),
    /// `*.example.com`, stored as `example.com`: any name with at least one label in front of it.
    Wildcard(String),
}
