//! TLS over byte buffers: knows no sockets, no files and no tasks.
//!
//! - [`certificate`]: a chain and its key.
//! - [`client`]: the rules for TLS to a pool's servers.
//! - [`failure`]: why there is no TLS with a server, in words.
//! - [`hello`]: a client's first message.
//! - [`index`]: the certificate for a server name.
//! - [`server`]: the rules of a listener.
//! - [`session`]: a TLS connection, of either side, between received bytes and bytes to send.

pub mod certificate;
pub mod client;
pub mod failure;
pub mod hello;
pub mod index;
#[cfg(test)]
pub(crate) mod localhost;
pub mod server;
pub mod session;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::config::HttpProtocol;

/// The cryptography of all connections.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// The name of a protocol in ALPN.
#[must_use]
pub fn alpn(protocol: HttpProtocol) -> &'static [u8] {
    match protocol {
        HttpProtocol::Http1 => b"http/1.1",
        HttpProtocol::Http2 => b"h2",
    }
}
