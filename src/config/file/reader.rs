//! Reads one table key by key: each into its type, with a default where it is missing or wrong.

use std::rc::Rc;
use std::time::Duration;

use super::report::Report;
use crate::config::file::keys::{self, Key};
use crate::config::file::tree::{EMPTY, Entry, Kind, Place, Table, Value};
use crate::config::file::wording::{self, BOOLEAN, DURATION, PERCENT, SIZE, WHOLE_NUMBER};
use crate::config::problem::Fault;
use crate::config::{suggest, units};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// One table, known keys and all. What it does not know it has reported when it was made.
pub(super) struct Reader<'a> {
    table: &'a Table<'a>,
    keys: &'static [Key],
    /// As its header is written, for messages: `[timeouts]`; empty for the whole file.
    header: Rc<str>,
    place: Place,
    report: &'a Report<'a>,
}

impl<'a> Reader<'a> {
    /// The file as a whole.
    pub(super) fn root(table: &'a Table<'a>, report: &'a Report<'a>) -> Self {
        let place = Place { file: 0, start: 0, end: 0 };
        Self::new(table, keys::ROOT, "".into(), place, report)
    }

    fn new(table: &'a Table<'a>, keys: &'static [Key], header: Rc<str>, place: Place, report: &'a Report<'a>) -> Self {
        let reader = Self { table, keys, header, place, report };
        for (key, entry) in table.iter().filter(|(key, _)| keys::names(keys).all(|known| known != *key)) {
            let fault = || wording::unknown(key, &entry.value, &reader.header, keys);
            report.at_with(entry.key, fault);
        }
        reader
    }

    /// Where the table's header stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Where a key stands, if it is there.
    pub(super) fn key_place(&self, key: &str) -> Option<Place> {
        self.entry(key).map(|entry| entry.key)
    }

    /// Reports that the table lacks a key, unless it was reported as a mistyped one.
    pub(super) fn require(&self, key: &str, example: &str) {
        let meant = |typed| {
            let known = keys::names(self.keys);
            known.clone().all(|known| known != typed) && suggest::closest(typed, known) == Some(key)
        };
        if self.has(key) || self.table.iter().any(|(typed, _)| meant(typed)) {
            return;
        }
        let fault = Fault::new(format!("this {} has no `{key}`", self.header)).hint(format!("add `{key} = {example}`"));
        self.report.at(self.place, fault);
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Text that `parse` makes something of.
    pub(super) fn text<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Placed<T>> {
        let entry = self.entry(key)?;
        self.parse_text(key, wanted, &entry.value, parse)
    }

    /// A duration; none at all only where that makes sense.
    pub(super) fn duration(&self, key: &str, default: Duration) -> Duration {
        let zero = matches!(self.known(key), Some(keys::Kind::Duration { zero: true }));
        let parse = |text: &str| match units::parse_duration(text)? {
            Duration::ZERO if !zero => Err(Fault::new(format!("`{key}` must be longer than nothing"))
                .hint(format!("leave it out for {}", units::format_duration(default)))),
            value => Ok(value),
        };
        self.text(key, DURATION, parse).map_or(default, |read| read.value)
    }

    /// A number of bytes.
    pub(super) fn size(&self, key: &str, default: u64) -> u64 {
        let range = match self.known(key) {
            Some(keys::Kind::Size(range)) => range.clone(),
            _ => 0..=u64::MAX,
        };
        let parse = |text: &str| match units::parse_size(text)? {
            value if range.contains(&value) => Ok(value),
            _ => Err(Fault::new(format!("`{key}` is out of range")).hint(format!(
                "write `{}` to `{}`",
                units::format_size(*range.start()),
                units::format_size(*range.end())
            ))),
        };
        self.text(key, SIZE, parse).map_or(default, |read| read.value)
    }

    /// A share, 0 to 1, written in percent.
    pub(super) fn percent(&self, key: &str, default: f64) -> f64 {
        self.text(key, PERCENT, units::parse_percent).map_or(default, |read| read.value)
    }

    /// One of a few words, which are those in `keys.rs`.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> T {
        debug_assert!(
            matches!(self.known(key), Some(keys::Kind::Choice(known)) if known.iter().eq(words.iter().map(|(word, _)| word))),
            "the words of `{key}` are others in keys.rs"
        );
        let parse = |text: &str| {
            let known = words.iter().find(|(word, _)| *word == text);
            known.map(|(_, value)| *value).ok_or_else(|| {
                let words = words.iter().map(|(word, _)| *word);
                Fault::new(format!("`{key}` cannot be `{text}`")).hint(suggest::hint(text, words))
            })
        };
        let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.text(key, &words.join(" or "), parse).map_or(default, |read| read.value)
    }

