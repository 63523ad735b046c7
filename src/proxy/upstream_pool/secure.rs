//! TLS on a new connection to a server.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::config::HttpProtocol;
use crate::live::server::{Server, ServerId};
use crate::tls::client::UpstreamTls;
use crate::tls::failure::{TlsError, TlsFailure};
use crate::transport::handshake::{HandshakeError, connect};
use crate::transport::{Socket, Transport};

/// The least time between two log messages about the same failure of a server.
const INTERVAL: Duration = Duration::from_secs(60);
/// The most servers of which a worker remembers what it has logged.
const MAX_SERVERS: usize = 1024;

/// Makes the handshake with a server on a connection of a worker.
pub(super) async fn secure(
    socket: Socket,
    tls: &UpstreamTls,
    worker: usize,
) -> Result<(Transport, HttpProtocol), TlsError> {
    let connected = connect(socket, Arc::clone(tls.for_worker(worker)), tls.name().clone()).await;
    let transport = connected.map_err(|error| match error {
        HandshakeError::Tls(error) => TlsError::new(&error, tls.name(), true),
        HandshakeError::Io(_) => TlsError::closed(),
    })?;
    let protocol = tls.protocol(transport.session().alpn())?;
    Ok((Transport::Tls(Box::new(transport)), protocol))
}

/// The failures that a worker has logged, so that each request does not repeat them.
#[derive(Debug, Default)]
pub(super) struct FailureLog(RefCell<FxHashMap<ServerId, (TlsFailure, Instant)>>);

impl FailureLog {
    /// Logs why there is no TLS with a server, unless that has just been logged.
    #[cold]
    pub(super) fn log(&self, server: &Server, tls: &UpstreamTls, peer: Option<SocketAddr>, error: &TlsError) {
        let now = Instant::now();
        let mut logged = self.0.borrow_mut();
        if logged.len() >= MAX_SERVERS {
            logged.clear();
        }
        let before = logged.insert(server.id, (error.failure, now));
        if let Some((failure, at)) = before
            && failure == error.failure
            && now.saturating_duration_since(at) < INTERVAL
        {
            logged.insert(server.id, (failure, at));
            return;
        }
        let (pool, name) = (&server.key.pool, tls.name().to_str());
        let address = peer.map_or_else(|| server.key.address.to_string(), |peer| peer.to_string());
        let hint = error.failure.hint();
        tracing::warn!(%pool, server = %server.key.name, %address, %name, reason = %error, hint, "no TLS with the server");
    }
}
