//! A client of the admin address, for commands that query a running balancer.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use crate::admin::ConfigState;
use crate::config::problem::Problem;
pub(super) use crate::config::reachable;
use crate::config::{Address, Algorithm, HostPattern, SocketAddress};
use crate::http_client::{HttpConnection, SendError};
use crate::live::availability::Availability;
use crate::live::pool::Status;
use crate::live::reloads::Outcome;
use crate::tls::certificate::Validity;

/// The timeout of a whole query, from the lookup of the host name to the end of the response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest response body that is read: enough for several hundred thousand servers.
const BODY_LIMIT: usize = 256 << 20;

/// A blocking client of one balancer's admin address.
#[derive(Debug)]
pub(super) struct Api {
    runtime: Runtime,
    at: Address,
}

/// Why a query has no result.
#[derive(Debug)]
pub(super) enum QueryError {
    Unreachable(Address, SendError),
    /// The balancer rejected the query, for this reason.
    Rejected(String),
    /// The response does not come from a balancer of this version.
    Unexpected(Address, String),
}

impl Api {
    /// A client of the balancer at `at`.
    ///
    /// # Errors
    /// If the system is out of file descriptors or memory.
    pub(super) fn new(at: Address) -> io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_all().build()?, at })
    }

    /// The balancer's address.
    pub(super) fn at(&self) -> &Address {
        &self.at
    }

    /// Blocks until the response at `path` has been received and parsed.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, QueryError> {
        self.run(get(&self.at, path))
    }

    /// Blocks until `queries`, which may be several, have ended.
    pub(super) fn run<T>(&self, queries: impl Future<Output = T>) -> T {
        self.runtime.block_on(queries)
    }
}

/// Gets and parses the response of the balancer at `at` for `path`.
pub(super) async fn get<T: DeserializeOwned>(at: &Address, path: &str) -> Result<T, QueryError> {
    let unexpected = |reason: String| QueryError::Unexpected(at.clone(), reason);
    let response = send(at, path).await.map_err(|error| QueryError::Unreachable(at.clone(), error))?;
    let (status, body) = (response.status(), response.body());
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| unexpected(format!("at {path}: {error}")));
    }
    match serde_json::from_slice::<ProblemBody>(body) {
        Ok(problem) => Err(QueryError::Rejected(problem.detail)),
        Err(_) => Err(unexpected(format!("status {status} at {path}"))),
    }
}

async fn send(at: &Address, path: &str) -> Result<Response<Bytes>, SendError> {
    let connection = match at {
        Address::Ip(address) => HttpConnection::open_at(&reachable(&SocketAddress::Ip(*address)), TIMEOUT).await?,
        Address::Name(host, port) => HttpConnection::open((host.as_str(), *port), TIMEOUT).await?,
        Address::Unix(path) => HttpConnection::open_at(&SocketAddress::Unix(path.clone()), TIMEOUT).await?,
    };
    // A balancer always accepts its own address as `Host`, but a name only if its configuration lists it.
    let host = connection.host();
    connection.send(Request::get(path).header(HOST, host).body(Bytes::new())?, Some(BODY_LIMIT)).await
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(at, error) => {
                write!(
                    f,
                    "cannot reach a balancer at {at}: {error}; start it, or give its address with `--admin ADDRESS`"
                )
            }
            Self::Rejected(detail) => f.write_str(detail),
            Self::Unexpected(at, reason) => {
                write!(f, "{at} is not the admin address of a balancer of this version: {reason}")
            }
        }
    }
}

#[derive(Deserialize)]
struct ProblemBody {
    detail: String,
}

/// `/api/servers`
#[derive(Debug, Deserialize)]
pub(super) struct ServersReply {
    pub(super) servers: Vec<ServerReply>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ServerReply {
    pub(super) pool: String,
    pub(super) name: String,
    pub(super) address: Address,
    pub(super) weight: u32,
    pub(super) enabled: bool,
    pub(super) status: Status,
    pub(super) active_requests: u64,
    pub(super) requests_total: u64,
    pub(super) memory_bytes: Option<u64>,
    pub(super) share: f64,
    pub(super) last_check: Option<CheckReply>,
    /// Present while failing requests alone keep the server down.
    pub(super) ejected: Option<EjectionReply>,
    since: String,
}

/// A server's newest check.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CheckReply {
    at: String,
    pub(super) error: Option<String>,
    /// How to change the check, if it may not suit the server.
    pub(super) hint: Option<String>,
    pub(super) seconds: f64,
}

/// Why a server is down although its checks pass.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct EjectionReply {
    pub(super) error: String,
}

