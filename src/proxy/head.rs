//! The heads of messages, as bytes: parsed strictly, their fields in the order and case they came in.
//!
//! A head owns the text it came in; a field is two places in it. What is added is put behind the
//! text. So a head needs one buffer, which is used again, and nothing is allocated for a field.

use std::ops::Range;

use super::name::Name;

/// The header fields of a message.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    /// The head as received, then what was added.
    text: Vec<u8>,
    list: Vec<Field>,
    /// Which names are in the list, by [`Name::bit`]; some may be gone.
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    known: Name,
    name: Span,
    value: Span,
}

/// A place in a head's text.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    begin: u32,
    end: u32,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }
}

impl Fields {
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
    pub fn has(&self, name: Name) -> bool {
        self.get(name).is_some()
    }

    /// The value of the first of this name, without white space around it.
    #[inline]
    #[must_use]
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of all of this name, in order.
    #[inline]
    pub fn all(&self, name: Name) -> impl DoubleEndedIterator<Item = &[u8]> {
        // Most names that are looked for are not there, which costs no look at the list.
        let list = if self.seen & name.bit() == 0 { &[] } else { &self.list[..] };
        list.iter().filter(move |field| field.known == name).map(|field| &self.text[field.value.range()])
    }

    /// All, as (what is known of the name, name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &[u8], &[u8])> {
        self.list.iter().map(|field| (field.known, &self.text[field.name.range()], &self.text[field.value.range()]))
    }

    /// Takes out all of this name.
    pub fn remove(&mut self, name: Name) {
        if self.seen & name.bit() != 0 {
            self.list.retain(|field| field.known != name);
            self.seen &= !name.bit();
        }
    }

    /// Takes out those for which `keep` (of what is known of the name, and the name) says no.
    pub fn retain(&mut self, keep: impl Fn(Name, &[u8]) -> bool) {
        let text = &self.text;
        self.list.retain(|field| keep(field.known, &text[field.name.range()]));
    }

    /// Adds one behind all others.
    pub fn add(&mut self, name: Name, value: &[u8]) {
        let (name_at, value_at) = (self.put(name.text().as_bytes()), self.put(value));
        self.list.push(Field { known: name, name: name_at, value: value_at });
        self.seen |= name.bit();
    }

    /// Adds one in place of all of this name.
    pub fn set(&mut self, name: Name, value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// Writes them as they go over the wire, without the empty line at the end.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (_, name, value) in self.iter() {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Fields of these names and values, as if they had been received.
    #[must_use]
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Self::new();
        for (name, value) in fields {
            let known = Name::of(name.as_bytes());
            let (name, value) = (all.put(name.as_bytes()), all.put(value.as_bytes()));
            all.list.push(Field { known, name, value });
            all.seen |= known.bit();
        }
        all
    }

    fn put(&mut self, bytes: &[u8]) -> Span {
        let begin = self.text.len();
        self.text.extend_from_slice(bytes);
        span(begin..self.text.len())
    }

    /// Empties it, and keeps the memory.
    fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
        self.seen = 0;
    }
}

/// Heads are far smaller than 4 GiB: their size is limited.
fn span(range: Range<usize>) -> Span {
    let place = |place| u32::try_from(place).unwrap_or(u32::MAX);
    Span { begin: place(range.start), end: place(range.end) }
}
