//! The messages for unknown keys and for values of the wrong type.

use crate::config::file::env::EnvTemplate;
use crate::config::file::keys::{self, KeySpec, ValueType};
use crate::config::file::tree::{TomlKind, TomlValue};
use crate::config::problem::Reason;
use crate::config::{suggest, units, values};

pub(super) const DURATION: &str = "a duration such as \"30s\"";
pub(super) const SIZE: &str = "a size such as \"32KiB\"";
pub(super) const PERCENT: &str = "a percentage such as \"20%\"";
pub(super) const WHOLE_NUMBER: &str = "a whole number";
pub(super) const NUMBER: &str = "a number";
pub(super) const BOOLEAN: &str = "true or false";

/// Texts that can look like numbers.
const QUOTED: [&str; 4] = ["a name", "statuses", "a list of statuses", "a string"];

/// The value has another type than the key takes.
pub(super) fn mistyped(key: &str, wanted: &str, value: &TomlValue<'_>) -> Reason {
    let reason = Reason::new(format!("`{key}` must be {wanted}, not {}", value.type_name()));
    // Only what can be written.
    let with_suffix = |suffix: &str, example: String, is_valid: bool| match is_valid {
        true => reason.clone().hint(format!("add the {suffix} and quote it, for example `\"{example}\"`")),
        false => reason.clone(),
    };
    let needs_no_quotes = |text: &str| match wanted {
        WHOLE_NUMBER => text.parse::<i64>().is_ok(),
        NUMBER => text.parse::<f64>().is_ok_and(f64::is_finite),
        BOOLEAN => matches!(text, "true" | "false"),
        _ => false,
    };
    match &value.kind {
        TomlKind::String(text) if let (None, Some(hint)) = (&value.template, not_replaced(text)) => reason.hint(hint),
        TomlKind::String(text) if wanted.starts_with("a list of") => {
            let typed = value.template.as_deref().map_or(&**text, |template| &template.typed);
            reason.hint(format!("write it in brackets: `[\"{typed}\"]`"))
        }
        TomlKind::String(text) if wanted == NUMBER && text.ends_with('%') => match units::parse_percent(text) {
            Ok(share) => reason.hint(format!("write `{share}`")),
            Err(_) => reason,
        },
        TomlKind::Integer(number) if QUOTED.iter().any(|quoted| wanted.starts_with(quoted)) => {
            reason.hint(format!("quote it: `\"{number}\"`"))
        }
        TomlKind::String(text) if needs_no_quotes(text) => {
            reason.hint(format!("leave out the quotes: `{key} = {text}`"))
        }
        TomlKind::Integer(number) if wanted == DURATION => with_suffix("unit", format!("{number}s"), *number > 0),
        TomlKind::Integer(number) if wanted == SIZE => with_suffix("unit", format!("{number}B"), *number >= 0),
        TomlKind::Integer(number) if wanted == PERCENT => {
            with_suffix("`%`", format!("{number}%"), (0..=100).contains(number))
        }
        TomlKind::Float(number) if wanted == DURATION => with_suffix("unit", format!("{number}s"), *number > 0.0),
        TomlKind::Float(number) if wanted == PERCENT && (0.0..=1.0).contains(number) => {
            reason.hint(format!("write it as a percentage: `\"{}\"`", units::format_percent(*number)))
        }
        TomlKind::Float(number) if wanted == WHOLE_NUMBER && number.fract() == 0.0 && number.abs() < 1e9 => {
            reason.hint(format!("write `{number:.0}`"))
        }
        TomlKind::Integer(_) | TomlKind::Float(_) if wanted == PERCENT => reason.hint("write `\"0%\"` to `\"100%\"`"),
        _ => reason,
    }
}

