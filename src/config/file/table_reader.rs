//! Reads the keys of one table into their types. A key that is missing or invalid yields the default or `None`;
//! an invalid one is reported.

mod scalars;

use std::rc::Rc;
use std::time::Duration;

use super::env::EnvTemplate;
use super::report::Report;
use crate::config::file::keys::{self, KeySpec, ValueType};
use crate::config::file::tree::{EMPTY, Located, Location, TomlEntry, TomlKind, TomlTable, TomlValue};
use crate::config::file::wording::{self, DURATION, PERCENT, SIZE};
use crate::config::problem::Reason;
use crate::config::{EnvTexts, suggest, units};

pub(super) use scalars::BooleanOr;

/// A table of the file together with the keys it may hold. Unknown keys are reported on construction.
pub(super) struct TableReader<'a> {
    table: &'a TomlTable<'a>,
    keys: &'static [KeySpec],
    /// The header as it is written, for messages: `[timeouts]`; empty for the top level.
    header: Rc<str>,
    location: Location,
    report: &'a Report<'a>,
}

impl<'a> TableReader<'a> {
    pub(super) fn root(table: &'a TomlTable<'a>, report: &'a Report<'a>) -> Self {
        let location = Location { file: 0, start: 0, end: 0 };
        Self::new(table, keys::ROOT, "".into(), location, report)
    }

    fn new(
        table: &'a TomlTable<'a>,
        keys: &'static [KeySpec],
        header: Rc<str>,
        location: Location,
        report: &'a Report<'a>,
    ) -> Self {
        let reader = Self { table, keys, header, location, report };
        for (key, entry) in table.iter().filter(|(key, _)| keys::names(keys).all(|name| name != *key)) {
            report.at_with(entry.key, || wording::unknown(key, &entry.value, &reader.header, keys));
        }
        reader
    }

    /// The location of the table's header.
    pub(super) fn location(&self) -> Location {
        self.location
    }

    pub(super) fn key_location(&self, key: &str) -> Option<Location> {
        self.entry(key).map(|entry| entry.key)
    }

    /// Reports a missing key, unless an unknown key that looks like a misspelling of it was reported.
    pub(super) fn require(&self, key: &str, example: &str) {
        let misspelled = |typed| {
            let names = keys::names(self.keys);
            names.clone().all(|name| name != typed) && suggest::closest(typed, names) == Some(key)
        };
        if self.has(key) || self.table.iter().any(|(typed, _)| misspelled(typed)) {
            return;
        }
        let reason =
            Reason::new(format!("this {} has no `{key}`", self.header)).hint(format!("add `{key} = {example}`"));
        self.report.at(self.location, reason);
    }

    /// Reports that the values of `keys` do not go together, at the first of them that this table sets. If it sets
    /// none, all are inherited from a table that has been reported.
    pub(super) fn conflict(&self, keys: &[&str], reason: Reason) {
        if let Some(location) = keys.iter().find_map(|key| self.key_location(key)) {
            self.report.at(location, reason);
        }
    }

