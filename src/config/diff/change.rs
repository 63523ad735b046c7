//! One difference, as a value to act on and as words to read.

use std::fmt;
use std::net::SocketAddr;

use crate::config::{Address, ListenerConfig, RouteConfig, ServerConfig};

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A listener that was not there.
    ListenerAdded(ListenerConfig),
    /// A listener that is no longer there.
    ListenerRemoved(ListenerConfig),
    /// A listener by the same name takes clients elsewhere.
    ListenerAddress {
        /// The listener's name.
        listener: String,
        /// Where it was.
        from: SocketAddr,
        /// Where it is now.
        to: SocketAddr,
    },
    /// A route that was not there.
    RouteAdded(RouteConfig),
    /// A route that is no longer there.
    RouteRemoved(RouteConfig),
    /// A route by the same name takes or leads elsewhere.
    RouteChanged {
        /// The route's name.
        route: String,
        /// `host`, `path` or `pool`.
        key: &'static str,
        /// As it was.
        from: String,
        /// As it is now.
        to: String,
    },
    /// A pool that was not there; its servers are told one by one.
    PoolAdded(String),
    /// A pool that is no longer there; its servers are told one by one.
    PoolRemoved(String),
    /// The same servers of a pool stand in another order, so they take turns in another order.
    PoolOrder(String),
    /// A server that was not there.
    ServerAdded {
        /// Its pool's name.
        pool: String,
        /// All of it.
        server: ServerConfig,
    },
    /// A server that is no longer there.
    ServerRemoved {
        /// Its pool's name.
        pool: String,
        /// All that it was.
        server: ServerConfig,
    },
    /// A server by the same name is elsewhere: to the rest of the program it is another one.
    ServerAddress {
        /// Its pool's name.
        pool: String,
        /// Its name.
        server: String,
        /// Where it was.
        from: Address,
        /// Where it is now.
        to: Address,
    },
    /// A server has another share.
    ServerWeight {
        /// Its pool's name.
        pool: String,
        /// Its name.
        server: String,
        /// As it was.
        from: u32,
        /// As it is now.
        to: u32,
    },
    /// A server takes new requests again, or none any more.
    ServerEnabled {
        /// Its pool's name.
        pool: String,
        /// Its name.
        server: String,
        /// Whether it does now.
        enabled: bool,
    },
    /// Any other key.
    Setting {
        /// The pool whose rule it is, or none for the whole.
        pool: Option<String>,
        /// As it would be written with dots: `timeouts.drain`.
        key: String,
        /// As it was.
        from: String,
        /// As it is now.
        to: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListenerAdded(listener) => {
                write!(f, "listener {}: added ({})", listener.name, listener.address)
            }
            Self::ListenerRemoved(listener) => {
                write!(f, "listener {}: removed ({})", listener.name, listener.address)
            }
            Self::ListenerAddress { listener, from, to } => {
                write!(f, "listener {listener}: address {from} -> {to}")
            }
            Self::RouteAdded(RouteConfig { name, host, path, pool }) => {
                write!(f, "route {name}: added ({host}{path} to pool {pool})")
            }
            Self::RouteRemoved(route) => write!(f, "route {}: removed", route.name),
            Self::RouteChanged { route, key, from, to } => {
                write!(f, "route {route}: {key} {from} -> {to}")
            }
            Self::PoolAdded(pool) => write!(f, "pool {pool}: added"),
            Self::PoolRemoved(pool) => write!(f, "pool {pool}: removed"),
            Self::PoolOrder(pool) => write!(f, "pool {pool}: servers in another order"),
            Self::ServerAdded { pool, server } => {
                let ServerConfig { name, address, weight, enabled } = server;
                let disabled = if *enabled { "" } else { ", disabled" };
                write!(f, "server {pool}/{name}: added ({address}, weight {weight}{disabled})")
            }
            Self::ServerRemoved { pool, server } => {
                write!(f, "server {pool}/{}: removed", server.name)
            }
            Self::ServerAddress { pool, server, from, to } => {
                write!(f, "server {pool}/{server}: address {from} -> {to}")
            }
            Self::ServerWeight { pool, server, from, to } => {
                write!(f, "server {pool}/{server}: weight {from} -> {to}")
            }
            Self::ServerEnabled { pool, server, enabled } => {
                let state = if *enabled { "enabled" } else { "disabled" };
                write!(f, "server {pool}/{server}: {state}")
            }
            Self::Setting { pool, key, from, to } => {
                match pool {
                    Some(pool) => write!(f, "pool {pool}: {key} {from} -> {to}")?,
                    None => write!(f, "{key}: {from} -> {to}")?,
                }
                match key.as_str() {
                    "proxy.workers" => f.write_str(" (from the next start on)"),
                    _ => Ok(()),
                }
            }
        }
    }
}
