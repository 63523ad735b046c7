//! The errors of the TOML parser in words that help, with hints that can be followed.

use std::ops::Range;

use crate::config::file::keys::{self, ValueType};
use crate::config::problem::Reason;
use crate::config::{suggest, values};

/// An error of the parser, worded for people, with a hint.
pub(super) struct SyntaxError {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) reason: Reason,
}

const STATEMENTS: &str = "write `key = value`, `[table]` or `[[table]]`";

impl SyntaxError {
    pub(super) fn new(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let (start, end) = (span.start.min(text.len()), span.end.min(text.len()));
        if let Some((at, c, reason)) = odd_character(text, start) {
            return Self { start: at, end: at + c.len_utf8(), reason };
        }
        // What the parser expected instead is a list of its own terms.
        let message = error.message().split(", expected ").next().unwrap_or_default();
        let found = of_value(text, start, error.message()).or_else(|| {
            let reason = of_string(message, error.message()).or_else(|| of_statement(message, text, start..end))?;
            Some(Self { start, end, reason })
        });
        found.unwrap_or_else(|| Self { start, end, reason: Reason::new(message) })
    }

    /// An array, inline table or string that begins at the span's start and is not closed before the end of the file.
    pub(super) fn unclosed(text: &str, span: &Range<usize>) -> Self {
        let opener = text[span.start..].chars().next().unwrap_or('[');
        let reason = Reason::new(format!("this `{opener}` is never closed"));
        let reason = match opener {
            '[' => reason.hint("end it with `]`"),
            '{' => reason.hint("end it with `}`"),
            _ => reason.hint("end it with three quotation marks, like its start"),
        };
        Self { start: span.start, end: span.end, reason }
    }
}

/// Errors in values without quotes: words, numbers, dates.
fn of_value(text: &str, start: usize, message: &str) -> Option<SyntaxError> {
    const NUMBERS: [&str; 12] = [
        "invalid float",
        "invalid integer",
        "invalid fraction",
        "invalid mantissa",
        "invalid exponent",
        "invalid hexadecimal",
        "invalid octal",
        "invalid binary",
        "`_` may only",
        "unexpected leading zero",
        "redundant numeric sign",
        "radix must be",
    ];
    const OTHERS: [&str; 8] = [
        "invalid boolean",
        "invalid date",
        "invalid time",
        "integers with a radix",
        "redundant integer",
        "unexpected sign",
        "invalid value",
        "string values must be quoted",
    ];
    if !NUMBERS.iter().chain(&OTHERS).any(|prefix| message.starts_with(prefix)) {
        return None;
    }
    // The parser's span may begin where it stopped, inside the value.
    let before = text.get(..start).unwrap_or_default();
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    let mut at = match message.starts_with("string values") {
        true => start,
        false => before.rfind(['=', ',', '[', '\n']).map_or(0, |at| at + 1),
    };
    at += text[at..].len() - text[at..].trim_start_matches([' ', '\t']).len();
    let value = bare_word(&text[at..]);
    let key = before[line..].split('=').next().unwrap_or_default().trim();
    let reason = match value {
        "" => Reason::new("a value is missing after the `=`").hint("write one, or remove the line"),
        _ if value.contains('=') && before[line..].contains('{') => {
            Reason::new("a comma is missing").hint("write one between two keys: `{ a = 1, b = 2 }`")
        }
        _ if value.contains('=') => one_key_per_line(),
        _ => word(value_type(&before[..line], key), value),
    };
    Some(SyntaxError { start: at, end: at + value.len(), reason })
}

/// A value that begins like a number.
fn number(value: &str) -> Reason {
    if let Some((number, _)) = value.split_once([';', '/']).filter(|(number, _)| number.trim().parse::<f64>().is_ok()) {
        let reason = Reason::new(format!("`{value}` is not a number"));
        return reason
            .hint(format!("write `{}`; a line has no end mark, and a comment begins with `#`", number.trim()));
    }
    if let Some(first) = value.split_whitespace().next().filter(|first| first.len() < value.len())
        && first.parse::<f64>().is_ok()
    {
        let reason = Reason::new(format!("`{value}` is more than one value"));
        return reason
            .hint(format!("in an array, write a comma between two values; a string needs quotes: {}", quoted(value)));
    }
    let reason = Reason::new(format!("`{value}` is not a number"));
    let plain = value.trim_start_matches(['+', '0']);
    match !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit()) {
        true => reason.hint(format!("write `{plain}`, without leading zeros")),
        false => reason.hint(format!("write for example `10` or `0.5`; a string needs quotes: {}", quoted(value))),
    }
}

