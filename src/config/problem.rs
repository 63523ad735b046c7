//! A problem in a configuration: what is wrong, where, and what to do; and its forms for people, programs and CI.

use std::path::PathBuf;

use serde::Serialize;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file it is in.
    pub file: PathBuf,
    /// Line, from 1; 0 when it concerns the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it concerns the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line's text, without its end; empty when it concerns the file as a whole.
    #[serde(skip)]
    pub excerpt: String,
    /// How many characters of the excerpt, from the column on, are meant; at least 1.
    #[serde(skip)]
    pub width: usize,
}
