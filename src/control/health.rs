//! Health checks: when a server is checked, how one check is made, and the memory that a server reports of itself.

pub mod checker;
pub mod memory;
pub mod probe;
