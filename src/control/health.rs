//! Health checks: when a server is checked, how one check is made, and the memory that a server reports of itself.

/// The target of these modules' log messages: a name that `log.level` can rely on.
const LOG_TARGET: &str = "lb::health";

pub mod checker;
pub mod error;
mod exchange;
mod grpc;
mod http2;
mod idle_pause;
pub mod memory;
pub mod probe;
pub mod schedule;
mod stream;
mod task;
