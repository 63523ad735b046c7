//! A worker's connections to servers. Each worker has its own, so that taking an idle one needs no lock.

mod connect;
mod counted;
mod idle;
mod rest;
mod secure;
mod share;
mod shared;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

pub use self::connect::{ConnectError, WantedConnection};
use self::counted::{Counted, Slot};
use self::idle::IdleConnections;
use self::secure::FailureLog;
use self::share::SharedMap;
use self::shared::SharedConnections;
pub use self::shared::{ConnectionId, StreamPlace};
use crate::config::{Address, HttpProtocol};
use crate::live::descriptors::Descriptors;
use crate::live::server::{Server, ServerId};
use crate::proxy::client::OwnerId;
use crate::proxy::upstream::Upstream;
use crate::telemetry::log_throttle::LogThrottle;
use crate::transport::Buffers;

/// The least time between two log messages about a shortage of descriptors.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A connection to a server.
#[derive(Debug)]
pub struct UpstreamConnection {
    /// The protocol and the connection.
    pub upstream: Upstream,
    /// The client that alone may use it, if it began with a PROXY header.
    pub owner: Option<OwnerId>,
    /// Whether it has carried a request before.
    pub reused: bool,
    /// Since when it has been idle, or had been when it was taken.
    idle_since: Option<Instant>,
    /// `None` for a Unix socket.
    peer: Option<SocketAddr>,
    /// [`Server::tls_changes`] when it was opened.
    tls_changes: u32,
    /// `None` if it is shared.
    _counted: Option<Counted>,
}

/// A worker's connections to servers: the idle ones, by server, and the number of all.
#[derive(Debug)]
pub struct UpstreamPool {
    idle: RefCell<FxHashMap<ServerId, IdleConnections>>,
    /// Those over HTTP/2, which requests share.
    shared: SharedMap,
    /// The number of those so far.
    shared_opened: Cell<u64>,
    /// Notified when one of them ends.
    shared_ended: Rc<Notify>,
    /// The worker's unused buffers.
    buffers: Rc<Buffers>,
    descriptors: Arc<Descriptors>,
    worker: usize,
    /// The number of requests that wait for a descriptor.
    waiting: Cell<usize>,
    /// Notified when a connection closes or becomes idle, if a request waits.
    freed: Notify,
    shortage: RefCell<LogThrottle>,
    tls_failures: FailureLog,
    /// The newest owner of connections.
    owners: Cell<NonZeroU64>,
}

impl UpstreamPool {
    /// A pool without connections. While there is no descriptor for another one, idle ones are closed.
    #[must_use]
    pub fn new(descriptors: Arc<Descriptors>, worker: usize, buffers: &Rc<Buffers>) -> Self {
        Self {
            idle: RefCell::default(),
            shared: SharedMap::default(),
            shared_opened: Cell::new(0),
            shared_ended: Rc::default(),
            buffers: Rc::clone(buffers),
            descriptors,
            worker,
            waiting: Cell::new(0),
            freed: Notify::new(),
            shortage: RefCell::new(LogThrottle::every(LOG_INTERVAL)),
            tls_failures: FailureLog::default(),
            owners: Cell::new(NonZeroU64::MIN),
        }
    }

    /// Closes the idle connections that only this client may use, because it has left.
    pub fn close_own(&self, owner: OwnerId) {
        self.idle.borrow_mut().values_mut().for_each(|idle| idle.close_own(owner));
        self.shared.borrow_mut().values_mut().for_each(|shared| shared.close_own(owner));
    }

    /// Adds an existing connection to a server at `peer`.
    #[must_use]
    pub fn adopt(&self, upstream: Upstream, peer: Option<SocketAddr>, server: &Arc<Server>) -> UpstreamConnection {
        let counted = Counted::new(server, self.worker, Slot::new(&self.descriptors, self.worker));
        let (owner, reused, idle_since, tls_changes) = (None, true, None, server.tls_changes());
        UpstreamConnection { upstream, owner, reused, idle_since, peer, tls_changes, _counted: Some(counted) }
    }

    #[cfg(test)]
    fn descriptors_in_use(&self) -> usize {
        self.descriptors.servers()
    }

    /// Closes idle connections until there is a descriptor for another one; false if there is none.
    pub fn make_room(&self) -> bool {
        loop {
            if self.descriptors.has_room_for_server() {
                return true;
            }
            if !self.close_oldest() {
                return false;
            }
        }
    }

