//! HTTP/1.1 (RFC 9112) on both sides of a proxy.
//!
//! - What a message says (pure): [`head`], [`headers`] and [`name`] parse it, [`framing`] and [`chunked`] find its end,
//!   [`target`] with [`host`] and [`path`] identify the resource; [`rejection`] lists what is wrong with a request.
//! - Bytes: [`body`] streams a body in any framing.

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