/// The type of a key, by the last header before it, or else of the first key with this name.
fn value_type(before: &str, key: &str) -> Option<&'static ValueType> {
    let header = before.lines().rev().find_map(|line| line.trim_start().strip_prefix('[')).unwrap_or_default();
    let header = header.trim_start_matches('[').split(']').next().unwrap_or_default();
    let is_here = |table: &str| match table.strip_prefix("pool.*") {
        Some(rest) => header
            .strip_prefix("pool.")
            .and_then(|name| name.split_once('.'))
            .is_some_and(|(_, table)| rest.strip_prefix('.') == Some(table)),
        None => table == header,
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) = keys::TABLES.iter().partition(|(table, _)| is_here(table));
    let mut specs = here.into_iter().chain(elsewhere).flat_map(|(_, keys)| keys.iter());
    specs.find(|spec| spec.name == key).map(|spec| &spec.value)
}

/// A value without quotes that is not valid for a key of this type.
fn word(kind: Option<&ValueType>, value: &str) -> Reason {
    let like_number = value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    let reason = Reason::new(format!("`{value}` is not a value"));
    let lower = value.to_ascii_lowercase();
    match kind {
        _ if value.contains("${") => string(value),
        _ if let Some(name) = values::unbraced(value) => {
            reason.hint(format!("write `\"${{{name}}}\"` to take it from the environment"))
        }
        Some(ValueType::Integer(_) | ValueType::Number(_)) | None if like_number => number(value),
        Some(ValueType::Integer(range)) => {
            reason.hint(format!("write a number from {} to {}", range.start(), range.end()))
        }
        Some(ValueType::Number(range)) => {
            reason.hint(format!("write a number from {:?} to {:?}", range.start(), range.end()))
        }
        Some(ValueType::Boolean) | None if matches!(lower.as_str(), "true" | "false") => {
            reason.hint(format!("write `{lower}`"))
        }
        Some(ValueType::BooleanOrText(_)) if suggest::closest(&lower, ["true", "false"]).is_none() => string(value),
        Some(ValueType::Boolean | ValueType::BooleanOrText(_)) => match lower.as_str() {
            "yes" | "on" | "y" | "1" => reason.hint("write `true`"),
            "no" | "off" | "n" | "0" => reason.hint("write `false`"),
            _ => reason.hint(suggest::hint(&lower, ["true", "false"])),
        },
        _ => string(value),
    }
}

fn string(value: &str) -> Reason {
    Reason::new("a string must be quoted").hint(format!("write {}", quoted(value)))
}

/// A string in TOML that stands for `value`, for a hint.
fn quoted(value: &str) -> String {
    match value.contains(['"', '\\']) {
        true if !value.contains('\'') => format!("`'{value}'`"),
        true => "it in quotation marks, with a `\\` before each `\"` and `\\` in it".to_owned(),
        false => format!("`\"{value}\"`"),
    }
}

/// Errors in strings and comments.
fn of_string(message: &str, full: &str) -> Option<Reason> {
    let never_closed = || Reason::new("this string is never closed");
    let control =
        || Reason::new("a string cannot contain a control character").hint("delete it, or write for example `\\n`");
    Some(match message {
        _ if message.starts_with("invalid basic string") && full.ends_with("expected `\"`") => {
            never_closed().hint("end it with `\"`")
        }
        _ if message.starts_with("invalid literal string") && full.ends_with("expected `'`") => {
            never_closed().hint("end it with `'`")
        }
        _ if message.starts_with("invalid basic string") || message.starts_with("invalid multi-line") => control(),
        _ if message.starts_with("invalid literal string") => control(),
        _ if message.starts_with("invalid comment character") => {
            Reason::new("a comment cannot contain a control character").hint("delete it")
        }
        _ if message.starts_with("missing escaped value") => Reason::new("a `\\` and this character are no escape")
            .hint("write `\\\\` for a backslash, or use single quotes, in which nothing is escaped"),
        _ if message.starts_with("too few unicode") || message.starts_with("invalid unicode") => {
            Reason::new("this is not the code of a character")
                .hint("write `\\u` and four hexadecimal digits, or `\\U` and eight")
        }
        _ if message.starts_with("keys cannot be multi-line") => {
            Reason::new("a key cannot be in three quotation marks")
                .hint("write it without quotation marks, or with one on each side")
        }
        _ => return None,
    })
}

