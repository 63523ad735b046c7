//! The heads of messages, as bytes: parsed strictly, their headers in the order and case they came in.
//!
//! A head owns the text it came in; a field is two places in it. What is added is put behind the
//! text. So a head needs one buffer, which is used again, and nothing is allocated for a field.

use std::borrow::Cow;
use std::cell::RefCell;
use std::mem::MaybeUninit;

use http::{Method, StatusCode, Version};

pub use crate::http1::headers::Headers;
use crate::http1::headers::{COLON, END, Header, TextSpan, span};
use crate::http1::name::HeaderName;

/// A request's head.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    /// Its headers.
    pub headers: Headers,
    /// Its method.
    pub method: Method,
    /// 1.0 or 1.1.
    pub version: Version,
    target: TextSpan,
}

/// The memory of a worker's heads that are not in use.
#[derive(Debug, Default)]
pub struct HeadPool(RefCell<Vec<Headers>>);

impl HeadPool {
    /// No headers, with memory for some if there is any.
    #[must_use]
    pub fn take(&self) -> Headers {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes memory back; much of it is let go.
    pub fn give(&self, mut headers: Headers) {
        const KEEP: usize = 256;
        const USUAL: usize = 16 * 1024;
        let mut heads = self.0.borrow_mut();
        if headers.text.capacity() <= USUAL && heads.len() < KEEP {
            headers.clear();
            heads.push(headers);
        }
    }
}

/// The head of an answer.
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    /// Its headers.
    pub headers: Headers,
    /// Its status: three digits.
    pub status: u16,
    /// 1.0 or 1.1.
    pub version: Version,
    reason: TextSpan,
}

/// What a head may be, at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In bytes.
    pub bytes: usize,
    /// In headers.
    pub headers: usize,
}

/// Why a head cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// It is not what RFC 9112 says of lines (section 2.2), of the first one (3, 4) and of headers (5; 5.1: no space
    /// before the colon; 5.2: no folding), or RFC 9110 of their names and values (sections 5.1, 5.5).
    Malformed,
    /// It is of another HTTP than 1.0 and 1.1 (RFC 9112, section 2.3; RFC 9110, section 15.6.6).
    Version,
    /// It is too long (RFC 6585, section 5).
    TooLarge,
    /// The target alone is too long (RFC 9112, section 3; RFC 9110, section 15.5.15).
    TargetTooLong,
    /// It has too many headers (RFC 6585, section 5).
    TooManyHeaders,
}

/// A target of more bytes is refused, whatever the limit of the whole head.
const LONGEST_TARGET: usize = 64 * 1024;
/// So many headers are parsed without memory of their own.
const USUAL_HEADERS: usize = 128;

impl RequestHead {
    /// An empty one, in the memory of these headers.
    #[must_use]
    pub fn new(headers: Headers) -> Self {
        Self { headers, ..Self::default() }
    }

    /// Reads a head from the begin of `bytes`; how long it is, or `None` if it is not all there.
    ///
    /// # Errors
    /// When it is not a head, or larger than `limits`.
    pub fn parse(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<usize>, HeadError> {
        with_room(limits.headers, |room| {
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
            self.headers.read(&bytes[..length], method.as_bytes(), request.headers).map(|()| Some(length))
        })
    }

    /// What is asked for, as the client wrote it.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        &self.headers.text[self.target.range()]
    }
}

impl ResponseHead {
    /// An empty one, in the memory of these headers.
    #[must_use]
    pub fn new(headers: Headers) -> Self {
        Self { headers, ..Self::default() }
    }

    /// Reads a head from the begin of `bytes`; how long it is, or `None` if it is not all there.
    ///
    /// # Errors
    /// When it is not a head, or larger than `limits`.
    pub fn parse(&mut self, bytes: &[u8], limits: Limits) -> Result<Option<usize>, HeadError> {
        with_room(limits.headers, |room| {
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
            self.reason = answer.reason.map_or(TextSpan::default(), |reason| place(bytes, reason.as_bytes()));
            self.headers.read(&bytes[..length], b"HTTP/", answer.headers).map(|()| Some(length))
        })
    }

    /// A head with this status and its usual reason, without headers.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        let mut head = Self { status, version: Version::HTTP_11, ..Self::default() };
        let usual = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let reason = usual.unwrap_or("Error").as_bytes();
        head.headers.text.extend_from_slice(reason);
        head.reason = span(0..reason.len());
        head
    }

    /// The reason phrase.
    #[must_use]
    pub fn reason(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.headers.text[self.reason.range()])
    }

    /// Whether another response follows this one (RFC 9110, section 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Writes the status line and the headers, without the empty line at the end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.headers.text[self.reason.range()]);
        out.extend_from_slice(b"\r\n");
        self.headers.write(out);
    }
}

impl Headers {
    /// Takes over the headers of a head, which is kept as the text. Its first line begins with `first`.
    ///
    /// All its lines have to end as RFC 9112 says, section 2.2: the parser takes a line feed alone for
    /// a line's end, which it would be to some and not to others. It leaves them nowhere else.
    fn read(&mut self, head: &[u8], first: &[u8], headers: &[httparse::Header<'_>]) -> Result<(), HeadError> {
        self.clear();
        self.text.extend_from_slice(head);
        let mut well_ended = head.ends_with(b"\r\n\r\n") && (head.starts_with(first) || begins_empty(head));
        for header in headers {
            let known = HeaderName::of(header.name.as_bytes());
            let (name, value) = (place(head, header.name.as_bytes()), place(head, header.value.trim_ascii()));
            well_ended &= head[..name.begin as usize].ends_with(END);
            let between = head.get(name.end as usize..value.begin as usize);
            let exact = between == Some(COLON) && head[value.end as usize..].starts_with(END);
            self.list.push(Header { known, exact, name, value });
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

/// Runs `parse` with room for so many headers.
fn with_room<'b, T>(headers: usize, parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T) -> T {
    if headers <= USUAL_HEADERS {
        parse(&mut [const { MaybeUninit::uninit() }; USUAL_HEADERS][..headers])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); headers])
    }
}

/// The length of a head, once it is there as a whole.
fn whole(parsed: Result<httparse::Status<usize>, httparse::Error>, limits: Limits) -> Result<Option<usize>, HeadError> {
    match parsed {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) if length > limits.bytes => Err(HeadError::TooLarge),
        Ok(httparse::Status::Complete(length)) => Ok(Some(length)),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyHeaders),
        Err(httparse::Error::Version) => Err(HeadError::Version),
        Err(_) => Err(HeadError::Malformed),
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Where `part` is in `whole`, of which it is a part. An empty one is nowhere, which is as good.
fn place(whole: &[u8], part: &[u8]) -> TextSpan {
    let begin = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    if part.is_empty() || begin > whole.len() { TextSpan::default() } else { span(begin..begin + part.len()) }
}

#[cfg(test)]
mod tests;
