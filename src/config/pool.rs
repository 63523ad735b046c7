//! Pools: servers, and the rules for choosing, checking and retrying them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::{Not, RangeInclusive};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EnvTexts, ProxyHeaderVersion, SocketPath, UpstreamProtocol, UpstreamTlsConfig, wire};

/// Interchangeable servers, and the rules that apply to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolConfig {
    pub name: String,
    pub balance: BalanceConfig,
    pub health: HealthConfig,
    pub retry: RetryConfig,
    pub upstream: UpstreamConfig,
    /// In the order of the file; names are unique.
    #[serde(rename = "server")]
    pub servers: Vec<ServerConfig>,
    /// Of the rules.
    #[serde(default, skip_serializing)]
    pub env: EnvTexts,
}

impl PoolConfig {
    /// A copy of the rules, without the servers.
    #[must_use]
    pub fn without_servers(&self) -> Self {
        let Self { name, balance, health, retry, upstream, servers: _, env } = self;
        Self {
            name: name.clone(),
            balance: balance.clone(),
            health: health.clone(),
            retry: retry.clone(),
            upstream: upstream.clone(),
            servers: Vec::new(),
            env: env.clone(),
        }
    }
}

/// How a server is chosen for a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceConfig {
    pub algorithm: Algorithm,
    /// `None` if clients are not tied to servers.
    pub sticky: Option<StickyConfig>,
}

/// How a picker selects among the eligible servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Exactly in proportion to the weights, evenly spread.
    WeightedRoundRobin,
    /// Each in turn; weights are ignored, except 0.
    RoundRobin,
    /// At random, in proportion to the weights.
    Random,
    /// The one with the fewest open requests for its weight.
    LeastConnections,
}

/// A cookie that keeps a client on its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyConfig {
    /// The cookie's name.
    pub cookie: String,
    /// How long browsers keep it after its last use; `None` means until they are closed.
    #[serde(with = "wire::optional_duration")]
    pub max_age: Option<Duration>,
}

/// How servers are checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthConfig {
    pub kind: HealthKind,
    /// For [`HealthKind::Grpc`]: the service to ask for; `None` means the server as a whole.
    pub service: Option<String>,
    /// For [`HealthKind::Http`]: the path to request.
    pub path: String,
    /// Whether the file leaves `path` out. Then a server that has no such page counts as up.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub default_path: bool,
    /// For [`HealthKind::Http`]: the method of the request.
    pub method: CheckMethod,
    /// For [`HealthKind::Http`] and [`HealthKind::Grpc`]: the `Host` header; `None` means the server's address.
    pub host: Option<String>,
    /// The port to check; 0 means the server's own.
    pub port: u16,
    /// For [`HealthKind::Http`] and [`HealthKind::Grpc`]: more headers of the request, by name in lower case.
    pub headers: BTreeMap<String, String>,
    /// For [`HealthKind::Http`]: text that the response's body must contain.
    pub body: Option<String>,
    /// For [`HealthKind::Http`]: the statuses that pass.
    pub expect: StatusRanges,
    /// From the start of one check to the start of the next, jittered by a tenth.
    #[serde(with = "wire::duration")]
    pub interval: Duration,
    /// The same after a failed check, if it is shorter.
    #[serde(with = "wire::duration")]
    pub retry: Duration,
    /// For a whole check.
    #[serde(with = "wire::duration")]
    pub timeout: Duration,
    /// Consecutive passes before a server that was down is up.
    pub rise: NonZeroU32,
    /// Consecutive failures before a server that was up is down.
    pub fall: NonZeroU32,
    /// The path of the server's own Prometheus page, if its memory is read from there.
    pub memory: Option<String>,
    pub eject: EjectConfig,
}

/// When failed requests take a server out, although its checks pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EjectConfig {
    /// Consecutive failed requests; `None` means as many as [`HealthConfig::fall`].
    pub failures: Option<NonZeroU32>,
    /// Responses that count as failed requests, besides requests without a response.
    pub statuses: Vec<StatusRanges>,
    /// The share (0 to 1) of a pool's servers that may be ejected at once.
    #[serde(with = "wire::percent")]
    pub max: f64,
}

/// The method of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckMethod {
    Get,
    Head,
    Options,
    Post,
}

/// The kind of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthKind {
    /// A GET whose status must be among the expected ones.
    Http,
    /// A TCP connection that the server accepts.
    Tcp,
    /// A call of the gRPC health service, which must say that the server serves.
    Grpc,
    /// None: a server always counts as up.
    None,
}

/// Statuses, written `200-399` or `200, 204, 301-302`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<RangeInclusive<u16>>);

impl StatusRanges {
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// When a failed attempt is retried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryConfig {
    /// The limit for retries of one request.
    pub attempts: u32,
    /// Retries as a share (0 to 1) of the recent requests.
    #[serde(with = "wire::percent")]
    pub budget: f64,
    /// Responses that are retried too, if the request is idempotent and has no body.
    pub statuses: Vec<StatusRanges>,
    /// Whether gRPC calls are retried whose response is UNAVAILABLE without a message.
    pub grpc: bool,
}

/// How to talk to servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamConfig {
    /// How long an unused connection is kept.
    #[serde(with = "wire::duration")]
    pub idle: Duration,
    /// The limit for unused connections per server and worker.
    pub idle_connections: usize,
    pub resolve: Resolve,
    pub protocol: UpstreamProtocol,
    /// `None` if servers are talked to without TLS.
    pub tls: Option<UpstreamTlsConfig>,
    /// The PROXY header that servers get, if any.
    pub proxy_protocol: Option<ProxyHeaderVersion>,
}

/// The servers that a host name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// One, at whichever of the name's addresses answers.
    One,
}

/// One address that serves requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerConfig {
    /// Unique in its pool.
    pub name: String,
    pub address: Address,
    /// Relative to the weights of the pool's other servers, 0 to 1000; with 0 the server gets no new clients.
    pub weight: u32,
    /// Whether it gets new requests at all.
    pub enabled: bool,
    #[serde(default, skip_serializing)]
    pub env: EnvTexts,
}

/// A server's address as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Ip(SocketAddr),
    /// A host name, in lower case, that is resolved repeatedly in the background.
    Name(String, u16),
    Unix(SocketPath),
}
