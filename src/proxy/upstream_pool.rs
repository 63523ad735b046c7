//! A worker's connections to servers. Each worker has its own, so that taking an idle one needs no lock.

mod idle;
mod rest;
mod secure;
mod share;
mod shared;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use tokio::time::timeout;

use self::idle::IdleConnections;
use self::secure::{FailureLog, secure};
use self::share::SharedMap;
use self::shared::SharedConnections;
pub use self::shared::StreamPlace;
use crate::config::{Address, ProxyHeaderVersion};
use crate::http1::client::ClientConnection;
use crate::live::descriptors::Descriptors;
use crate::live::server::{Server, ServerId};
use crate::proxy::client::{Client, OwnerId};
use crate::proxy::upstream::Upstream;
use crate::proxy_protocol;
use crate::telemetry::log_throttle::LogThrottle;
use crate::tls::client::UpstreamTls;
use crate::tls::failure::{TlsError, TlsFailure};
use crate::transport::connect::connect_any;
use crate::transport::{Buffers, Socket, Transport, is_out_of_descriptors};

/// The least time between two log messages about a shortage of descriptors.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// The time after which a request that waits for a descriptor looks again: another worker may have closed something.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

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

/// A new connection to a server, before anything is said on it.
struct Opened {
    transport: Transport,
    owner: Option<OwnerId>,
    peer: Option<SocketAddr>,
    tls_changes: u32,
    counted: Counted,
}

/// Why connecting failed.
#[derive(Debug)]
pub enum ConnectError {
    /// The server's host name has not been resolved.
    Unresolved,
    /// Clients and their requests use all descriptors.
    NoDescriptor,
    /// There is no TLS with the server.
    Tls(TlsFailure),
    /// The system's error.
    Io(io::Error),
}

/// A worker's connections to servers: the idle ones, by server, and the number of all.
#[derive(Debug)]
pub struct UpstreamPool {
    idle: RefCell<FxHashMap<ServerId, IdleConnections>>,
    /// Those over HTTP/2, which requests share.
    shared: SharedMap,
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

    /// Connects to a server, at the first of its addresses that accepts. Sends the PROXY header about `client`, if the server
    /// gets one, and makes the TLS handshake, if there is one. Waits for a descriptor for at most `patience`.
    ///
    /// # Errors
    /// [`ConnectError`]. The caller sets the timeout for connecting.
    pub async fn open(
        &self,
        server: &Arc<Server>,
        client: &Client,
        patience: Duration,
    ) -> Result<UpstreamConnection, ConnectError> {
        let Opened { transport, owner, peer, tls_changes, counted } = self.connect(server, client, patience).await?;
        let upstream = Upstream::Http1(ClientConnection::new(transport));
        let (reused, idle_since, _counted) = (false, None, Some(counted));
        Ok(UpstreamConnection { upstream, owner, reused, idle_since, peer, tls_changes, _counted })
    }

    async fn connect(&self, server: &Arc<Server>, client: &Client, patience: Duration) -> Result<Opened, ConnectError> {
        let targets = server.targets().ok_or(ConnectError::Unresolved)?;
        self.wait_for_descriptor(patience).await?;
        let (tls, tls_changes) = server.tls();
        let slot = Slot::new(&self.descriptors, self.worker);
        let failure = LookupOnFailure(Some(server));
        let connected = loop {
            match connect_any(&targets).await {
                Err(error) if is_out_of_descriptors(&error) && self.close_oldest() => {}
                connected => break connected,
            }
        };
        let (mut socket, peer) = connected.map_err(ConnectError::Io)?;
        let owner = match server.proxy_header() {
            None => None,
            // In memory of its own, so that requests without it are not larger.
            Some(version) => Some(Box::pin(self.send_header(&mut socket, version, client)).await?),
        };
        failure.succeeded(peer);
        let transport = match (Transport::of_server(socket), &tls) {
            // In memory of its own, so that requests without TLS are not larger for it.
            (Transport::Plain(socket), Some(tls)) => Box::pin(self.secure(socket, server, tls, peer)).await?,
            (transport, _) => transport,
        };
        let counted = Counted::new(server, self.worker, slot);
        Ok(Opened { transport, owner, peer, tls_changes, counted })
    }

    /// Makes the TLS handshake on a new connection.
    async fn secure(
        &self,
        socket: Socket,
        server: &Server,
        tls: &UpstreamTls,
        peer: Option<SocketAddr>,
    ) -> Result<Transport, ConnectError> {
        secure(socket, tls, self.worker).await.map_err(|error| {
            self.tls_failures.log(server, tls, peer, &error);
            // The address may have been another machine's before.
            server.want_lookup();
            ConnectError::Tls(error.failure)
        })
    }

