//! Rules that change headers on their way through the proxy. Pure.

pub mod client_certificate;
pub mod forwarded;
pub mod hop_by_hop;
pub mod request_id;
pub mod trace_context;
