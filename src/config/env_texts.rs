//! Values from the environment are shown as they were typed, because they may be secret.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The keys of a table whose values refer to the environment, by dotted path (`health.path`, `hosts.0`), with the text as
/// typed. Usually empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
pub struct EnvTexts(BTreeMap<String, EnvText>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct EnvText {
    typed: String,
    /// Whether a variable was used. If not, all values are defaults from the file.
    secret: bool,
}

/// A table as it is shown.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ShownTable<'a, T> {
    /// Nothing of it is from the environment.
    Plain(&'a T),
    Covered(Value),
}

impl EnvTexts {
    /// The table at `path` as it is shown.
    #[must_use]
    pub fn table<'a, T: Serialize>(&self, path: &str, table: &'a T) -> ShownTable<'a, T> {
        if self.is_empty() {
            return ShownTable::Plain(table);
        }
        let mut whole = path.rsplit('.').fold(json!(table), |inner, key| json!({ key: inner }));
        self.cover(&mut whole);
        ShownTable::Covered(path.split('.').fold(whole, |mut outer, key| outer[key].take()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `secret` is whether a variable was used, not only defaults.
    pub(crate) fn insert(&mut self, path: String, typed: &str, secret: bool) {
        let text = EnvText { typed: typed.to_owned(), secret };
        self.0.insert(path, text);
    }

    /// Adds those of `base` that `takes` returns true for.
    pub(crate) fn inherit(&mut self, base: &Self, takes: impl Fn(&str) -> bool) {
        for (path, EnvText { typed, secret }) in base.0.iter().filter(|(path, _)| takes(path)) {
            self.insert(path.clone(), typed, *secret);
        }
    }

    /// The text as typed, if the value may not be shown.
    pub(crate) fn typed(&self, path: &str) -> Option<&str> {
        let text = self.0.get(path)?;
        text.secret.then_some(&*text.typed)
    }

    /// The value at `path`, or the text that was typed for it.
    pub(crate) fn show(&self, path: &str, value: &impl Display) -> String {
        self.typed(path).map_or_else(|| value.to_string(), str::to_owned)
    }

    /// Whether both have the same text at `path`, and so the same value in one environment.
    pub(crate) fn same(&self, other: &Self, path: &str) -> bool {
        self.0.get(path).is_some_and(|text| other.0.get(path).is_some_and(|other| other.typed == text.typed))
    }

    /// Replaces the values in a table's JSON that may not be shown.
    pub(crate) fn cover(&self, table: &mut Value) {
        for (path, text) in self.0.iter().filter(|(_, text)| text.secret) {
            if let Some(place) = find(table, path) {
                *place = text.typed.clone().into();
            }
        }
    }
}

/// The value at a dotted path. The last key may contain dots itself: some have any name, such as a header's.
fn find<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let is_key = matches!(value, Value::Object(map) if map.contains_key(path));
    let (first, rest) = match path.split_once('.').filter(|_| !is_key) {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let inner = match value {
        Value::Object(map) => map.get_mut(first)?,
        Value::Array(values) => values.get_mut(first.parse::<usize>().ok()?)?,
        _ => return None,
    };
    match rest {
        Some(rest) => find(inner, rest),
        None => Some(inner),
    }
}

impl From<BTreeMap<String, String>> for EnvTexts {
    fn from(texts: BTreeMap<String, String>) -> Self {
        let secret = |(path, typed)| (path, EnvText { typed, secret: true });
        Self(texts.into_iter().map(secret).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covered_values_are_shown_as_typed() {
        let mut texts = EnvTexts::default();
        assert!(texts.is_empty());
        for (path, typed, secret) in [
            ("a.b", "${B}", true),
            ("a.x.y", "${Y}", true),
            ("list.1", "x${C}", true),
            ("d", "${D:-1}", false),
            ("gone.e", "${E}", true),
        ] {
            texts.insert(path.to_owned(), typed, secret);
        }
        let mut table = json!({"a": {"b": 5, "c": 6, "x.y": "z"}, "list": ["x", "y"], "d": 1, "gone": null});
        texts.cover(&mut table);
        assert_eq!(
            table,
            json!({"a": {"b": "${B}", "c": 6, "x.y": "${Y}"}, "list": ["x", "x${C}"], "d": 1, "gone": null})
        );
        let inner = serde_json::to_value(texts.table("a", &json!({"b": 5, "c": 6}))).expect("JSON");
        assert_eq!(inner, json!({"b": "${B}", "c": 6}));
        let innermost = serde_json::to_value(texts.table("gone.e", &5)).expect("JSON");
        assert_eq!(innermost, json!("${E}"));
        assert_eq!((texts.show("a.b", &5), texts.show("d", &1)), ("${B}".to_owned(), "1".to_owned()));
        let mut inherited = EnvTexts::default();
        inherited.inherit(&texts, |path| path != "a.b");
        assert!(inherited.same(&texts, "d") && !inherited.same(&texts, "a.b") && !inherited.same(&texts, "x"));
    }
}
