//! Request headers as a server gets them. Pure.

pub mod forwarded;
pub mod hop_by_hop;
pub mod request_id;
pub mod trace_context;
