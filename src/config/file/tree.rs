//! A TOML tree, merged from one or several files, in which each value keeps its location.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::env::EnvTemplate;
use super::report::Report;
use crate::config::EnvTexts;
use crate::config::problem::Reason;

/// A range of bytes in one of the files, given by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A value that was read, and its location.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) location: Location,
}

/// A value with its location; a table's is that of its header.
#[derive(Debug)]
pub(super) struct TomlValue<'a> {
    pub(super) location: Location,
    pub(super) kind: TomlKind<'a>,
    /// Of a string with references to the environment, which have been replaced.
    pub(super) template: Option<Box<EnvTemplate>>,
}

#[derive(Debug)]
pub(super) enum TomlKind<'a> {
    String(Cow<'a, str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<TomlValue<'a>>),
    Table(TomlTable<'a>),
    /// Invalid, and reported already.
    Invalid,
}

/// Keys in alphabetical order. A table has few keys and a file can have very many tables, so this is a sorted list,
/// not a map, and its keys borrow from the text.
#[derive(Debug, Default)]
pub(super) struct TomlTable<'a> {
    entries: Vec<(Cow<'a, str>, TomlEntry<'a>)>,
}

#[derive(Debug)]
pub(super) struct TomlEntry<'a> {
    /// The key's own location.
    pub(super) key: Location,
    pub(super) value: TomlValue<'a>,
}

/// Used in place of a table that is not in the file.
pub(super) static EMPTY: TomlTable<'static> = TomlTable { entries: Vec::new() };

impl Location {
    fn of<T>(file: usize, spanned: &Spanned<T>) -> Self {
        let span = spanned.span();
        Self { file, start: span.start, end: span.end }
    }
}

impl<'a> TomlTable<'a> {
    /// Converts the parser's tree; `keep` borrows strings from the text, or copies them if the text is temporary.
    pub(super) fn of<'t>(
        file: usize,
        table: DeTable<'t>,
        keep: fn(Cow<'t, str>) -> Cow<'a, str>,
        report: &Report<'_>,
    ) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let entry =
                    TomlEntry { key: Location::of(file, &key), value: TomlValue::of(file, value, keep, report) };
                (keep(key.into_inner()), entry)
            })
            .collect();
        Self { entries }
    }

    pub(super) fn get(&self, key: &str) -> Option<&TomlEntry<'a>> {
        self.index_of(key).ok().map(|index| &self.entries[index].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &TomlEntry<'a>)> {
        self.entries.iter().map(|(key, entry)| (&**key, entry))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut TomlValue<'a>> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.value)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<TomlEntry<'a>> {
        self.index_of(key).ok().map(|index| self.entries.remove(index).1)
    }

    /// Removes every key but this one.
    pub(super) fn retain(&mut self, key: &str) {
        self.entries.retain(|(name, _)| name == key);
    }

    /// Merges another file's table: tables are merged, arrays of tables concatenated; anything else may be set in one
    /// file only.
    pub(super) fn merge(&mut self, other: Self, report: &Report<'_>) {
        let before = self.entries.len();
        for (key, new) in other.entries {
            let Ok(index) = self.entries[..before].binary_search_by(|(existing, _)| existing.cmp(&key)) else {
                self.entries.push((key, new));
                continue;
            };
            let old = &mut self.entries[index].1;
            match (&mut old.value.kind, new.value.kind) {
                (TomlKind::Table(old), TomlKind::Table(new)) => old.merge(new, report),
                (TomlKind::Array(old), TomlKind::Array(new)) if of_tables(old) && of_tables(&new) => {
                    old.extend(new);
                }
                _ => report.at(
                    new.key,
                    Reason::new(format!("`{key}` is already set {}", report.describe(new.key, old.key)))
                        .hint("set it in only one of the two files"),
                ),
            }
        }
        // Two sorted runs, which a merge sort joins in linear time.
        self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    }

    fn index_of(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(existing, _)| (**existing).cmp(key))
    }
}

impl<'a> TomlValue<'a> {
    fn of<'t>(
        file: usize,
        value: Spanned<DeValue<'t>>,
        keep: fn(Cow<'t, str>) -> Cow<'a, str>,
        report: &Report<'_>,
    ) -> Self {
        let location = Location::of(file, &value);
        let too_large = || {
            report.at(location, Reason::new("this number is too large"));
            TomlKind::Invalid
        };
        let kind = match value.into_inner() {
            DeValue::String(text) => TomlKind::String(keep(text)),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| too_large(), TomlKind::Integer)
            }
            DeValue::Float(number) => number.as_str().parse().map_or_else(|_| too_large(), TomlKind::Float),
            DeValue::Boolean(value) => TomlKind::Boolean(value),
            DeValue::Datetime(_) => TomlKind::Datetime,
            DeValue::Array(values) => {
                TomlKind::Array(values.into_iter().map(|value| Self::of(file, value, keep, report)).collect())
            }
            DeValue::Table(table) => TomlKind::Table(TomlTable::of(file, table, keep, report)),
        };
        Self { location, kind, template: None }
    }

    /// A string that came from the environment, at least in part, without white space around it.
    pub(super) fn env_text(&self) -> Option<(&str, &EnvTemplate)> {
        match (&self.kind, self.template.as_deref()) {
            (TomlKind::String(text), Some(template)) => Some((text.trim(), template)),
            _ => None,
        }
    }

    /// Adds the values from the environment in this value, which is at `path`.
    pub(super) fn add_texts(&self, path: &str, texts: &mut EnvTexts) {
        if let Some(template) = &self.template {
            texts.insert(path.to_owned(), &template.typed, template.is_secret());
        }
        match &self.kind {
            TomlKind::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    value.add_texts(&format!("{path}.{index}"), texts);
                }
            }
            TomlKind::Table(table) => {
                for (key, entry) in table.iter() {
                    entry.value.add_texts(&format!("{path}.{key}"), texts);
                }
            }
            _ => {}
        }
    }

    /// Whether it is a table or an array of tables.
    pub(super) fn is_table(&self) -> bool {
        match &self.kind {
            TomlKind::Table(_) => true,
            TomlKind::Array(values) => !values.is_empty() && of_tables(values),
            _ => false,
        }
    }

    /// The type's name with its article, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self.kind {
            TomlKind::String(_) => "a string",
            TomlKind::Integer(_) => "a whole number",
            TomlKind::Float(_) => "a decimal number",
            TomlKind::Boolean(_) => "true or false",
            TomlKind::Datetime => "a date or time",
            TomlKind::Array(_) if self.is_table() => "an array of tables",
            TomlKind::Array(_) => "an array",
            TomlKind::Table(_) => "a table",
            TomlKind::Invalid => "an invalid value",
        }
    }
}

fn of_tables(values: &[TomlValue<'_>]) -> bool {
    values.iter().all(|value| matches!(value.kind, TomlKind::Table(_)))
}
