//! A client, as all requests on its connection see it.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::http1::head::Headers;
use crate::live::listener::LiveListener;
use crate::proxy::headers::client_certificate;
use crate::proxy::headers::forwarded::ClientHeaders;
use crate::proxy_protocol::{Forwarding, HeaderSubject};
use crate::transport::Peer;

/// The facts about a client connection that do not depend on its protocol.
#[derive(Debug)]
pub struct Client {
    /// The listener that accepted it.
    pub listener: Arc<LiveListener>,
    /// The other end, or the client that a trusted proxy in front names in its PROXY header.
    pub peer: Peer,
    /// The headers that identify the client to servers.
    pub headers: ClientHeaders,
    /// Whether the listener redirected everything when the client connected. It may have been removed since.
    pub redirected: bool,
    /// The headers with the client's verified certificates, if servers get them.
    pub certificate: Option<Box<Headers>>,
    /// Set once something of it is known. Few clients need it, so it has memory of its own.
    toward_servers: OnceCell<Box<TowardServers>>,
}

/// The facts about a client that PROXY headers to servers need.
#[derive(Debug, Default)]
struct TowardServers {
    /// The address that the client has connected to.
    destination: Option<SocketAddr>,
    /// The owner of connections to servers that begin with the client's address.
    owner: Cell<Option<OwnerId>>,
}

/// The client that alone may use a connection to a server: unique in its worker and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerId(pub NonZeroU64);

impl Client {
    /// A client without TLS.
    #[must_use]
    pub fn plain(listener: Arc<LiveListener>, peer: Peer) -> Self {
        let headers = ClientHeaders::new(peer.address(), "http");
        let redirected = listener.rules.load().redirect.is_some();
        Self { listener, peer, headers, redirected, certificate: None, toward_servers: OnceCell::new() }
    }

    /// `http`, or `https` over TLS.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.headers.scheme()
    }

    /// Notes that it uses TLS. `certificates` are those that servers get, its own first.
    pub fn secure(&mut self, certificates: &[CertificateDer<'_>]) {
        self.headers = ClientHeaders::new(self.peer.address(), "https");
        self.certificate = (!certificates.is_empty()).then(|| Box::new(client_certificate::headers(certificates)));
    }

    /// Takes the addresses from a PROXY header.
    pub fn forwarded(&mut self, forwarding: Forwarding) {
        self.peer = forwarding.source.into();
        self.set_destination(forwarding.destination);
        self.headers = ClientHeaders::new(self.peer.address(), self.scheme());
    }

    /// Sets the address that the client has connected to.
    pub fn set_destination(&mut self, destination: SocketAddr) {
        self.toward_servers =
            OnceCell::from(Box::new(TowardServers { destination: Some(destination), ..Default::default() }));
    }

    /// The owner of the connections to servers that only this client may use, if there are any.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerId> {
        self.toward_servers.get()?.owner.get()
    }

    /// The same; `new` is the owner if there is none yet.
    pub fn owner_or(&self, new: impl FnOnce() -> OwnerId) -> OwnerId {
        let facts = self.toward_servers.get_or_init(Box::default);
        let owner = facts.owner.get().unwrap_or_else(new);
        facts.owner.set(Some(owner));
        owner
    }

    /// The subject of the PROXY header for servers.
    #[must_use]
    pub fn proxy_header(&self) -> HeaderSubject {
        // A connection from before the edit that turned headers on has only the address of its listener.
        let destination =
            self.toward_servers.get().and_then(|facts| facts.destination).or_else(|| self.listener.address.ip());
        match (self.peer, destination) {
            (Peer::Ip(source), Some(destination)) => HeaderSubject::Client(Forwarding { source, destination }),
            _ => HeaderSubject::Unknown,
        }
    }
}
