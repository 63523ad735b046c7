//! A listener across generations: its identity, and the connections that each worker counts for it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{HttpProtocol, HttpsRedirect, ListenerConfig, SocketAddress};
use crate::live::counters::{Counter, PerWorker};
use crate::live::tls::TlsState;
use crate::tls::server::ListenerTls;

/// The id of a listener: unique in the process and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u64);

/// A listener, for as long as its address is configured or a client connection that it accepted is open.
#[derive(Debug)]
pub struct LiveListener {
    pub id: ListenerId,
    pub name: Arc<str>,
    /// The address in the configuration.
    pub configured: SocketAddress,
    /// The bound address: as configured, but with the port that the system chose if the configured one is 0.
    pub address: SocketAddress,
    /// Replaced by edits. A removed listener keeps its last ones, for the clients that it has still to accept.
    pub rules: Arc<ArcSwap<ListenerRules>>,
    /// Shared with the connections it accepted, which count their own end.
    pub counters: Arc<PerWorker<ListenerCounters>>,
}

/// The rules of a listener: `redirect` for requests, the others for new connections.
#[derive(Debug, Clone)]
pub struct ListenerRules {
    /// Whether trusted proxies have to send a PROXY header.
    pub proxy_protocol: bool,
    /// `None` if clients do not use TLS.
    pub tls: Option<Arc<ListenerTls>>,
    /// Whether clients have to use TLS. If its rules are missing, nobody is served: never without TLS instead.
    pub needs_tls: bool,
    /// Whether servers get the client's certificate.
    pub forwards_certificate: bool,
    /// Whether clients may speak HTTP/1.
    pub http1: bool,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// Where everything is redirected to.
    pub redirect: Option<HttpsRedirect>,
    /// Counts the edits that have changed which clients are admitted, and how. Connections from before such an edit end.
    pub admission: u32,
}

impl Default for ListenerRules {
    fn default() -> Self {
        Self {
            proxy_protocol: false,
            tls: None,
            needs_tls: false,
            forwards_certificate: false,
            http1: true,
            http2: false,
            redirect: None,
            admission: 0,
        }
    }
}

impl ListenerRules {
    /// The rules that `config` states; `tls` is the state of its generation.
    #[must_use]
    pub fn new(config: &ListenerConfig, tls: Option<&TlsState>) -> Self {
        let tls = tls.and_then(|tls| tls.listener(&config.address)).cloned();
        let forwards_certificate = config.tls.as_ref().is_some_and(|tls| tls.forward_client_certificate);
        let speaks = |protocol| config.protocols.contains(&protocol);
        let (http1, http2) = (speaks(HttpProtocol::Http1), speaks(HttpProtocol::Http2));
        let (proxy_protocol, needs_tls, redirect) = (config.proxy_protocol, config.tls.is_some(), config.redirect);
        Self { proxy_protocol, tls, needs_tls, forwards_certificate, http1, http2, redirect, admission: 0 }
    }

    /// These rules as the successors of `before`.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let is_like = match (&self.tls, &before.tls) {
            (Some(tls), Some(before)) => Arc::ptr_eq(tls, before) || tls.admits_like(before),
            (tls, before) => tls.is_none() && before.is_none(),
        };
        Self { admission: before.admission + u32::from(!is_like), ..self }
    }

    /// Whether a connection begins with its first request, of HTTP/1.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.proxy_protocol && !self.needs_tls && !self.http2
    }
}

/// One worker's counters of a listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Client connections accepted.
    pub opened: Counter,
    /// Client connections closed.
    pub closed: Counter,
    /// TLS handshakes, by [`HandshakeResult`].
    pub handshakes: [Counter; HandshakeResult::ALL.len()],
}

/// The result of a client's TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeResult {
    /// A new session.
    Ok,
    /// An earlier session goes on.
    Resumed,
    /// The client was too slow.
    Timeout,
    /// The client closed the connection.
    Closed,
    /// The client does not use TLS.
    NotTls,
    /// The client's first bytes are no valid hello.
    Invalid,
    /// No certificate is for the name that the client asked for.
    UnknownHost,
    /// The client's certificate is missing, or was not accepted.
    ClientCertificate,
    /// More handshakes were in progress than `limits.handshakes`.
    Shed,
    /// Anything else, such as no common version.
    Failed,
}

impl HandshakeResult {
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Resumed,
        Self::Timeout,
        Self::Closed,
        Self::NotTls,
        Self::Invalid,
        Self::UnknownHost,
        Self::ClientCertificate,
        Self::Shed,
        Self::Failed,
    ];

    /// The label in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Resumed => "resumed",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Invalid => "invalid",
            Self::UnknownHost => "unknown_host",
            Self::ClientCertificate => "client_certificate",
            Self::Shed => "shed",
            Self::Failed => "failed",
        }
    }
}

impl ListenerCounters {
    /// Counts a TLS handshake.
    pub fn handshake(&self, result: HandshakeResult) {
        self.handshakes[result as usize].add(1);
    }
}

impl LiveListener {
    /// The same listener with another name.
    #[must_use]
    pub fn renamed(&self, name: &str) -> Self {
        Self {
            id: self.id,
            name: name.into(),
            configured: self.configured.clone(),
            address: self.address.clone(),
            rules: Arc::clone(&self.rules),
            counters: Arc::clone(&self.counters),
        }
    }

    /// The number of open client connections.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.open(|set| &set.opened, |set| &set.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    #[test]
    fn a_listener_with_tls_is_never_plain_even_without_its_rules() {
        for (tls, is_plain) in [("", true), ("tls = {}\n[[certificate]]\nfile = \"a\"\nkey = \"b\"", false)] {
            let text = format!("[[listener]]\naddress = \"127.0.0.1:1\"\nprotocols = [\"http/1.1\"]\n{tls}\n");
            let text = format!("{text}[[server]]\nname = \"a\"\naddress = \"a:1\"\n");
            let config = parse(&[SourceFile::new("lb.toml", text.as_str())], &|_| None).expect(&text);
            let rules = ListenerRules::new(&config.listeners[0], None);
            assert_eq!((rules.is_plain(), rules.needs_tls), (is_plain, !is_plain), "{text}");
        }
    }
}