/// `/api/pools`
#[derive(Debug, Deserialize)]
pub(super) struct PoolsReply {
    pub(super) generation: u64,
    pub(super) pools: Vec<PoolReply>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PoolReply {
    pub(super) name: String,
    pub(super) algorithm: Algorithm,
    /// Whether a route leads to it.
    pub(super) routed: bool,
    pub(super) ready: bool,
    pub(super) availability: Availability,
    pub(super) holding: bool,
    /// Whether no server of it has been up for longer than `reload.hold`.
    pub(super) overdue: bool,
    pub(super) active_requests: u64,
    pub(super) requests_total: u64,
}

/// `/api/routes`
#[derive(Debug, Deserialize)]
pub(super) struct RoutesReply {
    pub(super) routes: Vec<RouteReply>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RouteReply {
    pub(super) name: String,
    pub(super) host: HostPattern,
    pub(super) path: String,
    pub(super) pool: String,
    /// The pool whose old servers serve it, during a hold.
    pub(super) held_by: Option<String>,
}

/// `/api/listeners`
#[derive(Debug, Deserialize)]
pub(super) struct ListenersReply {
    pub(super) listeners: Vec<ListenerReply>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListenerReply {
    pub(super) name: String,
    pub(super) address: SocketAddress,
    pub(super) connections: u64,
}

/// `/api/certificates`
#[derive(Debug, Deserialize)]
pub(super) struct CertificatesReply {
    pub(super) certificates: Vec<CertificateReply>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CertificateReply {
    pub(super) file: String,
    pub(super) names: Vec<String>,
    pub(super) not_after: String,
    pub(super) validity: Validity,
    pub(super) key_type: String,
    pub(super) fingerprint: String,
    pub(super) default: bool,
}

/// `/api/config`, without the values of the configuration.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigReply {
    pub(super) generation: u64,
    pub(super) hash: String,
    applied_at: String,
    pub(super) state: ConfigState,
    #[serde(default)]
    pub(super) files: Vec<FileReply>,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

/// One of the files that are in force.
#[derive(Debug, Deserialize)]
pub(super) struct FileReply {
    pub(super) hash: String,
}

/// `/api/reloads`
#[derive(Debug, Deserialize)]
pub(super) struct ReloadsReply {
    pub(super) reloads: Vec<ReloadReply>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct ReloadReply {
    pub(super) generation: u64,
    pub(super) hash: String,
    pub(super) outcome: Outcome,
    pub(super) at: String,
    pub(super) changes: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl ServerReply {
    /// The time since its status last changed.
    pub(super) fn age(&self) -> String {
        age(&self.since)
    }

    /// Whether the server is healthy enough to receive requests. One that is draining or disabled is judged by its last
    /// check.
    pub(super) fn is_well(&self) -> bool {
        match self.status {
            Status::Up => true,
            Status::Down | Status::Checking => false,
            Status::Draining | Status::Disabled => self.last_check.as_ref().is_none_or(|check| check.error.is_none()),
        }
    }
}

impl CheckReply {
    /// The time since it ended.
    pub(super) fn age(&self) -> String {
        age(&self.at)
    }
}

impl ConfigReply {
    /// Warnings about the balancer's state, one sentence each.
    pub(super) fn remarks(&self) -> Vec<String> {
        let state = match self.state {
            ConfigState::Current => None,
            ConfigState::Holding => Some("holding: old servers keep serving, because no new one has passed a check"),
            ConfigState::Pending => Some(
                "pending: the balancer's file refers to something that is not available yet; it runs the last good configuration",
            ),
            ConfigState::LastGood => {
                Some("last_good: the balancer's file was rejected; it runs the last good configuration")
            }
        };
        state.map(str::to_owned).into_iter().chain(self.warnings.iter().cloned()).collect()
    }

    /// The time since it was applied.
    pub(super) fn age(&self) -> String {
        age(&self.applied_at)
    }
}

impl ReloadReply {
    /// The time since it ended.
    pub(super) fn age(&self) -> String {
        age(&self.at)
    }
}

/// The time since `at` in its largest unit, such as `3m`; `0s` if `at` is in the future, because clocks differ.
fn age(at: &str) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Ok(at) = humantime::parse_rfc3339(at) else { return "?".to_owned() };
    let seconds = SystemTime::now().duration_since(at).unwrap_or_default().as_secs();
    let (length, unit) = UNITS.into_iter().find(|(length, _)| seconds >= *length).unwrap_or((1, "s"));
    format!("{}{unit}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_its_largest_unit() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m"), (7_300, "2h"), (86_400 * 3, "3d")];
        for (seconds, expected) in cases {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            assert_eq!(age(&humantime::format_rfc3339_millis(then).to_string()), expected);
        }
        let ahead = SystemTime::now() + Duration::from_secs(100);
        assert_eq!(age(&humantime::format_rfc3339_millis(ahead).to_string()), "0s");
        assert_eq!(age("yesterday"), "?");
    }

    #[test]
    fn a_missing_balancer_is_reported_with_what_to_do() {
        let api = Api::new("127.0.0.1:1".parse().expect("an address")).expect("a client");
        let error = api.get::<ConfigReply>("/api/config").expect_err("nobody listens").to_string();
        assert!(error.starts_with("cannot reach a balancer at 127.0.0.1:1: ") && error.contains("--admin"), "{error}");
    }
}
