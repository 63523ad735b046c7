//! From bytes to a tree with locations, or to the syntax errors of a file.

mod error;

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use self::error::SyntaxError;
use super::report::Report;
use crate::config::file::tree::{Location, TomlTable};
use crate::config::problem::Reason;

/// Recovery parses the text once per error; of a longer text only the first error is reported.
const MAX_RECOVERED_BYTES: usize = 256 << 10;

/// Nobody fixes more errors than this at a time.
const MAX_ERRORS: usize = 50;

/// Returns as much of a file's tree as can be parsed, or `None` if the file is not text.
///
/// The parser recovers from an error by itself, but loses much of what follows it. So its first error is reported, the
/// lines of that error are blanked, and the rest is parsed again.
pub(super) fn parse<'a>(report: &Report<'a>, file: usize) -> Option<TomlTable<'a>> {
    let original = text(report, file)?;
    let error = match DeTable::parse(original) {
        Ok(table) => return Some(TomlTable::of(file, table.into_inner(), |text| text, report)),
        Err(error) => error,
    };
    if original.len() > MAX_RECOVERED_BYTES {
        report_to(SyntaxError::new(original, &error), report, file);
        return Some(TomlTable::default());
    }
    let mut text = Cow::Borrowed(original);
    for _ in 0..MAX_ERRORS {
        let (table, errors) = DeTable::parse_recoverable(&text);
        let translated = errors.iter().map(|error| SyntaxError::new(&text, error));
        let Some(first) = translated.min_by_key(|error| error.start) else {
            return Some(TomlTable::of(file, table.into_inner(), |text| Cow::Owned(text.into_owned()), report));
        };
        let lines = match enclosing(&text, table.get_ref(), first.start) {
            Some(span) => {
                let unclosed = errors.iter().any(|error| is_unexpected_end(&text, error));
                match unclosed && text[span.end..].trim().is_empty() {
                    true => report_to(SyntaxError::unclosed(&text, &span), report, file),
                    false => report_to(first, report, file),
                }
                span
            }
            None => {
                let span = first.start..first.end;
                report_to(first, report, file);
                span
            }
        };
        let blanked = blank(&text, &lines);
        if blanked == text {
            break;
        }
        text = Cow::Owned(blanked);
    }
    Some(TomlTable::default())
}

/// Replaces every line that a span touches with as many spaces as it has bytes, so that later spans stay right.
fn blank(text: &str, span: &Range<usize>) -> String {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    let blanked = text[start..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' });
    text[..start].chars().chain(blanked).chain(text[end..].chars()).collect()
}

fn report_to(error: SyntaxError, report: &Report<'_>, file: usize) {
    let SyntaxError { start, end, reason } = error;
    report.syntax(Location { file, start, end }, reason);
}

fn text<'a>(report: &Report<'a>, file: usize) -> Option<&'a str> {
    let bytes = report.bytes(file);
    let reject = |start: usize, end: usize, message: &str, hint: &str| {
        let location = Location { file, start, end };
        report.syntax(location, Reason::new(message).hint(hint));
        None
    };
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return reject(
            0,
            0,
            "the file begins with a byte order mark",
            "save it as UTF-8 without one (\"UTF-8\", not \"UTF-8 with BOM\")",
        );
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return reject(0, 0, "the file is UTF-16", "save it as UTF-8");
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return reject(
            at,
            at,
            "a NUL byte: this is not a text file, or it was only partly written",
            "write the file again",
        );
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let at = error.valid_up_to();
            let message = format!("byte {:#04x} is not valid UTF-8", bytes[at]);
            reject(at, at + 1, &message, "save the file as UTF-8")
        }
    }
}

/// The span of the outermost array, inline table or multi-line string that contains a byte.
fn enclosing(text: &str, table: &DeTable<'_>, at: usize) -> Option<Range<usize>> {
    let mut tables = vec![table];
    while let Some(table) = tables.pop() {
        for value in table.values() {
            let span = value.span();
            let line = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            // A table's span is its header, which begins a line.
            let header = text[line..span.start].trim().is_empty();
            match value.get_ref() {
                DeValue::Array(_) | DeValue::Table(_) | DeValue::String(_)
                    if !header && span.start < at && at <= span.end =>
                {
                    return Some(span);
                }
                DeValue::Table(inner) => tables.push(inner),
                DeValue::Array(values) => {
                    tables.extend(values.iter().filter_map(|value| value.get_ref().as_table()));
                }
                _ => {}
            }
        }
    }
    None
}

/// Whether an error is that the text ends too early.
fn is_unexpected_end(text: &str, error: &toml::de::Error) -> bool {
    let start = error.span().map_or(0, |span| span.start);
    let unclosed = ["unclosed", "invalid multi-line"].iter().any(|prefix| error.message().starts_with(prefix));
    unclosed && text.get(start..).is_some_and(|rest| rest.trim().is_empty())
}
