//! The names of the headers that a proxy acts on, identified once per header. Pure.

/// A header's name, identified in any case. Headers that only need forwarding are [`HeaderName::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HeaderName {
    /// Any name that is not listed below.
    Other,
    /// A name that is listed below, but with `_` in place of `-`. Many servers treat the two alike (CGI
    /// maps both to one variable), so a client could pass such a header off as one of ours.
    Disguised,
    /// `X-Forwarded-` followed by anything that is not listed below.
    ForwardedOther,
    B3,
    ClientCert,
    ClientCertChain,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyAuthenticate,
    ProxyAuthenticationInfo,
    ProxyAuthorization,
    ProxyConnection,
    SetCookie,
    Te,
    Traceparent,
    Tracestate,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    B3Flags,
    B3ParentSpanId,
    B3Sampled,
    B3SpanId,
    B3TraceId,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    RealIp,
    RequestId,
}

/// The names as written, in the order of the variants.
const TEXTS: [&str; 38] = [
    "",
    "",
    "",
    "b3",
    "Client-Cert",
    "Client-Cert-Chain",
    "Connection",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Date",
    "Expect",
    "Forwarded",
    "Host",
    "HTTP2-Settings",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Set-Cookie",
    "TE",
    "traceparent",
    "tracestate",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Via",
    "X-B3-Flags",
    "X-B3-ParentSpanId",
    "X-B3-Sampled",
    "X-B3-SpanId",
    "X-B3-TraceId",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Request-Id",
];

impl HeaderName {
    /// Identifies a name as received.
    #[inline]
    #[must_use]
    pub fn from_bytes(text: &[u8]) -> Self {
        use HeaderName::*;
        let lower = |at: usize| text.get(at).map_or(0, |byte: &u8| byte | 0x20);
        // Length and first letter, sometimes one letter more, leave a single name to compare with.
        let candidate = match (text.len(), lower(0)) {
            (2, b'b') => B3,
            (2, b't') => Te,
            (3, b'v') => Via,
            (4, b'd') => Date,
            (4, b'h') => Host,
            (6, b'c') => Cookie,
            (6, b'e') => Expect,
            (7, b't') => Trailer,
            (7, b'u') => Upgrade,
            (9, b'f') => Forwarded,
            (9, b'x') => RealIp,
            (10, b'c') => Connection,
            (10, b'k') => KeepAlive,
            (10, b's') => SetCookie,
            (10, b't') => Tracestate,
            (10, b'x') => B3Flags,
            (11, b'c') => ClientCert,
            (11, b't') => Traceparent,
            (11, b'x') => B3SpanId,
            (12, b'c') => ContentType,
            (12, b'x') if lower(2) == b'r' => RequestId,
            (12, b'x') if lower(5) == b't' => B3TraceId,
            (12, b'x') => B3Sampled,
            (14, b'c') => ContentLength,
            (14, b'h') => Http2Settings,
            (15, b'x') => ForwardedFor,
            (16, b'p') => ProxyConnection,
            (16, b'x') => ForwardedHost,
            (17, b'c') => ClientCertChain,
            (17, b't') => TransferEncoding,
            (17, b'x') if lower(2) == b'f' => ForwardedProto,
            (17, b'x') => B3ParentSpanId,
            (18, b'p') => ProxyAuthenticate,
            (19, b'p') => ProxyAuthorization,
            (25, b'p') => ProxyAuthenticationInfo,
            _ => return Self::from_unlisted(text),
        };
        let name = candidate.text().as_bytes();
        // The exact comparison is faster, and most senders use the usual case.
        if name == text || name.eq_ignore_ascii_case(text) { candidate } else { Self::from_unlisted(text) }
    }

    /// Identifies a name that is not listed, but may be disguised as one that is.
    fn from_unlisted(text: &[u8]) -> Self {
        const FAMILY: &[u8] = b"x-forwarded-";
        if text.contains(&b'_') {
            let dashed: Vec<u8> = text.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
            return if Self::from_bytes(&dashed) == Self::Other { Self::Other } else { Self::Disguised };
        }
        match text.get(..FAMILY.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(FAMILY) => Self::ForwardedOther,
            _ => Self::Other,
        }
    }

    /// The name as written; empty for the variants that cover many names.
    #[inline]
    #[must_use]
    pub fn text(self) -> &'static str {
        TEXTS[self as usize]
    }

    /// The bit that represents the name in a set.
    #[inline]
    pub(super) const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// A set of header names, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderSet(u64);

impl HeaderSet {
    #[must_use]
    pub const fn new(names: &[HeaderName]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= names[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// Returns the set with one more name.
    #[must_use]
    pub const fn with(self, name: HeaderName) -> Self {
        Self(self.0 | name.bit())
    }

    #[inline]
    #[must_use]
    pub const fn contains(self, name: HeaderName) -> bool {
        self.0 & name.bit() != 0
    }

    pub(super) const fn contains_any(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_identified_in_any_case() {
        let names: Vec<&str> = TEXTS.into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(names.len(), 35);
        for text in names {
            for text in [text.to_owned(), text.to_lowercase(), text.to_uppercase()] {
                let name = HeaderName::from_bytes(text.as_bytes());
                assert!(name.text().eq_ignore_ascii_case(&text), "{text} is {name:?}");
            }
        }
        assert_eq!(HeaderName::RequestId.text(), "X-Request-Id");
        assert_eq!(HeaderName::B3.text(), "b3");
        assert_eq!(HeaderName::Via.text(), "Via");
    }

    #[test]
    fn similar_names_are_distinguished() {
        let cases = [
            ("", HeaderName::Other),
            ("Accept", HeaderName::Other),
            ("Hosts", HeaderName::Other),
            ("my_field", HeaderName::Other),
            ("Transfer_Encoding", HeaderName::Disguised),
            ("x_forwarded_for", HeaderName::Disguised),
            ("client_cert", HeaderName::Disguised),
            ("X-Forwarded_Prefix", HeaderName::Disguised),
            ("X-Forwarded-Prefix", HeaderName::ForwardedOther),
            ("X-Forwarded-", HeaderName::ForwardedOther),
        ];
        for (text, name) in cases {
            assert_eq!(HeaderName::from_bytes(text.as_bytes()), name, "{text}");
        }
    }
}
