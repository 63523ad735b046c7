//! Where servers stand in the files, for who is to edit them there.

use std::ops::Range;

use super::report::Report;
use super::{Env, env, syntax};
use crate::config::DEFAULT_POOL;
use crate::config::file::tree::{Kind, Table, Value};
use crate::config::problem::Problem;
use crate::config::source::SourceFile;

/// All servers of some files, in the order in which pools have them, and what else an edit has to know.
#[derive(Debug, Default)]
pub struct Places {
    /// The servers.
    pub servers: Vec<ServerPlace>,
    /// Arrays written `server = [ … ]` that hold none yet.
    pub empty: Vec<EmptyPlace>,
    /// For each file where its values end, in order: what stands after one and before the next
    /// thing is white space, comments and headers.
    pub ends: Vec<Vec<usize>>,
}

/// One server.
#[derive(Debug)]
pub struct ServerPlace {
    /// The pool that it is in.
    pub pool: String,
    /// Its name, empty if it has none that can be read.
    pub name: String,
    /// The index of the file it is in.
    pub file: usize,
    /// Its header `[[server]]`, or all of it from `{` to `}`.
    pub span: Range<usize>,
    /// Where the array begins that it is in: servers of one array have the same.
    pub array: usize,
    /// Its keys in the order of the file.
    pub keys: Vec<KeyPlace>,
}

/// One key and its value.
#[derive(Debug)]
pub struct KeyPlace {
    /// The key.
    pub name: String,
    /// Where the key stands.
    pub key: Range<usize>,
    /// Where the value stands.
    pub value: Range<usize>,
    /// What it says, if it is one of these.
    pub is: Option<Said>,
}

/// A value that an edit may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// `enabled`
    Boolean(bool),
    /// `weight`
    Integer(i64),
    /// `name`, `address`; the environment is filled in.
    Text(String),
}

/// `server = []`
#[derive(Debug)]
pub struct EmptyPlace {
    /// The pool that it is of.
    pub pool: String,
    /// The index of the file it is in.
    pub file: usize,
    /// From `[` to `]`.
    pub span: Range<usize>,
}

/// Finds them. What is wrong with a file otherwise does not matter here.
///
/// # Errors
/// What is no TOML, so that nobody knows what stands where.
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
    // What is wrong with a reference is the reader's to tell.
    let unheard = Report::new(files);
    for root in &mut roots {
        let mut ends = Vec::new();
        collect_ends(root, &mut ends);
        ends.sort_unstable();
        places.ends.push(ends);
        env::substitute(root, env, &unheard);
    }
    for (file, root) in roots.iter().enumerate() {
        places.add(file, DEFAULT_POOL, root);
    }
    for (file, root) in roots.iter().enumerate() {
        let Some(Kind::Table(pools)) = root.get("pool").map(|entry| &entry.value.kind) else { continue };
        for (pool, entry) in pools.iter() {
            if let Kind::Table(table) = &entry.value.kind {
                places.add(file, pool, table);
            }
        }
    }
    Ok(places)
}

impl Places {
    fn add(&mut self, file: usize, pool: &str, table: &Table) {
        let Some(Value { kind: Kind::Array(values), place }) = table.get("server").map(|entry| &entry.value) else {
            return;
        };
        if values.is_empty() {
            self.empty.push(EmptyPlace { pool: pool.to_owned(), file, span: place.start..place.end });
        }
        for value in values {
            let Kind::Table(table) = &value.kind else { continue };
            let mut keys: Vec<KeyPlace> = table
                .iter()
                .map(|(name, entry)| KeyPlace {
                    name: name.to_owned(),
                    key: entry.key.start..entry.key.end,
                    value: entry.value.place.start..entry.value.place.end,
                    is: said(&entry.value),
                })
                .collect();
            keys.sort_by_key(|key| key.key.start);
            let name = keys.iter().find(|key| key.name == "name").and_then(|key| key.is.clone());
            let name = if let Some(Said::Text(name)) = name { name } else { String::new() };
            let span = value.place.start..value.place.end;
            self.servers.push(ServerPlace { pool: pool.to_owned(), name, file, span, array: place.start, keys });
        }
    }
}

impl ServerPlace {
    /// What a key says.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&KeyPlace> {
        self.keys.iter().find(|key| key.name == name)
    }
}

fn said(value: &Value) -> Option<Said> {
    match &value.kind {
        Kind::Boolean(value) => Some(Said::Boolean(*value)),
        Kind::Integer(value) => Some(Said::Integer(*value)),
        Kind::String(value) => Some(Said::Text(value.to_string())),
        _ => None,
    }
}

fn collect_ends(table: &Table, ends: &mut Vec<usize>) {
    for (_, entry) in table.iter() {
        collect_end(&entry.value, ends);
    }
}

fn collect_end(value: &Value, ends: &mut Vec<usize>) {
    match &value.kind {
        Kind::Table(table) => collect_ends(table, ends),
        Kind::Array(values) => values.iter().for_each(|value| collect_end(value, ends)),
        _ => ends.push(value.place.end),
    }
}
