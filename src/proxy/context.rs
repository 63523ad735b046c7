//! Everything that the requests of one worker share.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Cache};
use tokio::sync::mpsc::UnboundedSender;

use crate::http1::resources::Resources;
use crate::live::descriptors::Descriptors;
use crate::live::server::Server;
use crate::live::snapshot::Snapshot;
use crate::proxy::error::ProxyError;
use crate::proxy::retry::Progress;
use crate::proxy::timeouts::Watchdog;
use crate::proxy::upstream_pool::UpstreamPool;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::trace::SpanSink;

/// For how long one moment on both clocks tells the time of day.
const CLOCKS_AGREE: Duration = Duration::from_secs(1);

/// One per worker.
#[derive(Debug)]
pub struct Context {
    /// The worker's number, from 0, which is also the index of its counters.
    pub worker: usize,
    /// Connections to servers.
    pub upstreams: UpstreamPool,
    /// The timeouts of client connections and requests.
    pub watchdog: Watchdog,
    /// The destination of spans.
    pub spans: SpanSink,
    /// Memory that connections share.
    pub resources: Resources,
    log: RefCell<AccessLog>,
    rng: RefCell<fastrand::Rng>,
    /// One recent moment on both clocks, by which an [`Instant`] is converted to a time of day.
    clocks: Cell<(Instant, SystemTime)>,
    newest: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    /// The newest snapshot as of the last call of [`Context::snapshot`]. Requests share it through an [`Rc`],
    /// because all workers share the count of the [`Arc`], and each request would cost a contended write.
    current: RefCell<Rc<CurrentSnapshot>>,
    reports: UnboundedSender<ServerReport>,
    /// Limits the messages about connections that are closed because of their PROXY header.
    pub refused_headers: RefCell<LogThrottle>,
}

/// A snapshot as the requests of one worker share it.
#[derive(Debug)]
pub struct CurrentSnapshot(Arc<Snapshot>);

impl Deref for CurrentSnapshot {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// A worker's report to the control plane.
#[derive(Debug, Clone)]
pub enum ServerReport {
    /// Attempts at a server fail, and the server is to blame.
    Failing(Failing),
    /// A server that is ejected has served a request as a last resort.
    Served(Arc<Server>),
}

/// A server at which attempts fail.
#[derive(Debug, Clone)]
pub struct Failing {
    pub server: Arc<Server>,
    /// The number of attempts in a row that failed.
    pub failures: u32,
    /// The error of the last one.
    pub error: ProxyError,
}

impl Failing {
    /// Whether the server could not be connected to.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.error.progress() == Some(Progress::NotConnected)
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failures {
            1 => write!(f, "a request failed: {}", self.error)?,
            failures => write!(f, "{failures} requests in a row failed: {}", self.error)?,
        }
        match self.server.addresses().filter(|_| self.error.progress() == Some(Progress::NotConnected)) {
            Some(addresses) => write!(f, " ({})", addresses),
            None => Ok(()),
        }
    }
}

impl Context {
    /// The context of a worker. `reports` leads to the control plane.
    #[must_use]
    pub fn new(
        worker: usize,
        snapshot: Arc<ArcSwap<Snapshot>>,
        log: AccessLog,
        spans: SpanSink,
        descriptors: Arc<Descriptors>,
        reports: UnboundedSender<ServerReport>,
    ) -> Self {
        let current = Rc::new(CurrentSnapshot(snapshot.load_full()));
        let resources = Resources::default();
        Self {
            worker,
            upstreams: UpstreamPool::new(descriptors, worker, &resources.buffers),
            watchdog: Watchdog::new(),
            spans,
            resources,
            log: RefCell::new(log),
            rng: RefCell::default(),
            clocks: Cell::new((Instant::now(), SystemTime::now())),
            newest: RefCell::new(Cache::new(snapshot)),
            current: RefCell::new(current),
            reports,
            refused_headers: RefCell::new(LogThrottle::every(Duration::from_secs(1))),
        }
    }

    /// The newest snapshot. Costs one comparison if it has not changed since the last call.
    #[inline]
    #[must_use]
    pub fn snapshot(&self) -> Rc<CurrentSnapshot> {
        let mut newest = self.newest.borrow_mut();
        let newest = newest.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(newest, &current.0) {
            *current = Rc::new(CurrentSnapshot(Arc::clone(newest)));
        }
        Rc::clone(&current)
    }

    /// The worker's access log.
    pub fn log(&self) -> RefMut<'_, AccessLog> {
        self.log.borrow_mut()
    }

    /// The worker's random numbers; not for secrets.
    pub fn rng(&self) -> RefMut<'_, fastrand::Rng> {
        self.rng.borrow_mut()
    }

    /// The time of day at `moment`, which is not long ago.
    #[must_use]
    pub fn time_of(&self, moment: Instant) -> SystemTime {
        let (mut then, mut time) = self.clocks.get();
        if moment.saturating_duration_since(then) > CLOCKS_AGREE {
            // Ticks have paused meanwhile, and the time of day may have been set.
            (then, time) = (Instant::now(), SystemTime::now());
            self.clocks.set((then, time));
        }
        time + moment.saturating_duration_since(then) - then.saturating_duration_since(moment)
    }

    /// Reports something about a server to the control plane.
    pub fn report(&self, report: ServerReport) {
        // The receiver is gone only when the process ends.
        let _ = self.reports.send(report);
    }

    /// Does periodic work: timeouts, idle connections and buffers, the log. `step` is the time until the next call, unless
    /// ticks pause.
    pub fn tick(&self, now: Instant, step: Duration) {
        self.clocks.set((now, SystemTime::now()));
        self.watchdog.sweep(now, step);
        self.upstreams.sweep(now);
        self.resources.buffers.sweep();
        self.log().flush();
        // Without requests, nothing else releases an old snapshot.
        drop(self.snapshot());
    }

    /// Whether the last ticks have found nothing to do, so that they may pause.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.watchdog.is_quiet() && self.resources.buffers.is_settled()
    }

    /// The time at which a tick will have something to do, if nothing happens until then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.watchdog.next_deadline(), self.upstreams.next_deadline()].into_iter().flatten().min()
    }

    /// Ready once ticks have to go on: when a timeout is set, or a server closes an idle connection.
    pub async fn stirred(&self) {
        tokio::select! {
            () = self.watchdog.stirred() => {}
            () = self.upstreams.closed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::live::health::HealthState;
    use crate::live::server::{ServerId, ServerKey};

    #[test]
    fn a_report_says_how_many_requests_failed_and_how() {
        let address = Address::Name("backend".to_owned(), 80);
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
        let text = |failures, error| Failing { server: Arc::clone(&server), failures, error }.to_string();
        let refused = ProxyError::Unreachable(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(text(3, refused), "3 requests in a row failed: connection refused");
        assert_eq!(text(1, ProxyError::ResponseTimeout), "a request failed: response timeout");
    }
}
