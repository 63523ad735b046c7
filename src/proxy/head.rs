//! The heads of messages, as bytes: parsed strictly, their fields in the order and case they came in.
//!
//! A head owns the text it came in; a field is two places in it. What is added is put behind the
//! text. So a head needs one buffer, which is used again, and nothing is allocated for a field.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use http::{Method, Version};

use super::name::{Name, Names};

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
    /// Its line in the text is as it is to be written.
    exact: bool,
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

    fn moved(self, by: u32) -> Self {
        Self { begin: self.begin + by, end: self.end + by }
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

    /// Whether there may be one of these names.
    #[inline]
    #[must_use]
    pub fn has_any(&self, names: Names) -> bool {
        names.has_any(self.seen)
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

    /// Takes out all of these names.
    #[inline]
    pub fn remove_all(&mut self, names: Names) {
        if self.has_any(names) {
            self.list.retain(|field| !names.has(field.known));
            self.seen &= !names.bits();
        }
    }

    /// Takes out those for which `keep` (of what is known of the name, and the name) says no.
    pub fn retain(&mut self, keep: impl Fn(Name, &[u8]) -> bool) {
        let text = &self.text;
        self.list.retain(|field| keep(field.known, &text[field.name.range()]));
    }

    /// Adds one behind all others.
    pub fn add(&mut self, name: Name, value: &[u8]) {
        self.put(name, name.text().as_bytes(), value);
    }

    /// Adds all of these behind all others.
    pub fn append(&mut self, others: &Self) {
        let by = position(self.text.len());
        self.text.extend_from_slice(&others.text);
        self.list.extend(others.list.iter().map(|field| Field {
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
    pub fn set(&mut self, name: Name, value: &[u8]) {
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

    /// Fields of these names and values, as if they had been received.
    #[must_use]
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Self::new();
        for (name, value) in fields {
            all.put(Name::of(name.as_bytes()), name.as_bytes(), value.as_bytes());
        }
        all
    }

    /// Puts a line behind the text.
    fn put(&mut self, known: Name, name: &[u8], value: &[u8]) {
        let text = &mut self.text;
        let begin = text.len();
        text.reserve(name.len() + COLON.len() + value.len() + END.len());
        text.extend_from_slice(name);
        text.extend_from_slice(COLON);
        let middle = text.len();
        text.extend_from_slice(value);
        let (name, value) = (span(begin..begin + name.len()), span(middle..text.len()));
        text.extend_from_slice(END);
        self.list.push(Field { known, exact: true, name, value });
        self.seen |= known.bit();
    }

    /// Empties it, and keeps the memory.
    fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
        self.seen = 0;
    }
}

/// What we put between name and value, and behind it.
const COLON: &[u8] = b": ";
const END: &[u8] = b"\r\n";

fn span(range: Range<usize>) -> Span {
    Span { begin: position(range.start), end: position(range.end) }
}

#[allow(clippy::cast_possible_truncation, reason = "heads are far smaller than 4 GiB: their size is limited")]
fn position(place: usize) -> u32 {
    place as u32
}

/// A request's head.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    /// Its fields.
    pub fields: Fields,
    /// Its method.
    pub method: Method,
    /// 1.0 or 1.1.
    pub version: Version,
    target: Span,
}

/// The memory of a worker's heads that are not in use.
#[derive(Debug, Default)]
pub struct Heads(RefCell<Vec<Fields>>);

impl Heads {
    /// No fields, with memory for some if there is any.
    #[must_use]
    pub fn take(&self) -> Fields {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes memory back; much of it is let go.
    pub fn give(&self, mut fields: Fields) {
        const KEEP: usize = 256;
        const USUAL: usize = 16 * 1024;
        let mut heads = self.0.borrow_mut();
        if fields.text.capacity() <= USUAL && heads.len() < KEEP {
            fields.clear();
            heads.push(fields);
        }
    }
}

/// The head of an answer.
#[derive(Debug, Clone, Default)]
pub struct AnswerHead {
    /// Its fields.
    pub fields: Fields,
    /// Its status: three digits.
    pub status: u16,
    /// 1.0 or 1.1.
    pub version: Version,
    reason: Span,
}

/// What a head may be, at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In bytes.
    pub bytes: usize,
    /// In fields.
    pub fields: usize,
}

/// Why a head cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// It is not what RFC 9112 says of lines (section 2.2), of the first one (3, 4) and of fields (5; 5.1: no space
    /// before the colon; 5.2: no folding), or RFC 9110 of their names and values (sections 5.1, 5.5).
    Malformed,
    /// It is of another HTTP than 1.0 and 1.1 (RFC 9112, section 2.3; RFC 9110, section 15.6.6).
    Version,
    /// It is too long (RFC 6585, section 5).
    TooLarge,
    /// The target alone is too long (RFC 9112, section 3; RFC 9110, section 15.5.15).
    TargetTooLong,
    /// It has too many fields (RFC 6585, section 5).
    TooManyFields,
}

/// A target of more bytes is refused, whatever the limit of the whole head.
const LONGEST_TARGET: usize = 64 * 1024;
/// So many fields are parsed without memory of their own.
const USUAL_FIELDS: usize = 128;

impl RequestHead {
    /// An empty one, in the memory of these fields.
    #[must_use]
    pub fn new(fields: Fields) -> Self {
        Self { fields, ..Self::default() }
    }

    /// Reads a head from the begin of `bytes`; how long it is, or `None` if it is not all there.
    ///
    /// # Errors
    /// When it is not a head, or larger than `limits`.
    pub fn parse(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<usize>, HeadError> {
        with_room(limits.fields, |room| {
            let mut request = httparse::Request::new(&mut []);
            let parsed = request.parse_with_uninit_headers(bytes, room);
            let whole = whole(parsed, limits);
            if request.path.map_or(bytes.len(), str::len) > LONGEST_TARGET && request.method.is_some() {
                return Err(HeadError::TargetTooLong);
            }
            let Some(length) = whole? else {
                return if bytes.len() <= limits.bytes { Ok(None) } else { Err(HeadError::TooLarge) };
            };
            let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
                return Err(HeadError::Malformed);
            };
            self.method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed)?;
            self.version = version_of(version);
            self.target = place(bytes, target.as_bytes());
            self.fields.read(&bytes[..length], method.as_bytes(), request.headers).map(|()| Some(length))
        })
    }

    /// What is asked for, as the client wrote it.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        &self.fields.text[self.target.range()]
    }
}

