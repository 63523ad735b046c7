//! TLS with a server: the rules that an edit may change, and which connections were made under earlier ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;

use super::Server;
use crate::tls::client::UpstreamTls;

/// The way to speak TLS with a server.
#[derive(Debug, Default)]
pub(super) struct ServerTls {
    current: ArcSwapOption<UpstreamTls>,
    /// The number of changes.
    changes: AtomicU32,
}

impl Server {
    /// The way to speak TLS with the server, if connections are to use TLS, and the number of changes before it.
    #[must_use]
    pub fn tls(&self) -> (Option<Arc<UpstreamTls>>, u32) {
        // In this order: a connection whose number is too small is only replaced early.
        let changes = self.tls.changes.load(Ordering::Acquire);
        (self.tls.current.load_full(), changes)
    }

    /// The number of changes of the way to speak TLS. A connection from before the last one is not used again.
    #[must_use]
    pub fn tls_changes(&self) -> u32 {
        self.tls.changes.load(Ordering::Relaxed)
    }

    /// Changes the way to speak TLS: idle connections end as soon as workers are told, others after their request. Called
    /// only by the control plane.
    pub fn set_tls(&self, tls: Option<Arc<UpstreamTls>>) {
        self.tls.current.store(tls);
        self.tls.changes.fetch_add(1, Ordering::Release);
        self.idle.ended.fetch_add(1, Ordering::Relaxed);
    }
}
