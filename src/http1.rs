//! HTTP/1.1 (RFC 9112) on both sides of a proxy.
//!
//! - Messages (pure): [`head`], [`headers`] and [`name`] parse a head; [`framing`], [`chunked`] and [`trailers`] are
//!   about its body; [`target`], [`host`] and [`path`] identify the resource; [`persistence`] decides whether the
//!   connection stays open; [`rejection`] lists the reasons for rejecting a request; [`base64`] encodes
//!   what headers prove.
//! - Connections: [`server`] is the client's side of the proxy, on which `lb` is the server, and [`client`] the
//!   server's side. [`body`] streams a body in any framing; [`resources`] are shared by all connections of a worker.

pub mod base64;
pub mod body;
pub mod chunked;
pub mod client;
pub mod framing;
pub mod head;
pub mod headers;
pub mod host;
pub mod name;
pub mod path;
pub mod persistence;
pub mod rejection;
pub mod resources;
pub mod server;
pub mod target;
pub mod trailers;
