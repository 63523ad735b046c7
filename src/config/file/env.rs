//! Substitutes `${NAME}` and `${NAME:-default}` in strings from the environment.

use super::Env;
use super::report::Report;
use crate::config::file::tree::{Location, TomlKind, TomlTable, TomlValue};
use crate::config::problem::Reason;

/// Substitutes in every string of a table. A string with an invalid reference is reported and marked as invalid.
pub(super) fn substitute(table: &mut TomlTable<'_>, env: &Env<'_>, report: &Report<'_>) {
    table.values_mut().for_each(|value| visit(value, env, report));
}

fn visit(value: &mut TomlValue<'_>, env: &Env<'_>, report: &Report<'_>) {
    match &mut value.kind {
        TomlKind::Table(table) => substitute(table, env, report),
        TomlKind::Array(values) => values.iter_mut().for_each(|value| visit(value, env, report)),
        TomlKind::String(text) if text.contains("${") => {
            let (substituted, reasons) = expand(text, env);
            value.kind = if reasons.is_empty() { TomlKind::String(substituted.into()) } else { TomlKind::Invalid };
            for (reference, reason) in reasons {
                report.at(location_in(value.location, &reference, report), reason);
            }
        }
        _ => {}
    }
}

/// Returns the text with its references replaced, and each reference that is invalid, as typed, with the reason.
/// `$${` is replaced by a literal `${`.
fn expand(text: &str, env: &Env<'_>) -> (String, Vec<(String, Reason)>) {
    let mut expanded = String::with_capacity(text.len());
    let mut reasons = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.push_str(before);
        let Some(end) = reference.find('}') else {
            let reason = Reason::new("`${` is never closed")
                .hint("write `${NAME}` or `${NAME:-default}`, or `$${` for a literal `${`");
            reasons.push((reference.to_owned(), reason));
            return (expanded, reasons);
        };
        match lookup(&reference[2..end], env) {
            Ok(value) => expanded.push_str(&value),
            Err(reason) => reasons.push((reference[..=end].to_owned(), reason)),
        }
        rest = &reference[end + 1..];
    }
    expanded.push_str(rest);
    (expanded, reasons)
}

/// As in a shell, the default of `:-` applies to a variable that is unset or empty.
fn lookup(reference: &str, env: &Env<'_>) -> Result<String, Reason> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let valid_start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !valid_start || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Reason::new(format!("`{name}` is not the name of an environment variable"))
            .hint("write `${NAME}` or `${NAME:-default}`"));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Reason::new(format!("the environment variable `{name}` is not set"))
            .hint(format!("set it, or give a default: `${{{name}:-default}}`"))),
    }
}

/// Returns the location of a reference, or of the whole string if escapes hide the reference.
fn location_in(string: Location, reference: &str, report: &Report<'_>) -> Location {
    let bytes = report.bytes(string.file);
    let typed = bytes.get(string.start..string.end).unwrap_or_default();
    let reference = reference.as_bytes();
    match typed.windows(reference.len()).position(|part| part == reference) {
        Some(offset) => {
            Location { start: string.start + offset, end: string.start + offset + reference.len(), ..string }
        }
        None => string,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_substituted() {
        let env = |name: &str| match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        for (text, expanded, errors) in [
            ("${HOST}:80", "example.com:80", 0),
            ("${HOST}${HOST}", "example.comexample.com", 0),
            ("${PORT:-8080}", "8080", 0),
            ("${EMPTY}", "", 0),
            ("${EMPTY:-x}", "x", 0),
            ("${PORT:-}", "", 0),
            ("${PORT:-a:-b}", "a:-b", 0),
            ("${NESTED}", "${HOST}", 0),
            ("$${HOST}", "${HOST}", 0),
            ("$HOST $ } {", "$HOST $ } {", 0),
            ("a${PORT}b${OTHER}c", "abc", 2),
            ("${HOST", "", 1),
            ("${}", "", 1),
            ("${1A}", "", 1),
            ("${A-B}", "", 1),
        ] {
            let (result, reasons) = expand(text, &env);
            assert_eq!((result.as_str(), reasons.len()), (expanded, errors), "{text}");
        }
    }
}
