//! Heads of servers that deviate from the grammar in the ways that other clients accept. Pure.
//!
//! Accepted are: a lone LF as a line end (RFC 9112, section 2.2); folded headers (5.2) and white space before the
//! colon (5.1), which a proxy must remove; control characters in values and in the reason, other than NUL and CR
//! (RFC 9110, section 5.5); more than one space in the status line, `http` in lower case, and a later minor version
//! (RFC 9110, section 2.5). The result is canonical: none of it is forwarded.

use super::bad_line::{BadLine, HeadRule};
use super::{HeadError, HeadLimits, ResponseHead, incomplete, version_from_minor};
use crate::http1::headers::{Header, LINE_END, SEPARATOR, TextSpan, is_text, is_token, span};
use crate::http1::name::HeaderName;

/// A header whose next line may belong to it.
struct OpenHeader {
    id: HeaderName,
    name: TextSpan,
    /// The position in the text at which its value starts.
    value: usize,
}

/// Parses the head at the start of `bytes` and returns its length, or `None` if it is incomplete.
#[cold]
pub(super) fn parse(head: &mut ResponseHead, bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, HeadError> {
    let is_empty = |line: &&[u8]| matches!(*line, b"\n" | b"\r\n");
    let mut end = bytes.split_inclusive(|byte| *byte == b'\n').take_while(is_empty).map(<[u8]>::len).sum();
    let lines = bytes[end..].split_inclusive(|byte| *byte == b'\n');
    head.headers.clear();
    let mut open = None;
    for (line, number) in lines.zip(1..) {
        let bad = |rule| HeadError::Malformed(BadLine { rule, number });
        let Some(text) = line.strip_suffix(b"\n") else {
            // The rest of a line that has become invalid is not waited for.
            return match line.split_last().is_some_and(|(_, line)| line.contains(&b'\r')) || line.contains(&0) {
                _ if number == 1 && !may_become_status_line(line) => Err(bad(HeadRule::StartLine)),
                true => Err(bad(HeadRule::LineEnd)),
                false => incomplete(bytes, limits),
            };
        };
        end += line.len();
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if number == 1 {
            status_line(head, text).ok_or(bad(HeadRule::StartLine))?;
        } else if text.starts_with(b" ") || text.starts_with(b"\t") {
            let header = open.as_ref().ok_or(bad(HeadRule::Folding))?;
            push_value(head, header, text).ok_or(bad(HeadRule::Value))?;
        } else {
            if let Some(header) = open.take() {
                close(head, &header);
            }
            if text.is_empty() {
                return if end <= limits.bytes { Ok(Some(end)) } else { Err(HeadError::TooLarge) };
            }
            if head.headers.list.len() == limits.headers {
                return Err(HeadError::TooManyHeaders);
            }
            let colon = text.iter().position(|byte| *byte == b':').ok_or(bad(HeadRule::Colon))?;
            let header = push_name(head, &text[..colon]).ok_or(bad(HeadRule::Name))?;
            push_value(head, &header, &text[colon + 1..]).ok_or(bad(HeadRule::Value))?;
            open = Some(header);
        }
    }
    incomplete(bytes, limits)
}

fn may_become_status_line(line: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    let known = line.len().min(START.len());
    line[..known].eq_ignore_ascii_case(&START[..known])
}

/// Reads the status line, and keeps its reason as the start of the text.
fn status_line(head: &mut ResponseHead, line: &[u8]) -> Option<()> {
    let (name, rest) = line.split_at_checked(b"HTTP/1.".len())?;
    let ([minor, b' ', rest @ ..], true) = (rest, name.eq_ignore_ascii_case(b"HTTP/1.")) else { return None };
    let minor = minor.is_ascii_digit().then(|| minor - b'0')?;
    let rest = &rest[rest.iter().position(|byte| *byte != b' ')?..];
    let (code, reason) = rest.split_at_checked(3)?;
    let status = str::from_utf8(code).ok()?.parse::<u16>().ok().filter(|status| (100..1000).contains(status))?;
    if !matches!(reason, [] | [b' ' | b'\t', ..]) {
        return None;
    }
    head.version = version_from_minor(minor);
    head.status = status;
    push_text(&mut head.headers.text, reason)?;
    head.reason = span(0..head.headers.text.len());
    Some(())
}

/// Starts the line of a header in the text.
fn push_name(head: &mut ResponseHead, name: &[u8]) -> Option<OpenHeader> {
    let end = name.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    let name = &name[..end];
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return None;
    }
    let text = &mut head.headers.text;
    let start = text.len();
    text.extend_from_slice(name);
    let end = text.len();
    text.extend_from_slice(SEPARATOR);
    Some(OpenHeader { id: HeaderName::from_bytes(name), name: span(start..end), value: text.len() })
}

/// Appends a line of a header's value.
fn push_value(head: &mut ResponseHead, header: &OpenHeader, line: &[u8]) -> Option<()> {
    // A length must not depend on how a recipient reads a control character.
    let is_framing = matches!(header.id, HeaderName::ContentLength | HeaderName::TransferEncoding);
    if is_framing && !line.iter().all(|byte| is_text(*byte)) {
        return None;
    }
    let text = &mut head.headers.text;
    let before = text.len();
    if before > header.value {
        text.push(b' ');
    }
    let with_space = text.len();
    push_text(text, line)?;
    if text.len() == with_space {
        text.truncate(before);
    }
    Some(())
}

/// Appends text without the white space around it, and with spaces in place of control characters.
fn push_text(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    if text.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return None;
    }
    let is_visible = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    let Some(start) = text.iter().position(is_visible) else { return Some(()) };
    let end = text.iter().rposition(is_visible).unwrap_or(start);
    out.extend(text[start..=end].iter().map(|byte| if is_text(*byte) { *byte } else { b' ' }));
    Some(())
}

/// Ends the line of a header in the text, and adds the header to the list.
fn close(head: &mut ResponseHead, &OpenHeader { id, name, value }: &OpenHeader) {
    let headers = &mut head.headers;
    let value = span(value..headers.text.len());
    headers.text.extend_from_slice(LINE_END);
    headers.list.push(Header { id, verbatim: true, name, value });
    headers.seen |= id.bit();
}
