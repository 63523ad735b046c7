//! Parses the main file and the files it includes: from their bytes to a configuration, or to every problem in them.
//!
//! The steps: `syntax` parses each file into a tree with locations, `env` substitutes environment variables, `tree` merges
//! the files, `tables` reads each table with a `table_reader` into a draft, and `resolve` checks what involves several
//! tables. Each step adds the problems it finds to the `report` and goes on. [`amend`] is a shortcut for an edit that changes
//! a few of many servers.

pub mod amend;
mod env;
pub mod keys;
pub mod locate;
pub mod places;
mod report;
mod resolve;
pub mod subject;
mod syntax;
mod table_reader;
mod tables;
mod tree;
mod wording;

use memchr::{memchr, memmem};

#[cfg(test)]
use crate::config::DEFAULT_POOL;
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{AdminConfig, Config, ReloadConfig, mask};

use report::Report;
use tree::{Location, TomlKind, TomlTable};

/// Looks up an environment variable.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Parses the main file, which comes first, and the files it includes. Arrays of tables are concatenated in this order.
///
/// # Errors
/// Every problem of every file, by file, line and column; never an empty list.
pub fn parse(files: &[SourceFile], env: &Env<'_>) -> Result<Config, Vec<Problem>> {
    let report = Report::new(files);
    let draft = tables::read(&merged(files.len(), env, &report), &report);
    if report.has_syntax_errors() {
        // Checks across tables would report consequences of what could not be parsed.
        return Err(report.into_problems());
    }
    let config = resolve::resolve(draft, &report);
    let problems = report.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Reads the `[admin]` table of files that may be invalid, so that commands can reach a balancer that still runs an
/// earlier configuration. Invalid values are replaced by their defaults.
#[must_use]
pub fn admin(files: &[SourceFile], env: &Env<'_>) -> AdminConfig {
    let report = Report::new(files);
    tables::read(&merged(files.len(), env, &report), &report).admin
}

/// Reads the `[reload]` table of files that may be invalid.
#[must_use]
pub fn reload(files: &[SourceFile], env: &Env<'_>) -> ReloadConfig {
    let report = Report::new(files);
    tables::read(&merged(files.len(), env, &report), &report).reload
}

/// Parses all files into one tree.
fn merged<'a>(files: usize, env: &Env<'_>, report: &Report<'a>) -> TomlTable<'a> {
    let mut root = TomlTable::default();
    for index in 0..files {
        let Some(mut table) = syntax::parse(report, index) else {
            continue;
        };
        env::substitute(&mut table, env, report);
        if let Some(include) = (index > 0).then(|| table.remove("include")).flatten() {
            report.at(
                include.key,
                Reason::new("an included file cannot include other files")
                    .hint("list all of them in the main file's `include`"),
            );
        }
        root.merge(table, report);
    }
    root
}

/// Replaces the references to the environment in a text; `None` if one of them is invalid or not set.
pub(super) fn expand(text: &str, env: &Env<'_>) -> Option<String> {
    let env::Expansion { text, reasons, .. } = env::expand(text, env);
    reasons.is_empty().then_some(text)
}

/// One entry of the main file's `include`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// A path or a glob, relative to the main file's directory.
    pub pattern: String,
    /// The pattern as it is shown.
    pub shown: String,
    /// Its place in the file: a problem without a message.
    pub place: Problem,
}

/// Returns what the main file includes, as far as that can be parsed; [`parse`] reports the problems.
#[must_use]
pub fn includes(main: &SourceFile, env: &Env<'_>) -> Vec<Include> {
    // Most files include nothing, and need not be parsed to know that. A key with an escape may be spelled differently.
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
        Some(TomlKind::Array(values)) => values
            .iter()
            .filter_map(|value| match &value.kind {
                TomlKind::String(pattern) => Some(Include {
                    pattern: pattern.to_string(),
                    shown: match value.template.as_deref().filter(|template| template.is_secret()) {
                        Some(template) => template.typed.clone(),
                        None => mask(pattern).into_owned(),
                    },
                    place: report.problem(value.location, Reason::new("")),
                }),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
