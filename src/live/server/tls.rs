//! TLS with a server: the rules that an edit may change, which connections were made under earlier ones, and the protocol
//! that the server chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;

use super::Server;
use crate::config::HttpProtocol;
use crate::tls::client::UpstreamTls;

/// The way to speak TLS with a server.
#[derive(Debug, Default)]
pub(super) struct ServerTls {
    current: ArcSwapOption<UpstreamTls>,
    /// The number of changes.
    changes: AtomicU32,
    /// The protocol that the server chose last: [`HTTP_1`], [`HTTP_2`], or neither if it is not known.
    chosen: AtomicU8,
}

const HTTP_1: u8 = 1;
const HTTP_2: u8 = 2;

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
        self.tls.chosen.store(0, Ordering::Relaxed);
        self.idle.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// The protocol that the server chose on the last connection, if that is known. It may choose another one next time.
    #[must_use]
    pub fn chosen_protocol(&self) -> Option<HttpProtocol> {
        match self.tls.chosen.load(Ordering::Relaxed) {
            HTTP_1 => Some(HttpProtocol::Http1),
            HTTP_2 => Some(HttpProtocol::Http2),
            _ => None,
        }
    }

    /// Notes which protocol the server has chosen, or that there is no choice without TLS.
    pub fn chooses_protocol(&self, protocol: HttpProtocol) {
        let chosen = match protocol {
            HttpProtocol::Http1 => HTTP_1,
            HttpProtocol::Http2 => HTTP_2,
        };
        if self.tls.chosen.load(Ordering::Relaxed) != chosen {
            self.tls.chosen.store(chosen, Ordering::Relaxed);
        }
    }
}
