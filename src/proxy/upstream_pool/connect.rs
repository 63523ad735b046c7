//! New connections to servers.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::counted::{Counted, Slot};
use super::secure::secure;
use super::shared::ConnectionId;
use super::{UpstreamConnection, UpstreamPool};
use crate::config::{HttpProtocol, ProxyHeaderVersion, UpstreamProtocol};
use crate::http1::client::ClientConnection;
use crate::live::server::Server;
use crate::proxy::client::{Client, OwnerId};
use crate::proxy::upstream::Upstream;
use crate::proxy_protocol;
use crate::tls::client::UpstreamTls;
use crate::tls::failure::{TlsError, TlsFailure};
use crate::transport::connect::connect_any;
use crate::transport::{Socket, Transport, is_out_of_descriptors};

/// The time after which a request that waits for a descriptor looks again: another worker may have closed something.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A request's need of a connection.
#[derive(Debug, Clone, Copy)]
pub struct WantedConnection<'a> {
    pub server: &'a Arc<Server>,
    /// The client that sent the request.
    pub client: &'a Client,
    /// The protocol, according to the configuration.
    pub protocol: UpstreamProtocol,
    /// Whether the request can be sent again. If not, an idle connection must be one that the server is most unlikely to be
    /// closing.
    pub repeatable: bool,
    /// Whether connections that exist are ruled out.
    pub only_new: bool,
    /// The connection that has refused the request, or reset its stream.
    pub avoided: Option<ConnectionId>,
    /// Whether the client offers to switch to another protocol. Over HTTP/2, the server may have to say first that it can.
    pub upgrades: bool,
}

/// A new connection to a server, before anything is said on it.
pub(super) struct Opened {
    pub(super) transport: Transport,
    pub(super) protocol: HttpProtocol,
    pub(super) owner: Option<OwnerId>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) tls_changes: u32,
    pub(super) counted: Counted,
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

impl WantedConnection<'_> {
    /// The protocol of the connection; `None` as long as the server has not chosen one.
    pub(super) fn protocol(&self) -> Option<HttpProtocol> {
        match self.protocol {
            UpstreamProtocol::Http1 => Some(HttpProtocol::Http1),
            UpstreamProtocol::Http2 => Some(HttpProtocol::Http2),
            UpstreamProtocol::Auto => self.server.chosen_protocol(),
        }
    }

    /// The client that the connection must belong to, if it begins with a PROXY header; an error if the client has none yet.
    pub(super) fn owner(&self) -> Result<Option<OwnerId>, NoOwner> {
        match self.server.proxy_header() {
            None => Ok(None),
            Some(_) => self.client.owner().map(Some).ok_or(NoOwner),
        }
    }
}

/// The first connection that begins with a client's address makes the client an owner.
#[derive(Debug)]
pub(super) struct NoOwner;

impl UpstreamPool {
    /// Opens a connection for a request, or finds it a place on one over HTTP/2. Waits for a descriptor for at most
    /// `patience`.
    ///
    /// # Errors
    /// [`ConnectError`]. The caller sets the timeout for connecting.
    pub async fn open(
        &self,
        wanted: &WantedConnection<'_>,
        patience: Duration,
    ) -> Result<UpstreamConnection, ConnectError> {
        match wanted.protocol() {
            Some(HttpProtocol::Http1) => self.open_own(wanted, patience).await,
            // In memory of its own, so that requests over HTTP/1 are not larger for it.
            Some(HttpProtocol::Http2) | None => {
                let shared = Box::pin(self.share(wanted, patience)).await?;
                if let Upstream::Http2(place) = &shared.upstream
                    && wanted.upgrades
                {
                    place.client().settled().await;
                }
                Ok(shared)
            }
        }
    }

    /// Opens a connection that no other request waits for.
    pub(super) async fn open_own(
        &self,
        wanted: &WantedConnection<'_>,
        patience: Duration,
    ) -> Result<UpstreamConnection, ConnectError> {
        let opened = self.connect(wanted, patience).await?;
        match opened.protocol {
            HttpProtocol::Http1 => Ok(opened.into()),
            // The server has changed its mind, or an edit the rules.
            HttpProtocol::Http2 => Box::pin(self.open_unexpected(wanted, opened)).await,
        }
    }

    /// Connects at the first of the server's addresses that accepts. Sends the PROXY header about the client, if the server
    /// gets one, and makes the TLS handshake, if there is one.
    pub(super) async fn connect(
        &self,
        wanted: &WantedConnection<'_>,
        patience: Duration,
    ) -> Result<Opened, ConnectError> {
        let server = wanted.server;
        let targets = server.targets().ok_or(ConnectError::Unresolved)?;
        self.wait_for_descriptor(patience).await?;
        let (tls, tls_changes) = server.tls();
        let slot = Slot::new(&self.descriptors, self.worker);
        let failure = LookupOnFailure(Some(server));
        let connected = loop {
            match connect_any(&targets).await {
                Err(error) if is_out_of_descriptors(&error) && self.close_oldest() => {
                    // A shared connection is closed by the task that drives it.
                    yield_now().await;
                }
                connected => break connected,
            }
        };
        let (mut socket, peer) = connected.map_err(ConnectError::Io)?;
        let owner = match server.proxy_header() {
            None => None,
            // In memory of its own, so that requests without it are not larger.
            Some(version) => Some(Box::pin(self.send_header(&mut socket, version, wanted.client)).await?),
        };
        failure.succeeded(peer);
        let (transport, protocol) = match (Transport::of_server(socket), &tls) {
            // In memory of its own, so that requests without TLS are not larger for it.
            (Transport::Plain(socket), Some(tls)) => Box::pin(self.secure(socket, server, tls, peer)).await?,
            (transport, _) if wanted.protocol == UpstreamProtocol::Http2 => (transport, HttpProtocol::Http2),
            (transport, _) => (transport, HttpProtocol::Http1),
        };
        if wanted.protocol == UpstreamProtocol::Auto {
            server.chooses_protocol(protocol);
        }
        let counted = Counted::new(server, self.worker, slot);
        Ok(Opened { transport, protocol, owner, peer, tls_changes, counted })
    }

    /// Makes the TLS handshake on a new connection.
    async fn secure(
        &self,
        socket: Socket,
        server: &Server,
        tls: &UpstreamTls,
        peer: Option<SocketAddr>,
    ) -> Result<(Transport, HttpProtocol), ConnectError> {
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
        Ok(self.owner_of(client))
    }

    /// The owner that a client is, from now on.
    pub(super) fn owner_of(&self, client: &Client) -> OwnerId {
        client.owner_or(|| {
            self.owners.update(|owner| owner.saturating_add(1));
            OwnerId(self.owners.get())
        })
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
}

impl From<Opened> for UpstreamConnection {
    fn from(Opened { transport, owner, peer, tls_changes, counted, .. }: Opened) -> Self {
        let upstream = Upstream::Http1(ClientConnection::new(transport));
        let (reused, idle_since, _counted) = (false, None, Some(counted));
        Self { upstream, owner, reused, idle_since, peer, tls_changes, _counted }
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
