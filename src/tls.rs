//! TLS over byte buffers: knows no sockets, no files and no tasks.
//!
//! - [`hello`]: a client's first message.
//! - [`session`]: a TLS connection, of either side, between received bytes and bytes to send.

pub mod hello;
pub mod session;
