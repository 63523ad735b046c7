//! A worker's connections to servers. Each worker has its own, so that taking an idle one needs no lock.

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
/// The most idle connections that are kept per server and worker.
const MAX_IDLE: usize = 256;

/// A connection to a server.
#[derive(Debug)]
pub struct UpstreamConnection {
    /// The protocol and the connection.
    pub upstream: Upstream,
    /// Whether it has carried a request before.
    pub reused: bool,
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
    connections: Vec<(UpstreamConnection, Instant)>,
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
        Ok(UpstreamConnection { upstream, reused: false, peer, _counted: Counted::new(server, worker), _slot: slot })
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
        UpstreamConnection { upstream, reused: true, peer, _counted: counted, _slot: slot }
    }

    /// Closes the connection that has been idle the longest; false if none is idle.
    fn close_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let since = |idle: &IdleConnections| idle.connections.first().map(|(_, since)| *since);
        let Some(oldest) = idle.values_mut().filter(|idle| since(idle).is_some()).min_by_key(|idle| since(idle)) else {
            return false;
        };
        drop(oldest.connections.remove(0));
        true
    }

    /// Takes the most recently used idle connection to a server, and drops those that no longer work.
    pub fn take(&self, server: ServerId) -> Option<UpstreamConnection> {
        let mut idle = self.idle.borrow_mut();
        let IdleConnections { server, connections } = idle.get_mut(&server)?;
        while let Some((connection, _)) = connections.pop() {
            if connection.leads_to(server) && connection.upstream.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps an idle connection for reuse, unless enough are kept for its server.
    pub fn put(&self, server: &Arc<Server>, mut connection: UpstreamConnection, now: Instant) {
        connection.reused = true;
        let mut idle = self.idle.borrow_mut();
        let idle = idle
            .entry(server.id)
            .or_insert_with(|| IdleConnections { server: Arc::clone(server), connections: Vec::new() });
        if idle.connections.len() < MAX_IDLE {
            idle.connections.push((connection, now));
        }
    }

    /// Closes idle connections that are too old, that the server has closed, that lead to a former address of the
    /// server, or whose server is leaving.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, IdleConnections { server, connections }| {
            connections.retain(|(connection, since)| {
                now.duration_since(*since) < IDLE_TIMEOUT
                    && connection.leads_to(server)
                    && connection.upstream.is_quiet()
            });
            !connections.is_empty() && !server.is_leaving()
        });
    }
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
                upstreams.put(&server, connection, Instant::now());
                server.set_target(address(after));
                if swept {
                    upstreams.sweep(Instant::now());
                    assert_eq!(server.connections(), u64::from(kept));
                }
                assert_eq!(upstreams.take(server.id).is_some(), kept);
            }
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
        upstreams.put(&servers[0], first, start + IDLE_TIMEOUT);
        upstreams.put(&servers[1], second, start);
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
