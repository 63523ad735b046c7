//! A client, as all requests on its connection see it.

use std::sync::Arc;

use crate::live::listener::LiveListener;
use crate::proxy::headers::forwarded::ClientHeaders;
use crate::transport::Peer;

/// The facts about a client connection that do not depend on its protocol.
#[derive(Debug)]
pub struct Client {
    /// The listener that accepted it.
    pub listener: Arc<LiveListener>,
    /// The other end.
    pub peer: Peer,
    /// `http`, or `https` over TLS.
    pub scheme: &'static str,
    /// The headers that identify the client to servers.
    pub headers: ClientHeaders,
}

impl Client {
    /// A client without TLS.
    #[must_use]
    pub fn plain(listener: Arc<LiveListener>, peer: Peer) -> Self {
        let scheme = "http";
        Self { listener, peer, scheme, headers: ClientHeaders::new(peer.address(), scheme) }
    }
}
