//! From bytes to a spanned tree, with everything that is not TOML on the way.

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::report::Report;
use crate::config::file::tree::{Place, Table};
use crate::config::problem::Fault;

/// Each error costs another look at the text; in a longer one only the first error is told.
const LONGEST_RECOVERED: usize = 256 << 10;

/// Nobody mends more than this at a time.
const MOST_ERRORS: usize = 50;

/// The tree of a file, as much of it as can be read; none if it is not even text.
///
/// The parser recovers from an error, but loses much of what follows. So the first error is told,
/// its lines are blanked, and the rest is parsed again.
pub(super) fn parse<'a>(report: &Report<'a>, file: usize) -> Option<Table<'a>> {
    let original = text(report, file)?;
    let error = match DeTable::parse(original) {
        Ok(table) => return Some(Table::of(file, table.into_inner(), |text| text, report)),
        Err(error) => error,
    };
    if original.len() > LONGEST_RECOVERED {
        Found::new(original, &error).tell(report, file);
        return Some(Table::default());
    }
    let mut text = Cow::Borrowed(original);
    for _ in 0..MOST_ERRORS {
        let (table, errors) = DeTable::parse_recoverable(&text);
        let found = errors.iter().map(|error| Found::new(&text, error));
        let Some(first) = found.min_by_key(|found| found.start) else {
            return Some(Table::of(file, table.into_inner(), |text| Cow::Owned(text.into_owned()), report));
        };
        let lines = match enclosing(&text, table.get_ref(), first.start) {
            Some(span) => {
                let open = errors.iter().any(|error| at_end(&text, error));
                match open && text[span.end..].trim().is_empty() {
                    true => Found::unclosed(&text, &span).tell(report, file),
                    false => first.tell(report, file),
                }
                span
            }
            None => {
                let span = first.start..first.end;
                first.tell(report, file);
                span
            }
        };
        let blanked = blank(&text, &lines);
        if blanked == text {
            break;
        }
        text = Cow::Owned(blanked);
    }
    Some(Table::default())
}

/// The text with every line that a span touches made of spaces, byte for byte.
fn blank(text: &str, span: &Range<usize>) -> String {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    let blanked = text[start..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' });
    text[..start].chars().chain(blanked).chain(text[end..].chars()).collect()
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
            match value.contains('=') {
                true => more_than_one(),
                false => Fault::new("text needs quotes").hint(format!("write `\"{value}\"`")),
            }
        } else if said.starts_with("invalid basic string") && said.ends_with("expected `\"`") {
            Fault::new("this text is never closed").hint("end it with `\"`")
        } else if said.starts_with("invalid literal string") {
            Fault::new("this text is never closed").hint("end it with `'`")
        } else if said.starts_with("invalid boolean") {
            let value = word(start);
            Fault::new(format!("`{value}` is not a value")).hint(format!("write `{}`", value.to_lowercase()))
        } else if said.starts_with("unclosed array table") {
            Fault::new("the table's name is never closed").hint("end it with `]]`")
        } else if said.starts_with("unclosed table") {
            Fault::new("the table's name is never closed").hint("end it with `]`")
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
        } else if said.starts_with("invalid unquoted key") {
            Fault::new("a key is made of letters, digits, `-` and `_`")
                .hint("write `key = value`, `[table]` or `[[table]]`")
        } else if said.starts_with("invalid key-value pair") {
            Fault::new("this is no key").hint("write `key = value`, `[table]` or `[[table]]`")
        } else if said.starts_with("unexpected key or value") {
            more_than_one()
        } else {
            Fault::new(said.replacen("literal string", "a string", 1))
        };
        Self { start, end, fault }
    }

    /// What was opened at the span's start and goes on to the end of the file.
    fn unclosed(text: &str, span: &Range<usize>) -> Self {
        let opener = text[span.start..].chars().next().unwrap_or('[');
        Self { start: span.start, end: span.end, fault: Fault::new(format!("this `{opener}` is never closed")) }
    }

    fn tell(self, report: &Report<'_>, file: usize) {
        let Self { start, end, fault } = self;
        report.syntax(Place { file, start, end }, fault);
    }
}

fn more_than_one() -> Fault {
    Fault::new("the line goes on where it should end").hint("write one key a line, and text in quotes")
}

/// The outermost array, inline table or string over several lines that a byte is in.
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
fn at_end(text: &str, error: &toml::de::Error) -> bool {
    let start = error.span().map_or(0, |span| span.start);
    let open = ["unclosed", "invalid multi-line"].iter().any(|said| error.message().starts_with(said));
    open && text.get(start..).is_some_and(|rest| rest.trim().is_empty())
}
