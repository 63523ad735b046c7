//! The headers of a message, stored as spans of its text. Pure.

use std::ops::Range;

use crate::http1::name::{HeaderName, HeaderSet};

#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// The head as received, followed by the lines that were added.
    pub(super) text: Vec<u8>,
    pub(super) list: Vec<Header>,
    /// The names in the list, by [`HeaderName::bit`]; may include names that were removed since.
    pub(super) seen: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) id: HeaderName,
    /// Whether its line in the text can be written as it is.
    pub(super) verbatim: bool,
    pub(super) name: TextSpan,
    pub(super) value: TextSpan,
}

/// A range of the text, in half the size of a `Range<usize>`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TextSpan {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl TextSpan {
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn shifted(self, by: u32) -> Self {
        Self { start: self.start + by, end: self.end + by }
    }
}

/// The place of a header's value, which stays readable when the header is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ValuePlace(TextSpan);

impl Headers {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds headers with these names and values, as if they had been received.
    #[must_use]
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut headers = Self::new();
        for (name, value) in pairs {
            headers.push_line(HeaderName::from_bytes(name.as_bytes()), name.as_bytes(), value.as_bytes());
        }
        headers
    }

    /// The number of headers, counting each line.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    #[inline]
    #[must_use]
    pub fn has(&self, name: HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Whether any of these headers may be present: a cheap check that can be true for headers that were
    /// removed by [`Headers::retain`].
    #[inline]
    #[must_use]
    pub fn may_have_any(&self, names: HeaderSet) -> bool {
        names.contains_any(self.seen)
    }

    /// The first value of a header, without the white space around it.
    #[inline]
    #[must_use]
    pub fn get(&self, name: HeaderName) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// All values of a header, in order.
    #[inline]
    pub fn all(&self, name: HeaderName) -> impl DoubleEndedIterator<Item = &[u8]> {
        // Most headers that are looked up are absent; then the list is not scanned.
        let list = if self.seen & name.bit() == 0 { &[] } else { &self.list[..] };
        list.iter().filter(move |header| header.id == name).map(|header| &self.text[header.value.range()])
    }

    /// All headers in order, each as its identified name, its name as received, and its value.
    pub fn iter(&self) -> impl Iterator<Item = (HeaderName, &[u8], &[u8])> {
        self.list.iter().map(|header| (header.id, &self.text[header.name.range()], &self.text[header.value.range()]))
    }

    /// All headers in order, each as its identified name, its name as received, and the place of its value.
    pub fn places(&self) -> impl Iterator<Item = (HeaderName, &[u8], ValuePlace)> {
        self.list.iter().map(|header| (header.id, &self.text[header.name.range()], ValuePlace(header.value)))
    }

    /// The value at a place that [`Headers::places`] has returned; `None` at the default one.
    #[must_use]
    pub fn value_at(&self, place: ValuePlace) -> Option<&[u8]> {
        (place.0.end > 0).then(|| self.text.get(place.0.range())).flatten()
    }

    pub fn remove(&mut self, name: HeaderName) {
        if self.seen & name.bit() != 0 {
            self.list.retain(|header| header.id != name);
            self.seen &= !name.bit();
        }
    }

    #[inline]
    pub fn remove_all(&mut self, names: HeaderSet) {
        if self.may_have_any(names) {
            self.list.retain(|header| !names.contains(header.id));
            self.seen &= !names.bits();
        }
    }

    /// Removes the headers for which `keep`, given the identified name and the name as received, is false.
    pub fn retain(&mut self, keep: impl Fn(HeaderName, &[u8]) -> bool) {
        let text = &self.text;
        self.list.retain(|header| keep(header.id, &text[header.name.range()]));
    }

    /// Appends a header, even if there is one of this name.
    pub fn add(&mut self, name: HeaderName, value: &[u8]) {
        self.push_line(name, name.text().as_bytes(), value);
    }

    /// Appends a header with any name.
    pub fn add_named(&mut self, name: &str, value: &[u8]) {
        self.push_line(HeaderName::from_bytes(name.as_bytes()), name.as_bytes(), value);
    }

    /// Appends all of these headers.
    pub fn append(&mut self, others: &Self) {
        let by = offset(self.text.len());
        self.text.extend_from_slice(&others.text);
        self.list.extend(others.list.iter().map(|header| Header {
            name: header.name.shifted(by),
            value: header.value.shifted(by),
            ..*header
        }));
        self.seen |= others.seen;
    }

    /// Frees unused capacity.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.list.shrink_to_fit();
    }

    /// Replaces all headers of this name with one.
    pub fn set(&mut self, name: HeaderName, value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// Writes the header lines as on the wire, without the empty line that ends a head.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Verbatim lines that are adjacent in the text are copied in one piece.
        let mut piece = 0..0;
        for header in &self.list {
            if !header.verbatim || header.name.start as usize != piece.end {
                out.extend_from_slice(&self.text[piece]);
                piece = header.name.start as usize..header.name.start as usize;
            }
            if header.verbatim {
                piece.end = header.value.end as usize + LINE_END.len();
            } else {
                out.extend_from_slice(&self.text[header.name.range()]);
                out.extend_from_slice(SEPARATOR);
                out.extend_from_slice(&self.text[header.value.range()]);
                out.extend_from_slice(LINE_END);
            }
        }
        out.extend_from_slice(&self.text[piece]);
    }

    /// Appends a header line to the text.
    fn push_line(&mut self, id: HeaderName, name: &[u8], value: &[u8]) {
        let text = &mut self.text;
        let start = text.len();
        text.reserve(name.len() + SEPARATOR.len() + value.len() + LINE_END.len());
        text.extend_from_slice(name);
        text.extend_from_slice(SEPARATOR);
        let value_start = text.len();
        text.extend_from_slice(value);
        let (name, value) = (span(start..start + name.len()), span(value_start..text.len()));
        text.extend_from_slice(LINE_END);
        self.list.push(Header { id, verbatim: true, name, value });
        self.seen |= id.bit();
    }

    /// Removes all headers but keeps the memory.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
        self.seen = 0;
    }
}

/// Written between a header's name and its value.
pub(super) const SEPARATOR: &[u8] = b": ";
pub(super) const LINE_END: &[u8] = b"\r\n";

pub(super) fn span(range: Range<usize>) -> TextSpan {
    TextSpan { start: offset(range.start), end: offset(range.end) }
}

#[allow(clippy::cast_possible_truncation, reason = "the size of a head is limited to far less than 4 GiB")]
fn offset(position: usize) -> u32 {
    position as u32
}

/// Whether a byte may be part of a token, such as a header's name (RFC 9110, section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a byte may be part of a header's value (RFC 9110, section 5.5) or of a quoted string (section 5.6.4).
pub(super) fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}