/// The value is invalid, and is not shown because it came from the environment. So the message has all that the key takes.
pub(super) fn not_from_env(key: &str, wanted: &str, kind: Option<&ValueType>, template: &EnvTemplate) -> Reason {
    let wanted = match kind {
        Some(ValueType::Integer(range)) => format!("{WHOLE_NUMBER} from {} to {}", range.start(), range.end()),
        Some(ValueType::Number(range)) => format!("{NUMBER} from {:?} to {:?}", range.start(), range.end()),
        Some(ValueType::Size(range)) if *range.end() < u64::MAX => {
            format!("a size from {} to {}", units::format_size(*range.start()), units::format_size(*range.end()))
        }
        Some(ValueType::Percent) => "a percentage from 0% to 100%".to_owned(),
        Some(ValueType::Duration { zero: false }) => "a duration above 0s such as \"30s\"".to_owned(),
        _ => wanted.to_owned(),
    };
    let typed = &template.typed;
    let what = if wanted.starts_with("a list of") { "cannot be in it" } else { "is not" };
    Reason::new(format!("`{key}` must be {wanted}, but `{typed}` {what}")).hint(correct(template))
}

/// The hint for a text with `$NAME`, which looks like a reference to the environment.
pub(super) fn not_replaced(text: &str) -> Option<String> {
    values::unbraced(text).map(|name| format!("write `${{{name}}}` to take it from the environment"))
}

/// There is no pool of that name, which is not shown because it came from the environment.
pub(super) fn no_pool_from_env(template: &EnvTemplate) -> Reason {
    Reason::new(format!("there is no pool `{}`", template.typed)).hint(correct(template))
}

/// Where to correct a value with references to the environment.
fn correct(EnvTemplate { variables, .. }: &EnvTemplate) -> String {
    let names: Vec<String> = variables.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "correct the default after `:-`".to_owned(),
        [name] => format!("correct the value of the environment variable {name}"),
        _ => format!("correct the values of the environment variables {}", names.join(" and ")),
    }
}

/// The name of a pool has something else than its table.
pub(super) fn not_a_named_table(key: &str, name: &str, value: &TomlValue<'_>) -> Reason {
    let reason = Reason::new(format!("`{name}` must be a table, not {}", value.type_name()));
    match value.is_table() {
        true => reason.hint(format!("write `[[{key}.{name}.server]]` for each of its servers")),
        false => reason.hint(format!("write `[{key}.NAME]`, with the name of the pool")),
    }
}

/// The key takes a table or an array of tables, and has something else.
pub(super) fn not_a_table(key: &str, header: &str, value: &TomlValue<'_>) -> Reason {
    let wanted = match header.starts_with("[[") {
        true => "an array of tables",
        false => "a table",
    };
    Reason::new(format!("`{key}` must be {wanted}, not {}", value.type_name())).hint(format!("write `{header}`"))
}

/// The table under `header` takes `keys`, but not this one.
pub(super) fn unknown(key: &str, value: &TomlValue<'_>, header: &str, keys: &'static [KeySpec]) -> Reason {
    let kind = if value.is_table() { "table" } else { "key" };
    let reason = match header {
        "" => Reason::new(format!("unknown {kind} `{key}`")),
        header => Reason::new(format!("unknown {kind} `{key}` in {header}")),
    };
    if let Some(closest) = suggest::closest(key, keys::names(keys)) {
        return reason.hint(format!("did you mean `{closest}`?"));
    }
    if let Some(spec) = keys::ROOT.iter().find(|spec| spec.name == key && !header.is_empty()) {
        return reason.hint(match spec.value {
            ValueType::TableArray(_) => format!("`[[{key}]]` stands by itself, not in {header}"),
            ValueType::Table(_) => format!("`[{key}]` stands by itself, not in {header}"),
            ValueType::NamedTables(_) => format!("`[{key}.NAME]` stands by itself, not in {header}"),
            _ => format!("`{key}` stands at the top of the main file, before the first `[`"),
        });
    }
    // A pool's tables have the keys of those at the top level.
    let elsewhere = keys::TABLES
        .iter()
        .filter(|(table, keys)| !table.is_empty() && !table.contains('*') && keys::names(keys).any(|name| name == key));
    let headers: Vec<String> = elsewhere
        .map(|(table, _)| if keys::ARRAYS.contains(table) { format!("[[{table}]]") } else { format!("[{table}]") })
        .collect();
    match headers.as_slice() {
        [] => reason.hint(suggest::hint(key, keys::names(keys))),
        [one] => reason.hint(format!("`{key}` belongs in {one}")),
        [first @ .., last] => reason.hint(format!("`{key}` belongs in {} or {last}", first.join(", "))),
    }
}
