//! The request path.

pub mod fields;
pub mod forwarded;
pub mod host;
pub mod path;
pub mod refusal;
pub mod target;
