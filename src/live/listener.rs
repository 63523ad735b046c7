//! A listener across generations: its identity, and the connections that each worker counts for it.

use std::sync::Arc;

use crate::live::counters::{Counter, PerWorker};

/// The id of a listener: unique in the process and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u64);

/// A listener, for as long as its address is configured or a client connection that it accepted is open.
#[derive(Debug)]
pub struct LiveListener {
    pub id: ListenerId,
    pub name: Arc<str>,
    /// The bound address: as configured, but with the port that the system chose if the configured one is 0.
    pub address: std::net::SocketAddr,
    /// Shared with the connections it accepted, which count their own end.
    pub counters: Arc<PerWorker<ListenerCounters>>,
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
    /// Anything else, such as no common version.
    Failed,
}

impl HandshakeResult {
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Resumed,
        Self::Timeout,
        Self::Closed,
        Self::NotTls,
        Self::Invalid,
        Self::UnknownHost,
        Self::ClientCertificate,
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
    /// The number of open client connections.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.open(|set| &set.opened, |set| &set.closed)
    }
}
