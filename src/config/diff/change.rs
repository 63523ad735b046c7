//! One change between two configurations, as a value and in words.

use std::fmt;

use crate::config::{ListenerConfig, RouteConfig, ServerConfig};

/// One change between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    ListenerAdded(ListenerConfig),
    ListenerRemoved(ListenerConfig),
    /// The listener of this name has a new address.
    ListenerAddress {
        listener: String,
        from: String,
        to: String,
    },
    /// The file or directory of the certificate.
    CertificateAdded(String),
    /// The file or directory of the certificate.
    CertificateRemoved(String),
    CertificateDefault {
        certificate: String,
        default: bool,
    },
    /// The names that are ordered by ACME.
    CertificateNames {
        certificate: String,
        from: String,
        to: String,
    },
    RouteAdded(RouteConfig),
    RouteRemoved(RouteConfig),
    RouteChanged {
        route: String,
        /// `host`, `path` or `pool`.
        key: &'static str,
        from: String,
        to: String,
    },
    /// The pool's name. Its servers are listed separately.
    PoolAdded(String),
    /// The pool's name. Its servers are listed separately.
    PoolRemoved(String),
    /// The pool of this name has the same servers in a different order, so they take turns in that order.
    PoolOrder(String),
    ServerAdded {
        pool: String,
        server: ServerConfig,
    },
    ServerRemoved {
        pool: String,
        server: ServerConfig,
    },
    /// The server of this name has a new address, which makes it a different live server.
    ServerAddress {
        pool: String,
        server: String,
        from: String,
        to: String,
    },
    ServerWeight {
        pool: String,
        server: String,
        from: String,
        to: String,
    },
    ServerEnabled {
        pool: String,
        server: String,
        enabled: bool,
    },
    /// The URL of a collector, of which only the part that is not shown differs.
    Credentials {
        /// The dotted key: `tracing.zipkin`.
        key: &'static str,
        /// The URL as it is shown.
        shown: String,
    },
    /// Any other key.
    Setting {
        scope: Scope,
        /// The dotted key: `timeouts.drain`.
        key: String,
        from: String,
        to: String,
    },
}

/// The part of a configuration that a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole.
    Top,
    /// The listener of this name.
    Listener(String),
    /// The pool of this name.
    Pool(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListenerAdded(ListenerConfig { name, address, env, .. }) => {
                write!(f, "listener {}: added ({})", env.show("name", name), env.show("address", address))
            }
            Self::ListenerRemoved(ListenerConfig { name, address, env, .. }) => {
                write!(f, "listener {}: removed ({})", env.show("name", name), env.show("address", address))
            }
            Self::ListenerAddress { listener, from, to } => {
                write!(f, "listener {listener}: address {from} -> {to}")
            }
            Self::CertificateAdded(certificate) => write!(f, "certificate {certificate}: added"),
            Self::CertificateRemoved(certificate) => write!(f, "certificate {certificate}: removed"),
            Self::CertificateDefault { certificate, default: true } => {
                write!(f, "certificate {certificate}: is now the default")
            }
            Self::CertificateDefault { certificate, default: false } => {
                write!(f, "certificate {certificate}: is no longer the default")
            }
            Self::CertificateNames { certificate, from, to } => {
                write!(f, "certificate {certificate}: names {from} -> {to}")
            }
            Self::RouteAdded(RouteConfig { name, host, path, pool, env }) => {
                let (name, host, path) = (env.show("name", name), env.show("host", host), env.show("path", path));
                write!(f, "route {name}: added ({host}{path} to pool {pool})")
            }
            Self::RouteRemoved(route) => write!(f, "route {}: removed", route.env.show("name", &route.name)),
            Self::RouteChanged { route, key, from, to } => {
                write!(f, "route {route}: {key} {from} -> {to}")
            }
            Self::PoolAdded(pool) => write!(f, "pool {pool}: added"),
            Self::PoolRemoved(pool) => write!(f, "pool {pool}: removed"),
            Self::PoolOrder(pool) => write!(f, "pool {pool}: servers reordered"),
            Self::ServerAdded { pool, server } => {
                let ServerConfig { name, address, weight, enabled, env } = server;
                let name = env.show("name", name);
                let (address, weight) = (env.show("address", address), env.show("weight", weight));
                let disabled = if *enabled { "" } else { ", disabled" };
                write!(f, "server {pool}/{name}: added ({address}, weight {weight}{disabled})")
            }
            Self::ServerRemoved { pool, server } => {
                write!(f, "server {pool}/{}: removed", server.env.show("name", &server.name))
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
            Self::Credentials { key, shown } => write!(f, "{key}: other credentials for {shown}"),
            Self::Setting { scope, key, from, to } => {
                match scope {
                    Scope::Top => write!(f, "{key}: {from} -> {to}")?,
                    Scope::Listener(listener) => write!(f, "listener {listener}: {key} {from} -> {to}")?,
                    Scope::Pool(pool) => write!(f, "pool {pool}: {key} {from} -> {to}")?,
                }
                match key.as_str() {
                    "proxy.workers" => f.write_str(" (takes effect at the next start)"),
                    _ => Ok(()),
                }
            }
        }
    }
}
