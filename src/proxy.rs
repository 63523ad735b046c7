//! The request path.

<<<<<<< HEAD
pub mod request_id;
pub mod trace_context;
=======
pub mod host;
pub mod path;
pub mod refusal;
pub mod target;
>>>>>>> head
