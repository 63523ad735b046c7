//! Lines of a text, and the text between values.

use super::{NewServer, Patches};
use crate::config::file::places::ServerPlace;

/// The text with every patch applied. Patches do not overlap.
pub(super) fn apply(text: &str, mut patches: Patches) -> String {
    patches.sort_by_key(|(range, _)| range.start);
    let mut patched = String::with_capacity(text.len() + 256);
    let mut copied = 0;
    for (range, replacement) in patches {
        patched.push_str(&text[copied..range.start]);
        patched.push_str(&replacement);
        copied = range.end;
    }
    patched.push_str(&text[copied..]);
    patched
}

/// Whether a server is written `{ … }` and not as a `[[table]]`.
pub(super) fn is_inline(text: &str, server: &ServerPlace) -> bool {
    text[server.span.start..].starts_with('{')
}

/// The start of the line that contains `at`.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The start of the next line, or the end of the text.
pub(super) fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// The rest of the line from `at` on, with its end.
pub(super) fn rest(text: &str, at: usize) -> &str {
    &text[at..next_line(text, at)]
}

/// The part of the line before `at`, if it is only white space.
pub(super) fn indent(text: &str, at: usize) -> Option<&str> {
    Some(&text[line_start(text, at)..at]).filter(|before| is_blank(before))
}

pub(super) fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A table header that is commented out: the comments after it belong to it.
pub(super) fn is_disabled_header(line: &str) -> bool {
    line.trim_start().trim_start_matches('#').trim_start().starts_with('[')
}

/// The line end in use at `at`: that of the line before.
pub(super) fn newline(text: &str, at: usize) -> &'static str {
    let end = text[..at].rfind('\n').or_else(|| text.find('\n'));
    if end.is_some_and(|end| text[..end].ends_with('\r')) { "\r\n" } else { "\n" }
}

/// The next comma, if only white space and comments precede it.
pub(super) fn next_comma(text: &str, mut at: usize) -> Option<usize> {
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        match text[at..].chars().next()? {
            ',' => return Some(at),
            '#' => at = next_line(text, at),
            _ => return None,
        }
    }
}

/// A TOML string. Its text was validated and contains nothing that needs an escape.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The keys of a new server with their values.
pub(super) fn keys(name: &str, new: &NewServer) -> Vec<(&'static str, String)> {
    let mut keys = vec![("name", quoted(name)), ("address", quoted(&new.address))];
    keys.extend(new.weight.map(|weight| ("weight", weight.to_string())));
    keys.extend((!new.enabled).then(|| ("enabled", "false".to_owned())));
    keys
}

/// The text between a key and its value, copied from the same key of `model` or from its address.
pub(super) fn equals<'a>(text: &'a str, model: Option<&ServerPlace>, key: &str) -> &'a str {
    let key = model.and_then(|server| server.key(key).or_else(|| server.key("address")));
    let between = key.and_then(|key| text.get(key.key.end..key.value.start));
    between.filter(|between| between.trim() == "=").unwrap_or(" = ")
}
