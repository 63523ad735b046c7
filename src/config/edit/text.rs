//! Lines of a text, and what stands between things.

use super::{Cuts, New};
use crate::config::file::places::ServerPlace;

/// The text with every cut made. Cuts do not overlap.
pub(super) fn apply(text: &str, mut cuts: Cuts) -> String {
    cuts.sort_by_key(|(place, _)| place.start);
    let mut whole = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for (place, with) in cuts {
        whole.push_str(&text[at..place.start]);
        whole.push_str(&with);
        at = place.end;
    }
    whole.push_str(&text[at..]);
    whole
}

/// Whether a server is written `{ … }` and not as a table of its own.
pub(super) fn is_inline(text: &str, server: &ServerPlace) -> bool {
    text[server.span.start..].starts_with('{')
}

/// Where the line of `at` begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where the next line begins, or the end.
pub(super) fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// What a line has from `at` on.
pub(super) fn rest(text: &str, at: usize) -> &str {
    &text[at..next_line(text, at)]
}

/// What a line begins with before `at`, if that is white space only.
pub(super) fn indent(text: &str, at: usize) -> Option<&str> {
    Some(&text[line_start(text, at)..at]).filter(|before| is_blank(before))
}

pub(super) fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A table that somebody has put out of force, and what follows it is a part of it.
pub(super) fn is_old_header(line: &str) -> bool {
    line.trim_start().trim_start_matches('#').trim_start().starts_with('[')
}

/// How lines end here: as the one before `at`.
pub(super) fn newline(text: &str, at: usize) -> &'static str {
    let end = text[..at].rfind('\n').or_else(|| text.find('\n'));
    if end.is_some_and(|end| text[..end].ends_with('\r')) { "\r\n" } else { "\n" }
}

/// The comma that comes next, if nothing but white space and comments is before it.
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

/// A string as TOML writes it. What is quoted here was checked: it holds nothing to escape.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The keys of a new server with their values.
pub(super) fn keys(name: &str, new: &New) -> Vec<(&'static str, String)> {
    let mut keys = vec![("name", quoted(name)), ("address", quoted(&new.address))];
    keys.extend(new.weight.map(|weight| ("weight", weight.to_string())));
    keys.extend((!new.enabled).then(|| ("enabled", "false".to_owned())));
    keys
}

/// What stands between a key and its value: as at the same key of a server that is there.
pub(super) fn equals<'a>(text: &'a str, like: Option<&ServerPlace>, key: &str) -> &'a str {
    let like = like.and_then(|server| server.key(key).or_else(|| server.key("address")));
    let between = like.and_then(|key| text.get(key.key.end..key.value.start));
    between.filter(|between| between.trim() == "=").unwrap_or(" = ")
}
