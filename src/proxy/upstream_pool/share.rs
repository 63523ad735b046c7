//! Assigns requests to shared HTTP/2 connections.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;

use super::connect::{Opened, WantedConnection};
use super::shared::{Choice, ConnectionId, Opening, OpeningOutcome, SharedConnection, SharedConnections, StreamPlace};
use super::{ConnectError, UpstreamConnection, UpstreamPool};
use crate::config::HttpProtocol;
use crate::http2::client;
use crate::live::server::{Server, ServerId};
use crate::proxy::client::OwnerId;
use crate::proxy::upstream::Upstream;
use crate::tls::failure::TlsFailure;
use crate::transport::Transport;

/// The shared connections of a worker, by server.
pub(super) type SharedMap = Rc<RefCell<FxHashMap<ServerId, SharedConnections>>>;

impl UpstreamPool {
    /// Takes a place that needs no waiting.
    pub(super) fn take_place(
        &self,
        wanted: &WantedConnection<'_>,
        owner: Option<OwnerId>,
    ) -> Option<UpstreamConnection> {
        let place = self.shared.borrow_mut().get_mut(&wanted.server.id)?.place(owner, wanted.avoided)?;
        // The system may know of its end by now.
        (wanted.repeatable || !place.was_idle).then(|| place.into())
    }

    /// Finds a place for a request on a connection over HTTP/2, and opens one if there is none. If the server chooses
    /// HTTP/1.1, the request gets a connection of its own.
    ///
    /// Requests that come while a connection is being opened wait for it, as many as it will probably carry. If it cannot
    /// be opened, all of them fail at once and may go to another server.
    pub(super) async fn share(
        &self,
        wanted: &WantedConnection<'_>,
        patience: Duration,
    ) -> Result<UpstreamConnection, ConnectError> {
        let server = wanted.server;
        let owner = server.proxy_header().map(|_| self.owner_of(wanted.client));
        if !wanted.repeatable && !wanted.only_new {
            // Idle connections that have ended are noticed meanwhile.
            yield_now().await;
        }
        loop {
            let choice = {
                let mut shared = self.shared.borrow_mut();
                let shared = shared.entry(server.id).or_insert_with(|| SharedConnections::new(server));
                if !wanted.only_new
                    && let Some(place) = shared.place(owner, wanted.avoided)
                {
                    return Ok(place.into());
                }
                shared.open(owner)
            };
            match choice {
                Choice::Open(opening) => {
                    let guard = OpeningGuard::new(&self.shared, server.id, opening);
                    return self.open_shared(wanted, patience, guard).await;
                }
                Choice::Wait(opening) => match opening.outcome().await {
                    // More requests than streams may have waited, and an edit may have changed whose they are.
                    OpeningOutcome::Open(connection) => {
                        if connection.fits(owner, wanted.avoided, server)
                            && let Some(place) = connection.place()
                        {
                            return Ok(place.into());
                        }
                    }
                    OpeningOutcome::Http1 => return Box::pin(self.open_own(wanted, patience)).await,
                    OpeningOutcome::Failed(error) => return Err(error),
                    OpeningOutcome::Abandoned => {}
                },
            }
        }
    }

    /// Opens a connection for several requests, and returns the place of the first of them.
    async fn open_shared(
        &self,
        wanted: &WantedConnection<'_>,
        patience: Duration,
        mut guard: OpeningGuard,
    ) -> Result<UpstreamConnection, ConnectError> {
        let opened = match self.connect(wanted, patience).await {
            Ok(opened) if opened.protocol == HttpProtocol::Http1 => {
                guard.end(OpeningOutcome::Http1);
                return Ok(opened.into());
            }
            Ok(opened) => self.speak_http2(wanted.server, opened).await,
            Err(error) => Err(error),
        };
        let connection = opened.inspect_err(|error| guard.end(OpeningOutcome::Failed(error.clone())))?;
        let place = connection.place().ok_or_else(reset)?;
        // The request that opened the connection need not wait for the server's limit.
        spawn_local(guard.settle(connection, 2 * patience));
        Ok(place.into())
    }

    /// Shares a connection that no other request waits for.
    pub(super) async fn open_unexpected(
        &self,
        wanted: &WantedConnection<'_>,
        opened: Opened,
    ) -> Result<UpstreamConnection, ConnectError> {
        let place = self.speak_http2(wanted.server, opened).await?.place();
        place.map(StreamPlace::into).ok_or_else(reset)
    }

    /// Speaks HTTP/2 on a new connection, which requests may share from now on.
    async fn speak_http2(&self, server: &Arc<Server>, opened: Opened) -> Result<Rc<SharedConnection>, ConnectError> {
        let Opened { transport, owner, peer, tls_changes, counted, .. } = opened;
        let is_secure = matches!(transport, Transport::Tls(_));
        let (client, driver) = client::open(transport, Rc::clone(&self.buffers), is_secure)
            .await
            .map_err(|error| ConnectError::Io(error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))?;
        let ended = Rc::clone(&self.shared_ended);
        spawn_local(async move {
            driver.await;
            // A worker whose ticks pause then counts the connection as closed.
            ended.notify_one();
        });
        self.shared_opened.update(|opened| opened + 1);
        let id = ConnectionId(self.shared_opened.get());
        let connection = Rc::new(SharedConnection::new(id, client, owner, (peer, tls_changes), server, counted));
        let mut shared = self.shared.borrow_mut();
        shared.entry(server.id).or_insert_with(|| SharedConnections::new(server)).add(Rc::clone(&connection));
        Ok(connection)
    }
}

fn reset() -> ConnectError {
    ConnectError::Io(io::ErrorKind::ConnectionReset.into())
}

impl From<StreamPlace> for UpstreamConnection {
    fn from(place: StreamPlace) -> Self {
        let ((peer, tls_changes), owner, reused) = (place.peer(), place.owner(), place.was_idle);
        Self { upstream: Upstream::Http2(place), owner, reused, idle_since: None, peer, tls_changes, _counted: None }
    }
}

/// Ends the wait for a connection, also if the request that opens it is given up.
struct OpeningGuard {
    shared: SharedMap,
    server: ServerId,
    opening: Rc<Opening>,
}

impl OpeningGuard {
    fn new(shared: &SharedMap, server: ServerId, opening: Rc<Opening>) -> Self {
        Self { shared: Rc::clone(shared), server, opening }
    }

    fn end(&mut self, outcome: OpeningOutcome) {
        if let Some(shared) = self.shared.borrow_mut().get_mut(&self.server) {
            shared.opened(&self.opening, outcome);
        }
    }

    /// Waits until the limit of the server is known.
    async fn settle(mut self, connection: Rc<SharedConnection>, limit: Duration) {
        let settled = timeout(limit, connection.client().settled()).await;
        let outcome = if connection.client().has_settings() && !connection.client().has_ended() {
            OpeningOutcome::Open(connection)
        } else if let Some(error) = connection.client().tls_error() {
            OpeningOutcome::Failed(ConnectError::Tls(TlsFailure::of(&error, false)))
        } else {
            let kind = if settled.is_ok() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::TimedOut };
            OpeningOutcome::Failed(ConnectError::Io(kind.into()))
        };
        self.end(outcome);
    }
}

impl Drop for OpeningGuard {
    fn drop(&mut self) {
        if !self.opening.has_ended() {
            self.end(OpeningOutcome::Abandoned);
        }
    }
}
