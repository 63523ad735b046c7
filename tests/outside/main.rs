//! The `lb` command, seen from outside: real processes, real sockets, real files, real signals.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod balance;
mod live_edit;
mod refused;
mod reload;
mod shutdown;
mod start;
mod state;
mod support;
