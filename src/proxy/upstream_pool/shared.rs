//! The connections that requests share: those of one worker to one server over HTTP/2.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::ConnectError;
use super::counted::Counted;
use crate::http2::client::Http2Client;
use crate::live::server::Server;
use crate::proxy::client::OwnerId;

/// The id of a shared connection: unique in its worker and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(pub(super) u64);

/// A connection that requests share.
#[derive(Debug)]
pub(super) struct SharedConnection {
    id: ConnectionId,
    client: Http2Client,
    /// The client whose requests alone may use it, if it began with a PROXY header.
    owner: Option<OwnerId>,
    /// `None` for a Unix socket.
    peer: Option<SocketAddr>,
    /// [`Server::tls_changes`] when it was opened.
    tls_changes: u32,
    /// [`Server::idle_ended`] when it was opened.
    ended: u32,
    /// The number of open streams.
    streams: Cell<usize>,
    /// Whether it has carried a request.
    used: Cell<bool>,
    /// Since when it has had no stream.
    idle_since: Cell<Instant>,
    /// Whether it gets no more streams.
    retired: Cell<bool>,
    _counted: Counted,
}

/// The place of a request on a shared connection, until it is dropped.
#[derive(Debug)]
pub struct StreamPlace {
    connection: Rc<SharedConnection>,
    /// [`Http2Client::received`] at its start.
    received: u64,
    started: Instant,
    /// Whether the connection had been idle before.
    pub(super) was_idle: bool,
}

/// A connection that is being opened, for the requests that wait for it.
#[derive(Debug)]
pub(super) struct Opening {
    owner: Option<OwnerId>,
    /// The number of requests that wait for it, with the one that opens it.
    waiting: Cell<usize>,
    outcome: RefCell<Option<OpeningOutcome>>,
    done: Notify,
}

/// How opening a connection went.
#[derive(Debug, Clone)]
pub(super) enum OpeningOutcome {
    Open(Rc<SharedConnection>),
    /// The server has chosen HTTP/1.1, so there is nothing to share.
    Http1,
    Failed(ConnectError),
    /// The request that opened it was given up.
    Abandoned,
}

/// The connections of one worker to one server that requests share.
#[derive(Debug)]
pub(super) struct SharedConnections {
    server: Arc<Server>,
    connections: Vec<Rc<SharedConnection>>,
    opening: Vec<Rc<Opening>>,
    /// The number of requests that the next connection is expected to carry at the same time.
    expected: usize,
}

/// The number of requests that wait for a connection to a server whose limit is not known yet.
const EXPECTED: usize = 100;

impl SharedConnection {
    pub(super) fn new(
        id: ConnectionId,
        client: Http2Client,
        owner: Option<OwnerId>,
        (peer, tls_changes): (Option<SocketAddr>, u32),
        server: &Server,
        counted: Counted,
    ) -> Self {
        Self {
            id,
            client,
            owner,
            peer,
            tls_changes,
            ended: server.idle_ended(),
            streams: Cell::new(0),
            used: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            retired: Cell::new(false),
            _counted: counted,
        }
    }

    pub(super) fn client(&self) -> &Http2Client {
        &self.client
    }

    fn has_room(&self) -> bool {
        !self.retired.get() && self.streams.get() < self.client.max_streams() && self.client.is_open()
    }

    /// Whether requests of `owner` may use it.
    pub(super) fn fits(&self, owner: Option<OwnerId>, avoided: Option<ConnectionId>, server: &Server) -> bool {
        self.owner == owner && Some(self.id) != avoided && self.is_current(server)
    }

    /// Takes a place, if there is one.
    pub(super) fn place(self: &Rc<Self>) -> Option<StreamPlace> {
        if !self.has_room() {
            return None;
        }
        let streams = self.streams.get();
        self.streams.set(streams + 1);
        let was_idle = self.used.replace(true) && streams == 0;
        let (received, started) = (self.client.received(), Instant::now());
        Some(StreamPlace { connection: Rc::clone(self), received, started, was_idle })
    }

    /// Whether the connection still leads to the server, and no edit or check has ended it.
    fn is_current(&self, server: &Server) -> bool {
        self.ended == server.idle_ended()
            && self.tls_changes == server.tls_changes()
            && super::leads_to(self.peer, server)
    }

    fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }
}

impl StreamPlace {
    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Http2Client {
        &self.connection.client
    }

    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.connection.id
    }

    /// The client whose requests alone may use the connection, if there is one.
    pub(super) fn owner(&self) -> Option<OwnerId> {
        self.connection.owner
    }

    /// The other end, and [`Server::tls_changes`] when the connection was opened.
    pub(super) fn peer(&self) -> (Option<SocketAddr>, u32) {
        (self.connection.peer, self.connection.tls_changes)
    }

    /// Notes that a response was waited for in vain, for at least `patience`. If the server has sent nothing at all meanwhile,
    /// the connection may be dead, and gets no more streams.
    pub fn waited_in_vain(&self, patience: Duration) {
        if self.received == self.client().received() && self.started.elapsed() >= patience {
            self.connection.retired.set(true);
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let streams = self.connection.streams.get() - 1;
        self.connection.streams.set(streams);
        if streams == 0 {
            self.connection.idle_since.set(Instant::now());
        }
    }
}

