//! The control plane: one thread that turns edits into generations and watches over servers.
//!
//! - [`reload`] follows the files and reads them on a thread of its own.
//! - [`gateway`] starts the process, applies edits, records them, and shuts down.
//! - [`registry`] owns what outlives a generation, and builds snapshots around it.
//! - [`health`] checks servers; [`resolver`] keeps the addresses behind their host names.

pub mod gateway;
pub mod health;
pub mod registry;
pub mod reload;
pub mod resolver;
