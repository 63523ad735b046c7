//! The request path: from an accepted connection to the last byte of the answer.
//!
//! HTTP/1.1 is spoken by ourselves here, on both sides; small pure modules know the protocol, a few
//! others move bytes.
//!
//! - A connection and its requests: [`client`] serves one after the other, [`forward`] takes a request
//!   from its head to the end of its answer, [`attempt`] is one try at one server, [`upload`] its
//!   request's body, [`tunnel`] what follows a change of protocol. [`exchange`] is the one record of it all.
//! - Bytes: [`wire`] reads and writes, [`body`] streams in whatever framing, [`upstream`] keeps
//!   connections to servers, [`watch`] keeps the time.
//! - What a message says (pure): [`head`] and [`name`] parse it, [`framing`] and [`chunked`] find its
//!   end, [`target`] with [`host`] and [`path`] what is asked for.
//! - What a server is told (pure): [`headers`], [`forwarded`], [`trace_context`], [`request_id`].
//! - What is decided (pure): [`retry`], whether another try may be made; [`fault`], what a failed one
//!   says of its server; [`refusal`] and [`failure`], the one place where failures become answers.

pub mod attempt;
pub mod connection;
pub mod cookie;
pub mod error;
pub mod exchange;
pub mod fault;
pub mod headers;
pub mod request;
pub mod retry;
pub mod timeouts;
pub mod tunnel;
pub mod upload;
pub mod upstream;
