//! A request gets its place on a connection that it shares with others.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::timeout;

use super::shared::{Choice, Opening, Outcome, SharedConnection, SharedConnections, StreamPlace};
use super::{ConnectError, Opened, UpstreamConnection, UpstreamPool};
use crate::http2::client;
use crate::live::server::{Server, ServerId};
use crate::proxy::client::Client;
use crate::proxy::upstream::Upstream;
use crate::transport::Transport;

/// The shared connections of a worker, by server.
pub(super) type SharedMap = Rc<RefCell<FxHashMap<ServerId, SharedConnections>>>;

impl UpstreamPool {
    /// Finds a place for a request on a connection over HTTP/2, and opens one if there is none. `only_new` rules out
    /// connections that exist. Waits for a descriptor for at most `patience`.
    ///
    /// Requests that come while a connection is being opened wait for it, as many as it will probably carry. If it cannot
    /// be opened, all of them fail at once and may go to another server.
    ///
    /// # Errors
    /// [`ConnectError`]. The caller sets the timeout for connecting.
    pub async fn share(
        &self,
        server: &Arc<Server>,
        client: &Client,
        patience: Duration,
        only_new: bool,
    ) -> Result<UpstreamConnection, ConnectError> {
        let place = loop {
            let choice = {
                let mut shared = self.shared.borrow_mut();
                shared.entry(server.id).or_insert_with(|| SharedConnections::new(server)).choose(only_new)
            };
            match choice {
                Choice::Place(place) => break place,
                Choice::Open(opening) => {
                    let guard = OpeningGuard::new(&self.shared, server.id, opening);
                    break Box::pin(self.open_shared((server, client), patience, guard)).await?;
                }
                Choice::Wait(opening) => match opening.outcome().await {
                    Outcome::Open(connection) => {
                        // More requests than streams may have waited.
                        if let Some(place) = connection.place() {
                            break place;
                        }
                    }
                    Outcome::Failed(error) => return Err(error),
                    Outcome::Abandoned => {}
                },
            }
        };
        let ((peer, tls_changes), reused) = (place.peer(), place.was_idle);
        let (upstream, owner, idle_since) = (Upstream::Http2(place), None, None);
        Ok(UpstreamConnection { upstream, owner, reused, idle_since, peer, tls_changes, _counted: None })
    }

    /// Opens a connection for several requests, and returns the place of the first of them.
    async fn open_shared(
        &self,
        (server, client): (&Arc<Server>, &Client),
        patience: Duration,
        mut guard: OpeningGuard,
    ) -> Result<StreamPlace, ConnectError> {
        let fail = |guard: &mut OpeningGuard, error: ConnectError| {
            guard.end(Outcome::Failed(error.clone()));
            error
        };
        let Opened { transport, peer, tls_changes, counted, .. } = match self.connect(server, client, patience).await {
            Ok(opened) => opened,
            Err(error) => return Err(fail(&mut guard, error)),
        };
        let is_secure = matches!(transport, Transport::Tls(_));
        let (client, driver) = match client::open(transport, Rc::clone(&self.buffers), is_secure).await {
            Ok(opened) => opened,
            Err(error) => {
                let error = error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
                return Err(fail(&mut guard, ConnectError::Io(error)));
            }
        };
        let ended = Rc::clone(&self.shared_ended);
        tokio::task::spawn_local(async move {
            driver.await;
            // A worker whose ticks pause then counts the connection as closed.
            ended.notify_one();
        });
        let connection = Rc::new(SharedConnection::new(client, (peer, tls_changes), server, counted));
        guard.opened(&connection);
        let place = connection.place().ok_or(ConnectError::Io(io::ErrorKind::ConnectionReset.into()))?;
        // The request that opened the connection need not wait for the server's limit.
        tokio::task::spawn_local(guard.settle(connection, 2 * patience));
        Ok(place)
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

    fn opened(&self, connection: &Rc<SharedConnection>) {
        if let Some(shared) = self.shared.borrow_mut().get_mut(&self.server) {
            shared.add(Rc::clone(connection));
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(shared) = self.shared.borrow_mut().get_mut(&self.server) {
            shared.opened(&self.opening, outcome);
        }
    }

    /// Waits until the limit of the server is known.
    async fn settle(mut self, connection: Rc<SharedConnection>, limit: Duration) {
        let settled = timeout(limit, connection.client().settled()).await;
        let outcome = if connection.client().has_settings() && !connection.client().has_ended() {
            Outcome::Open(connection)
        } else {
            let kind = if settled.is_ok() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::TimedOut };
            Outcome::Failed(ConnectError::Io(kind.into()))
        };
        self.end(outcome);
    }
}

impl Drop for OpeningGuard {
    fn drop(&mut self) {
        if !self.opening.has_ended() {
            self.end(Outcome::Abandoned);
        }
    }
}
