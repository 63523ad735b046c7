//! HTTP/2 (RFC 9113) on top of the `h2` crate, which has frames, HPACK, streams and flow control.
//!
//! - [`head`] converts heads and trailers to and from those of HTTP/1, so that both protocols share their rules (pure).
//! - [`io`] lets `h2` read and write a transport, and [`flood`] counts what a client sends through it (pure).
//! - [`server`] is a stream to a client: a request and its response.

pub mod flood;
pub mod head;
pub mod io;
pub mod server;
