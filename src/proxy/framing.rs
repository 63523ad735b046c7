//! Whether all who read a message agree on where it ends (RFC 9112, section 6). Pure.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

/// Whether at most one field says how long the body is, and says it plainly: a number, or `chunked`
/// and nothing else.
///
/// RFC 9112 lets a reader repair some of what is refused here. But who repairs differently from
/// the next reader has made two messages of one.
#[must_use]
pub fn is_clear(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
        (None, _, None, _) => true,
        (Some(coding), None, None, _) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (None, _, Some(length), None) => !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_field_says_it_plainly() {
        let cases: [(&[&str], &[&str], bool); 18] = [
            (&[], &[], true),
            (&["chunked"], &[], true),
            (&["Chunked"], &[], true),
            (&[], &["0"], true),
            (&[], &["5"], true),
            (&["chunked"], &["5"], false),
            (&["chunked", "chunked"], &[], false),
            (&["identity", "chunked"], &[], false),
            (&["gzip, chunked"], &[], false),
            (&["chunked, chunked"], &[], false),
            (&[", chunked"], &[], false),
            (&["identity"], &[], false),
            (&[""], &[], false),
            (&[], &["5", "5"], false),
            (&[], &["5, 5"], false),
            (&[], &["+5"], false),
            (&[], &["-0"], false),
            (&[], &[""], false),
        ];
        for (codings, lengths, clear) in cases {
            let mut headers = HeaderMap::new();
            for (name, values) in [(TRANSFER_ENCODING, codings), (CONTENT_LENGTH, lengths)] {
                for value in values {
                    headers.append(&name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(is_clear(&headers), clear, "{codings:?} {lengths:?}");
        }
    }
}
