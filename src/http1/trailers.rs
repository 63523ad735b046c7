//! Trailers: whether they are accepted, which of them are announced, and which may be forwarded. Pure.

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::persistence::connection_options;

/// The trailers of a message that are forwarded, of those that may be forwarded at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TrailerRule {
    /// None: they are neither announced nor asked for, or its recipient could not receive any.
    #[default]
    None,
    /// Those with one of these names, separated by `, `, which its `Trailer` header announces.
    Announced(Vec<u8>),
    /// All but those with one of these names, separated by `, `: the recipient has asked for them.
    AllBut(Vec<u8>),
}

/// Whether the sender of these headers accepts trailers (RFC 9110, section 10.1.4).
#[must_use]
pub fn accepted(headers: &Headers) -> bool {
    let mut codings = headers.all(HeaderName::Te).flat_map(|value| value.split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

impl TrailerRule {
    /// Returns the rule for a message, and makes its `Trailer` header announce no more than is forwarded. `can_follow` is
    /// whether the message is received and forwarded in the chunked coding, and `accepted` whether its recipient has asked
    /// for trailers.
    pub fn announce(headers: &mut Headers, can_follow: bool, accepted: bool) -> Self {
        let announced = headers.has(HeaderName::Trailer).then(|| announced(headers));
        if let Some(names) = &announced {
            match names.is_empty() || !can_follow {
                true => headers.remove(HeaderName::Trailer),
                false => headers.set(HeaderName::Trailer, names),
            }
        }
        match announced {
            _ if !can_follow => Self::None,
            _ if accepted => Self::AllBut(connection_options(headers).collect::<Vec<_>>().join(&b", "[..])),
            Some(names) => Self::Announced(names),
            None => Self::None,
        }
    }

    /// Returns the lines of a trailer section that are forwarded, in canonical form.
    #[must_use]
    pub fn forwarded(&self, section: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in section.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
            if self.includes(name) && is_forwardable(name) {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
        out
    }

    fn includes(&self, name: &[u8]) -> bool {
        let is_one_of =
            |names: &[u8]| names.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(name));
        match self {
            Self::None => false,
            Self::Announced(names) => is_one_of(names),
            Self::AllBut(names) => !is_one_of(names),
        }
    }
}

/// The names in `Trailer` that may be forwarded, separated by `, `. Trailers that `Connection` lists are only for `lb`
/// (RFC 9110, section 7.6.1).
fn announced(headers: &Headers) -> Vec<u8> {
    let is_listed = |name: &[u8]| connection_options(headers).any(|option| option.eq_ignore_ascii_case(name));
    let names = headers.all(HeaderName::Trailer).flat_map(|value| value.split(|byte| *byte == b','));
    let names = names.map(<[u8]>::trim_ascii);
    let names = names.filter(|name| !name.is_empty() && is_forwardable(name) && !is_listed(name));
    names.collect::<Vec<_>>().join(&b", "[..])
}

/// Whether a trailer of this name may be forwarded: not if it would change how the message is framed, routed,
/// authenticated, cached or processed (RFC 9110, section 6.5.1). Names that a proxy acts on are all of that kind.
fn is_forwardable(name: &[u8]) -> bool {
    const HEADERS_ONLY: [&[u8]; 20] = [
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-location",
        b"content-range",
        b"expires",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"location",
        b"max-forwards",
        b"pragma",
        b"range",
        b"retry-after",
        b"vary",
        b"warning",
        b"www-authenticate",
    ];
    // Some servers take `_` for `-`.
    let is = |header: &&[u8]| {
        header.len() == name.len()
            && header.iter().zip(name).all(|(a, b)| a.eq_ignore_ascii_case(if *b == b'_' { &b'-' } else { b }))
    };
    HeaderName::from_bytes(name) == HeaderName::Other && !HEADERS_ONLY.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_not_forwarded_as_trailers() {
        let lines = b"X-Sum: 7\r\ncontent-length: 5\r\nHost: a\r\nX_Forwarded_For: b\r\nSET-COOKIE: c=d\r\nx:\r\n\
            Forwarded: for=b\r\nContent_Encoding: br\r\nIf-Match: *\r\nTrailer: x\r\nTE: gzip\r\nContent-Digest:e\r\n";
        assert_eq!(TrailerRule::AllBut(vec![]).forwarded(lines), b"X-Sum: 7\r\nx: \r\nContent-Digest: e\r\n");
        assert!(TrailerRule::None.forwarded(lines).is_empty());
        assert_eq!(TrailerRule::Announced(b"x-sum, Host".to_vec()).forwarded(lines), b"X-Sum: 7\r\n");
        assert_eq!(TrailerRule::AllBut(vec![]).forwarded(b"A:  1 \nB: 2\r\n"), b"A: 1\r\nB: 2\r\n");
        assert_eq!(TrailerRule::AllBut(b"x, a".to_vec()).forwarded(b"A: 1\r\nB: 2\r\n"), b"B: 2\r\n");
    }

    #[test]
    fn trailers_are_forwarded_if_they_are_announced_or_asked_for_and_can_follow() {
        let announced = |names: &str| TrailerRule::Announced(names.as_bytes().to_vec());
        let all = || TrailerRule::AllBut(Vec::new());
        // The `Trailer` headers, whether trailers can follow, whether they are asked for; the rule and the header.
        let cases: [(&[&str], _, _, _, Option<&str>); 8] = [
            (&["X-Sum"], true, false, announced("X-Sum"), Some("X-Sum")),
            (&["X-Sum,Content-Length", "x-b,"], true, false, announced("X-Sum, x-b"), Some("X-Sum, x-b")),
            (&["Content-Length"], true, false, announced(""), None),
            (&["X-Sum"], true, true, all(), Some("X-Sum")),
            (&["Host"], true, true, all(), None),
            (&["X-Sum"], false, true, TrailerRule::None, None),
            (&[], true, true, all(), None),
            (&[], true, false, TrailerRule::None, None),
        ];
        for (sent, can_follow, accepted, rule, header) in cases {
            let mut headers = Headers::from_pairs(sent.iter().map(|value| ("Trailer", *value)));
            assert_eq!(TrailerRule::announce(&mut headers, can_follow, accepted), rule, "{sent:?}");
            assert_eq!(headers.get(HeaderName::Trailer), header.map(str::as_bytes), "{sent:?}");
        }
    }

    #[test]
    fn trailers_that_connection_lists_are_not_forwarded() {
        let headers = || Headers::from_pairs([("Connection", "close, x-hop"), ("Trailer", "X-Hop, X-Sum")]);
        for accepted in [false, true] {
            let mut headers = headers();
            let rule = TrailerRule::announce(&mut headers, true, accepted);
            assert_eq!(headers.get(HeaderName::Trailer), Some(&b"X-Sum"[..]));
            assert_eq!(rule.forwarded(b"X-Hop: 1\r\nX-Sum: 7\r\n"), b"X-Sum: 7\r\n");
        }
    }

    #[test]
    fn only_the_keyword_accepts_trailers() {
        for (te, expected) in [("trailers", true), ("gzip, Trailers", true), ("trailers;q=1", false), ("gzip", false)] {
            assert_eq!(accepted(&Headers::from_pairs([("TE", te)])), expected, "{te}");
        }
    }
}
