//! The places of servers and their keys in the files, for edits of the text.

use std::ops::Range;

use super::report::Report;
use super::{Env, env, syntax};
use crate::config::DEFAULT_POOL;
use crate::config::file::tree::{TomlKind, TomlTable, TomlValue};
use crate::config::problem::Problem;
use crate::config::source::SourceFile;

#[derive(Debug, Default)]
pub struct Places {
    /// All servers, in the order in which their pools have them.
    pub servers: Vec<ServerPlace>,
    /// Each `server = []`.
    pub empty_arrays: Vec<EmptyArray>,
    /// For each file the sorted ends of its values. Between such an end and the next key or header there are only
    /// white space, comments and punctuation.
    pub value_ends: Vec<Vec<usize>>,
}

#[derive(Debug)]
pub struct ServerPlace {
    pub pool: String,
    /// Empty if it is missing or not a string.
    pub name: String,
    /// The file's index.
    pub file: usize,
    /// The header `[[server]]`, or the inline table from `{` to `}`.
    pub span: Range<usize>,
    /// The start of the array that contains the server; it identifies the array within the file.
    pub array_start: usize,
    /// In the order of the file.
    pub keys: Vec<KeyPlace>,
}

/// One key of a server and its value.
#[derive(Debug)]
pub struct KeyPlace {
    pub name: String,
    pub key: Range<usize>,
    pub value: Range<usize>,
    /// `None` if the value has another type.
    pub scalar: Option<Scalar>,
}

/// A value that an edit compares or sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    Boolean(bool),
    Integer(i64),
    String(String),
    /// A text with references to the environment, after they were replaced. In another environment it differs.
    FromEnv(String),
}

#[derive(Debug)]
pub struct EmptyArray {
    pub pool: String,
    /// The file's index.
    pub file: usize,
    /// From `[` to `]`.
    pub span: Range<usize>,
}

/// Finds all servers. Other problems of the files do not matter here.
///
/// # Errors
/// If a file is not TOML.
pub fn places(files: &[SourceFile], env: &Env<'_>) -> Result<Places, Vec<Problem>> {
    let mut places = Places::default();
    let mut roots = Vec::new();
    let report = Report::new(files);
    for file in 0..files.len() {
        roots.push(syntax::parse(&report, file).unwrap_or_default());
    }
    if report.has_syntax_errors() {
        return Err(report.into_problems());
    }
    // Unset variables are reported when the result of the edit is checked.
    let ignored = Report::new(files);
    for root in &mut roots {
        let mut ends = Vec::new();
        collect_ends(root, &mut ends);
        ends.sort_unstable();
        places.value_ends.push(ends);
        env::substitute(root, env, &ignored);
    }
    for (file, root) in roots.iter().enumerate() {
        places.add(file, DEFAULT_POOL, root);
    }
    for (file, root) in roots.iter().enumerate() {
        let Some(TomlKind::Table(pools)) = root.get("pool").map(|entry| &entry.value.kind) else { continue };
        for (pool, entry) in pools.iter() {
            if let TomlKind::Table(table) = &entry.value.kind {
                places.add(file, pool, table);
            }
        }
    }
    Ok(places)
}

impl Places {
    fn add(&mut self, file: usize, pool: &str, table: &TomlTable) {
        let Some(TomlValue { kind: TomlKind::Array(values), location, .. }) =
            table.get("server").map(|entry| &entry.value)
        else {
            return;
        };
        if values.is_empty() {
            self.empty_arrays.push(EmptyArray { pool: pool.to_owned(), file, span: location.start..location.end });
        }
        for value in values {
            let TomlKind::Table(table) = &value.kind else { continue };
            let mut keys: Vec<KeyPlace> = table
                .iter()
                .map(|(name, entry)| KeyPlace {
                    name: name.to_owned(),
                    key: entry.key.start..entry.key.end,
                    value: entry.value.location.start..entry.value.location.end,
                    scalar: scalar(&entry.value),
                })
                .collect();
            keys.sort_by_key(|key| key.key.start);
            let name = keys.iter().find(|key| key.name == "name").and_then(|key| key.scalar.clone());
            let name = match name {
                Some(Scalar::String(name) | Scalar::FromEnv(name)) => name,
                _ => String::new(),
            };
            let span = value.location.start..value.location.end;
            self.servers.push(ServerPlace {
                pool: pool.to_owned(),
                name,
                file,
                span,
                array_start: location.start,
                keys,
            });
        }
    }
}

impl ServerPlace {
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&KeyPlace> {
        self.keys.iter().find(|key| key.name == name)
    }
}

fn scalar(value: &TomlValue) -> Option<Scalar> {
    match &value.kind {
        TomlKind::Boolean(value) => Some(Scalar::Boolean(*value)),
        TomlKind::Integer(value) => Some(Scalar::Integer(*value)),
        TomlKind::String(text) if value.template.is_some() => Some(Scalar::FromEnv(text.to_string())),
        TomlKind::String(text) => Some(Scalar::String(text.to_string())),
        _ => None,
    }
}

fn collect_ends(table: &TomlTable, ends: &mut Vec<usize>) {
    for (_, entry) in table.iter() {
        collect_end(&entry.value, ends);
    }
}

fn collect_end(value: &TomlValue, ends: &mut Vec<usize>) {
    match &value.kind {
        TomlKind::Table(table) => collect_ends(table, ends),
        TomlKind::Array(values) => values.iter().for_each(|value| collect_end(value, ends)),
        _ => ends.push(value.location.end),
    }
}
