//! Reads numbers and booleans.

use super::TableReader;
use crate::config::file::keys::ValueType;
use crate::config::file::tree::{Located, TomlEntry, TomlKind};
use crate::config::file::wording::{BOOLEAN, NUMBER, WHOLE_NUMBER};
use crate::config::problem::Reason;

/// The value of a key that takes a boolean or a string.
pub(in crate::config::file) enum BooleanOr<T> {
    Boolean(bool),
    Text(Located<T>),
}

impl TableReader<'_> {
    pub(in crate::config::file) fn integer<T: TryFrom<i64>>(&self, key: &str) -> Option<Located<T>> {
        let value = &self.entry(key)?.value;
        let location = value.location;
        let range = match self.value_type(key) {
            Some(ValueType::Integer(range)) => range.clone(),
            _ => 0..=i64::MAX,
        };
        let number = match (&value.kind, value.env_text()) {
            (TomlKind::Integer(number), _) => *number,
            (_, Some((text, template))) => match text.parse().ok().filter(|number| range.contains(number)) {
                Some(number) => number,
                None => {
                    self.report.at(location, self.not_from_env(key, WHOLE_NUMBER, template));
                    return None;
                }
            },
            _ => {
                self.mistyped(key, WHOLE_NUMBER, value);
                return None;
            }
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&number) => Some(Located { value, location }),
            _ => {
                let reason = Reason::new(format!("`{key}` cannot be {number}")).hint(format!(
                    "write {} to {}",
                    range.start(),
                    range.end()
                ));
                self.report.at(location, reason);
                None
            }
        }
    }

    /// A number, with or without a decimal point.
    pub(in crate::config::file) fn number(&self, key: &str, default: f64) -> f64 {
        let range = match self.value_type(key) {
            Some(ValueType::Number(range)) => range.clone(),
            _ => f64::MIN..=f64::MAX,
        };
        let Some(TomlEntry { value, .. }) = self.entry(key) else {
            return default;
        };
        let number = match (&value.kind, value.env_text()) {
            (TomlKind::Float(number), _) => *number,
            #[expect(clippy::cast_precision_loss, reason = "every integer in the range is exact")]
            (TomlKind::Integer(number), _) => *number as f64,
            (_, Some((text, template))) => match text.parse().ok().filter(|number| range.contains(number)) {
                Some(number) => number,
                None => {
                    self.report.at(value.location, self.not_from_env(key, NUMBER, template));
                    return default;
                }
            },
            _ => {
                self.mistyped(key, NUMBER, value);
                return default;
            }
        };
        if range.contains(&number) {
            return number;
        }
        let (first, last) = range.into_inner();
        let reason = Reason::new(format!("`{key}` cannot be {number}")).hint(format!("write {first:?} to {last:?}"));
        self.report.at(value.location, reason);
        default
    }

    pub(in crate::config::file) fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(TomlEntry { value, .. }) = self.entry(key) else {
            return default;
        };
        match (&value.kind, value.env_text()) {
            (TomlKind::Boolean(value), _) => *value,
            (_, Some(("true", _))) => true,
            (_, Some(("false", _))) => false,
            (_, Some((_, template))) => {
                self.report.at(value.location, self.not_from_env(key, BOOLEAN, template));
                default
            }
            _ => {
                self.mistyped(key, BOOLEAN, value);
                default
            }
        }
    }

    /// A boolean, or a string that `parse` parses. `wanted` names both in messages.
    pub(in crate::config::file) fn boolean_or_text<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, Reason>,
    ) -> Option<BooleanOr<T>> {
        let value = &self.entry(key)?.value;
        match (&value.kind, value.env_text()) {
            (TomlKind::Boolean(value), _) => Some(BooleanOr::Boolean(*value)),
            (_, Some((text @ ("true" | "false"), _))) => Some(BooleanOr::Boolean(text == "true")),
            _ => self.text(key, wanted, parse).map(BooleanOr::Text),
        }
    }
}
