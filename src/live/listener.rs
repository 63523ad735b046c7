//! A listener across generations: its identity and the connections each worker counts for it.

use std::sync::Arc;

use crate::live::counters::{Counter, PerWorker};

/// What is known of a listener as long as its address is configured, or clients that came by it are there.
#[derive(Debug)]
pub struct LiveListener {
    /// Never used twice in a process.
    pub id: u64,
    /// Its name.
    pub name: Arc<str>,
    /// Where it really listens: the configured address, with the port that the system chose if that was 0.
    pub address: std::net::SocketAddr,
    /// What each worker counts.
    pub counters: Arc<PerWorker<ListenerCounters>>,
}

/// What one worker counts of a listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Client connections accepted.
    pub opened: Counter,
    /// Client connections ended.
    pub closed: Counter,
}

impl LiveListener {
    /// Open client connections now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.open(|set| &set.opened, |set| &set.closed)
    }
}
