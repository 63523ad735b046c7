//! A client, as all requests on its connection see it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::live::listener::LiveListener;
use crate::proxy::headers::forwarded::ClientHeaders;

/// The facts about a client connection that do not depend on its protocol.
#[derive(Debug)]
pub struct Client {
    /// The listener that accepted it.
    pub listener: Arc<LiveListener>,
    /// The address of the other end.
    pub peer: SocketAddr,
    /// `http`, or `https` over TLS.
    pub scheme: &'static str,
    /// The headers that identify the client to servers.
    pub headers: ClientHeaders,
    /// The client's certificates, its own first, which were verified. Empty without any.
    pub certificates: Box<[CertificateDer<'static>]>,
}

impl Client {
    /// A client without TLS.
    #[must_use]
    pub fn plain(listener: Arc<LiveListener>, peer: SocketAddr) -> Self {
        Self::new(listener, peer, "http", &[])
    }

    /// A client with TLS, and the certificates that it has proved to own.
    #[must_use]
    pub fn secure(listener: Arc<LiveListener>, peer: SocketAddr, certificates: &[CertificateDer<'static>]) -> Self {
        Self::new(listener, peer, "https", certificates)
    }

    fn new(
        listener: Arc<LiveListener>,
        peer: SocketAddr,
        scheme: &'static str,
        certificates: &[CertificateDer<'static>],
    ) -> Self {
        Self { listener, peer, scheme, headers: ClientHeaders::new(peer, scheme), certificates: certificates.into() }
    }
}
