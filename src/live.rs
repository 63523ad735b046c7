//! The state that both planes see. The control plane writes it, except for the counters, which workers write;
//! workers, telemetry and the admin address read it.
//!
//! - [`snapshot`]: a generation together with the health of its servers, as requests see it.
//! - [`route`], [`pool`], [`server`], [`listener`]: the objects of a generation, and the parts that outlive it.
//! - [`balance`], [`retry_budget`], [`token`], [`health`], [`evidence`], [`availability`]: the decisions about them. Pure.
//! - [`state`]: the state of the process that every thread may read; [`reloads`], [`events`] and [`watch_status`] are its
//!   parts.
//! - [`tls`]: the certificates that listeners show.
//! - [`counters`], [`method`]: per-worker counters, and the keys they use.

pub mod address_list;
pub mod availability;
pub mod balance;
pub mod counters;
pub mod descriptors;
pub mod events;
pub mod evidence;
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
pub mod tls;
pub mod token;
pub mod watch_status;
