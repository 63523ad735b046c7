//! A live server: the state of one (pool, name, address), across generations.

mod address;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use self::address::ResolvedAddress;
use self::tls::ServerTls;
use crate::config::{Address, ProxyHeaderVersion, UpstreamConfig};
use crate::live::balance::Penalty;
use crate::live::counters::{Counter, Histogram, PerWorker, Tally};
use crate::live::evidence::FailureSeries;
use crate::live::health::HealthState;

/// The identity of a server: after an edit, a server with the same key is the same server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey {
    pub pool: Arc<str>,
    pub name: Arc<str>,
    /// As configured.
    pub address: Address,
}

impl ServerKey {
    /// The identity within the pool.
    #[must_use]
    pub fn identity(&self) -> (&str, &Address) {
        (&self.name, &self.address)
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// The id of a live server: unique in the process and never reused, so that workers can key their idle connections
/// by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u64);

/// A live server. Lives as long as a snapshot contains it or a request to it is open.
#[derive(Debug)]
pub struct Server {
    pub id: ServerId,
    pub key: ServerKey,
    resolved: ResolvedAddress,
    idle: IdleLimits,
    tls: ServerTls,
    /// The version of the PROXY header that new connections begin with, or [`NO_HEADER`].
    proxy_header: AtomicU8,
    /// A [`HealthState`].
    state: AtomicU8,
    /// Whether an edit disabled or removed it.
    leaving: AtomicBool,
    /// When the state last changed.
    since: Mutex<SystemTime>,
    last_check: Mutex<Option<Arc<Check>>>,
    /// Consecutive attempts that failed because of the server.
    pub failures: FailureSeries,
    /// Recent failures, which least-connections counts as open requests.
    pub penalty: Penalty,
    /// Set from an ejection until the server is up again or its checks fail too.
    ejection: Mutex<Option<Arc<Ejection>>>,
    /// Written by the control plane.
    ejections: Counter,
    /// Resident bytes as reported by the server itself, or [`UNKNOWN`].
    memory: AtomicU64,
    /// Passed and failed checks. Written by the control plane.
    checks: [Counter; 2],
    counters: PerWorker<ServerCounters>,
}

const UNKNOWN: u64 = u64::MAX;

/// [`Server::proxy_header`] if there is none.
const NO_HEADER: u8 = 0;

/// The limits for idle connections. An edit changes them, and they apply to connections that are idle already.
#[derive(Debug, Default)]
struct IdleLimits {
    milliseconds: AtomicU64,
    connections: AtomicUsize,
    /// The number of times that all idle connections had to be closed.
    ended: AtomicU32,
    /// Whether none is kept, from such a time until a check has passed.
    suspended: AtomicBool,
}

/// One worker's counters of a server.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Attempts started.
    pub started: Counter,
    /// Attempts finished: the response, including its body, is complete or has failed.
    pub finished: Counter,
    /// Connections opened.
    pub opened: Counter,
    /// Connections closed.
    pub closed: Counter,
    /// Responses by status. An attempt without a response is not counted here.
    pub codes: Tally<16>,
    /// From the start of an attempt to the end of the response.
    pub seconds: Histogram,
}

/// The result of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The end of the check.
    pub at: SystemTime,
    pub took: Duration,
    /// `None` if it passed.
    pub error: Option<String>,
    /// Whether the server refused the connection.
    pub refused: bool,
    /// How to change the check, if it may not suit the server.
    pub hint: Option<String>,
}

/// Why a server gets no requests although its checks pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    pub at: SystemTime,
    /// The number of failed requests, and the error of the last one.
    pub error: String,
    /// Whether the server could not be connected to, so that it is worth checking soon whether it is back.
    pub refused: bool,
}

impl Server {
    #[must_use]
    pub fn new(id: ServerId, key: ServerKey, state: HealthState, workers: usize) -> Self {
        let resolved = ResolvedAddress::new(&key.address);
        let idle = IdleLimits::default();
        let server = Self {
            id,
            key,
            resolved,
            idle,
            tls: ServerTls::default(),
            proxy_header: AtomicU8::new(NO_HEADER),
            state: AtomicU8::new(state as u8),
            leaving: AtomicBool::new(false),
            since: Mutex::new(SystemTime::now()),
            last_check: Mutex::default(),
            failures: FailureSeries::default(),
            penalty: Penalty::new(Instant::now()),
            ejection: Mutex::default(),
            ejections: Counter::default(),
            memory: AtomicU64::new(UNKNOWN),
            checks: Default::default(),
            counters: PerWorker::new(workers),
        };
        server.set_idle_limits(&UpstreamConfig::default());
        server
    }

    /// Sets the limits for idle connections.
    pub fn set_idle_limits(&self, config: &UpstreamConfig) {
        let milliseconds = u64::try_from(config.idle.as_millis()).unwrap_or(u64::MAX);
        self.idle.milliseconds.store(milliseconds, Relaxed);
        self.idle.connections.store(config.idle_connections, Relaxed);
    }

