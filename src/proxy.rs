//! One request, from its head to the end of its response. Knows neither sockets nor files.
//!
//! - [`request`] is the way of a request through its phases. [`phases`] has the decisions (pure): validate, route,
//!   admit, rewrite, and the response rules. [`attempts`] picks servers until one responds, [`attempt`] is one of
//!   them; [`upload`] sends the request's body, [`relay`] the response's, [`tunnel`] both after a switch of
//!   protocols. [`local`] responds in a server's stead.
//! - [`downstream`] and [`upstream`] are the two sides of a request, whatever protocol they speak;
//!   [`upstream_pool`] keeps connections to servers.
//! - [`exchange`] is a request in its stages, [`record`] what is known of it, [`error`] the ways in which it fails.
//! - [`context`] is what the requests of a worker share, [`client`] what those of a connection share,
//!   [`timeouts`] how long each may wait.
//! - [`headers`], [`cookie`], [`retry`]: rules. Pure.

pub mod attempt;
pub mod attempts;
pub mod client;
pub mod context;
pub mod cookie;
pub mod downstream;
pub mod error;
pub mod exchange;
pub mod headers;
pub mod local;
#[cfg(test)]
mod memory;
pub mod phases;
pub mod record;
pub mod relay;
pub mod request;
pub mod retry;
pub mod timeouts;
pub mod tunnel;
pub mod upload;
pub mod upstream;
pub mod upstream_pool;

#[cfg(test)]
mod tests;