    /// A whole number.
    pub(super) fn integer<T: TryFrom<i64>>(&self, key: &str) -> Option<Placed<T>> {
        let value = &self.entry(key)?.value;
        let place = value.place;
        let Kind::Integer(number) = value.kind else {
            self.mistyped(key, WHOLE_NUMBER, value);
            return None;
        };
        let range = match self.known(key) {
            Some(keys::Kind::Integer(range)) => range.clone(),
            _ => 0..=i64::MAX,
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&number) => Some(Placed { value, place }),
            _ => {
                let fault = Fault::new(format!("`{key}` cannot be {number}")).hint(format!(
                    "write {} to {}",
                    range.start(),
                    range.end()
                ));
                self.report.at(place, fault);
                None
            }
        }
    }

    /// A decimal or whole number.
    pub(super) fn number(&self, key: &str, default: f64) -> f64 {
        let range = match self.known(key) {
            Some(keys::Kind::Number(range)) => range.clone(),
            _ => f64::MIN..=f64::MAX,
        };
        let Some(Entry { value, .. }) = self.entry(key) else {
            return default;
        };
        let number = match value.kind {
            Kind::Float(number) => number,
            #[expect(clippy::cast_precision_loss, reason = "what is in range is exact")]
            Kind::Integer(number) => number as f64,
            _ => {
                self.mistyped(key, "a number", value);
                return default;
            }
        };
        if range.contains(&number) {
            return number;
        }
        let (first, last) = range.into_inner();
        let fault = Fault::new(format!("`{key}` cannot be {number}")).hint(format!("write {first:?} to {last:?}"));
        self.report.at(value.place, fault);
        default
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(Entry { value, .. }) = self.entry(key) else {
            return default;
        };
        match value.kind {
            Kind::Boolean(value) => value,
            _ => {
                self.mistyped(key, BOOLEAN, value);
                default
            }
        }
    }

    /// Whether the key is there as `false`, to turn off what the top level turns on.
    pub(super) fn is_false(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| matches!(entry.value.kind, Kind::Boolean(false)))
    }

    /// An array of texts that `parse` makes something of.
    pub(super) fn list<T>(&self, key: &str, wanted: &str, parse: impl Fn(&str) -> Result<T, Fault>) -> Vec<T> {
        let Some(Entry { value, .. }) = self.entry(key) else {
            return Vec::new();
        };
        let Kind::Array(values) = &value.kind else {
            self.mistyped(key, wanted, value);
            return Vec::new();
        };
        values.iter().filter_map(|value| self.parse_text(key, wanted, value, &parse)).map(|read| read.value).collect()
    }

    /// `[key]`; without keys if it is not there.
    pub(super) fn table(&self, key: &str, keys: &'static [Key]) -> Self {
        let header: Rc<str> = format!("[{}]", self.path(key)).into();
        let Some(Entry { value, .. }) = self.entry(key) else {
            return Self::new(&EMPTY, keys, header, self.place, self.report);
        };
        match &value.kind {
            Kind::Table(table) => Self::new(table, keys, header, value.place, self.report),
            _ => {
                self.not_a_table(key, &header, value);
                Self::new(&EMPTY, keys, header, value.place, self.report)
            }
        }
    }

    /// Every `[[key]]`.
    pub(super) fn tables(&self, key: &str, keys: &'static [Key]) -> Vec<Self> {
        let header: Rc<str> = format!("[[{}]]", self.path(key)).into();
        let read = |value: &'a Value<'a>| match &value.kind {
            Kind::Table(table) => Some(Self::new(table, keys, header.clone(), value.place, self.report)),
            _ => {
                self.not_a_table(key, &header, value);
                None
            }
        };
        match self.entry(key).map(|entry| &entry.value) {
            None => Vec::new(),
            Some(Value { kind: Kind::Array(values), .. }) => values.iter().filter_map(read).collect(),
            Some(value) => {
                if matches!(value.kind, Kind::Table(_)) {
                    self.not_a_table(key, &header, value);
                }
                read(value).into_iter().collect()
            }
        }
    }

    /// Every `[key.NAME]`, with where the name stands.
    pub(super) fn named(&self, key: &str, keys: &'static [Key]) -> Vec<(Placed<&'a str>, Self)> {
        let Some(Entry { value, .. }) = self.entry(key) else {
            return Vec::new();
        };
        let Kind::Table(table) = &value.kind else {
            self.not_a_table(key, &format!("[{key}.NAME]"), value);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, Entry { key: place, value }) in table.iter() {
            let header: Rc<str> = format!("[{key}.{name}]").into();
            let Kind::Table(table) = &value.kind else {
                self.not_a_table(name, &header, value);
                continue;
            };
            let reader = Self::new(table, keys, header, *place, self.report);
            tables.push((Placed { value: name, place: *place }, reader));
        }
        tables
    }

    fn entry(&self, key: &str) -> Option<&'a Entry<'a>> {
        debug_assert!(self.known(key).is_some(), "`{key}` is not in keys.rs");
        self.table.get(key)
    }

    /// What a key takes.
    fn known(&self, key: &str) -> Option<&'static keys::Kind> {
        self.keys.iter().find(|known| known.name == key).map(|known| &known.kind)
    }

    fn parse_text<T>(
        &self,
        key: &str,
        wanted: &str,
        value: &Value<'_>,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Placed<T>> {
        let Kind::String(text) = &value.kind else {
            self.mistyped(key, wanted, value);
            return None;
        };
        match parse(text) {
            Ok(read) => Some(Placed { value: read, place: value.place }),
            Err(fault) => {
                self.report.at(value.place, fault);
                None
            }
        }
    }

    fn mistyped(&self, key: &str, wanted: &str, value: &Value<'_>) {
        if !matches!(value.kind, Kind::Broken) {
            let fault = wording::mistyped(key, wanted, value);
            self.report.at(value.place, fault);
        }
    }

    fn not_a_table(&self, key: &str, header: &str, value: &Value<'_>) {
        if !matches!(value.kind, Kind::Broken) {
            let fault = wording::not_a_table(key, header, value);
            self.report.at(value.place, fault);
        }
    }

    /// The full name of a table within this one.
    fn path(&self, key: &str) -> String {
        match self.header.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            header => format!("{header}.{key}"),
        }
    }
}