impl Opening {
    /// Whether another request may wait for it.
    fn has_room(&self, expected: usize) -> bool {
        self.waiting.get() < expected
    }

    /// Waits for the outcome: for a connection, until the server's limit is known.
    pub(super) async fn outcome(&self) -> OpeningOutcome {
        self.waiting.update(|waiting| waiting + 1);
        let _waiting = Waiting(&self.waiting);
        loop {
            let done = self.done.notified();
            if let Some(outcome) = self.outcome.borrow().clone() {
                break outcome;
            }
            done.await;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    fn end(&self, outcome: OpeningOutcome) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.done.notify_waiters();
    }
}

struct Waiting<'a>(&'a Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.update(|waiting| waiting - 1);
    }
}

/// The decision how a request that found no place gets one.
#[derive(Debug)]
pub(super) enum Choice {
    Wait(Rc<Opening>),
    Open(Rc<Opening>),
}

impl SharedConnections {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        Self { server: Arc::clone(server), connections: Vec::new(), opening: Vec::new(), expected: EXPECTED }
    }

    /// Finds a place on the connection with the most streams that has room. All requests on it are those of `owner`, if it
    /// has one. `avoided` is ruled out.
    pub(super) fn place(&mut self, owner: Option<OwnerId>, avoided: Option<ConnectionId>) -> Option<StreamPlace> {
        let (server, connections) = (&self.server, &mut self.connections);
        connections.retain(|connection| !connection.client.has_ended() && !connection.retired.get());
        let fits =
            |connection: &&Rc<SharedConnection>| connection.fits(owner, avoided, server) && connection.has_room();
        connections.iter().filter(fits).max_by_key(|connection| connection.streams.get())?.place()
    }

    /// Chooses a connection that is being opened, or else a new one.
    pub(super) fn open(&mut self, owner: Option<OwnerId>) -> Choice {
        let fits = |opening: &&Rc<Opening>| opening.owner == owner && opening.has_room(self.expected);
        if let Some(opening) = self.opening.iter().find(fits) {
            return Choice::Wait(Rc::clone(opening));
        }
        let opening = Opening { owner, waiting: Cell::new(1), outcome: RefCell::default(), done: Notify::new() };
        let opening = Rc::new(opening);
        self.opening.push(Rc::clone(&opening));
        Choice::Open(opening)
    }

    /// Adds a connection, which the request that opened it may use. Others wait until the server's limit is known.
    pub(super) fn add(&mut self, connection: Rc<SharedConnection>) {
        self.connections.push(connection);
    }

    /// Ends the wait for a connection.
    pub(super) fn opened(&mut self, opening: &Rc<Opening>, outcome: OpeningOutcome) {
        self.opening.retain(|other| !Rc::ptr_eq(other, opening));
        if let OpeningOutcome::Open(connection) = &outcome
            && connection.client.has_settings()
        {
            self.expected = connection.client.max_streams().max(1);
        }
        opening.end(outcome);
    }

    /// Since when the connection has been idle that has been so the longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.idle().map(|connection| connection.idle_since.get()).min()
    }

    /// Closes the one that has been idle the longest; false if there is none.
    pub(super) fn close_oldest(&mut self) -> bool {
        let oldest = self.oldest();
        let found = self
            .connections
            .iter()
            .position(|connection| connection.is_idle() && Some(connection.idle_since.get()) == oldest);
        found.map(|index| self.connections.swap_remove(index)).is_some()
    }

    fn idle(&self) -> impl Iterator<Item = &Rc<SharedConnection>> {
        self.connections.iter().filter(|connection| connection.is_idle())
    }

    /// Closes those that belong to `owner`.
    pub(super) fn close_own(&mut self, owner: OwnerId) {
        self.connections.retain(|connection| connection.owner != Some(owner));
    }

    /// Closes idle connections that are too old or too many. Those that get no more streams, because the server is leaving,
    /// has another address, or does not want any, close with their last stream.
    pub(super) fn sweep(&mut self, now: Instant) {
        let (server, limit) = (&self.server, self.idle_limit());
        self.connections.retain(|connection| {
            let age = now.saturating_duration_since(connection.idle_since.get());
            let lives = !connection.retired.get() && connection.is_current(server) && connection.client.is_open();
            lives && !server.is_leaving() && (!connection.is_idle() || age < limit)
        });
        while self.idle().count() > self.server.max_idle() && self.close_oldest() {}
    }

    /// How long a connection may be idle.
    fn idle_limit(&self) -> Duration {
        let keeps = self.server.keeps_connections() && !self.server.is_leaving();
        if keeps { self.server.idle_timeout() } else { Duration::ZERO }
    }

    /// The time at which a sweep will have something to do, if the server closes no connection.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.oldest()?.checked_add(self.idle_limit())
    }

    /// Whether the server has connections or requests wait for one.
    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.connections.is_empty() || !self.opening.is_empty()
    }
}
