//! Servers that are tables of their own: `[[server]]` and a line for each key.

use std::ops::Range;

use super::{Cuts, New};
use crate::config::DEFAULT_POOL;
use crate::config::edit::text::{
    equals, indent, is_blank, is_comment, is_old_header, keys, line_start, newline, next_line, rest,
};
use crate::config::file::places::ServerPlace;

/// Adds a server after another one of its pool, and in its style.
pub(super) fn add(text: &str, last: &ServerPlace, ends: &[usize], name: &str, new: &New) -> Cuts {
    let block = Block::of(text, last, ends);
    let at = block.lines.end;
    // What has no air around it gets none. Behind a comment there must be some, or that would seem
    // to be about the new one.
    let before = content_end(text, block.lines.start) < block.lines.start || block.lines.start == 0;
    let air = block.comments_after || (before && block.air_after(text));
    let margin = indent(text, last.span.start).unwrap_or("");
    let inner = last.keys.first().and_then(|key| indent(text, key.key.start)).unwrap_or(margin);
    let header = format!("{margin}{}", &text[last.span.clone()]);
    let line = |(key, value): &(&str, String)| format!("{inner}{key}{}{value}", equals(text, Some(last), key));
    let lines: Vec<String> = std::iter::once(header).chain(keys(name, new).iter().map(line)).collect();
    insert(text, at, air, &lines)
}

/// Adds the first server of a pool at the end.
pub(super) fn append(text: &str, pool: &str, name: &str, new: &New) -> Cuts {
    let header = match pool {
        DEFAULT_POOL => "[[server]]".to_owned(),
        pool if pool.contains('.') => format!("[[pool.\"{pool}\".server]]"),
        pool => format!("[[pool.{pool}.server]]"),
    };
    let at = content_end(text, text.len());
    let line = |(key, value): &(&str, String)| format!("{key} = {value}");
    let lines: Vec<String> = std::iter::once(header).chain(keys(name, new).iter().map(line)).collect();
    insert(text, at, at > 0, &lines)
}

/// Removes a server with the comments that touch it, and the air before it if there is more behind it.
pub(super) fn remove(text: &str, server: &ServerPlace, ends: &[usize]) -> Cuts {
    let block = Block::of(text, server, ends);
    let Range { mut start, mut end } = block.lines;
    let content = content_end(text, start);
    if content > 0 {
        if block.air_after(text) {
            start = content;
        }
        if end == text.len() && !text.ends_with('\n') {
            // So the file goes on ending without one.
            let line = text[..content].trim_end_matches('\n');
            start = line.strip_suffix('\r').unwrap_or(line).len();
        }
    } else {
        // The file begins with what comes next, if anything does.
        let next = text.len() - text[end..].trim_start().len();
        end = if next < text.len() { line_start(text, next) } else { end };
    }
    vec![(start..end, String::new())]
}

/// Adds a key after the last one.
pub(super) fn set(text: &str, server: &ServerPlace, name: &str, value: &str) -> Cuts {
    let margin = server.keys.last().and_then(|key| indent(text, key.key.start)).unwrap_or("");
    let line = format!("{margin}{name}{}{value}", equals(text, Some(server), name));
    insert(text, next_line(text, last_value(server)), false, &[line])
}

/// Inserts lines where one begins, or at the end.
fn insert(text: &str, at: usize, air: bool, lines: &[String]) -> Cuts {
    let newline = newline(text, at);
    let mut with = String::new();
    // After a last line without an end, so is the new one.
    let open = at == text.len() && !text.is_empty() && !text.ends_with('\n');
    for _ in 0..usize::from(open) + usize::from(air) {
        with += newline;
    }
    with += &lines.join(newline);
    if !open {
        with += newline;
    }
    vec![(at..at, with)]
}

/// The lines of one server.
struct Block {
    lines: Range<usize>,
    /// Whether they end with comments.
    comments_after: bool,
}

impl Block {
    fn of(text: &str, server: &ServerPlace, ends: &[usize]) -> Self {
        let header = line_start(text, server.span.start);
        // What looks like a comment may be a part of a text over several lines.
        let floor = ends[..ends.partition_point(|end| *end <= header)].last().map_or(0, |end| next_line(text, *end));
        let mut start = header;
        while start > floor {
            let above = line_start(text, start - 1);
            if is_old_header(rest(text, above)) && is_comment(rest(text, above)) {
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
            if !is_comment(rest(text, end)) || is_old_header(rest(text, end)) {
                // The comments are about what comes next.
                end = last;
                break;
            }
            end = next_line(text, end);
        }
        Self { lines: start..end, comments_after: end > last }
    }

    fn air_after(&self, text: &str) -> bool {
        is_blank(rest(text, self.lines.end))
    }
}

fn last_value(server: &ServerPlace) -> usize {
    server.keys.last().map_or(server.span.end, |key| key.value.end)
}

/// Where the last line that is not blank ends before `at`, which begins a line or is the end; 0 if there is none.
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
