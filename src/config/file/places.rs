//! The places of servers in the text of the files, for the commands that edit them.

use std::ops::Range;

use super::report::Report;
use super::{Env, env, syntax};
use crate::config::DEFAULT_POOL;
use crate::config::file::tree::{TomlKind, TomlTable, TomlValue};
use crate::config::problem::Problem;
use crate::config::source::SourceFile;

/// The servers of some files, in the order of their pools, and the other places that an edit needs.
#[derive(Debug, Default)]
pub struct Places {
    pub servers: Vec<ServerPlace>,
    /// Empty arrays, written `server = []`.
    pub empty: Vec<EmptyPlace>,
    /// For each file, the sorted ends of its values. Between a value's end and the next key there are only white space,
    /// comments and headers.
    pub ends: Vec<Vec<usize>>,
}

#[derive(Debug)]
pub struct ServerPlace {
    pub pool: String,
    /// Empty if the server has no valid name.
    pub name: String,
    /// The file's index.
    pub file: usize,
    /// The header `[[server]]`, or the whole inline table from `{` to `}`.
    pub span: Range<usize>,
    /// The start of the array that contains it, which identifies the array.
    pub array: usize,
    /// In the order of the file.
    pub keys: Vec<KeyPlace>,
}

#[derive(Debug)]
pub struct KeyPlace {
    pub name: String,
    pub key: Range<usize>,
    pub value: Range<usize>,
    /// The value, if an edit can set one of its type.
    pub is: Option<Scalar>,
}

/// A value that an edit can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// Of `enabled`.
    Boolean(bool),
    /// Of `weight`.
    Integer(i64),
    /// Of `name` and `address`, with environment variables substituted.
    Text(String),
}

#[derive(Debug)]
pub struct EmptyPlace {
    pub pool: String,
    /// The file's index.
    pub file: usize,
    /// From `[` to `]`.
    pub span: Range<usize>,
}

/// Finds the places in files that need not be valid configurations.
///
/// # Errors
/// The files' syntax errors.
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
    // Reading the configuration reports invalid references; here they are ignored.
    let ignored = Report::new(files);
    for root in &mut roots {
        let mut ends = Vec::new();
        collect_ends(root, &mut ends);
        ends.sort_unstable();
        places.ends.push(ends);
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
        let Some(TomlValue { kind: TomlKind::Array(values), location }) = table.get("server").map(|entry| &entry.value)
        else {
            return;
        };
        if values.is_empty() {
            self.empty.push(EmptyPlace { pool: pool.to_owned(), file, span: location.start..location.end });
        }
        for value in values {
            let TomlKind::Table(table) = &value.kind else { continue };
            let mut keys: Vec<KeyPlace> = table
                .iter()
                .map(|(name, entry)| KeyPlace {
                    name: name.to_owned(),
                    key: entry.key.start..entry.key.end,
                    value: entry.value.location.start..entry.value.location.end,
                    is: scalar(&entry.value),
                })
                .collect();
            keys.sort_by_key(|key| key.key.start);
            let name = keys.iter().find(|key| key.name == "name").and_then(|key| key.is.clone());
            let name = if let Some(Scalar::Text(name)) = name { name } else { String::new() };
            let span = value.location.start..value.location.end;
            self.servers.push(ServerPlace { pool: pool.to_owned(), name, file, span, array: location.start, keys });
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
        TomlKind::String(value) => Some(Scalar::Text(value.to_string())),
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
