//! The `lb` command, seen from outside: real processes, real sockets, real files, real signals.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod access_log;
mod balance;
mod bodies;
mod connections;
mod failures;
mod hard;
mod healthcheck;
mod keys;
mod last_good;
mod live_edit;
mod metrics;
mod prometheus;
mod refused;
mod reload;
mod request;
mod shutdown;
mod start;
mod state;
mod sticky;
mod support;
mod timeouts;
mod tracing;
mod upgrade;
mod zipkin;
