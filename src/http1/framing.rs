//! Where a message's body ends, said so that all who read it agree (RFC 9112, section 6). Pure.
//!
//! RFC 9112 lets a reader repair some of what is refused here. But who repairs differently from
//! the next reader has made two messages of one. So at most one field may say how long the body
//! is, and it has to say it plainly: a number, or `chunked` and nothing else.

use std::fmt;

use http::{Method, Version};

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;

/// Digits of a length, at most: as many always fit 64 bits, and no body needs more.
const MAX_DIGITS: usize = 19;

/// How a message tells where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// After so many bytes; may be 0.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection: only answers may do so.
    UntilClose,
}

/// An response whose headers say in two ways, or in none that is plain, where its body ends
/// (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFraming;

impl Framing {
    /// Whether there is a body, be it an empty one whose end has to be found.
    #[must_use]
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// How a request with these headers is framed: never [`Framing::UntilClose`].
///
/// # Errors
/// [`Rejection::Framing`].
pub fn request(headers: &Headers, version: Version) -> Result<Framing, Rejection> {
    said(headers, version).map_err(|BadFraming| Rejection::Framing).map(|framing| framing.unwrap_or(Framing::None))
}

/// How an response with these headers is framed, where `method` is the request's and all else its own.
///
/// Headers that contradict each other are an error of an response without a body too: they would be
/// handed on.
///
/// # Errors
/// [`BadFraming`].
pub fn response(headers: &Headers, version: Version, status: u16, method: &Method) -> Result<Framing, BadFraming> {
    let said = said(headers, version)?;
    if *method == Method::HEAD || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::None);
    }
    Ok(said.unwrap_or(Framing::UntilClose))
}

/// What the headers say, if they say something.
fn said(headers: &Headers, version: Version) -> Result<Option<Framing>, BadFraming> {
    let mut codings = headers.all(HeaderName::TransferEncoding);
    let mut lengths = headers.all(HeaderName::ContentLength);
    match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
        (None, _, None, _) => Ok(None),
        // Who speaks HTTP/1.0 knows no codings: the field is from elsewhere.
        (Some(coding), None, None, _) if version == Version::HTTP_11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(Framing::Chunked))
        }
        (None, _, Some(length), None) => number(length).map(Framing::Length).map(Some).ok_or(BadFraming),
        _ => Err(BadFraming),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > MAX_DIGITS {
        return None;
    }
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

impl fmt::Display for BadFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the headers that say where the body ends contradict each other, or are not valid")
    }
}

impl std::error::Error for BadFraming {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::framing::Framing::{Chunked, Length, None, UntilClose};

    fn headers(codings: &[&'static str], lengths: &[&'static str]) -> Headers {
        let codings = codings.iter().map(|value| ("Transfer-Encoding", *value));
        Headers::of(codings.chain(lengths.iter().map(|value| ("Content-Length", *value))))
    }

