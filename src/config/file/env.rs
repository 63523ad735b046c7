//! `${NAME}` and `${NAME:-default}` in strings: filled in from the environment.

use super::Env;
use super::report::Report;
use crate::config::file::tree::{Kind, Place, Table, Value};
use crate::config::problem::Fault;

/// Fills in every string of a table; one that cannot be filled in is reported and left out.
pub(super) fn substitute(table: &mut Table<'_>, env: &Env<'_>, report: &Report<'_>) {
    table.values_mut().for_each(|value| visit(value, env, report));
}

fn visit(value: &mut Value<'_>, env: &Env<'_>, report: &Report<'_>) {
    match &mut value.kind {
        Kind::Table(table) => substitute(table, env, report),
        Kind::Array(values) => values.iter_mut().for_each(|value| visit(value, env, report)),
        Kind::String(text) if text.contains("${") => {
            let (filled, faults) = fill(text, env);
            value.kind = if faults.is_empty() { Kind::String(filled.into()) } else { Kind::Broken };
            for (reference, fault) in faults {
                report.at(within(value.place, &reference, report), fault);
            }
        }
        _ => {}
    }
}

/// The text with its references replaced, and what is wrong with those that could not be, each
/// with the reference as typed. `$${` stands for `${`.
fn fill(text: &str, env: &Env<'_>) -> (String, Vec<(String, Fault)>) {
    let mut filled = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &reference[2..];
            continue;
        }
        filled.push_str(before);
        let Some(end) = reference.find('}') else {
            let fault = Fault::new("`${` is never closed")
                .hint("write `${NAME}` or `${NAME:-default}`, or `$${` for the characters themselves");
            faults.push((reference.to_owned(), fault));
            return (filled, faults);
        };
        match lookup(&reference[2..end], env) {
            Ok(value) => filled.push_str(&value),
            Err(fault) => faults.push((reference[..=end].to_owned(), fault)),
        }
        rest = &reference[end + 1..];
    }
    filled.push_str(rest);
    (filled, faults)
}

/// As in a shell, a default holds for what is unset and for what is empty.
fn lookup(reference: &str, env: &Env<'_>) -> Result<String, Fault> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Fault::new(format!("`{name}` is not the name of an environment variable"))
            .hint("write `${NAME}` or `${NAME:-default}`"));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Fault::new(format!("the environment variable `{name}` is not set"))
            .hint(format!("set it, or give a default: `${{{name}:-default}}`"))),
    }
}

/// The reference's own place where the string holds it as it is, else the whole string's.
fn within(string: Place, reference: &str, report: &Report<'_>) -> Place {
    let bytes = report.bytes(string.file);
    let typed = bytes.get(string.start..string.end).unwrap_or_default();
    let wanted = reference.as_bytes();
    match typed.windows(wanted.len()).position(|part| part == wanted) {
        Some(offset) => Place { start: string.start + offset, end: string.start + offset + wanted.len(), ..string },
        None => string,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_filled_in() {
        let env = |name: &str| match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        for (text, filled, faults) in [
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
            let (shown, found) = fill(text, &env);
            assert_eq!((shown.as_str(), found.len()), (filled, faults), "{text}");
        }
    }
}
