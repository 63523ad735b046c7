//! Reloading: notices changes of the files, reads and parses them, and keeps a copy of the last good configuration.

pub mod completeness;
pub mod last_good;
pub mod reader;
pub mod replace;
pub mod source;
pub mod trail;
pub mod watcher;
