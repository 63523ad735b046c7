//! The demo server as its users meet it: over sockets, and as a process.

mod process;
mod server;
mod support;
mod tracing;
