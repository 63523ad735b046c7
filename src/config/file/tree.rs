//! A TOML tree whose every value knows its place, made of one file or of several.

use std::collections::BTreeMap;
use std::collections::btree_map;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Report;
use crate::config::problem::Fault;

/// Bytes of one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A value and where it stands; a table stands where its header does.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Value>),
    Table(Table),
    /// What is wrong with it has been reported.
    Broken,
}

/// Keys in the order of the alphabet, each with its own place beside its value's.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) value: Value,
}

/// Stands for a table that is not in the file.
pub(super) static EMPTY: Table = Table {
    entries: BTreeMap::new(),
};

impl Place {
    fn of<T>(file: usize, spanned: &Spanned<T>) -> Self {
        let span = spanned.span();
        Self {
            file,
            start: span.start,
            end: span.end,
        }
    }
}

impl Table {
    pub(super) fn of(file: usize, table: DeTable<'_>, report: &Report<'_>) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let entry = Entry {
                    key: Place::of(file, &key),
                    value: Value::of(file, value, report),
                };
                (key.into_inner().into_owned(), entry)
            })
            .collect();
        Self { entries }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.entries.values_mut().map(|entry| &mut entry.value)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// Drops every key but one.
    pub(super) fn retain(&mut self, key: &str) {
        self.entries.retain(|name, _| name == key);
    }

    /// Adds another file's table: tables are joined, arrays of tables concatenated, and anything
    /// else may be in one file only.
    pub(super) fn merge(&mut self, other: Self, report: &Report<'_>) {
        for (key, new) in other.entries {
            match self.entries.entry(key) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(new);
                }
                btree_map::Entry::Occupied(mut occupied) => {
                    let name = occupied.key().clone();
                    let old = occupied.get_mut();
                    match (&mut old.value.kind, new.value.kind) {
                        (Kind::Table(old), Kind::Table(new)) => old.merge(new, report),
                        (Kind::Array(old), Kind::Array(new))
                            if of_tables(old) && of_tables(&new) =>
                        {
                            old.extend(new);
                        }
                        _ => report.at(
                            new.key,
                            Fault::new(format!(
                                "`{name}` is set already, {}",
                                report.location(new.key, old.key)
                            ))
                            .hint("set it in one of the two files"),
                        ),
                    }
                }
            }
        }
    }
}

impl Value {
    fn of(file: usize, value: Spanned<DeValue<'_>>, report: &Report<'_>) -> Self {
        let place = Place::of(file, &value);
        let too_large = || {
            report.at(place, Fault::new("this number is too large"));
            Kind::Broken
        };
        let kind = match value.into_inner() {
            DeValue::String(text) => Kind::String(text.into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| too_large(), Kind::Integer),
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .map_or_else(|_| too_large(), Kind::Float),
            DeValue::Boolean(value) => Kind::Boolean(value),
            DeValue::Datetime(_) => Kind::Datetime,
            DeValue::Array(values) => Kind::Array(
                values
                    .into_iter()
                    .map(|value| Self::of(file, value, report))
                    .collect(),
            ),
            DeValue::Table(table) => Kind::Table(Table::of(file, table, report)),
        };
        Self { place, kind }
    }

    /// Whether it is a table or an array of them.
    pub(super) fn is_table(&self) -> bool {
        match &self.kind {
            Kind::Table(_) => true,
            Kind::Array(values) => !values.is_empty() && of_tables(values),
            _ => false,
        }
    }

    /// With its article, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "a whole number",
            Kind::Float(_) => "a decimal number",
            Kind::Boolean(_) => "true or false",
            Kind::Datetime => "a date or time",
            Kind::Array(_) if self.is_table() => "an array of tables",
            Kind::Array(_) => "an array",
            Kind::Table(_) => "a table",
            Kind::Broken => "something that cannot be read",
        }
    }
}

fn of_tables(values: &[Value]) -> bool {
    values
        .iter()
        .all(|value| matches!(value.kind, Kind::Table(_)))
}
