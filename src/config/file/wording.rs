//! What is said of a key that is unknown or holds a value of the wrong type.

use crate::config::file::keys::{self, Key};
use crate::config::file::tree::{Kind, Value};
use crate::config::problem::Fault;
use crate::config::suggest;

pub(super) const DURATION: &str = "a duration such as \"30s\"";
pub(super) const SIZE: &str = "a size such as \"32KiB\"";
pub(super) const PERCENT: &str = "a percentage such as \"20%\"";
pub(super) const WHOLE_NUMBER: &str = "a whole number";
pub(super) const BOOLEAN: &str = "true or false";

/// A value of another type than the key wants.
pub(super) fn mistyped(key: &str, wanted: &str, value: &Value<'_>) -> Fault {
    let found = value.type_name();
    let fault = Fault::new(format!("`{key}` must be {wanted}, not {found}"));
    let in_quotes = |sign: &str, example: String| {
        fault.clone().hint(format!("write it with its {sign}, in quotes, such as `\"{example}\"`"))
    };
    let bare = |text: &str| match wanted {
        WHOLE_NUMBER => text.parse::<i64>().is_ok(),
        BOOLEAN => matches!(text, "true" | "false"),
        _ => false,
    };
    match &value.kind {
        Kind::String(text) if bare(text) => fault.hint(format!("leave out the quotes: `{key} = {text}`")),
        Kind::Integer(number) if wanted == DURATION => in_quotes("unit", format!("{number}s")),
        Kind::Integer(number) if wanted == SIZE => in_quotes("unit", format!("{number}B")),
        Kind::Integer(number) if wanted == PERCENT => in_quotes("sign", format!("{number}%")),
        _ => fault,
    }
}

/// A value where a table is wanted, one table where several are, or several where one is.
pub(super) fn not_a_table(key: &str, header: &str, value: &Value<'_>) -> Fault {
    let wanted = match header.starts_with("[[") {
        true => "an array of tables",
        false => "a table",
    };
    let found = value.type_name();
    Fault::new(format!("`{key}` must be {wanted}, not {found}")).hint(format!("write `{header}`"))
}

/// A key, or a table, that is not among those that the table under `header` knows.
pub(super) fn unknown(key: &str, value: &Value<'_>, header: &str, known: &'static [Key]) -> Fault {
    let kind = if value.is_table() { "table" } else { "key" };
    let fault = match header {
        "" => Fault::new(format!("unknown {kind} `{key}`")),
        header => Fault::new(format!("unknown {kind} `{key}` in {header}")),
    };
    if let Some(meant) = suggest::closest(key, keys::names(known)) {
        return fault.hint(format!("did you mean `{meant}`?"));
    }
    let elsewhere =
        keys::TABLES.iter().find(|(table, keys)| !table.is_empty() && keys::names(keys).any(|known| known == key));
    match elsewhere {
        Some((table, _)) if keys::ARRAYS.contains(table) => fault.hint(format!("`{key}` belongs in [[{table}]]")),
        Some((table, _)) => fault.hint(format!("`{key}` belongs in [{table}]")),
        None => fault.hint(suggest::hint(key, keys::names(known))),
    }
}
