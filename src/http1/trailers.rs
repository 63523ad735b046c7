//! Trailers: whether a client accepts them, and which of them may be forwarded. Pure.

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;

/// Whether the sender of these headers accepts trailers (RFC 9110, section 10.1.4).
#[must_use]
pub fn accepted(headers: &Headers) -> bool {
    let mut codings = headers.all(HeaderName::Te).flat_map(|field| field.split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The lines of a trailer section that may be forwarded: all but those that are only meaningful in a
/// head (RFC 9110, section 6.5.1).
#[must_use]
pub fn forwardable(lines: &[u8]) -> Vec<u8> {
    const IN_HEADS: [&[u8]; 7] = [
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"location",
        b"set-cookie",
        b"trailer",
    ];
    let stays = |line: &&[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        HeaderName::of(name) == HeaderName::Other && !IN_HEADS.iter().any(|known| known.eq_ignore_ascii_case(name))
    };
    lines.split_inclusive(|byte| *byte == b'\n').filter(stays).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_head_are_not_forwarded_as_trailers() {
        let lines = b"X-Sum: 7\r\ncontent-length: 5\r\nHost: a\r\nX_Forwarded_For: b\r\nSET-COOKIE: c=d\r\nx:\r\n";
        assert_eq!(forwardable(lines), b"X-Sum: 7\r\nx:\r\n");
    }
}