    /// Why the server ended TLS on a connection after the handshake, if it did. Logs it.
    pub fn tls_ended(&self, server: &Server, connection: &UpstreamConnection) -> Option<TlsFailure> {
        let error = connection.upstream.tls_error()?;
        let (tls, _) = server.tls();
        let tls = tls?;
        let error = TlsError::new(&error, tls.name(), false);
        self.tls_failures.log(server, &tls, connection.peer, &error);
        Some(error.failure)
    }

    /// Sends a PROXY header, and returns the client that the connection belongs to from now on.
    async fn send_header(
        &self,
        socket: &mut Socket,
        version: ProxyHeaderVersion,
        client: &Client,
    ) -> Result<OwnerId, ConnectError> {
        let header = proxy_protocol::write(version, client.proxy_header());
        socket.write_all(&header).await.map_err(ConnectError::Io)?;
        Ok(client.owner_or(|| {
            self.owners.update(|owner| owner.saturating_add(1));
            OwnerId(self.owners.get())
        }))
    }

    /// Closes the idle connections that only this client may use, because it has left.
    pub fn close_own(&self, owner: OwnerId) {
        self.idle.borrow_mut().values_mut().for_each(|idle| idle.close_own(owner));
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

    /// Waits until there is a descriptor for another connection.
    async fn wait_for_descriptor(&self, patience: Duration) -> Result<(), ConnectError> {
        if self.make_room() {
            return Ok(());
        }
        if self.shortage.borrow_mut().allows(Instant::now()) {
            let (clients, limit) = (self.descriptors.clients(), self.descriptors.max_clients());
            tracing::warn!(clients, limit, "no file descriptor for a connection to a server; its request has to wait");
        }
        let _waiting = WaitingRequest::new(&self.waiting);
        let start = Instant::now();
        while start.elapsed() < patience {
            // A timeout is no failure: it looks again.
            let _ = timeout(LOOK_AGAIN, self.freed.notified()).await;
            if self.make_room() {
                return Ok(());
            }
        }
        Err(ConnectError::NoDescriptor)
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

    /// Takes the most recently used idle connection to a server that belongs to `owner`, and drops those that no longer work. A request that is
    /// not `repeatable` gets a connection only if it is most unlikely that the server is closing it.
    pub fn take(&self, server: ServerId, owner: Option<OwnerId>, repeatable: bool) -> Option<UpstreamConnection> {
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

    /// Notes that a response was not received in time.
    pub fn timed_out(&self) {
        if let Upstream::Http2(place) = &self.upstream {
            place.timed_out();
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

impl Clone for ConnectError {
    fn clone(&self) -> Self {
        match self {
            Self::Unresolved => Self::Unresolved,
            Self::NoDescriptor => Self::NoDescriptor,
            Self::Tls(failure) => Self::Tls(*failure),
            Self::Io(error) => Self::Io(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => error.kind().into(),
            }),
        }
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.upstream.announce_end();
    }
}

/// Requests a lookup of the server's name unless a connection is made, so also if the attempt is given up.
struct LookupOnFailure<'a>(Option<&'a Server>);

impl LookupOnFailure<'_> {
    fn succeeded(mut self, peer: Option<SocketAddr>) {
        if let (Some(server), Some(peer)) = (self.0.take(), peer) {
            server.connected_to(peer);
        }
    }
}

impl Drop for LookupOnFailure<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.0 {
            server.want_lookup();
        }
    }
}

/// Counts a request that waits for a descriptor.
struct WaitingRequest<'a>(&'a Cell<usize>);

impl<'a> WaitingRequest<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.update(|count| count + 1);
        Self(count)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.update(|count| count - 1);
    }
}

/// Counts a connection for its server, and its descriptor, while it exists.
#[derive(Debug)]
struct Counted {
    server: Arc<Server>,
    worker: usize,
    _slot: Slot,
}

impl Counted {
    fn new(server: &Arc<Server>, worker: usize, slot: Slot) -> Self {
        server.counters().of(worker).opened.add(1);
        Self { server: Arc::clone(server), worker, _slot: slot }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.server.counters().of(self.worker).closed.add(1);
    }
}

/// Counts a connection's descriptor while it exists or is being opened.
#[derive(Debug)]
struct Slot {
    descriptors: Arc<Descriptors>,
    worker: usize,
}

impl Slot {
    fn new(descriptors: &Arc<Descriptors>, worker: usize) -> Self {
        descriptors.add_server(worker);
        Self { descriptors: Arc::clone(descriptors), worker }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.descriptors.remove_server(self.worker);
    }
}

#[cfg(test)]
mod tests;
