//! Reads the files that a configuration refers to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{matches_of, read_file};
use crate::config::problem::Reason;
use crate::config::source::SourceFile;

/// The paths that the glob at `path`, which has its base in front of it, matches.
pub fn referenced_matches(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    matches_of(&path.to_string_lossy())
}

/// Reads a file that a configuration refers to. Returns `before` if that has the same content.
///
/// # Errors
/// Why it cannot be read.
pub fn read_referenced(path: &Path, before: Option<&SourceFile>, budget: &mut u64) -> Result<SourceFile, Reason> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Reason::new("there is no such file")
            .hint("check the name; it is relative to the directory of the configuration file that has it")),
        Ok(metadata) if metadata.is_dir() => Err(Reason::new("this is a directory, not a file")
            .hint("name a file in it; for certificates, `directory` finds the files by themselves")),
        _ => read_file(path, before, budget).map(|(file, _)| file),
    }
}
