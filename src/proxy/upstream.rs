//! Connections to servers: each worker keeps its own, so that taking one needs no lock.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::net::TcpStream;

use crate::config::Address;
use crate::live::server::Server;

/// How long a connection may lie unused. Servers close theirs too: a race that the retry wins.
const IDLE: Duration = Duration::from_secs(60);
/// Unused connections to one server that one worker keeps.
const KEEP: usize = 256;

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Where it leads.
    peer: SocketAddr,
    _open: Open,
    _place: Place,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server's name has not been resolved.
    Unresolved,
    /// The server did not accept in time.
    Timeout,
    /// The system says why.
    Refused(io::Error),
}

/// One worker's connections to servers; those that are unused it has, by server.
#[derive(Debug)]
pub struct Upstreams {
    idle: RefCell<FxHashMap<u64, IdleConnections>>,
    /// All, in use or not, and those that are to come about.
    open: Rc<Cell<usize>>,
    /// Beyond so many, unused ones make room.
    most: usize,
}

/// The unused connections to one server, the one used last at the end.
#[derive(Debug)]
struct IdleConnections {
    server: Arc<Server>,
    connections: Vec<(Connection, Instant)>,
}

impl Upstreams {
    /// None yet; unused ones will be kept while there are fewer than `most` in all.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { idle: RefCell::default(), open: Rc::default(), most }
    }

    /// Connects to a server, within `limit`.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn open(&self, server: &Arc<Server>, worker: usize, limit: Duration) -> Result<Connection, ConnectError> {
        while self.open.get() >= self.most && self.let_go() {}
        let address = server.target().ok_or(ConnectError::Unresolved)?;
        let place = Place::new(&self.open);
        let stream = tokio::time::timeout(limit, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(ConnectError::Refused)?;
        // Without it a small request may wait for an acknowledgement; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        Ok(Connection { stream, peer: address, _open: Open::new(server, worker), _place: place })
    }

    /// A connection by a stream that leads to a server, which is at `peer`.
    #[must_use]
    pub fn over(&self, stream: TcpStream, peer: SocketAddr, server: &Arc<Server>, worker: usize) -> Connection {
        Connection { stream, peer, _open: Open::new(server, worker), _place: Place::new(&self.open) }
    }

    /// Closes the connection that has been unused for longest; whether there was one.
    fn let_go(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let since = |kept: &IdleConnections| kept.connections.first().map(|(_, since)| *since);
        let Some(kept) = idle.values_mut().filter(|kept| since(kept).is_some()).min_by_key(|kept| since(kept)) else {
            return false;
        };
        drop(kept.connections.remove(0));
        true
    }

    /// The unused connection to a server that was used last, if there is one that still works.
    pub fn take(&self, server: u64) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let IdleConnections { server, connections } = idle.get_mut(&server)?;
        while let Some((connection, _)) = connections.pop() {
            if connection.leads_to(server) && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub fn keep(&self, server: &Arc<Server>, connection: Connection, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle
            .entry(server.id)
            .or_insert_with(|| IdleConnections { server: Arc::clone(server), connections: Vec::new() });
        if kept.connections.len() < KEEP {
            kept.connections.push((connection, now));
        }
    }

    /// Closes what has lain unused for too long, what its server has closed, and what leads to where
    /// a server was or to one that is leaving.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, kept| {
            let IdleConnections { server, connections } = kept;
            connections.retain(|(connection, since)| {
                now.duration_since(*since) < IDLE && connection.leads_to(server) && connection.is_quiet()
            });
            !connections.is_empty() && !server.is_leaving()
        });
    }
}

impl Connection {
    /// Whether that is where the server is now: a host name may lead elsewhere after a while.
    fn leads_to(&self, server: &Server) -> bool {
        match server.key.address {
            Address::Ip(_) => true,
            Address::Name(..) => server.target() == Some(self.peer),
        }
    }

    /// Whether the server has neither said anything nor closed. Costs no system call unless it has.
    fn is_quiet(&self) -> bool {
        self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Counts a connection as open while it exists.
#[derive(Debug)]
struct Open {
    server: Arc<Server>,
    worker: usize,
}

impl Open {
    fn new(server: &Arc<Server>, worker: usize) -> Self {
        server.counters().of(worker).opened.add(1);
        Self { server: Arc::clone(server), worker }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.counters().of(self.worker).closed.add(1);
    }
}

/// A descriptor's place in [`Upstreams::open`], from before the connection comes about.
#[derive(Debug)]
struct Place(Rc<Cell<usize>>);

impl Place {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Place {
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
    async fn a_connection_to_where_a_name_led_before_is_not_used_again() {
        let [here, there] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let address = |socket: &std::net::TcpListener| socket.local_addr().expect("an address");
        let name = Address::Name("backend".to_owned(), address(&here).port());
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address: name };
        let server = Arc::new(Server::new(1, key, HealthState::Up, 1));
        let upstreams = Upstreams::new(9);
        for (before, after, kept) in [(&here, &here, true), (&here, &there, false)] {
            for swept in [false, true] {
                server.set_target(address(before));
                let connection = upstreams.open(&server, 0, IDLE).await.expect("a connection");
                upstreams.keep(&server, connection, Instant::now());
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
    async fn what_was_unused_for_longest_makes_room() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Ip(socket.local_addr().expect("an address"));
        let servers = [1, 2].map(|id| {
            let key =
                ServerKey { pool: "default".into(), name: format!("server{id}").into(), address: address.clone() };
            Arc::new(Server::new(id, key, HealthState::Up, 1))
        });
        let upstreams = Upstreams::new(3);
        let start = Instant::now();
        let open = async |server: usize| upstreams.open(&servers[server], 0, IDLE).await.expect("a connection");
        let (first, second, third) = (open(0).await, open(1).await, open(0).await);
        upstreams.keep(&servers[0], first, start + IDLE);
        upstreams.keep(&servers[1], second, start);
        let fourth = open(0).await;
        assert_eq!((servers[0].connections(), servers[1].connections()), (3, 0), "that of the other server went");
        let fifth = open(1).await;
        assert_eq!((servers[0].connections(), servers[1].connections()), (2, 1));
        // Those in use are never taken from anybody.
        let sixth = open(1).await;
        assert_eq!(upstreams.open.get(), 4);
        drop((third, fourth, fifth, sixth));
        assert_eq!(upstreams.open.get(), 0);
    }
}
