//! Tests of the demo server from outside: over sockets, and as a process.

mod process;
mod server;
mod support;
mod tracing;