impl AnswerHead {
    /// An empty one, in the memory of these fields.
    #[must_use]
    pub fn new(fields: Fields) -> Self {
        Self { fields, ..Self::default() }
    }

    /// Reads a head from the begin of `bytes`; how long it is, or `None` if it is not all there.
    ///
    /// # Errors
    /// When it is not a head, or larger than `limits`.
    pub fn parse(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<usize>, HeadError> {
        with_room(limits.fields, |room| {
            let mut answer = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, room);
            let Some(length) = whole(parsed, limits)? else {
                return if bytes.len() <= limits.bytes { Ok(None) } else { Err(HeadError::TooLarge) };
            };
            let (Some(status), Some(version)) = (answer.code, answer.version) else { return Err(HeadError::Malformed) };
            if !(100..1000).contains(&status) {
                return Err(HeadError::Malformed);
            }
            self.status = status;
            self.version = version_of(version);
            self.reason = answer.reason.map_or(Span::default(), |reason| place(bytes, reason.as_bytes()));
            self.fields.read(&bytes[..length], b"HTTP/", answer.headers).map(|()| Some(length))
        })
    }

    /// Writes the status line and the fields, without the empty line at the end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.fields.text[self.reason.range()]);
        out.extend_from_slice(b"\r\n");
        self.fields.write(out);
    }
}

impl Fields {
    /// Takes over the fields of a head, which is kept as the text. Its first line begins with `first`.
    ///
    /// All its lines have to end as RFC 9112 says, section 2.2: the parser takes a line feed alone for
    /// a line's end, which it would be to some and not to others. It leaves them nowhere else.
    fn read(&mut self, head: &[u8], first: &[u8], headers: &[httparse::Header<'_>]) -> Result<(), HeadError> {
        self.clear();
        self.text.extend_from_slice(head);
        let mut well_ended = head.ends_with(b"\r\n\r\n") && (head.starts_with(first) || begins_empty(head));
        for header in headers {
            let known = Name::of(header.name.as_bytes());
            let (name, value) = (place(head, header.name.as_bytes()), place(head, header.value.trim_ascii()));
            well_ended &= head[..name.begin as usize].ends_with(END);
            let between = head.get(name.end as usize..value.begin as usize);
            let exact = between == Some(COLON) && head[value.end as usize..].starts_with(END);
            self.list.push(Field { known, exact, name, value });
            self.seen |= known.bit();
        }
        if well_ended { Ok(()) } else { Err(HeadError::Malformed) }
    }
}

/// Whether the lines before a head's first are empty ones that end well: a server should ignore them
/// (RFC 9112, section 2.2).
fn begins_empty(head: &[u8]) -> bool {
    let line = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or_default();
    line > 0 && head[..line].chunks(2).all(|end| end == END)
}

/// Runs `parse` with room for so many fields.
fn with_room<'b, T>(fields: usize, parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T) -> T {
    if fields <= USUAL_FIELDS {
        parse(&mut [const { MaybeUninit::uninit() }; USUAL_FIELDS][..fields])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); fields])
    }
}

/// The length of a head, once it is there as a whole.
fn whole(parsed: Result<httparse::Status<usize>, httparse::Error>, limits: Limits) -> Result<Option<usize>, HeadError> {
    match parsed {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) if length > limits.bytes => Err(HeadError::TooLarge),
        Ok(httparse::Status::Complete(length)) => Ok(Some(length)),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyFields),
        Err(httparse::Error::Version) => Err(HeadError::Version),
        Err(_) => Err(HeadError::Malformed),
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Where `part` is in `whole`, of which it is a part. An empty one is nowhere, which is as good.
fn place(whole: &[u8], part: &[u8]) -> Span {
    let begin = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    if part.is_empty() || begin > whole.len() { Span::default() } else { span(begin..begin + part.len()) }
}

#[cfg(test)]
mod tests;
