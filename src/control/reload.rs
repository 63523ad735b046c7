//! Reading configuration files: noticing changes, reading them whole, writing them, keeping the last good copy.

pub mod last_good;
pub mod reader;
pub mod replace;
pub mod source;
pub mod trail;
pub mod watcher;