    #[test]
    fn one_field_says_it_plainly() {
        let cases: [(&[&str], &[&str], Framing); 9] = [
            (&[], &[], None),
            (&["chunked"], &[], Chunked),
            (&["Chunked"], &[], Chunked),
            (&["CHUNKED"], &[], Chunked),
            (&[], &["0"], Length(0)),
            (&[], &["5"], Length(5)),
            (&[], &["007"], Length(7)),
            (&[], &["1234567890"], Length(1_234_567_890)),
            (&[], &["9999999999999999999"], Length(9_999_999_999_999_999_999)),
        ];
        for (codings, lengths, framing) in cases {
            let headers = headers(codings, lengths);
            assert_eq!(request(&headers, Version::HTTP_11), Ok(framing), "{codings:?} {lengths:?}");
            let framing = if framing == None { UntilClose } else { framing };
            let response = response(&headers, Version::HTTP_11, 200, &Method::GET);
            assert_eq!(response, Ok(framing), "{codings:?} {lengths:?}");
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        let cases: [(&[&str], &[&str]); 40] = [
            // Case: te-and-cl
            (&["chunked"], &["6"]),
            (&["chunked"], &["0"]),
            // Case: two-lengths
            (&[], &["5", "10"]),
            (&[], &["5, 10"]),
            (&[], &["5", "5"]),
            (&[], &["5, 5"]),
            // Case: bad-length
            (&[], &["+5"]),
            (&[], &["-1"]),
            (&[], &["-0"]),
            (&[], &["0x5"]),
            (&[], &["1_0"]),
            (&[], &["1 0"]),
            (&[], &["5a"]),
            (&[], &[""]),
            (&[], &["99999999999999999999"]),
            (&[], &["00000000000000000005"]),
            (&[], &["5."]),
            (&[], &["\u{665}"]),
            // Case: bad-coding
            (&["xchunked"], &[]),
            (&["identity"], &[]),
            (&["gzip"], &[]),
            (&["chunked, gzip"], &[]),
            (&["gzip, chunked"], &[]),
            (&["chunked, chunked"], &[]),
            (&[", chunked"], &[]),
            (&["chunked,"], &[]),
            (&["chunked;a=b"], &[]),
            (&["\"chunked\""], &[]),
            (&["\x0bchunked"], &[]),
            (&["chunked\u{ff}"], &[]),
            (&["chun\u{212a}ed"], &[]),
            (&[""], &[]),
            (&["xchunked"], &["5"]),
            (&["identity"], &["5"]),
            (&["chunked;a=b"], &["5"]),
            (&[""], &["5"]),
            // Case: two-codings
            (&["chunked", "identity"], &[]),
            (&["identity", "chunked"], &[]),
            (&["chunked", "chunked"], &[]),
            (&["chunked", ""], &[]),
        ];
        for (codings, lengths) in cases {
            let headers = headers(codings, lengths);
            assert_eq!(request(&headers, Version::HTTP_11), Err(Rejection::Framing), "{codings:?} {lengths:?}");
            // With or without a body.
            // Case: bad-response
            for (status, method) in [(200, Method::GET), (200, Method::HEAD), (304, Method::GET)] {
                let response = response(&headers, Version::HTTP_11, status, &method);
                assert_eq!(response, Err(BadFraming), "{codings:?} {lengths:?}");
            }
        }
    }

    // Case: te-http10
    #[test]
    fn codings_are_of_http_1_1() {
        let chunked = headers(&["chunked"], &[]);
        assert_eq!(request(&chunked, Version::HTTP_10), Err(Rejection::Framing));
        assert_eq!(response(&chunked, Version::HTTP_10, 200, &Method::GET), Err(BadFraming));
        let length = headers(&[], &["5"]);
        assert_eq!(request(&length, Version::HTTP_10), Ok(Length(5)));
        assert_eq!(response(&length, Version::HTTP_10, 200, &Method::GET), Ok(Length(5)));
        assert_eq!(response(&Headers::new(), Version::HTTP_10, 200, &Method::GET), Ok(UntilClose));
    }

    // Case: te-underscore
    #[test]
    fn an_underscore_makes_another_field() {
        let headers = Headers::of([("Transfer_Encoding", "chunked"), ("Content-Length", "5")]);
        assert_eq!(request(&headers, Version::HTTP_11), Ok(Length(5)));
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say_of_it() {
        let cases = [
            (200, Method::HEAD, None),
            (404, Method::HEAD, None),
            (100, Method::GET, None),
            (101, Method::GET, None),
            (103, Method::POST, None),
            (204, Method::DELETE, None),
            (304, Method::GET, None),
            (205, Method::GET, Length(5)),
            (206, Method::GET, Length(5)),
            (404, Method::GET, Length(5)),
            (599, Method::OPTIONS, Length(5)),
        ];
        for (status, method, framing) in cases {
            let length = headers(&[], &["5"]);
            assert_eq!(response(&length, Version::HTTP_11, status, &method), Ok(framing), "{status} {method}");
            let (chunked, expected) = (headers(&["chunked"], &[]), if framing == None { None } else { Chunked });
            assert_eq!(response(&chunked, Version::HTTP_11, status, &method), Ok(expected), "{status} {method}");
        }
    }
}
