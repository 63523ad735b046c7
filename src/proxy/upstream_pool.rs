//! A worker's connections to servers. Each worker has its own, so that taking an idle one needs no lock.

mod rest;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::config::Address;
use crate::http1::client::ClientConnection;
use crate::live::server::{Server, ServerId};
use crate::proxy::upstream::Upstream;
use crate::transport::Transport;

/// The time after which an idle connection is closed. If a server closes it earlier, just as it is reused, the request
/// is retried if that is safe.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The least that an idle connection is closed before the time that the server says it keeps it. A request that is on its
/// way when the server closes fails.
const MARGIN: Duration = Duration::from_secs(1);
/// A server that closes an idle connection sooner than this is restarting, or never keeps one although it says so.
const EARLY: Duration = Duration::from_secs(1);
/// The number of connections closed early, in a row, from which on a request that could not be sent again gets a new
/// connection.
const MAX_CLOSED_EARLY: u8 = 3;
/// A server that keeps an idle connection for this long may serve another request on it: one that cannot be sent again
/// finds out.
const LONG: Duration = Duration::from_secs(10);
/// The most idle connections that are kept per server and worker.
const MAX_IDLE: usize = 256;

/// A connection to a server.
#[derive(Debug)]
pub struct UpstreamConnection {
    /// The protocol and the connection.
    pub upstream: Upstream,
    /// Whether it has carried a request before.
    pub reused: bool,
    /// Since when it has been idle, or had been when it was taken.
    idle_since: Option<Instant>,
    peer: SocketAddr,
    _counted: Counted,
    _slot: Slot,
}

/// Why connecting failed.
#[derive(Debug)]
pub enum ConnectError {
    /// The server's host name has not been resolved.
    Unresolved,
    /// The system's error.
    Io(io::Error),
}

/// A worker's connections to servers: the idle ones, by server, and the number of all.
#[derive(Debug)]
pub struct UpstreamPool {
    idle: RefCell<FxHashMap<ServerId, IdleConnections>>,
    /// The number of connections: in use, idle or being opened.
    open: Rc<Cell<usize>>,
    /// From this number on, opening a connection closes an idle one.
    limit: usize,
}

/// The idle connections to one server, the most recently used last.
#[derive(Debug)]
struct IdleConnections {
    server: Arc<Server>,
    connections: Vec<IdleConnection>,
    /// How many of its connections in a row were closed [`EARLY`].
    closed_early: u8,
}

#[derive(Debug)]
struct IdleConnection {
    connection: UpstreamConnection,
    since: Instant,
    /// For how long it may be idle.
    limit: Duration,
}

impl UpstreamPool {
    /// A pool without connections. From `limit` connections on, opening another one closes an idle one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { idle: RefCell::default(), open: Rc::default(), limit }
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// [`ConnectError`]. The caller sets the timeout.
    pub async fn open(&self, server: &Arc<Server>, worker: usize) -> Result<UpstreamConnection, ConnectError> {
        while self.open.get() >= self.limit && self.close_oldest() {}
        let peer = server.target().ok_or(ConnectError::Unresolved)?;
        let slot = Slot::new(&self.open);
        let transport = Transport::connect(peer).await.map_err(ConnectError::Io)?;
        let upstream = Upstream::Http1(ClientConnection::new(transport));
        let counted = Counted::new(server, worker);
        Ok(UpstreamConnection { upstream, reused: false, idle_since: None, peer, _counted: counted, _slot: slot })
    }

    /// Adds an existing connection to a server at `peer`.
    #[must_use]
    pub fn adopt(
        &self,
        upstream: Upstream,
        peer: SocketAddr,
        server: &Arc<Server>,
        worker: usize,
    ) -> UpstreamConnection {
        let (counted, slot) = (Counted::new(server, worker), Slot::new(&self.open));
        UpstreamConnection { upstream, reused: true, idle_since: None, peer, _counted: counted, _slot: slot }
    }

