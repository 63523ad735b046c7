//! HTTP/2 (RFC 9113) on the `h2` crate, on both sides of the proxy.
//!
//! - [`head`] converts heads and trailers of clients to and from those of HTTP/1, so that both protocols share their rules
//!   (pure); [`request_head`] and [`response_head`] do so for servers.
//! - [`io`] lets `h2` read and write the transport of a client, [`flood`] counts what it sends, and [`output`] finds the
//!   requests that `h2` itself has rejected (pure). [`client_io`] is the transport of a server.
//! - `fields` is what these conversions share, and [`websocket`] what HTTP/1 and HTTP/2 do differently to open one (pure).
//! - [`server`] is a stream to a client: a request and its response.
//! - [`client`] is a connection to a server, shared by requests, and [`exchange`] one of its streams.

pub mod client;
pub mod client_io;
pub mod exchange;
mod fields;
pub mod flood;
pub mod head;
pub mod io;
pub mod output;
pub mod request_head;
pub mod response_head;
pub mod server;
pub mod websocket;
