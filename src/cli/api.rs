//! A small client of the admin address: what the commands know of a balancer that runs, here or elsewhere.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::admin::ConfigState;
use crate::config::problem::Problem;
use crate::config::{Address, Algorithm};
use crate::live::pool::Status;
use crate::live::reloads::Outcome;

/// How long an answer may take, from the first look-up of the name to its last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read: that of some hundred thousand servers.
const LONGEST: usize = 256 << 20;

/// A balancer's admin address, asked by commands that wait for the answer.
#[derive(Debug)]
pub(super) struct Api {
    runtime: Runtime,
    at: Address,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum QueryError {
    /// Nobody answers.
    Unreachable(Address, io::Error),
    /// The balancer refuses, and says why.
    Refused(String),
    /// Somebody answers what no balancer of this version would.
    Foreign(Address, String),
}

impl Api {
    /// A client of the balancer at `at`.
    ///
    /// # Errors
    /// When the system has no files or memory left.
    pub(super) fn new(at: Address) -> io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_all().build()?, at })
    }

    /// Where it asks.
    pub(super) fn at(&self) -> &Address {
        &self.at
    }

    /// What the balancer answers at `path`.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, QueryError> {
        self.runtime.block_on(get(&self.at, path))
    }
}

/// What the balancer at `at` answers at `path`.
pub(super) async fn get<T: DeserializeOwned>(at: &Address, path: &str) -> Result<T, QueryError> {
    let unreachable = |error| QueryError::Unreachable(at.clone(), error);
    let foreign = |why: String| QueryError::Foreign(at.clone(), why);
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("nothing in {}s", PATIENCE.as_secs()));
    let (status, body) =
        timeout(PATIENCE, ask(at, path)).await.map_err(|_| unreachable(late()))?.map_err(unreachable)?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| foreign(format!("at {path}: {error}")));
    }
    match serde_json::from_slice::<ProblemBody>(&body) {
        Ok(refusal) => Err(QueryError::Refused(refusal.detail)),
        Err(_) => Err(foreign(format!("{path} is answered with {status}"))),
    }
}

async fn ask(at: &Address, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let stream = match at {
        Address::Ip(address) => TcpStream::connect(reachable(*address)).await?,
        Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
    };
    // The address itself is always answered to; a name only where the file says so.
    let host = stream.peer_addr()?.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}

/// Who listens on all addresses is asked at the local one.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(at, error) => {
                write!(f, "no balancer answers at {at}: {error}; start it, or say where it is with `--admin HOST:PORT`")
            }
            Self::Refused(detail) => f.write_str(detail),
            Self::Foreign(at, why) => {
                write!(f, "what answers at {at} is no admin address of this version of lb: {why}")
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
pub(super) struct Servers {
    pub(super) servers: Vec<Server>,
}

/// A server as the balancer sees it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Server {
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
    pub(super) last_check: Option<Check>,
    /// Why it is down, while that is for its requests alone.
    pub(super) ejected: Option<Ejection>,
    since: String,
}

/// A server's newest check.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Check {
    at: String,
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
}

/// Why a server is down although its checks pass.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ejection {
    pub(super) error: String,
}

/// `/api/pools`
#[derive(Debug, Deserialize)]
pub(super) struct Pools {
    pub(super) pools: Vec<Pool>,
}

/// A pool.
#[derive(Debug, Deserialize)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) algorithm: Algorithm,
    pub(super) ready: bool,
    pub(super) holding: bool,
    pub(super) active_requests: u64,
    pub(super) requests_total: u64,
}

/// `/api/listeners`
#[derive(Debug, Deserialize)]
pub(super) struct Listeners {
    pub(super) listeners: Vec<Listener>,
}

/// An address that takes clients.
#[derive(Debug, Deserialize)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) connections: u64,
}

/// `/api/config`, where its values are not of interest.
#[derive(Debug, Deserialize)]
pub(super) struct InForce {
    pub(super) generation: u64,
    pub(super) hash: String,
    applied_at: String,
    pub(super) state: ConfigState,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

/// `/api/reloads`
#[derive(Debug, Deserialize)]
pub(super) struct Reloads {
    pub(super) reloads: Vec<Reload>,
}

/// An attempt to bring the file into force.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Reload {
    pub(super) generation: u64,
    pub(super) hash: String,
    pub(super) outcome: Outcome,
    pub(super) at: String,
    pub(super) changes: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl Server {
    /// How long it has had its status.
    pub(super) fn age(&self) -> String {
        age(&self.since)
    }

    /// Whether its checks let it have requests, as far as can be told of one that gets none.
    pub(super) fn is_well(&self) -> bool {
        match self.status {
            Status::Up => true,
            Status::Down | Status::Checking => false,
            Status::Draining | Status::Disabled => self.last_check.as_ref().is_none_or(|check| check.error.is_none()),
        }
    }
}

impl Check {
    /// How long ago it ended.
    pub(super) fn age(&self) -> String {
        age(&self.at)
    }
}

impl InForce {
    /// What there is to say of it beside its values: a sentence each.
    pub(super) fn remarks(&self) -> Vec<String> {
        let state = match self.state {
            ConfigState::Current => None,
            ConfigState::Holding => {
                Some("holding: a pool still serves from its old servers, as no new one has passed a check")
            }
            ConfigState::LastGood => {
                Some("last_good: the balancer's file was rejected; what runs is the last good one")
            }
        };
        state.map(str::to_owned).into_iter().chain(self.warnings.iter().cloned()).collect()
    }

    /// How long it has been in force.
    pub(super) fn age(&self) -> String {
        age(&self.applied_at)
    }
}

impl Reload {
    /// How long ago it ended.
    pub(super) fn age(&self) -> String {
        age(&self.at)
    }
}

/// The time since then in its largest unit: `3m`. Clocks of two machines differ, so none is negative.
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
    fn ages_are_told_in_their_largest_unit() {
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
    fn what_is_no_balancer_is_said_to_be_none() {
        let refuses = Api::new("127.0.0.1:1".parse().expect("an address")).expect("a client");
        let error = refuses.get::<InForce>("/api/config").expect_err("nobody there").to_string();
        assert!(error.starts_with("no balancer answers at 127.0.0.1:1: ") && error.contains("--admin"), "{error}");
    }
}
