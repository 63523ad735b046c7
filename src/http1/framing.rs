//! The message body length (RFC 9112, section 6), accepted only if every recipient would agree on it. Pure.
//!
//! RFC 9112 lets a recipient repair some of the headers that are rejected here. But if two recipients
//! repair them differently, one sees two messages where the other sees one. So at most one header may
//! determine the length, with a plain value: a number, or `chunked` alone.

use std::fmt;

use http::{Method, Version};

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;

/// The most digits of a length after leading zeros: 19 always fit 64 bits, and no body needs more.
const MAX_DIGITS: usize = 19;

/// The way a message delimits its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// A body of this many bytes, possibly 0.
    Length(u64),
    /// A body that ends with its last chunk.
    Chunked,
    /// A body that ends when the connection closes; only responses may have one.
    UntilClose,
}

/// The sender of a message.
///
/// A client is held to the grammar: a request that two recipients could read differently is an attack on the
/// second. A server is one's own, and speaks only to `lb`, which writes its response canonically. So a server
/// may deviate in the ways that other clients accept, as long as they leave no doubt about the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// A response whose headers are ambiguous or invalid about its body's length (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFraming;

impl Framing {
    /// Whether a body follows. A chunked body counts even if it turns out to be empty, because its end must be read.
    #[must_use]
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// Returns the framing of a request with these headers, which is never [`Framing::UntilClose`].
///
/// # Errors
/// [`Rejection::Framing`].
pub fn request(headers: &Headers, version: Version) -> Result<Framing, Rejection> {
    declared(headers, version).map_err(|BadFraming| Rejection::Framing).map(|framing| framing.unwrap_or(Framing::None))
}

/// Returns the framing of a response with these headers to a request with this method.
///
/// Ambiguous headers are an error even if the response has no body, because they would be forwarded.
///
/// # Errors
/// [`BadFraming`].
pub fn response(headers: &Headers, version: Version, status: u16, method: &Method) -> Result<Framing, BadFraming> {
    let declared = declared(headers, version)?;
    if *method == Method::HEAD || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::None);
    }
    Ok(declared.unwrap_or(Framing::UntilClose))
}

/// Returns the framing that the headers declare, or `None` if they declare none.
fn declared(headers: &Headers, version: Version) -> Result<Option<Framing>, BadFraming> {
    let mut codings = headers.all(HeaderName::TransferEncoding);
    let mut lengths = headers.all(HeaderName::ContentLength);
    match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
        (None, _, None, _) => Ok(None),
        // Only in HTTP/1.1: Transfer-Encoding in an HTTP/1.0 message means faulty framing (RFC 9112, section 6.1).
        (Some(coding), None, None, _) if version == Version::HTTP_11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(Framing::Chunked))
        }
        (None, _, Some(length), None) => number(length).map(Framing::Length).map(Some).ok_or(BadFraming),
        _ => Err(BadFraming),
    }
}

/// Writes the length without leading zeros, because some recipients would read `010` as an octal number.
pub fn normalise_length(headers: &mut Headers) {
    if let Some(text @ [b'0', _, ..]) = headers.get(HeaderName::ContentLength)
        && let Some(length) = number(text)
    {
        headers.set(HeaderName::ContentLength, itoa::Buffer::new().format(length).as_bytes());
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let zeros = text.iter().take_while(|byte| **byte == b'0').count();
    if text.is_empty() || text.len() - zeros > MAX_DIGITS {
        return None;
    }
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

impl fmt::Display for BadFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content-Length and Transfer-Encoding are invalid or contradict each other")
    }
}

impl std::error::Error for BadFraming {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::framing::Framing::{Chunked, Length, None, UntilClose};

    fn headers(codings: &[&'static str], lengths: &[&'static str]) -> Headers {
        let codings = codings.iter().map(|value| ("Transfer-Encoding", *value));
        Headers::from_pairs(codings.chain(lengths.iter().map(|value| ("Content-Length", *value))))
    }

    #[test]
    fn one_plain_header_determines_the_framing() {
        let cases: [(&[&str], &[&str], Framing); 10] = [
            (&[], &[], None),
            (&["chunked"], &[], Chunked),
            (&["Chunked"], &[], Chunked),
            (&["CHUNKED"], &[], Chunked),
            (&[], &["0"], Length(0)),
            (&[], &["5"], Length(5)),
            (&[], &["007"], Length(7)),
            (&[], &["00000000000000000005"], Length(5)),
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
    fn ambiguous_framing_is_rejected() {
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
            (&[], &["018446744073709551615"]),
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
            // Case: bad-response
            // The response may have a body or not.
            for (status, method) in [(200, Method::GET), (200, Method::HEAD), (304, Method::GET)] {
                let response = response(&headers, Version::HTTP_11, status, &method);
                assert_eq!(response, Err(BadFraming), "{codings:?} {lengths:?}");
            }
        }
    }

    #[test]
    fn a_length_is_written_without_leading_zeros() {
        // Case: bad-length
        for (sent, written) in [("010", "10"), ("000", "0"), ("0", "0"), ("10", "10"), ("0x5", "0x5")] {
            let mut headers = headers(&[], &[sent]);
            normalise_length(&mut headers);
            assert_eq!(headers.all(HeaderName::ContentLength).collect::<Vec<_>>(), [written.as_bytes()], "{sent}");
        }
    }

    #[test]
    fn transfer_encoding_is_rejected_in_http_1_0() {
        // Case: te-http10
        let chunked = headers(&["chunked"], &[]);
        assert_eq!(request(&chunked, Version::HTTP_10), Err(Rejection::Framing));
        assert_eq!(response(&chunked, Version::HTTP_10, 200, &Method::GET), Err(BadFraming));
        let length = headers(&[], &["5"]);
        assert_eq!(request(&length, Version::HTTP_10), Ok(Length(5)));
        assert_eq!(response(&length, Version::HTTP_10, 200, &Method::GET), Ok(Length(5)));
        assert_eq!(response(&Headers::new(), Version::HTTP_10, 200, &Method::GET), Ok(UntilClose));
    }

    #[test]
    fn transfer_encoding_with_an_underscore_does_not_frame_a_message() {
        // Case: te-underscore
        let headers = Headers::from_pairs([("Transfer_Encoding", "chunked"), ("Content-Length", "5")]);
        assert_eq!(request(&headers, Version::HTTP_11), Ok(Length(5)));
    }

    #[test]
    fn some_responses_have_no_body_whatever_their_headers_declare() {
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
