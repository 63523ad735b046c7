//! Message heads, with headers in the order and case in which they were received. Pure.
//!
//! A request's head is parsed strictly. A response's head is, too; if that fails, `head/tolerant.rs` parses it.
//!
//! A head owns its text, and a header is two spans of it. Headers that are added go at the end of the
//! text. So a head needs a single buffer, which is reused, and no header costs an allocation.

mod bad_line;
mod tolerant;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::mem::MaybeUninit;

use http::{Method, StatusCode, Version};

pub use self::bad_line::{BadLine, HeadRule};
pub use crate::http1::headers::Headers;
use crate::http1::headers::{Header, LINE_END, SEPARATOR, TextSpan, span};
use crate::http1::name::HeaderName;

#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    pub headers: Headers,
    pub method: Method,
    /// 1.0, 1.1 or 2.
    pub version: Version,
    target: TextSpan,
}

/// The unused head buffers of a worker.
#[derive(Debug, Default)]
pub struct HeadPool(RefCell<Vec<Headers>>);

impl HeadPool {
    /// Returns empty headers, with memory from the pool if there is any.
    #[must_use]
    pub fn take(&self) -> Headers {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Returns memory to the pool, unless the pool is full or the buffer is unusually large.
    pub fn put(&self, mut headers: Headers) {
        const MAX_POOLED: usize = 256;
        const MAX_CAPACITY: usize = 16 * 1024;
        let mut pooled = self.0.borrow_mut();
        if headers.text.capacity() <= MAX_CAPACITY && pooled.len() < MAX_POOLED {
            headers.clear();
            pooled.push(headers);
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    pub headers: Headers,
    /// 100 to 999.
    pub status: u16,
    /// 1.0, 1.1 or 2.
    pub version: Version,
    reason: TextSpan,
}

/// The limits of a head's size.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    pub bytes: usize,
    pub headers: usize,
}

/// The reason why a head was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// A line that violates a rule.
    Malformed(BadLine),
    /// A valid request line with an HTTP version other than 1.0 and 1.1 (RFC 9112, section 2.3; RFC 9110, section
    /// 15.6.6).
    Version,
    /// A method of more than 256 bytes (RFC 9112, section 3; RFC 9110, section 15.6.2).
    MethodTooLong,
    /// More bytes than the limit (RFC 6585, section 5).
    TooLarge,
    /// A target of more than 64 KiB (RFC 9112, section 3; RFC 9110, section 15.5.15).
    TargetTooLong,
    /// More headers than the limit (RFC 6585, section 5).
    TooManyHeaders,
}

impl HeadError {
    /// The violated rule or limit as one word, for the log.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Malformed(line) => line.rule.label(),
            Self::Version => "version",
            Self::MethodTooLong => "method_length",
            Self::TooLarge => "head_bytes",
            Self::TargetTooLong => "target_length",
            Self::TooManyHeaders => "headers",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(line) => line.fmt(f),
            Self::Version => f.write_str("an HTTP version other than 1.0 and 1.1"),
            Self::MethodTooLong => f.write_str("the method is too long"),
            Self::TooLarge => f.write_str("the head is too large"),
            Self::TargetTooLong => f.write_str("the target is too long"),
            Self::TooManyHeaders => f.write_str("too many headers"),
        }
    }
}

/// The maximum length of a method, regardless of the limit of the whole head.
pub const MAX_METHOD: usize = 256;
/// The maximum length of a target, likewise.
const MAX_TARGET: usize = 64 * 1024;
/// Up to this limit, headers are parsed on the stack; above it, parsing allocates.
const STACK_HEADERS: usize = 128;

impl RequestHead {
    /// Returns an empty head that reuses the memory of `headers`.
    #[must_use]
    pub fn new(headers: Headers) -> Self {
        Self { headers, ..Self::default() }
    }

    /// Parses the head at the start of `bytes` and returns its length, or `None` if it is incomplete.
    ///
    /// # Errors
    /// [`HeadError`], also for an incomplete head that is invalid or too large already.
    pub fn parse(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, HeadError> {
        with_header_slots(limits.headers, |slots| {
            let mut request = httparse::Request::new(&mut []);
            let parsed = request.parse_with_uninit_headers(bytes, slots);
            let method_length = match parsed {
                Ok(httparse::Status::Partial) if request.method.is_none() => unfinished_method(bytes),
                _ => request.method.map_or(0, str::len),
            };
            if method_length > MAX_METHOD {
                return Err(HeadError::MethodTooLong);
            }
            let max_target = MAX_TARGET.min(limits.bytes);
            if request.path.map_or(bytes.len(), str::len) > max_target && request.method.is_some() {
                return Err(HeadError::TargetTooLong);
            }
            let length = match parsed {
                Ok(httparse::Status::Complete(length)) if length > limits.bytes => return Err(HeadError::TooLarge),
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => return incomplete(bytes, limits),
                Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
                Err(httparse::Error::Version) => match bad_line::has_other_version(bytes) {
                    None => return incomplete(bytes, limits),
                    Some(true) => return Err(HeadError::Version),
                    Some(false) => return Err(HeadError::Malformed(BadLine::START_LINE)),
                },
                Err(httparse::Error::Token) => return Err(HeadError::Malformed(BadLine::START_LINE)),
                Err(_) => return Err(HeadError::Malformed(BadLine::find(bytes))),
            };
            let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
                return Err(HeadError::Malformed(BadLine::START_LINE));
            };
            self.method =
                Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed(BadLine::START_LINE))?;
            self.version = version_from_minor(version);
            self.target = span_of(target.as_bytes(), bytes);
            match self.headers.fill(&bytes[..length], method.as_bytes(), request.headers) {
                true => Ok(Some(length)),
                false => Err(HeadError::Malformed(BadLine::find(bytes))),
            }
        })
    }

    /// Returns a head of these parts without headers, which reuses the memory of `headers`.
    #[must_use]
    pub fn of_parts(mut headers: Headers, method: Method, version: Version, target: &str) -> Self {
        headers.clear();
        headers.text.extend_from_slice(target.as_bytes());
        Self { headers, method, version, target: span(0..target.len()) }
    }

    /// The request target as the client sent it.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        &self.headers.text[self.target.range()]
    }
}

