//! The headers of a head, as places in its text.

use std::ops::Range;

use crate::http1::name::{HeaderName, HeaderSet};

/// The header headers of a message.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// The head as received, then what was added.
    pub(super) text: Vec<u8>,
    pub(super) list: Vec<Header>,
    /// Which names are in the list, by [`HeaderName::bit`]; some may be gone.
    pub(super) seen: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) known: HeaderName,
    /// Its line in the text is as it is to be written.
    pub(super) exact: bool,
    pub(super) name: TextSpan,
    pub(super) value: TextSpan,
}

/// A place in a head's text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TextSpan {
    pub(super) begin: u32,
    pub(super) end: u32,
}

impl TextSpan {
    pub(super) fn range(self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }

    fn moved(self, by: u32) -> Self {
        Self { begin: self.begin + by, end: self.end + by }
    }
}

impl Headers {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether there is one of this name.
    #[inline]
    #[must_use]
    pub fn has(&self, name: HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Whether there may be one of these names.
    #[inline]
    #[must_use]
    pub fn has_any(&self, names: HeaderSet) -> bool {
        names.has_any(self.seen)
    }

    /// The value of the first of this name, without white space around it.
    #[inline]
    #[must_use]
    pub fn get(&self, name: HeaderName) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of all of this name, in order.
    #[inline]
    pub fn all(&self, name: HeaderName) -> impl DoubleEndedIterator<Item = &[u8]> {
        // Most names that are looked for are not there, which costs no look at the list.
        let list = if self.seen & name.bit() == 0 { &[] } else { &self.list[..] };
        list.iter().filter(move |field| field.known == name).map(|field| &self.text[field.value.range()])
    }

    /// All, as (what is known of the name, name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (HeaderName, &[u8], &[u8])> {
        self.list.iter().map(|field| (field.known, &self.text[field.name.range()], &self.text[field.value.range()]))
    }

    /// Takes out all of this name.
    pub fn remove(&mut self, name: HeaderName) {
        if self.seen & name.bit() != 0 {
            self.list.retain(|field| field.known != name);
            self.seen &= !name.bit();
        }
    }

    /// Takes out all of these names.
    #[inline]
    pub fn remove_all(&mut self, names: HeaderSet) {
        if self.has_any(names) {
            self.list.retain(|field| !names.has(field.known));
            self.seen &= !names.bits();
        }
    }

    /// Takes out those for which `keep` (of what is known of the name, and the name) says no.
    pub fn retain(&mut self, keep: impl Fn(HeaderName, &[u8]) -> bool) {
        let text = &self.text;
        self.list.retain(|field| keep(field.known, &text[field.name.range()]));
    }

    /// Adds one behind all others.
    pub fn add(&mut self, name: HeaderName, value: &[u8]) {
        self.put(name, name.text().as_bytes(), value);
    }

    /// Adds one of any name behind all others.
    pub fn add_named(&mut self, name: &str, value: &[u8]) {
        self.put(HeaderName::of(name.as_bytes()), name.as_bytes(), value);
    }

    /// Adds all of these behind all others.
    pub fn append(&mut self, others: &Self) {
        let by = position(self.text.len());
        self.text.extend_from_slice(&others.text);
        self.list.extend(others.list.iter().map(|field| Header {
            name: field.name.moved(by),
            value: field.value.moved(by),
            ..*field
        }));
        self.seen |= others.seen;
    }

    /// Gives back the memory that nothing is in.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.list.shrink_to_fit();
    }

    /// Adds one in place of all of this name.
    pub fn set(&mut self, name: HeaderName, value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// Writes them as they go over the wire, without the empty line at the end.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Lines that stand in the text as they are to be written, one behind the other, are one piece.
        let mut piece = 0..0;
        for field in &self.list {
            if !field.exact || field.name.begin as usize != piece.end {
                out.extend_from_slice(&self.text[piece]);
                piece = field.name.begin as usize..field.name.begin as usize;
            }
            if field.exact {
                piece.end = field.value.end as usize + END.len();
            } else {
                out.extend_from_slice(&self.text[field.name.range()]);
                out.extend_from_slice(COLON);
                out.extend_from_slice(&self.text[field.value.range()]);
                out.extend_from_slice(END);
            }
        }
        out.extend_from_slice(&self.text[piece]);
    }

    /// Headers of these names and values, as if they had been received.
    #[must_use]
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Self::new();
        for (name, value) in headers {
            all.put(HeaderName::of(name.as_bytes()), name.as_bytes(), value.as_bytes());
        }
        all
    }

    /// Puts a line behind the text.
    fn put(&mut self, known: HeaderName, name: &[u8], value: &[u8]) {
        let text = &mut self.text;
        let begin = text.len();
        text.reserve(name.len() + COLON.len() + value.len() + END.len());
        text.extend_from_slice(name);
        text.extend_from_slice(COLON);
        let middle = text.len();
        text.extend_from_slice(value);
        let (name, value) = (span(begin..begin + name.len()), span(middle..text.len()));
        text.extend_from_slice(END);
        self.list.push(Header { known, exact: true, name, value });
        self.seen |= known.bit();
    }

    /// Empties it, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
        self.seen = 0;
    }
}

/// What we put between name and value, and behind it.
pub(super) const COLON: &[u8] = b": ";
pub(super) const END: &[u8] = b"\r\n";

pub(super) fn span(range: Range<usize>) -> TextSpan {
    TextSpan { begin: position(range.start), end: position(range.end) }
}

#[allow(clippy::cast_possible_truncation, reason = "heads are far smaller than 4 GiB: their size is limited")]
fn position(place: usize) -> u32 {
    place as u32
}
