//! The request path: from an accepted connection to the last byte of the answer.
//!
//! [`client`] serves a connection, [`forward`] a request: it asks [`target`] what is wanted, the
//! snapshot for route and server, makes the head what the server is to see ([`framing`], [`fields`],
//! [`forwarded`], [`trace_context`], [`request_id`]), takes a connection from [`upstream`], and
//! hands the answer on as it comes ([`body`], [`tunnel`]). [`retry`] decides about another try,
//! [`failure`] is the one place where failures become answers, [`exchange`] the one record of it
//! all, and [`watch`] keeps the time.
//!
//! The engine, hyper, is named in [`client`], [`upstream`] and [`body`] only; all else speaks in
//! the `http` crate's types.

pub mod body;
pub mod client;
pub mod exchange;
pub mod failure;
pub mod fields;
pub mod forward;
pub mod forwarded;
pub mod framing;
pub mod host;
pub mod path;
pub mod refusal;
pub mod request_id;
pub mod retry;
pub mod target;
pub mod trace_context;
pub mod tunnel;
pub mod upstream;
pub mod watch;
