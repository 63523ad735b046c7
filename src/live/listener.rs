//! A listener across generations: its identity, and the connections that each worker counts for it.

use std::sync::Arc;

use crate::config::SocketAddress;
use crate::live::counters::{Counter, PerWorker};

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
}

impl LiveListener {
    /// The number of open client connections.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.open(|set| &set.opened, |set| &set.closed)
    }
}