impl ResponseHead {
    /// Returns an empty head that reuses the memory of `headers`.
    #[must_use]
    pub fn new(headers: Headers) -> Self {
        Self { headers, ..Self::default() }
    }

    /// Parses the head at the start of `bytes` and returns its length, or `None` if it is incomplete.
    ///
    /// # Errors
    /// [`HeadError`], also for an incomplete head that is invalid or too large already.
    pub fn parse(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, HeadError> {
        match self.parse_strictly(bytes, limits) {
            Some(Ok(httparse::Status::Complete(length))) => Ok(Some(length)),
            Some(Ok(httparse::Status::Partial)) => incomplete(bytes, limits),
            Some(Err(error)) => Err(error),
            None => tolerant::parse(self, bytes, limits),
        }
    }

    /// Parses a head that follows the grammar; returns `None` if it does not.
    fn parse_strictly(
        &mut self,
        bytes: &[u8],
        limits: HeadLimits,
    ) -> Option<Result<httparse::Status<usize>, HeadError>> {
        with_header_slots(limits.headers, |slots| {
            let mut response = httparse::Response::new(&mut []);
            let parsed =
                httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, slots);
            let length = match parsed {
                Ok(httparse::Status::Complete(length)) if length > limits.bytes => {
                    return Some(Err(HeadError::TooLarge));
                }
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => return Some(Ok(httparse::Status::Partial)),
                Err(httparse::Error::TooManyHeaders) => return Some(Err(HeadError::TooManyHeaders)),
                Err(_) => return None,
            };
            // The parser drops a reason that is not ASCII.
            if response.reason == Some("") && !bytes[..length].split(|byte| *byte == b'\n').next()?.is_ascii() {
                return None;
            }
            self.status = response.code.filter(|status| (100..1000).contains(status))?;
            self.version = version_from_minor(response.version?);
            self.reason = response.reason.map_or(TextSpan::default(), |reason| span_of(reason.as_bytes(), bytes));
            let is_canonical = self.headers.fill(&bytes[..length], b"HTTP/", response.headers);
            is_canonical.then_some(Ok(httparse::Status::Complete(length)))
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

    /// Writes the status line and the headers, without the empty line that ends a head.
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
    /// Replaces the headers with those of a parsed head, which becomes the text. Its start line begins
    /// with `first`.
    ///
    /// Returns whether every line ends with CR LF (RFC 9112, section 2.2). The parser also accepts a lone LF as
    /// a line end, but not every recipient does. It rejects a lone LF anywhere else.
    fn fill(&mut self, head: &[u8], first: &[u8], headers: &[httparse::Header<'_>]) -> bool {
        self.clear();
        self.text.extend_from_slice(head);
        let mut well_ended = head.ends_with(b"\r\n\r\n") && (head.starts_with(first) || starts_with_empty_lines(head));
        for header in headers {
            let id = HeaderName::from_bytes(header.name.as_bytes());
            let (name, value) = (span_of(header.name.as_bytes(), head), span_of(header.value.trim_ascii(), head));
            well_ended &= head[..name.start as usize].ends_with(LINE_END);
            let between = head.get(name.end as usize..value.start as usize);
            let verbatim = between == Some(SEPARATOR) && head[value.end as usize..].starts_with(LINE_END);
            self.list.push(Header { id, verbatim, name, value });
            self.seen |= id.bit();
        }
        well_ended
    }
}

/// Whether a head starts with empty lines that all end with CR LF: a server should ignore them before a
/// request line (RFC 9112, section 2.2).
fn starts_with_empty_lines(head: &[u8]) -> bool {
    let start = head.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or_default();
    start > 0 && head[..start].chunks(2).all(|end| end == LINE_END)
}

/// Runs `parse` with space for `limit` headers.
fn with_header_slots<'b, T>(limit: usize, parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T) -> T {
    if limit <= STACK_HEADERS {
        parse(&mut [const { MaybeUninit::uninit() }; STACK_HEADERS][..limit])
    } else {
        parse(&mut vec![MaybeUninit::uninit(); limit])
    }
}

/// The result for a head that is valid so far.
fn incomplete(bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, HeadError> {
    if bytes.len() <= limits.bytes { Ok(None) } else { Err(HeadError::TooLarge) }
}

/// The length of a method that has not ended yet, after empty lines.
fn unfinished_method(bytes: &[u8]) -> usize {
    bytes.len() - bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len())
}

fn version_from_minor(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Returns the span of `part`, a subslice of `text`. An empty part may point elsewhere; any empty span will do for it.
fn span_of(part: &[u8], text: &[u8]) -> TextSpan {
    let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    if part.is_empty() || start > text.len() { TextSpan::default() } else { span(start..start + part.len()) }
}

#[cfg(test)]
mod tests;
