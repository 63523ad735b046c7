//! Substitutes `${NAME}` and `${NAME:-default}` in strings from the environment.

use super::Env;
use super::report::Report;
use crate::config::file::tree::{Location, TomlKind, TomlTable, TomlValue};
use crate::config::mask;
use crate::config::problem::Reason;

/// A string as it was typed, with its references to the environment.
#[derive(Debug)]
pub(super) struct EnvTemplate {
    /// The text of the file, without the user part of a URL.
    pub(super) typed: String,
    /// The variables whose values were used; none if only defaults were.
    pub(super) variables: Vec<String>,
}

impl EnvTemplate {
    /// Whether something in the value is not in the file, and may be secret.
    pub(super) fn is_secret(&self) -> bool {
        !self.variables.is_empty()
    }
}

/// Substitutes in every string of a table. A string with an invalid reference is reported and marked as invalid.
pub(super) fn substitute(table: &mut TomlTable<'_>, env: &Env<'_>, report: &Report<'_>) {
    table.values_mut().for_each(|value| visit(value, env, report));
}

fn visit(value: &mut TomlValue<'_>, env: &Env<'_>, report: &Report<'_>) {
    match &mut value.kind {
        TomlKind::Table(table) => substitute(table, env, report),
        TomlKind::Array(values) => values.iter_mut().for_each(|value| visit(value, env, report)),
        TomlKind::String(text) if text.contains("${") => {
            let Expansion { text: substituted, references, variables, reasons } = expand(text, env);
            if references > 0 {
                let template = EnvTemplate { typed: mask(text).into_owned(), variables };
                value.template = Some(template.into());
            }
            value.kind = if reasons.is_empty() { TomlKind::String(substituted.into()) } else { TomlKind::Invalid };
            for (reference, reason) in reasons {
                report.at(location_in(value.location, &reference, report), reason);
            }
        }
        _ => {}
    }
}

/// A text with its references replaced.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) text: String,
    /// How many there were.
    references: usize,
    /// The variables whose values were used.
    variables: Vec<String>,
    /// Each reference that is invalid, as typed.
    pub(super) reasons: Vec<(String, Reason)>,
}

/// Replaces the references in a text. `$${` is replaced by a literal `${`.
pub(super) fn expand(text: &str, env: &Env<'_>) -> Expansion {
    let mut expansion = Expansion::default();
    let Expansion { text: expanded, references, variables, reasons } = &mut expansion;
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
            return expansion;
        };
        *references += 1;
        match lookup(&reference[2..end], env) {
            Ok(Lookup::Variable(name, value)) => {
                expanded.push_str(&value);
                variables.push(name.to_owned());
            }
            Ok(Lookup::Default(value)) => expanded.push_str(value),
            Err(reason) => reasons.push((reference[..=end].to_owned(), reason)),
        }
        rest = &reference[end + 1..];
    }
    expanded.push_str(rest);
    expansion
}

/// The value of a reference.
enum Lookup<'a> {
    /// The variable's name and value.
    Variable(&'a str, String),
    Default(&'a str),
}

/// As in a shell, the default of `:-` applies to a variable that is unset or empty.
fn lookup<'a>(reference: &'a str, env: &Env<'_>) -> Result<Lookup<'a>, Reason> {
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
        (Some(value), None) => Ok(Lookup::Variable(name, value)),
        (Some(value), Some(_)) if !value.is_empty() => Ok(Lookup::Variable(name, value)),
        (_, Some(default)) => Ok(Lookup::Default(default)),
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
            let expansion = expand(text, &env);
            assert_eq!((expansion.text.as_str(), expansion.reasons.len()), (expanded, errors), "{text}");
        }
    }
}