    /// Closes the connection that has been idle the longest; false if none is idle.
    pub fn close_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let oldest = idle.values_mut().filter(|idle| idle.oldest().is_some()).min_by_key(|idle| idle.oldest());
        if oldest.is_some_and(IdleConnections::close_oldest) {
            return true;
        }
        let mut shared = self.shared.borrow_mut();
        let oldest =
            shared.values_mut().filter(|shared| shared.oldest().is_some()).min_by_key(|shared| shared.oldest());
        oldest.is_some_and(SharedConnections::close_oldest)
    }

    /// Takes a connection that needs no waiting, if there is one. Over HTTP/1.1, that is the most recently used idle one; those
    /// that no longer work are dropped.
    pub fn take(&self, wanted: &WantedConnection<'_>) -> Option<UpstreamConnection> {
        if wanted.only_new {
            return None;
        }
        let owner = wanted.owner().ok()?;
        match wanted.protocol() {
            Some(HttpProtocol::Http1) => self.take_idle(wanted.server.id, owner, wanted.repeatable),
            Some(HttpProtocol::Http2) if !wanted.upgrades => self.take_place(wanted, owner),
            Some(HttpProtocol::Http2) | None => None,
        }
    }

    /// Takes an idle connection over HTTP/1.1 that belongs to `owner`. A request that is not `repeatable` gets one only if it
    /// is most unlikely that the server is closing it.
    pub fn take_idle(&self, server: ServerId, owner: Option<OwnerId>, repeatable: bool) -> Option<UpstreamConnection> {
        self.idle.borrow_mut().get_mut(&server)?.take(owner, repeatable)
    }

    /// Keeps an idle connection for reuse, as far as its server's limits allow that. `announced` is the time for which the
    /// server says that it keeps it.
    pub fn put(&self, server: &Arc<Server>, connection: UpstreamConnection, now: Instant, announced: Option<Duration>) {
        if server.keeps_connections() && !announced.is_some_and(|time| time.is_zero()) {
            let mut idle = self.idle.borrow_mut();
            idle.entry(server.id).or_insert_with(|| IdleConnections::new(server)).put(connection, now, announced);
        }
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }

    /// Notes that the server had closed an idle connection when a request was sent on it.
    pub fn found_closed(&self, server: &Arc<Server>, connection: &UpstreamConnection) {
        if let Some(since) = connection.idle_since {
            // A sweep may have forgotten the server meanwhile.
            let mut idle = self.idle.borrow_mut();
            idle.entry(server.id).or_insert_with(|| IdleConnections::new(server)).count_closed(since);
        }
    }

    /// Closes idle connections that are too old or too many, that the server has closed, that lead to a former address of
    /// the server, or whose server is leaving or does not respond. While descriptors are short, half of the others go too.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let is_short = !idle.is_empty() && !self.descriptors.has_room_for_server();
        idle.retain(|_, idle| {
            idle.sweep(now);
            if is_short {
                idle.halve();
            }
            idle.is_worth_keeping()
        });
        self.shared.borrow_mut().retain(|_, shared| {
            shared.sweep(now);
            shared.is_worth_keeping()
        });
    }
}

impl UpstreamConnection {
    /// Whether the server is still at the other end: its host name may have been resolved to another address since.
    fn leads_to(&self, server: &Server) -> bool {
        leads_to(self.peer, server)
    }

    /// Its id, if it is shared.
    #[must_use]
    pub fn id(&self) -> Option<ConnectionId> {
        match &self.upstream {
            Upstream::Http2(place) => Some(place.id()),
            _ => None,
        }
    }

    /// Notes that a response was waited for in vain; that counts only if it was for `patience`.
    pub fn waited_in_vain(&self, patience: Duration) {
        if let Upstream::Http2(place) = &self.upstream {
            place.waited_in_vain(patience);
        }
    }
}

/// Whether the server is still at `peer`.
fn leads_to(peer: Option<SocketAddr>, server: &Server) -> bool {
    match server.key.address {
        Address::Ip(_) | Address::Unix(_) => true,
        Address::Name(..) => server.target().and_then(|target| target.ip()) == peer,
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.upstream.announce_end();
    }
}

#[cfg(test)]
mod tests;
