//! The admin address: bound before an edit is committed, served until an edit moves it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::admin;
use crate::config::{SocketAddress, overlap, reachable};
use crate::transport::Acceptor;
use crate::worker::socket::{BindError, BoundSocket, OpenSocket};

/// The admin address that is served now.
#[derive(Debug)]
pub(super) struct AdminServer {
    /// Everything that responses are made from. Lives as long as the process.
    context: Arc<admin::AdminContext>,
    /// The address as configured. Lives until an edit moves it, like all below.
    address: SocketAddress,
    /// A second handle of the socket that is served, so that an overlapping address can be bound before it closes.
    socket: OpenSocket,
    /// Ends the serving when it is dropped.
    _stop: oneshot::Sender<()>,
}

/// A listening socket that is not served yet. Dropping it closes it.
#[derive(Debug)]
pub(super) struct NewAdminSocket {
    address: SocketAddress,
    socket: OpenSocket,
    acceptor: Acceptor,
}

impl NewAdminSocket {
    /// Listens, in spite of sockets of ours that overlap and are about to close.
    pub(super) fn listen(bound: BoundSocket, making_way: &[&OpenSocket]) -> Result<Self, BindError> {
        let address = bound.address();
        let socket = bound.listen(making_way)?;
        match socket.socket().try_clone().and_then(Acceptor::new) {
            Ok(acceptor) => Ok(Self { address, socket, acceptor }),
            Err(error) => Err(BindError { address, error }),
        }
    }
}

impl AdminServer {
    /// Serves a bound socket.
    pub(super) fn start(socket: NewAdminSocket, context: Arc<admin::AdminContext>) -> Self {
        let NewAdminSocket { address, socket, acceptor } = socket;
        let bound = socket.socket().address().unwrap_or_else(|| address.clone());
        match reachable(&bound) {
            SocketAddress::Ip(ip) => {
                tracing::info!(dashboard = %format_args!("http://{ip}/"), address = %bound, "admin address");
            }
            SocketAddress::Unix(_) => tracing::info!(address = %bound, "admin address"),
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            // The sender is dropped; nothing is ever sent.
            let _ = stopped.await;
        };
        tokio::spawn(admin::serve(acceptor, Arc::clone(&context), stopped));
        Self { context, address, socket, _stop: stop }
    }

    /// The address as configured.
    #[cfg(test)]
    pub(super) fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// The address and the socket, if an edit moves the admin address to `address`.
    pub(super) fn moving(&self, address: &SocketAddress) -> Option<(&SocketAddress, &OpenSocket)> {
        (*address != self.address).then_some((&self.address, &self.socket))
    }

    /// The socket that is served, if it overlaps with `address` and an edit moves the admin address there.
    pub(super) fn making_way(&self, address: &SocketAddress) -> Option<&OpenSocket> {
        self.moving(address).filter(|(old, _)| overlap(old, address)).map(|(_, socket)| socket)
    }

    /// Serves the new socket, if there is one. Requests that are open at the old one are finished there.
    pub(super) fn commit(&mut self, socket: Option<NewAdminSocket>) {
        if let Some(socket) = socket {
            *self = Self::start(socket, Arc::clone(&self.context));
        }
    }
}
