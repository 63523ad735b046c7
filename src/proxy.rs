//! The request path.

pub mod request_id;
pub mod trace_context;
