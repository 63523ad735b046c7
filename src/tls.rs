//! TLS over byte buffers: knows no sockets, no files and no tasks.
//!
//! - [`certificate`]: a chain and its key.
//! - [`index`]: the certificate for a server name.

pub mod certificate;
pub mod index;
