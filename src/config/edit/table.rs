//! Servers written as tables: `[[server]]` and a line for each key.

use std::ops::Range;

use super::{NewServer, Patches};
use crate::config::DEFAULT_POOL;
use crate::config::edit::text::{
    equals, indent, is_blank, is_comment, is_disabled_header, keys, line_start, newline, next_line, rest,
};
use crate::config::file::places::ServerPlace;

/// Adds a server after the last one of its pool, in the same style.
pub(super) fn add(text: &str, last: &ServerPlace, value_ends: &[usize], name: &str, new: &NewServer) -> Patches {
    let block = Block::of(text, last, value_ends);
    // If no blank line separates the tables, none is added. After a comment one is needed, or the comment would seem to
    // describe the new server.
    let blank_before = content_end(text, block.lines.start) < block.lines.start || block.lines.start == 0;
    let needs_blank = block.comments_after || (blank_before && block.blank_after(text));
    let margin = indent(text, last.span.start).unwrap_or("");
    let key_margin = last.keys.first().and_then(|key| indent(text, key.key.start)).unwrap_or(margin);
    let header = format!("{margin}{}", &text[last.span.clone()]);
    let line = |(key, value): &(&str, String)| format!("{key_margin}{key}{}{value}", equals(text, Some(last), key));
    let lines: Vec<String> = std::iter::once(header).chain(keys(name, new).iter().map(line)).collect();
    insert(text, block.lines.end, needs_blank, &lines)
}

/// Adds the first server of a pool at the end of the file.
pub(super) fn append(text: &str, pool: &str, name: &str, new: &NewServer) -> Patches {
    let header = match pool {
        DEFAULT_POOL => "[[server]]".to_owned(),
        pool if pool.contains('.') => format!("[[pool.\"{pool}\".server]]"),
        pool => format!("[[pool.{pool}.server]]"),
    };
    let end = content_end(text, text.len());
    let line = |(key, value): &(&str, String)| format!("{key} = {value}");
    let lines: Vec<String> = std::iter::once(header).chain(keys(name, new).iter().map(line)).collect();
    insert(text, end, end > 0, &lines)
}

/// Removes a server with its adjacent comments, and the blank lines before it if there are also some after it.
pub(super) fn remove(text: &str, server: &ServerPlace, value_ends: &[usize]) -> Patches {
    let block = Block::of(text, server, value_ends);
    let Range { mut start, mut end } = block.lines;
    let content = content_end(text, start);
    if content > 0 {
        if block.blank_after(text) {
            start = content;
        }
        if end == text.len() && !text.ends_with('\n') {
            // The file still ends without a newline.
            let line = text[..content].trim_end_matches('\n');
            start = line.strip_suffix('\r').unwrap_or(line).len();
        }
    } else {
        // Nothing precedes the server, so the file starts with the text after it, without blank lines.
        let next = text.len() - text[end..].trim_start().len();
        end = if next < text.len() { line_start(text, next) } else { end };
    }
    vec![(start..end, String::new())]
}

/// Adds a key after the last one.
pub(super) fn set(text: &str, server: &ServerPlace, name: &str, value: &str) -> Patches {
    let margin = server.keys.last().and_then(|key| indent(text, key.key.start)).unwrap_or("");
    let line = format!("{margin}{name}{}{value}", equals(text, Some(server), name));
    insert(text, next_line(text, last_value(server)), false, &[line])
}

/// Inserts lines at the start of a line or at the end of the text, optionally after a blank line.
fn insert(text: &str, at: usize, blank_line: bool, lines: &[String]) -> Patches {
    let newline = newline(text, at);
    let mut inserted = String::new();
    // If the file does not end with a newline, none is added.
    let unterminated = at == text.len() && !text.is_empty() && !text.ends_with('\n');
    for _ in 0..usize::from(unterminated) + usize::from(blank_line) {
        inserted += newline;
    }
    inserted += &lines.join(newline);
    if !unterminated {
        inserted += newline;
    }
    vec![(at..at, inserted)]
}

/// The lines of one server with the adjacent comments.
struct Block {
    lines: Range<usize>,
    comments_after: bool,
}

impl Block {
    fn of(text: &str, server: &ServerPlace, value_ends: &[usize]) -> Self {
        let header = line_start(text, server.span.start);
        // A line above this that looks like a comment may be part of a multi-line string.
        let previous_value = value_ends[..value_ends.partition_point(|end| *end <= header)].last();
        let floor = previous_value.map_or(0, |end| next_line(text, *end));
        let mut start = header;
        while start > floor {
            let above = line_start(text, start - 1);
            if is_disabled_header(rest(text, above)) && is_comment(rest(text, above)) {
                start = header;
                break;
            }
            if !is_comment(rest(text, above)) {
                break;
            }
            start = above;
        }
        let last = next_line(text, last_value(server));
        let mut end = last;
        while end < text.len() && !is_blank(rest(text, end)) {
            if !is_comment(rest(text, end)) || is_disabled_header(rest(text, end)) {
                // The comments belong to what follows.
                end = last;
                break;
            }
            end = next_line(text, end);
        }
        Self { lines: start..end, comments_after: end > last }
    }

    fn blank_after(&self, text: &str) -> bool {
        is_blank(rest(text, self.lines.end))
    }
}

fn last_value(server: &ServerPlace) -> usize {
    server.keys.last().map_or(server.span.end, |key| key.value.end)
}

/// The end of the last line before `at` that is not blank, or 0; `at` is the start of a line or the end of the text.
fn content_end(text: &str, mut at: usize) -> usize {
    while at > 0 {
        let above = line_start(text, if text[..at].ends_with('\n') { at - 1 } else { at });
        if !is_blank(&text[above..at]) {
            return at;
        }
        at = above;
    }
    0
}
