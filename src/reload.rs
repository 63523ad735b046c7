//! Reloading: from a changed file to a new generation, or to a record of why not.

pub mod reader;
pub mod record;
