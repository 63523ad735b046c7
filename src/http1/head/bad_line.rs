//! The line of a head that violates a rule, and the rule. Pure.

use std::fmt;

use super::starts_with_empty_lines;
use crate::http1::headers::{LINE_END, is_text, is_token};

/// A line of a head that violates a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLine {
    pub rule: HeadRule,
    /// The number of the line; 1 is the start line.
    pub number: usize,
}

/// A rule for a line of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRule {
    /// The start line (RFC 9112, sections 3 and 4).
    StartLine,
    /// CR LF at the end of a line (RFC 9112, section 2.2).
    LineEnd,
    /// No folding (RFC 9112, section 5.2), except that a server may fold a header.
    Folding,
    /// A colon after the name (RFC 9112, section 5).
    Colon,
    /// A name is a token, with no space before the colon (RFC 9110, section 5.1; RFC 9112, section 5.1).
    Name,
    /// No control characters in a value (RFC 9110, section 5.5).
    Value,
    /// `:authority` and `host` agree (RFC 9113, section 8.3.1).
    Authority,
    /// The headers and their frames are as HTTP/2 has them (RFC 9113, sections 8.1.1 and 8.2).
    Frames,
    /// No header that is about one connection of HTTP/1 (RFC 9113, section 8.2.2).
    ConnectionHeader,
    /// CONNECT has no body, so no length of one (RFC 9110, section 9.3.6).
    ConnectBody,
}

impl HeadRule {
    /// The rule as one word, for the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::StartLine => "start_line",
            Self::LineEnd => "line_end",
            Self::Folding => "folding",
            Self::Colon => "colon",
            Self::Name => "header_name",
            Self::Value => "header_value",
            Self::Authority => "authority",
            Self::Frames => "frames",
            Self::ConnectionHeader => "connection_header",
            Self::ConnectBody => "connect_body",
        }
    }

    /// The explanation of a violation, in one sentence.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::StartLine => "The start line is not valid HTTP/1.1.",
            Self::LineEnd => "A line does not end with CR LF.",
            Self::Folding => "A line begins with white space.",
            Self::Colon => "A header has no colon.",
            Self::Name => "The name of a header is not a token.",
            Self::Value => "The value of a header contains a control character.",
            Self::Authority => "The authority and the Host header differ.",
            Self::Frames => "The headers are not valid HTTP/2.",
            Self::ConnectionHeader => "A header is not allowed in HTTP/2.",
            Self::ConnectBody => "A CONNECT request has the length of a body.",
        }
    }
}

impl BadLine {
    /// The start line.
    pub(super) const START_LINE: Self = Self { rule: HeadRule::StartLine, number: 1 };

    /// Finds the first line that violates a rule, in a head that is invalid and has a valid start line unless
    /// that does not end as it must.
    #[cold]
    pub(super) fn find(head: &[u8]) -> Self {
        let start = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or_default();
        if start > 0 && !starts_with_empty_lines(head) {
            return Self { rule: HeadRule::LineEnd, number: 1 };
        }
        let mut lines = head[start..].split_inclusive(|byte| *byte == b'\n').zip(1..);
        let bad = lines.find_map(|(line, number)| Some(Self { rule: violated(line, number == 1)?, number }));
        bad.unwrap_or(Self::START_LINE)
    }
}

/// Returns the rule that a line violates. The last line may be incomplete.
fn violated(line: &[u8], is_first: bool) -> Option<HeadRule> {
    let (text, is_ended) = match line.strip_suffix(b"\n") {
        Some(text) => (text.strip_suffix(b"\r").unwrap_or(text), line.ends_with(LINE_END)),
        None => (line, true),
    };
    let content = |text: &[u8]| match text {
        [b' ' | b'\t', ..] => Some(HeadRule::Folding),
        [] => None,
        _ => {
            let Some(colon) = text.iter().position(|byte| *byte == b':') else { return Some(HeadRule::Colon) };
            let (name, value) = text.split_at(colon);
            if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
                Some(HeadRule::Name)
            } else {
                (!value.iter().all(|byte| is_text(*byte))).then_some(HeadRule::Value)
            }
        }
    };
    let start_line =
        |text: &[u8]| (!text.ends_with(b"HTTP/1.1") && !text.ends_with(b"HTTP/1.0")).then_some(HeadRule::StartLine);
    let bad = if is_first { start_line(text) } else { content(text) };
    bad.or((!is_ended).then_some(HeadRule::LineEnd))
}

/// Whether a request line is valid but for its version, which is two digits with a dot. `None` if it has not ended
/// yet. Method and target have been parsed.
#[cold]
pub(super) fn has_other_version(head: &[u8]) -> Option<bool> {
    let start = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or_default();
    let line = head[start..].split_inclusive(|byte| *byte == b'\n').next().filter(|line| line.ends_with(b"\n"))?;
    let version = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    let is_version = matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r', b'\n']
        if major.is_ascii_digit() && minor.is_ascii_digit());
    Some(is_version && (start == 0 || starts_with_empty_lines(head)))
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.rule.detail().trim_end_matches('.');
        let (first, rest) = detail.split_at(1);
        write!(f, "{}{rest} (line {} of the head)", first.to_lowercase(), self.number)
    }
}
