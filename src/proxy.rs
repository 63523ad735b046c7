//! One request, from its head to the end of its response. Accesses no file, and sockets only through the transport.
//!
//! - [`request`] takes a request through its phases. [`phases`] has the decisions (pure): validate, route, admit,
//!   rewrite, and the response rules. [`attempts`] makes attempts until a server responds, and [`attempt`] is one of
//!   them. [`upload`] sends the body of the request and [`relay`] that of the response; [`tunnel`] relays both
//!   directions after a switch of protocols. [`local`] has the responses that `lb` itself sends.
//! - [`downstream`] and [`upstream`] are the two sides of a request, independent of the protocol;
//!   [`upstream_pool`] keeps connections to servers.
//! - [`exchange`] has the stages of a request, [`record`] the facts about it, and [`error`] the ways in which it can
//!   fail. [`failures`] decides which of them speak against servers; [`saved`] keeps a response that is retried.
//! - [`context`] has the state that all requests of a worker share, and [`client`] the state that all requests of a
//!   connection share. [`timeouts`] limits how long each may wait.
//! - [`headers`], [`cookie`], [`retry`], [`grpc`]: rules. Pure.

pub mod attempt;
pub mod attempts;
pub mod client;
pub mod context;
pub mod cookie;
pub mod downstream;
pub mod error;
pub mod exchange;
pub mod failures;
pub mod grpc;
pub mod headers;
pub mod local;
#[cfg(test)]
mod memory;
pub mod phases;
pub mod record;
pub mod relay;
pub mod request;
pub mod retry;
pub mod saved;
pub mod timeouts;
pub mod tunnel;
pub mod upload;
pub mod upstream;
pub mod upstream_pool;

#[cfg(test)]
mod tests;