    /// Closes the connection that has been idle the longest; false if none is idle.
    fn close_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let since = |idle: &IdleConnections| idle.connections.first().map(|idle| idle.since);
        let Some(oldest) = idle.values_mut().filter(|idle| since(idle).is_some()).min_by_key(|idle| since(idle)) else {
            return false;
        };
        drop(oldest.connections.remove(0));
        true
    }

    /// Takes the most recently used idle connection to a server, and drops those that no longer work. A request that is
    /// not `repeatable` gets a connection only if it is most unlikely that the server is closing it.
    pub fn take(&self, server: ServerId, repeatable: bool) -> Option<UpstreamConnection> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(&server)?;
        while repeatable || idle.closed_early < MAX_CLOSED_EARLY {
            let IdleConnection { mut connection, since, .. } = idle.connections.pop()?;
            let upstream = &connection.upstream;
            if upstream.is_quiet() && (repeatable || upstream.is_quiet_now()) {
                if connection.leads_to(&idle.server) {
                    connection.idle_since = Some(since);
                    return Some(connection);
                }
            } else {
                idle.count_closed(since);
            }
        }
        None
    }

    /// Keeps an idle connection for reuse, unless enough are kept for its server. `timeout` is the time for which the
    /// server says that it keeps it.
    pub fn put(
        &self,
        server: &Arc<Server>,
        mut connection: UpstreamConnection,
        now: Instant,
        timeout: Option<Duration>,
    ) {
        let limit = timeout.map_or(IDLE_TIMEOUT, idle_limit);
        if limit.is_zero() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(server.id).or_insert_with(|| IdleConnections::new(server));
        if connection.reused {
            idle.closed_early = 0;
        }
        connection.reused = true;
        if idle.connections.len() < MAX_IDLE {
            idle.connections.push(IdleConnection { connection, since: now, limit });
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

    /// Closes idle connections that are too old, that the server has closed, that lead to a former address of the
    /// server, or whose server is leaving.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.sweep(now);
            let is_known = !idle.connections.is_empty() || idle.closed_early > 0;
            is_known && !idle.server.is_leaving()
        });
    }
}

impl IdleConnections {
    fn new(server: &Arc<Server>) -> Self {
        Self { server: Arc::clone(server), connections: Vec::new(), closed_early: 0 }
    }

    fn sweep(&mut self, now: Instant) {
        let (server, closed_early) = (&self.server, &mut self.closed_early);
        self.connections.retain(|IdleConnection { connection, since, limit }| {
            let (age, is_quiet) = (now.saturating_duration_since(*since), connection.upstream.is_quiet());
            match is_quiet {
                true if age >= LONG => *closed_early = (*closed_early).min(MAX_CLOSED_EARLY - 1),
                false if age < EARLY => *closed_early = closed_early.saturating_add(1),
                _ => {}
            }
            is_quiet && age < *limit && connection.leads_to(server)
        });
    }

    /// Counts a connection that was found closed, if it had become idle shortly before.
    fn count_closed(&mut self, since: Instant) {
        if since.elapsed() < EARLY {
            self.closed_early = self.closed_early.saturating_add(1);
        }
    }
}

/// Returns how long a connection may be idle that its server keeps for `timeout`.
fn idle_limit(timeout: Duration) -> Duration {
    let early = timeout.saturating_sub(MARGIN).max(timeout / 2);
    early.min(IDLE_TIMEOUT)
}

impl UpstreamConnection {
    /// Whether the server is still at the other end: its host name may have been resolved to another address since.
    fn leads_to(&self, server: &Server) -> bool {
        match server.key.address {
            Address::Ip(_) => true,
            Address::Name(..) => server.target() == Some(self.peer),
        }
    }
}

/// Counts a connection for its server while it exists.
#[derive(Debug)]
struct Counted {
    server: Arc<Server>,
    worker: usize,
}

impl Counted {
    fn new(server: &Arc<Server>, worker: usize) -> Self {
        server.counters().of(worker).opened.add(1);
        Self { server: Arc::clone(server), worker }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.server.counters().of(self.worker).closed.add(1);
    }
}

