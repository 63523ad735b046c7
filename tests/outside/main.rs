//! The `lb` command, seen from outside: real processes, real sockets, real files, real signals.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod balance;
mod head;
mod healthcheck;
mod request;
mod support;
