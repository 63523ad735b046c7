//! The file as it was typed: from the bytes of one main file and what it includes to a
//! configuration, or to everything that is wrong with it.
//!
//! The way of a file: `syntax` makes a spanned tree of it, `env` fills in the environment, `tree`
//! joins the files, `tables` reads each table with a `reader` into a draft, and `resolve` checks
//! what only the whole can show. Each step collects problems in the `report` and goes on. An edit that
//! changes a few servers of many goes the short way, [`amend`].

pub mod amend;
mod env;
pub mod keys;
pub mod places;
mod reader;
mod report;
mod resolve;
mod syntax;
mod tables;
mod tree;
mod wording;

use memchr::{memchr, memmem};

#[cfg(test)]
use crate::config::DEFAULT_POOL;
use crate::config::problem::{Fault, Problem};
use crate::config::source::SourceFile;
use crate::config::{AdminConfig, Config, ReloadConfig};

use report::Report;
use tree::{Kind, Place, Table};

/// The value of an environment variable, if it is set.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads the main file, which is the first, and what it includes, in the order in which arrays of
/// tables are to be joined.
///
/// # Errors
/// Every problem of every file, by file, line and column; never none.
pub fn parse(files: &[SourceFile], env: &Env<'_>) -> Result<Config, Vec<Problem>> {
    let report = Report::new(files);
    let draft = tables::read(&joined(files.len(), env, &report), &report);
    if report.has_syntax_errors() {
        // What the whole would show depends on what could not be read.
        return Err(report.into_problems());
    }
    let config = resolve::resolve(draft, &report);
    let problems = report.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// The admin address that the files tell, whatever else is wrong with them: the way to ask the
/// balancer that goes on with an earlier edit. What cannot be read is the default.
#[must_use]
pub fn admin(files: &[SourceFile], env: &Env<'_>) -> AdminConfig {
    let report = Report::new(files);
    tables::read(&joined(files.len(), env, &report), &report).admin
}

/// The `[reload]` table, likewise.
#[must_use]
pub fn reload(files: &[SourceFile], env: &Env<'_>) -> ReloadConfig {
    let report = Report::new(files);
    tables::read(&joined(files.len(), env, &report), &report).reload
}

/// The tree of all files together.
fn joined<'a>(files: usize, env: &Env<'_>, report: &Report<'a>) -> Table<'a> {
    let mut root = Table::default();
    for index in 0..files {
        let Some(mut table) = syntax::parse(report, index) else {
            continue;
        };
        env::substitute(&mut table, env, report);
        if let Some(include) = (index > 0).then(|| table.remove("include")).flatten() {
            report.at(
                include.key,
                Fault::new("an included file includes no further files")
                    .hint("list all of them in the main file's `include`"),
            );
        }
        root.merge(table, report);
    }
    root
}

/// One entry of the main file's `include`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// A path or a glob, relative to the main file's directory.
    pub pattern: String,
    /// Where it stands: a problem still without a message.
    pub place: Problem,
}

/// What the main file includes, as far as it can be read; [`parse`] tells what is wrong with the
/// rest.
#[must_use]
pub fn includes(main: &SourceFile, env: &Env<'_>) -> Vec<Include> {
    // Most files include nothing: they need not be parsed to say so. With an escape a key is spelt otherwise.
    if memmem::find(&main.bytes, b"include").is_none() && memchr(b'\\', &main.bytes).is_none() {
        return Vec::new();
    }
    let files = std::slice::from_ref(main);
    let report = Report::new(files);
    let Some(mut table) = syntax::parse(&report, 0) else {
        return Vec::new();
    };
    table.retain("include");
    env::substitute(&mut table, env, &report);
    match table.get("include").map(|entry| &entry.value.kind) {
        Some(Kind::Array(values)) => values
            .iter()
            .filter_map(|value| match &value.kind {
                Kind::String(pattern) => {
                    Some(Include { pattern: pattern.to_string(), place: report.problem(value.place, Fault::new("")) })
                }
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
