//! The `lb` command, seen from outside: real processes, real sockets, real files, real signals.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod access_log;
mod balance;
mod bodies;
mod check;
mod checks;
mod complete;
mod connections;
mod cookies;
mod dashboard;
mod ejection;
mod events;
mod explain;
mod failures;
mod gitops;
mod half_closed;
mod hard;
mod healthcheck;
mod holds;
mod keys;
mod last_good;
mod least;
mod live_edit;
mod log_blocked;
mod log_files;
mod many;
mod metrics;
mod pending;
mod plan;
mod prometheus;
mod rejected;
mod reload;
mod request;
mod resets;
mod secrets;
mod server_edit;
mod shutdown;
mod signals;
mod start;
mod state;
mod status;
mod sticky;
mod timeouts;
mod timing;
mod tracing;
mod trailers;
mod tunnels;
mod turns;
mod unseen;
mod upgrade;
mod wait;
mod zipkin;

#[path = "../support/mod.rs"]
mod support;