/// Counts a connection for its [`UpstreamPool`] while it exists or is being opened.
#[derive(Debug)]
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::health::HealthState;
    use crate::live::server::ServerKey;

    #[tokio::test]
    async fn a_connection_to_the_old_address_of_a_name_is_not_reused() {
        let [here, there] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let address = |socket: &std::net::TcpListener| socket.local_addr().expect("an address");
        let name = Address::Name("backend".to_owned(), address(&here).port());
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address: name };
        let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
        let upstreams = UpstreamPool::new(9);
        for (before, after, kept) in [(&here, &here, true), (&here, &there, false)] {
            for swept in [false, true] {
                server.set_target(address(before));
                let connection = upstreams.open(&server, 0).await.expect("a connection");
                upstreams.put(&server, connection, Instant::now(), None);
                server.set_target(address(after));
                if swept {
                    upstreams.sweep(Instant::now());
                    assert_eq!(server.connections(), u64::from(kept));
                }
                assert_eq!(upstreams.take(server.id, true).is_some(), kept);
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_closes_connections_early_gets_new_ones_for_what_cannot_be_repeated() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Ip(socket.local_addr().expect("an address"));
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
        let upstreams = UpstreamPool::new(9);
        let now = Instant::now();
        let open = async || upstreams.open(&server, 0).await.expect("a connection");
        for (closed, is_taken) in [(0, true), (2, true), (3, false)] {
            upstreams.put(&server, open().await, now, None);
            for _ in 0..closed {
                upstreams.put(&server, open().await, Instant::now(), None);
                let taken = upstreams.take(server.id, true).expect("an idle connection");
                upstreams.found_closed(&server, &taken);
            }
            assert_eq!(upstreams.take(server.id, false).is_some(), is_taken, "{closed}");
        }
        // A sweep in between forgets a server of which nothing is known.
        let taken = upstreams.take(server.id, true).expect("an idle connection");
        upstreams.idle.borrow_mut().clear();
        (0..3).for_each(|_| upstreams.found_closed(&server, &taken));
        upstreams.sweep(now);
        upstreams.put(&server, open().await, now, None);
        assert!(upstreams.take(server.id, false).is_none());
        // One that is reused, or that stays open for long, restores the trust.
        for reused in [true, false] {
            let taken = upstreams.take(server.id, true).expect("an idle connection");
            for _ in 0..3 {
                upstreams.found_closed(&server, &taken);
            }
            if reused {
                upstreams.put(&server, taken, now, None);
            } else {
                upstreams.put(&server, open().await, now, None);
                assert!(upstreams.take(server.id, false).is_none());
                upstreams.sweep(now + EARLY);
                assert!(upstreams.take(server.id, false).is_none(), "it may close when the next request arrives");
                upstreams.sweep(now + LONG);
            }
            let taken = upstreams.take(server.id, false).expect("an idle connection");
            upstreams.put(&server, taken, now, None);
        }
    }

    #[tokio::test]
    async fn a_connection_is_closed_before_the_server_does_so() {
        for (timeout, limit) in [(0, 0), (1, 500), (2, 1000), (5, 4000), (300, 60_000)] {
            assert_eq!(idle_limit(Duration::from_secs(timeout)), Duration::from_millis(limit), "{timeout}");
        }
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Ip(socket.local_addr().expect("an address"));
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
        let (upstreams, now) = (UpstreamPool::new(9), Instant::now());
        for (timeout, age, is_kept) in [(0, 0, false), (5, 3999, true), (5, 4000, false)] {
            let connection = upstreams.open(&server, 0).await.expect("a connection");
            upstreams.put(&server, connection, now, Some(Duration::from_secs(timeout)));
            upstreams.sweep(now + Duration::from_millis(age));
            assert_eq!(upstreams.take(server.id, true).is_some(), is_kept, "{timeout} {age}");
        }
    }

    #[tokio::test]
    async fn at_the_limit_the_longest_idle_connection_is_closed() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Ip(socket.local_addr().expect("an address"));
        let servers = [1, 2].map(|id| {
            let key =
                ServerKey { pool: "default".into(), name: format!("server{id}").into(), address: address.clone() };
            Arc::new(Server::new(ServerId(id), key, HealthState::Up, 1))
        });
        let upstreams = UpstreamPool::new(3);
        let start = Instant::now();
        let open = async |server: usize| upstreams.open(&servers[server], 0).await.expect("a connection");
        let (first, second, third) = (open(0).await, open(1).await, open(0).await);
        upstreams.put(&servers[0], first, start + IDLE_TIMEOUT, None);
        upstreams.put(&servers[1], second, start, None);
        let fourth = open(0).await;
        assert_eq!((servers[0].connections(), servers[1].connections()), (3, 0), "the other server's was closed");
        let fifth = open(1).await;
        assert_eq!((servers[0].connections(), servers[1].connections()), (2, 1));
        // Connections in use are never closed.
        let sixth = open(1).await;
        assert_eq!(upstreams.open.get(), 4);
        drop((third, fourth, fifth, sixth));
        assert_eq!(upstreams.open.get(), 0);
    }
}
