//! Health checks of servers: when they run, how one is made, and what a server's memory page says.

pub mod checker;
pub mod memory;
pub mod probe;
