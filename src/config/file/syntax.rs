//! From bytes to a spanned tree, with everything that is not TOML on the way.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Report;
use super::tree::{Place, Table};
use crate::config::problem::Fault;

/// Recovery costs some hundred bytes for each error; in a longer file only the first is told.
const LONGEST_RECOVERED: usize = 256 << 10;

/// The tree of a file, as much of it as can be read; none if it is not even text.
pub(super) fn parse(report: &Report<'_>, file: usize) -> Option<Table> {
    let text = text(report, file)?;
    let (table, errors) = match DeTable::parse(text) {
        Ok(table) => (table, Vec::new()),
        Err(_) if text.len() <= LONGEST_RECOVERED => DeTable::parse_recoverable(text),
        Err(error) => (Spanned::new(0..0, DeTable::new()), vec![error]),
    };
    let mut errors: Vec<Found> = errors.iter().map(|error| Found::new(text, error)).collect();
    errors.sort_by_key(|error| error.start);
    if let Some(open) = errors.iter().find(|e| e.unclosed).and_then(|_| unclosed(text, &table)) {
        // Whatever follows was taken for a part of it.
        errors.retain(|error| error.start < open.start);
        errors.push(open);
    }
    // One error often brings others along on its line.
    let mut last: Option<usize> = None;
    for Found { start, end, fault, .. } in errors {
        if last.is_none_or(|last| text[last..start].contains('\n')) {
            report.syntax(Place { file, start, end }, fault);
            last = Some(start);
        }
    }
    Some(Table::of(file, table.into_inner(), report))
}

fn text<'a>(report: &Report<'a>, file: usize) -> Option<&'a str> {
    let bytes = report.bytes(file);
    let refuse = |start: usize, end: usize, message: &str, hint: &str| {
        let place = Place { file, start, end };
        report.syntax(place, Fault::new(message).hint(hint));
        None
    };
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return refuse(
            0,
            0,
            "the file begins with a byte order mark",
            "save it as UTF-8 without one (\"UTF-8\", not \"UTF-8 with BOM\")",
        );
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return refuse(0, 0, "the file is UTF-16", "save it as UTF-8");
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return refuse(
            at,
            at,
            "a NUL byte: this is not a text file, or it was not written to its end",
            "write the file anew",
        );
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let at = error.valid_up_to();
            let message = format!("byte {:#04x} is not UTF-8 here", bytes[at]);
            refuse(at, at + 1, &message, "save the file as UTF-8")
        }
    }
}

/// An error of the parser in our words.
struct Found {
    start: usize,
    end: usize,
    fault: Fault,
    /// Something was open at the file's end.
    unclosed: bool,
}

impl Found {
    fn new(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let (mut start, mut end) = (span.start.min(text.len()), span.end.min(text.len()));
        let word = |from: usize| {
            let rest = text.get(from..).unwrap_or_default();
            let word = rest.split(['\n', '\r', '#', ',', ']', '}']).next();
            word.unwrap_or_default().trim_end()
        };
        let said = error.message();
        let fault = if said.starts_with("duplicate key") {
            let name = text.get(start..end).unwrap_or_default();
            Fault::new(format!("`{name}` is there already")).hint("keep one of the two")
        } else if said.starts_with("string values must be quoted") && start == end {
            Fault::new("a value is missing after the `=`")
        } else if said.starts_with("string values must be quoted") {
            let value = word(start);
            end = start + value.len();
            Fault::new("text needs quotes").hint(format!("write `\"{value}\"`"))
        } else if said.starts_with("invalid boolean") {
            let value = word(start).to_lowercase();
            Fault::new("not a value").hint(format!("write `{value}`, in small letters"))
        } else if said.starts_with("invalid float") || said.starts_with("invalid integer") {
            // The parser tells where it stopped; what is meant begins before.
            let before = text.get(..start).unwrap_or_default();
            start = before.rfind(['=', ',', '[', '\n']).map_or(0, |at| at + 1);
            start += text[start..].len() - text[start..].trim_start().len();
            let value = word(start);
            end = start + value.len();
            Fault::new(format!("`{value}` is not a number"))
                .hint(format!("if it is text, put it in quotes: `\"{value}\"`"))
        } else if said.starts_with("key with no value") {
            Fault::new("a key without a value").hint("write `key = value`")
        } else if said.starts_with("unexpected key or value") {
            Fault::new("the line goes on where it should end").hint("write one key a line, and text in quotes")
        } else {
            Fault::new(said.replacen("literal string", "a string", 1))
        };
        let unclosed = at_end(text, start) && (said.starts_with("unclosed") || said.starts_with("invalid multi-line"));
        Self { start, end, fault, unclosed }
    }
}

/// The outermost array, inline table or string that takes in the end of the file.
fn unclosed(text: &str, table: &Spanned<DeTable<'_>>) -> Option<Found> {
    let mut tables = vec![table.get_ref()];
    while let Some(table) = tables.pop() {
        for value in table.values() {
            let span = value.span();
            let opener = text.get(span.start..).and_then(|rest| rest.chars().next());
            let open = at_end(text, span.end) && span.len() > 1;
            match (value.get_ref(), opener) {
                (DeValue::Array(_), Some('[')) | (DeValue::Table(_), Some('{')) if open => {}
                (DeValue::String(_), Some('"' | '\'')) if open => {}
                (DeValue::Table(inner), _) => {
                    tables.push(inner);
                    continue;
                }
                (DeValue::Array(values), _) => {
                    tables.extend(values.iter().filter_map(|value| value.get_ref().as_table()));
                    continue;
                }
                _ => continue,
            }
            let opener = opener.unwrap_or('[');
            return Some(Found {
                start: span.start,
                end: span.end,
                fault: Fault::new(format!("this `{opener}` is never closed")),
                unclosed: true,
            });
        }
    }
    None
}

fn at_end(text: &str, at: usize) -> bool {
    text.get(at..).is_some_and(|rest| rest.trim().is_empty())
}
