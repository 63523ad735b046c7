//! Servers written as an array of inline tables: `server = [{ name = … }, …]`.

use super::{NewServer, Patches};
use crate::config::edit::text::{
    equals, indent, is_blank, is_comment, keys, line_start, newline, next_comma, next_line, rest,
};
use crate::config::file::places::{Places, ServerPlace};

/// Formats the only server of an array.
pub(super) fn first(name: &str, new: &NewServer) -> String {
    element("", None, name, new)
}

/// Adds a server after the last one of its array; on a new line if the last one starts a line.
pub(super) fn add(text: &str, last: &ServerPlace, name: &str, new: &NewServer) -> Patches {
    let element = element(text, Some(last), name, new);
    let end = last.span.end;
    let insert = |at: usize, inserted: String| (at..at, inserted);
    let Some(margin) = indent(text, last.span.start) else {
        return vec![insert(end, format!(", {element}"))];
    };
    let newline = newline(text, last.span.start);
    match next_comma(text, end) {
        Some(comma) if ends_line(text, comma + 1) => {
            vec![insert(next_line(text, comma), format!("{margin}{element},{newline}"))]
        }
        Some(comma) => vec![insert(comma + 1, format!(" {element},"))],
        None if ends_line(text, end) => {
            vec![insert(end, ",".to_owned()), insert(next_line(text, end), format!("{margin}{element}{newline}"))]
        }
        None => vec![insert(end, format!(",{newline}{margin}{element}"))],
    }
}

/// Removes a server and one comma; if nothing else is on its lines, also the lines and the comments directly above.
pub(super) fn remove(text: &str, server: &ServerPlace, places: &Places) -> Patches {
    let in_same_array = |other: &&ServerPlace| other.file == server.file && other.array_start == server.array_start;
    let siblings: Vec<&ServerPlace> = places.servers.iter().filter(in_same_array).collect();
    let before = siblings.iter().rev().find(|other| other.span.start < server.span.start);
    let after = siblings.iter().find(|other| other.span.start > server.span.start);
    let comma = next_comma(text, server.span.end);
    let cut = |from: usize, to: usize| (from..to, String::new());
    // If no comma follows the last element, the one before it is removed.
    let comma_before = match (before, comma) {
        (Some(before), None) => next_comma(text, before.span.end).map(|at| cut(at, at + 1)),
        _ => None,
    };
    let end = comma.map_or(server.span.end, |at| at + 1);
    if indent(text, server.span.start).is_some() && ends_line(text, end) {
        let mut patches = vec![cut(start_with_comments(text, server, places), next_line(text, end))];
        patches.extend(comma_before);
        return patches;
    }
    if let (Some(after), Some(comma)) = (after, comma)
        && is_blank(&text[comma + 1..after.span.start])
    {
        return vec![cut(server.span.start, after.span.start)];
    }
    if let Some(before) = before
        && text[before.span.end..server.span.start].trim() == ","
    {
        return vec![cut(before.span.end, server.span.end)];
    }
    if let Some((comma, _)) = &comma_before
        && is_blank(&text[comma.end..server.span.start])
    {
        return vec![cut(comma.start, server.span.end)];
    }
    let mut patches = vec![cut(server.span.start, server.span.end)];
    patches.extend(comma.map(|at| cut(at, at + 1)));
    patches.extend(comma_before);
    patches
}

/// Adds a key after the last one.
pub(super) fn set(server: &ServerPlace, name: &str, value: &str) -> Patches {
    match server.keys.last() {
        Some(last) => vec![(last.value.end..last.value.end, format!(", {name} = {value}"))],
        None => vec![(server.span.start + 1..server.span.start + 1, format!("{name} = {value}"))],
    }
}

/// Formats `{ name = … }` in the style of `model`.
fn element(text: &str, model: Option<&ServerPlace>, name: &str, new: &NewServer) -> String {
    let keys = keys(name, new);
    let pair = |(key, value): &(&str, String)| format!("{key}{}{value}", equals(text, model, key));
    let pairs: Vec<String> = keys.iter().map(pair).collect();
    let edges = model.and_then(|model| {
        let (first, last) = (model.keys.first()?, model.keys.last()?);
        Some((text.get(model.span.start + 1..first.key.start)?, text.get(last.value.end..model.span.end - 1)?))
    });
    let is_spaces = |edge: &str| edge.bytes().all(|byte| byte == b' ');
    let (open, close) = edges.filter(|(open, close)| is_spaces(open) && is_spaces(close)).unwrap_or((" ", " "));
    format!("{{{open}{}{close}}}", pairs.join(", "))
}

/// Whether the rest of the line is blank or a comment.
fn ends_line(text: &str, at: usize) -> bool {
    let rest = rest(text, at);
    is_comment(rest) || is_blank(rest)
}

/// The start of an element's first line, or of the comments directly above it.
fn start_with_comments(text: &str, server: &ServerPlace, places: &Places) -> usize {
    let ends = &places.value_ends[server.file];
    let previous_value = ends[..ends.partition_point(|end| *end <= server.span.start)].last();
    let floor = previous_value.map_or(0, |end| next_line(text, *end));
    let mut start = line_start(text, server.span.start);
    while start > floor && is_comment(rest(text, line_start(text, start - 1))) {
        start = line_start(text, start - 1);
    }
    start
}