/// Errors in keys, headers and punctuation.
fn of_statement(message: &str, text: &str, span: Range<usize>) -> Option<Reason> {
    let before = text.get(..span.start).unwrap_or_default();
    let line = before.rfind('\n').map_or(before, |at| &before[at + 1..]);
    let is_header = line.trim_start().starts_with('[') && !line.contains('=');
    let rest = text.get(span.start..).unwrap_or_default();
    let name = text.get(span).unwrap_or_default();
    Some(match message {
        _ if message.starts_with("duplicate key") => {
            let reason = Reason::new(format!("`{name}` is already defined"));
            match keys::ARRAYS.iter().any(|array| array.rsplit('.').next() == Some(name)) && is_header {
                true => reason.hint(format!(
                    "write the header in two pairs of brackets: `[[{}{name}]]`",
                    line.trim_matches(['[', ' '])
                )),
                false => reason.hint("keep one of the two"),
            }
        }
        _ if message.starts_with("cannot extend value") => {
            Reason::new(format!("`{name}` already has a value, so it cannot have keys")).hint("keep one of the two")
        }
        _ if message.starts_with("unclosed array table") => {
            Reason::new("the table header is never closed").hint("end it with `]]`")
        }
        _ if message.starts_with("unclosed table") => {
            Reason::new("the table header is never closed").hint("end it with `]`")
        }
        _ if message.starts_with("key with no value") || message.starts_with("missing assignment") => {
            Reason::new("a key without a value").hint("write `key = value`")
        }
        _ if rest.starts_with("//") => Reason::new("this is not a comment").hint("begin it with `#`"),
        _ if message.starts_with("missing key for inline table") => Reason::new("a key is missing in an inline table")
            .hint("write for example `{ a = 1 }`; what stands in `{{ … }}` in a template must be filled in first"),
        _ if message.starts_with("invalid unquoted key") => {
            Reason::new("an unquoted key may contain only letters, digits, `-` and `_`").hint(STATEMENTS)
        }
        _ if message.starts_with("unquoted keys cannot be empty") => Reason::new("a name is missing").hint(STATEMENTS),
        "invalid key-value pair" | "missing table open" => Reason::new("this is not a key").hint(STATEMENTS),
        _ if message.starts_with("extra `=`") || message.starts_with("extra assignment") => {
            Reason::new("there is a second `=`").hint("remove one of them, or quote the value if it contains it")
        }
        _ if message.starts_with("extra comma") => Reason::new("there is a comma too many").hint("remove it"),
        _ if message.starts_with("missing comma") => {
            Reason::new("a comma is missing").hint("write one between two values")
        }
        "unexpected `=` in array" => {
            Reason::new("an array has values, but no keys").hint("write for example `[\"a\", \"b\"]`")
        }
        _ if message.starts_with("unexpected key or value") && is_header && rest.starts_with(']') => {
            Reason::new("the table header has a `]` too many").hint("write `[table]` or `[[table]]`")
        }
        _ if message.starts_with("unexpected key or value") && is_header => {
            Reason::new("a table header stands alone on its line").hint("write what follows on the next line")
        }
        _ if message.starts_with("unexpected key or value") || message.starts_with("unexpected content") => {
            one_key_per_line()
        }
        _ if message.starts_with("carriage return") => {
            Reason::new("a carriage return without a line feed").hint("save the file with line ends of Unix or Windows")
        }
        _ if message.contains("recurs") => {
            Reason::new("this is nested too deeply").hint("no key needs more than three levels")
        }
        _ => return None,
    })
}

fn one_key_per_line() -> Reason {
    Reason::new("a line can hold only one key and its value").hint("write one key per line, and quote strings")
}

/// A value without quotes, up to the end of the line, of the array or of the inline table. References to the environment
/// are part of it.
fn bare_word(text: &str) -> &str {
    let mut end = 0;
    while let Some(c) = text[end..].chars().next() {
        match text[end..].strip_prefix("${").and_then(|rest| rest.find(['}', '\n'])) {
            Some(length) if text[end + 2 + length..].starts_with('}') => end += length + 3,
            _ if matches!(c, '\n' | '\r' | '#' | ',' | ']' | '}') => break,
            _ => end += c.len_utf8(),
        }
    }
    text[..end].trim_end_matches([' ', '\t'])
}

/// The character that causes an error at `start`, if it looks like another one or like none.
fn odd_character(text: &str, start: usize) -> Option<(usize, char, Reason)> {
    let word = bare_word(text.get(start..)?).split(['"', '\'']).next()?;
    word.char_indices().find_map(|(at, c)| {
        let code = format!("U+{:04X}", u32::from(c));
        let reason = match c {
            '\u{feff}' => Reason::new("a byte order mark, an invisible character, stands inside the file").hint(
                "delete it, for example by writing the line anew; it is the start of another file that was pasted here",
            ),
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => {
                Reason::new(format!("an invisible character, {code}"))
                    .hint("delete it, for example by writing the line anew")
            }
            '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => {
                Reason::new(format!("a space that is not a plain one, {code}")).hint("write a plain space")
            }
            '“' | '”' | '„' | '‟' | '‘' | '’' | '‚' | '«' | '»' | '＂' => {
                Reason::new(format!("`{c}` is a typographic quotation mark")).hint("write `\"`")
            }
            _ => return None,
        };
        Some((start + at, c, reason))
    })
}
