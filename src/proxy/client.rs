//! A client, as all requests on its connection see it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::http1::head::Headers;
use crate::live::listener::LiveListener;
use crate::proxy::headers::client_certificate;
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
    /// The headers with the client's verified certificates, if servers get them.
    pub certificate: Headers,
}

impl Client {
    /// A client without TLS.
    #[must_use]
    pub fn plain(listener: Arc<LiveListener>, peer: SocketAddr) -> Self {
        Self::new(listener, peer, "http", Headers::new())
    }

    /// A client with TLS. `certificates` are those that servers get, its own first.
    #[must_use]
    pub fn secure(listener: Arc<LiveListener>, peer: SocketAddr, certificates: &[CertificateDer<'_>]) -> Self {
        Self::new(listener, peer, "https", client_certificate::headers(certificates))
    }

    fn new(listener: Arc<LiveListener>, peer: SocketAddr, scheme: &'static str, certificate: Headers) -> Self {
        Self { listener, peer, scheme, headers: ClientHeaders::new(peer, scheme), certificate }
    }
}
