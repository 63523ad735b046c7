//! The state that both planes see: written by the control plane, read by workers, telemetry and the admin address.
//!
//! - [`snapshot`]: a generation together with the health of its servers, as requests see it.
//! - [`route`], [`pool`], [`server`], [`listener`]: its parts, and the counters they keep across generations.
//! - [`balance`], [`retry_budget`], [`token`], [`health`]: the decisions made on them. Pure.
//! - [`state`]: the state of the process that every thread may read; [`reloads`], [`events`] and [`watch_status`] are its
//!   parts.
//! - [`counters`], [`method`]: per-worker counters, and the keys they use.

pub mod balance;
pub mod counters;
pub mod events;
pub mod health;
pub mod listener;
pub mod method;
pub mod pool;
pub mod reloads;
pub mod retry_budget;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod token;
pub mod watch_status;
