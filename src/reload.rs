//! Reloading: from a changed file to a new generation, or to a record of why not.

pub mod last_good;
pub mod reader;
pub mod record;
pub mod sight;