    /// Sets the version of the PROXY header that new connections begin with.
    pub fn set_proxy_header(&self, version: Option<ProxyHeaderVersion>) {
        let version = match version {
            None => NO_HEADER,
            Some(ProxyHeaderVersion::V1) => 1,
            Some(ProxyHeaderVersion::V2) => 2,
        };
        self.proxy_header.store(version, Relaxed);
    }

    /// The version of the PROXY header that new connections begin with, if any.
    #[must_use]
    pub fn proxy_header(&self) -> Option<ProxyHeaderVersion> {
        match self.proxy_header.load(Relaxed) {
            1 => Some(ProxyHeaderVersion::V1),
            2 => Some(ProxyHeaderVersion::V2),
            _ => None,
        }
    }

    /// How long a connection may be idle.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle.milliseconds.load(Relaxed))
    }

    /// The most idle connections that each worker keeps.
    #[must_use]
    pub fn max_idle(&self) -> usize {
        self.idle.connections.load(Relaxed)
    }

    /// Whether connections are kept for another request.
    #[must_use]
    pub fn keeps_connections(&self) -> bool {
        self.max_idle() > 0 && !self.idle_timeout().is_zero() && !self.idle.suspended.load(Relaxed)
    }

    /// Ends all connections that are idle now: workers close them at once when they are told, and use none of them. No
    /// others are kept until [`Server::allow_idle`], so that the server is free for its next check.
    pub fn end_idle(&self) {
        self.idle.suspended.store(true, Relaxed);
        self.idle.ended.fetch_add(1, Relaxed);
    }

    /// Lets connections be kept again, as far as the limits allow, because a check has passed.
    pub fn allow_idle(&self) {
        self.idle.suspended.store(false, Relaxed);
    }

    /// The number of calls of [`Server::end_idle`]: connections that were idle before the last one have ended.
    #[must_use]
    pub fn idle_ended(&self) -> u32 {
        self.idle.ended.load(Relaxed)
    }

    /// The health, according to its checks and its requests.
    #[must_use]
    pub fn state(&self) -> HealthState {
        const STATES: [HealthState; 4] =
            [HealthState::Unchecked, HealthState::Checking, HealthState::Up, HealthState::Down];
        STATES[usize::from(self.state.load(Relaxed))]
    }

    /// Sets the health, and clears the failures that led to it.
    pub fn set_state(&self, state: HealthState) {
        self.state.store(state as u8, Relaxed);
        *self.since.lock() = SystemTime::now();
        self.failures.end();
        *self.ejection.lock() = None;
    }

    /// Ejects the server because its requests fail. `refused` is whether it cannot be connected to. Called only by the
    /// control plane.
    pub fn eject(&self, error: String, refused: bool) {
        self.set_state(HealthState::Down);
        self.ejections.add(1);
        *self.ejection.lock() = Some(Arc::new(Ejection { at: self.since(), error, refused }));
    }

    /// Forgets the ejection because the checks fail too. The server stays down.
    pub fn clear_ejection(&self) {
        *self.ejection.lock() = None;
    }

    /// The ejection, if the server is down only because of its requests.
    #[must_use]
    pub fn ejection(&self) -> Option<Arc<Ejection>> {
        self.ejection.lock().clone()
    }

    /// How often the server was ejected.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.get()
    }

    /// Whether an edit disabled or removed the server, so that its connections are not kept for reuse.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// When the state last changed.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        *self.since.lock()
    }

    /// The latest check, if there has been one.
    #[must_use]
    pub fn last_check(&self) -> Option<Arc<Check>> {
        self.last_check.lock().clone()
    }

    /// Records a check. Called only by the control plane.
    pub fn set_last_check(&self, check: Check) {
        self.checks[usize::from(check.error.is_some())].add(1);
        *self.last_check.lock() = Some(Arc::new(check));
    }

    /// The numbers of passed and of failed checks.
    #[must_use]
    pub fn checks(&self) -> [u64; 2] {
        [self.checks[0].get(), self.checks[1].get()]
    }

    /// The resident memory in bytes, if the server reports it.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        Some(self.memory.load(Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    /// Sets the memory that the server reports; `None` if it is unknown.
    pub fn set_memory(&self, bytes: Option<u64>) {
        self.memory.store(bytes.unwrap_or(UNKNOWN), Relaxed);
    }

    #[must_use]
    pub fn counters(&self) -> &PerWorker<ServerCounters> {
        &self.counters
    }

    /// The number of open requests, on all workers.
    #[must_use]
    pub fn active_requests(&self) -> u64 {
        self.counters.open(|set| &set.started, |set| &set.finished)
    }

    /// The number of open connections, on all workers.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.open(|set| &set.opened, |set| &set.closed)
    }

    /// The number of responses so far.
    #[must_use]
    pub fn requests_total(&self) -> u64 {
        self.counters.sum(|set| set.codes.total())
    }
}