    /// Whether the key is set, even to an invalid value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// A string, parsed by `parse`. `wanted` names the expected type in messages.
    pub(super) fn text<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, Reason>,
    ) -> Option<Located<T>> {
        let entry = self.entry(key)?;
        self.parse_text(key, wanted, &entry.value, parse)
    }

    pub(super) fn duration(&self, key: &str, default: Duration) -> Duration {
        let zero = matches!(self.value_type(key), Some(ValueType::Duration { zero: true }));
        let parse = |text: &str| match units::parse_duration(text)? {
            Duration::ZERO if !zero => Err(Reason::new(format!("`{key}` must be longer than 0s"))
                .hint(format!("leave it out to get {}", units::format_duration(default)))),
            value => Ok(value),
        };
        self.text(key, DURATION, parse).map_or(default, |duration| duration.value)
    }

    pub(super) fn size(&self, key: &str, default: u64) -> u64 {
        let range = match self.value_type(key) {
            Some(ValueType::Size(range)) => range.clone(),
            _ => 0..=u64::MAX,
        };
        let parse = |text: &str| match units::parse_size(text)? {
            value if range.contains(&value) => Ok(value),
            _ => Err(Reason::new(format!("`{key}` is out of range")).hint(format!(
                "write `{}` to `{}`",
                units::format_size(*range.start()),
                units::format_size(*range.end())
            ))),
        };
        self.text(key, SIZE, parse).map_or(default, |size| size.value)
    }

    /// A share from 0 to 1, written as a percentage.
    pub(super) fn percent(&self, key: &str, default: f64) -> f64 {
        self.text(key, PERCENT, units::parse_percent).map_or(default, |share| share.value)
    }

    /// One of `words`, which must be those in `keys.rs`.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> T {
        self.optional_choice(key, words).unwrap_or(default)
    }

    /// The same for a key without a default.
    pub(super) fn optional_choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        debug_assert!(
            matches!(self.value_type(key), Some(ValueType::Choice(listed)) if listed.iter().eq(words.iter().map(|(word, _)| word))),
            "keys.rs lists other words for `{key}`"
        );
        let parse = |text: &str| {
            let choice = words.iter().find(|(word, _)| *word == text);
            choice.map(|(_, value)| *value).ok_or_else(|| {
                let words = words.iter().map(|(word, _)| *word);
                Reason::new(format!("`{key}` cannot be `{text}`")).hint(suggest::hint(text, words))
            })
        };
        let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.text(key, &words.join(" or "), parse).map(|choice| choice.value)
    }

    /// Whether the key is set to `false`, which turns off a table that the top level turns on.
    pub(super) fn is_false(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|TomlEntry { value, .. }| match (&value.kind, value.env_text()) {
            (TomlKind::Boolean(value), _) => !value,
            (_, text) => text.is_some_and(|(text, _)| text == "false"),
        })
    }

    /// Whether the key is set to `true`, which turns a table on with its defaults.
    pub(super) fn is_true(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|TomlEntry { value, .. }| match (&value.kind, value.env_text()) {
            (TomlKind::Boolean(value), _) => *value,
            (_, text) => text.is_some_and(|(text, _)| text == "true"),
        })
    }

    /// The text of a key as it was typed, if its value may not be shown.
    pub(super) fn typed(&self, key: &str) -> Option<&'a str> {
        self.template(key).map(|template| &*template.typed)
    }

    /// A key's text with its references to the environment, if its value may not be shown.
    pub(super) fn template(&self, key: &str) -> Option<&'a EnvTemplate> {
        self.entry(key)?.value.template.as_deref().filter(|template| template.is_secret())
    }

    /// The values from the environment in this table and in those of its tables that `takes` returns true for.
    pub(super) fn env_texts(&self, takes: impl Fn(&str) -> bool) -> EnvTexts {
        let mut texts = EnvTexts::default();
        for (key, entry) in self.table.iter().filter(|(key, _)| takes(key)) {
            entry.value.add_texts(key, &mut texts);
        }
        texts
    }

    /// Whether neither this table nor one in it sets the key at a dotted path.
    pub(super) fn leaves_out(&self, path: &str) -> bool {
        let mut table = self.table;
        for segment in path.split('.') {
            match table.get(segment).map(|entry| &entry.value.kind) {
                None => return true,
                Some(TomlKind::Table(inner)) => table = inner,
                Some(_) => return false,
            }
        }
        false
    }

    /// An array of strings, each parsed by `parse`. Invalid elements are reported and left out.
    pub(super) fn list<T>(&self, key: &str, wanted: &str, parse: impl Fn(&str) -> Result<T, Reason>) -> Vec<T> {
        self.located_list(key, wanted, parse).into_iter().map(|element| element.value).collect()
    }

    /// Whether the key is set to an empty array.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| matches!(&entry.value.kind, TomlKind::Array(values) if values.is_empty()))
    }

    /// Like [`Self::list`], with the place of each element.
    pub(super) fn located_list<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, Reason>,
    ) -> Vec<Located<T>> {
        let Some(TomlEntry { value, .. }) = self.entry(key) else {
            return Vec::new();
        };
        let TomlKind::Array(values) = &value.kind else {
            self.mistyped(key, wanted, value);
            return Vec::new();
        };
        values.iter().filter_map(|value| self.parse_text(key, wanted, value, &parse)).collect()
    }

    /// A table of strings, each parsed by `parse` with its key. Invalid ones are reported and left out.
    pub(super) fn text_table<T>(&self, key: &str, parse: impl Fn(&str, &str) -> Result<T, Reason>) -> Vec<T> {
        let Some(TomlEntry { value, .. }) = self.entry(key) else {
            return Vec::new();
        };
        let TomlKind::Table(table) = &value.kind else {
            self.not_a_table(key, &format!("{key} = {{ }}"), value);
            return Vec::new();
        };
        let read = |(name, entry): (&str, &TomlEntry<'_>)| {
            self.parse_text(name, "a string", &entry.value, |text| parse(name, text)).map(|located| located.value)
        };
        table.iter().filter_map(read).collect()
    }

    /// `[key]`; empty if it is missing.
    pub(super) fn table(&self, key: &str, keys: &'static [KeySpec]) -> Self {
        let header: Rc<str> = format!("[{}]", self.path(key)).into();
        let Some(TomlEntry { value, .. }) = self.entry(key) else {
            return Self::new(&EMPTY, keys, header, self.location, self.report);
        };
        match &value.kind {
            TomlKind::Table(table) => Self::new(table, keys, header, value.location, self.report),
            _ => {
                self.not_a_table(key, &header, value);
                Self::new(&EMPTY, keys, header, value.location, self.report)
            }
        }
    }

    /// Every `[[key]]`.
    pub(super) fn tables(&self, key: &str, keys: &'static [KeySpec]) -> Vec<Self> {
        let header: Rc<str> = format!("[[{}]]", self.path(key)).into();
        let read = |value: &'a TomlValue<'a>| match &value.kind {
            TomlKind::Table(table) => Some(Self::new(table, keys, header.clone(), value.location, self.report)),
            _ => {
                self.not_a_table(key, &header, value);
                None
            }
        };
        match self.entry(key).map(|entry| &entry.value) {
            None => Vec::new(),
            Some(TomlValue { kind: TomlKind::Array(values), .. }) => values.iter().filter_map(read).collect(),
            Some(value) => {
                if matches!(value.kind, TomlKind::Table(_)) {
                    self.not_a_table(key, &header, value);
                }
                read(value).into_iter().collect()
            }
        }
    }

    /// Every `[key.NAME]`, with its name.
    pub(super) fn named(&self, key: &str, keys: &'static [KeySpec]) -> Vec<(Located<&'a str>, Self)> {
        let Some(TomlEntry { value, .. }) = self.entry(key) else {
            return Vec::new();
        };
        let TomlKind::Table(table) = &value.kind else {
            self.not_a_table(key, &format!("[{key}.NAME]"), value);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, TomlEntry { key: location, value }) in table.iter() {
            let header: Rc<str> = format!("[{key}.{name}]").into();
            let TomlKind::Table(table) = &value.kind else {
                self.wrong(value, || wording::not_a_named_table(key, name, value));
                continue;
            };
            let reader = Self::new(table, keys, header, *location, self.report);
            tables.push((Located { value: name, location: *location }, reader));
        }
        tables
    }

    fn entry(&self, key: &str) -> Option<&'a TomlEntry<'a>> {
        debug_assert!(self.value_type(key).is_some(), "`{key}` is not in keys.rs");
        self.table.get(key)
    }

    fn value_type(&self, key: &str) -> Option<&'static ValueType> {
        self.keys.iter().find(|spec| spec.name == key).map(|spec| &spec.value)
    }

    fn parse_text<T>(
        &self,
        key: &str,
        wanted: &str,
        value: &TomlValue<'_>,
        parse: impl Fn(&str) -> Result<T, Reason>,
    ) -> Option<Located<T>> {
        let TomlKind::String(text) = &value.kind else {
            self.mistyped(key, wanted, value);
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(Located { value: parsed, location: value.location }),
            Err(reason) => {
                let reason = match value.template.as_deref() {
                    Some(template) if template.is_secret() => self.not_from_env(key, wanted, template),
                    Some(_) => reason,
                    None => wording::not_replaced(text).map_or(reason.clone(), |hint| reason.hint(hint)),
                };
                self.report.at(value.location, reason);
                None
            }
        }
    }

    fn not_from_env(&self, key: &str, wanted: &str, template: &EnvTemplate) -> Reason {
        wording::not_from_env(key, wanted, self.value_type(key), template)
    }

    fn mistyped(&self, key: &str, wanted: &str, value: &TomlValue<'_>) {
        self.wrong(value, || wording::mistyped(key, wanted, value));
    }

    fn not_a_table(&self, key: &str, header: &str, value: &TomlValue<'_>) {
        self.wrong(value, || wording::not_a_table(key, header, value));
    }

    /// Reports a value, unless it has been reported.
    fn wrong(&self, value: &TomlValue<'_>, reason: impl FnOnce() -> Reason) {
        if !matches!(value.kind, TomlKind::Invalid) {
            self.report.at(value.location, reason());
        }
    }

    /// The dotted path of a table within this one.
    fn path(&self, key: &str) -> String {
        match self.header.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            header => format!("{header}.{key}"),
        }
    }
}
