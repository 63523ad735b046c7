//! A TOML tree whose every value knows its place, made of one file or of several.

use std::borrow::Cow;

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
pub(super) struct Value<'a> {
    pub(super) place: Place,
    pub(super) kind: Kind<'a>,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    String(Cow<'a, str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Value<'a>>),
    Table(Table<'a>),
    /// What is wrong with it has been reported.
    Broken,
}

/// Keys in the order of the alphabet, each with its own place beside its value's. There are few in a table,
/// and may be many tables, so it is a list, of what stands in the text.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    entries: Vec<(Cow<'a, str>, Entry<'a>)>,
}

#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: Place,
    pub(super) value: Value<'a>,
}

/// Stands for a table that is not in the file.
pub(super) static EMPTY: Table<'static> = Table { entries: Vec::new() };

impl Place {
    fn of<T>(file: usize, spanned: &Spanned<T>) -> Self {
        let span = spanned.span();
        Self { file, start: span.start, end: span.end }
    }
}

impl<'a> Table<'a> {
    /// What the parser found; `keep` says whether the tree may go on pointing at the text.
    pub(super) fn of<'t>(
        file: usize,
        table: DeTable<'t>,
        keep: fn(Cow<'t, str>) -> Cow<'a, str>,
        report: &Report<'_>,
    ) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let entry = Entry { key: Place::of(file, &key), value: Value::of(file, value, keep, report) };
                (keep(key.into_inner()), entry)
            })
            .collect();
        Self { entries }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry<'a>> {
        self.place_of(key).ok().map(|place| &self.entries[place].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry<'a>)> {
        self.entries.iter().map(|(key, entry)| (&**key, entry))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Value<'a>> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.value)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Entry<'a>> {
        self.place_of(key).ok().map(|place| self.entries.remove(place).1)
    }

    /// Drops every key but one.
    pub(super) fn retain(&mut self, key: &str) {
        self.entries.retain(|(name, _)| name == key);
    }

    /// Adds another file's table: tables are joined, arrays of tables concatenated, and anything
    /// else may be in one file only.
    pub(super) fn merge(&mut self, other: Self, report: &Report<'_>) {
        let before = self.entries.len();
        for (key, new) in other.entries {
            let Ok(place) = self.entries[..before].binary_search_by(|(known, _)| known.cmp(&key)) else {
                self.entries.push((key, new));
                continue;
            };
            let old = &mut self.entries[place].1;
            match (&mut old.value.kind, new.value.kind) {
                (Kind::Table(old), Kind::Table(new)) => old.merge(new, report),
                (Kind::Array(old), Kind::Array(new)) if of_tables(old) && of_tables(&new) => {
                    old.extend(new);
                }
                _ => report.at(
                    new.key,
                    Fault::new(format!("`{key}` is set already, {}", report.location(new.key, old.key)))
                        .hint("set it in one of the two files"),
                ),
            }
        }
        // Two lists in order, one behind the other.
        self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    }

    fn place_of(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| (**known).cmp(key))
    }
}

impl<'a> Value<'a> {
    fn of<'t>(
        file: usize,
        value: Spanned<DeValue<'t>>,
        keep: fn(Cow<'t, str>) -> Cow<'a, str>,
        report: &Report<'_>,
    ) -> Self {
        let place = Place::of(file, &value);
        let too_large = || {
            report.at(place, Fault::new("this number is too large"));
            Kind::Broken
        };
        let kind = match value.into_inner() {
            DeValue::String(text) => Kind::String(keep(text)),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| too_large(), Kind::Integer)
            }
            DeValue::Float(number) => number.as_str().parse().map_or_else(|_| too_large(), Kind::Float),
            DeValue::Boolean(value) => Kind::Boolean(value),
            DeValue::Datetime(_) => Kind::Datetime,
            DeValue::Array(values) => {
                Kind::Array(values.into_iter().map(|value| Self::of(file, value, keep, report)).collect())
            }
            DeValue::Table(table) => Kind::Table(Table::of(file, table, keep, report)),
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

fn of_tables(values: &[Value<'_>]) -> bool {
    values.iter().all(|value| matches!(value.kind, Kind::Table(_)))
}
