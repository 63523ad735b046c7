//! A live server: what is known of one (pool, name, address), through any number of generations.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

use crate::config::Address;
use crate::live::counters::{Counter, Histogram, PerWorker, Tally};
use crate::live::health::HealthState;

/// What makes a server the same server after an edit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey {
    /// Its pool's name.
    pub pool: Arc<str>,
    /// Its own name.
    pub name: Arc<str>,
    /// Where it is, as configured.
    pub address: Address,
}

impl ServerKey {
    /// What makes it the same within its pool.
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

/// A live server. Lives as long as any snapshot names it or any request to it is open.
#[derive(Debug)]
pub struct Server {
    /// Never used twice in a process: what workers know the server by.
    pub id: u64,
    /// Who it is.
    pub key: ServerKey,
    /// Where the address resolves to now; `None` while a host name has not been resolved.
    target: Target,
    state: AtomicU8,
    /// Whether an edit disabled or removed it.
    leaving: AtomicBool,
    /// When the state last changed.
    since: Mutex<SystemTime>,
    last_check: Mutex<Option<Arc<Check>>>,
    /// Tries in a row that failed by its fault, as far as the workers know. Written only when one
    /// fails and when that row ends, so that a request that is answered writes nothing that is shared.
    failures: AtomicU32,
    /// Why it is down, if that is for its requests and no check has failed since.
    ejection: Mutex<Option<Arc<Ejection>>>,
    /// How often it was taken out for its requests; written by the control plane.
    ejections: Counter,
    /// Resident bytes as the server itself says; [`UNKNOWN`] when it does not, or no longer.
    memory: AtomicU64,
    /// Checks that passed, checks that failed; written by the control plane.
    checks: [Counter; 2],
    counters: PerWorker<ServerCounters>,
}

const UNKNOWN: u64 = u64::MAX;

/// Where connections go.
#[derive(Debug)]
enum Target {
    Fixed(SocketAddr),
    /// What the host name was last found to be.
    Resolved(ArcSwapOption<SocketAddr>),
}

/// What only the control plane and who asks it look at: requests never do. Locks are small where there
/// are a hundred thousand servers.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one worker counts of a server.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Tries that began.
    pub started: Counter,
    /// Tries whose answer, body included, has ended one way or another.
    pub finished: Counter,
    /// Connections to it that were opened.
    pub opened: Counter,
    /// Connections to it that were closed.
    pub closed: Counter,
    /// Answers by status; a try without an answer counts as none.
    pub codes: Tally<16>,
    /// From the try's begin to the end of the answer.
    pub seconds: Histogram,
}

/// One health check's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What went wrong, if it failed.
    pub error: Option<String>,
}

/// Why a server is out of the rotation although its checks pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// Since when.
    pub at: SystemTime,
    /// How many requests failed, and how the last did.
    pub error: String,
}

impl Server {
    /// A server in `state`, for `workers` workers.
    #[must_use]
    pub fn new(id: u64, key: ServerKey, state: HealthState, workers: usize) -> Self {
        let target = match key.address {
            Address::Ip(address) => Target::Fixed(address),
            Address::Name(..) => Target::Resolved(ArcSwapOption::empty()),
        };
        Self {
            id,
            key,
            target,
            state: AtomicU8::new(state as u8),
            leaving: AtomicBool::new(false),
            since: Mutex::new(SystemTime::now()),
            last_check: Mutex::default(),
            failures: AtomicU32::new(0),
            ejection: Mutex::default(),
            ejections: Counter::default(),
            memory: AtomicU64::new(UNKNOWN),
            checks: Default::default(),
            counters: PerWorker::new(workers),
        }
    }

    /// Where to connect, if that is known.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddr> {
        match &self.target {
            Target::Fixed(address) => Some(*address),
            Target::Resolved(address) => address.load().as_deref().copied(),
        }
    }

    /// Says where the host name resolves to now.
    pub fn set_target(&self, target: SocketAddr) {
        if let Target::Resolved(address) = &self.target {
            address.store(Some(Arc::new(target)));
        }
    }

    /// What its checks and its requests say.
    #[must_use]
    pub fn state(&self) -> HealthState {
        const STATES: [HealthState; 4] =
            [HealthState::Unchecked, HealthState::Checking, HealthState::Up, HealthState::Down];
        STATES[usize::from(self.state.load(Relaxed))]
    }

    /// Notes a new state, in which nothing has failed yet.
    pub fn set_state(&self, state: HealthState) {
        self.state.store(state as u8, Relaxed);
        *lock(&self.since) = SystemTime::now();
        self.failures.store(0, Relaxed);
        *lock(&self.ejection) = None;
    }

    /// Notes that it has answered a request.
    #[inline]
    pub fn answered(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Notes that a try failed by its fault; how many that makes in a row.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Takes it out for its requests, and says why. Called by the control plane alone.
    pub fn eject(&self, error: String) {
        self.set_state(HealthState::Down);
        self.ejections.add(1);
        *lock(&self.ejection) = Some(Arc::new(Ejection { at: self.since(), error }));
    }

    /// Says that its checks fail too: if it is down, that is no longer for its requests alone.
    pub fn fails_checks(&self) {
        *lock(&self.ejection) = None;
    }

    /// Why it is out, if that is for its requests alone.
    #[must_use]
    pub fn ejection(&self) -> Option<Arc<Ejection>> {
        lock(&self.ejection).clone()
    }

    /// How often it was taken out for its requests.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.get()
    }

    /// Whether an edit disabled or removed it, so that no connection to it is kept.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Says whether it is leaving.
    pub fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// When the state last changed.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        *lock(&self.since)
    }

    /// The newest check, if there was any.
    #[must_use]
    pub fn last_check(&self) -> Option<Arc<Check>> {
        lock(&self.last_check).clone()
    }

    /// Notes a check's end. Called by the control plane alone.
    pub fn set_last_check(&self, check: Check) {
        self.checks[usize::from(check.error.is_some())].add(1);
        *lock(&self.last_check) = Some(Arc::new(check));
    }

    /// Checks that passed, and that failed.
    #[must_use]
    pub fn checks(&self) -> [u64; 2] {
        [self.checks[0].get(), self.checks[1].get()]
    }

    /// Resident bytes as the server itself says, if it does.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        Some(self.memory.load(Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    /// Notes what the server says of its memory; `None` when that is not known, or no longer.
    pub fn set_memory(&self, bytes: Option<u64>) {
        self.memory.store(bytes.unwrap_or(UNKNOWN), Relaxed);
    }

    /// What each worker counted.
    #[must_use]
    pub fn counters(&self) -> &PerWorker<ServerCounters> {
        &self.counters
    }

    /// Open requests now, on all workers.
    #[must_use]
    pub fn active_requests(&self) -> u64 {
        self.counters.open(|set| &set.started, |set| &set.finished)
    }

    /// Open connections now, on all workers.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.open(|set| &set.opened, |set| &set.closed)
    }

    /// Answers it has given.
    #[must_use]
    pub fn requests_total(&self) -> u64 {
        self.counters.sum(|set| set.codes.total())
    }
}
