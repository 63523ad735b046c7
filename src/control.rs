//! The control plane: one thread that applies edits and checks servers, and one that reads the files.
//!
//! - [`reload`]: notices edits of the files, reads and parses them.
//! - [`gateway`]: starts the process, applies edits, records them, and shuts down.
//! - [`certificates`]: the files that a configuration refers to.
//! - [`registry`]: owns the state that outlives a generation, and builds snapshots around it.
//! - [`health`]: checks servers.
//! - [`acme`]: orders certificates.
//! - [`resolver`]: looks up the servers' host names.
//! - [`upstream_tls`]: builds the rules for TLS to servers.

pub mod acme;
pub mod certificates;
pub mod gateway;
pub mod health;
pub mod registry;
pub mod reload;
pub mod resolver;
pub mod upstream_tls;
