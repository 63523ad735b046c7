//! HeaderSet of header headers that mean something to a proxy, told apart once. All others are just passed on.

/// A field's name, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HeaderName {
    /// Any that is not below.
    Other,
    /// A name with an underscore, whose dashed form stands below: some servers take one for the other.
    Disguised,
    /// `X-Forwarded-` and anything that is not below.
    ForwardedOther,
    /// `b3`
    B3,
    /// `Connection`
    Connection,
    /// `Content-Length`
    ContentLength,
    /// `Content-Type`
    ContentType,
    /// `Cookie`
    Cookie,
    /// `Date`
    Date,
    /// `Expect`
    Expect,
    /// `Forwarded`
    Forwarded,
    /// `Host`
    Host,
    /// `HTTP2-Settings`
    Http2Settings,
    /// `Keep-Alive`
    KeepAlive,
    /// `Proxy-Authenticate`
    ProxyAuthenticate,
    /// `Proxy-Authentication-Info`
    ProxyAuthenticationInfo,
    /// `Proxy-Authorization`
    ProxyAuthorization,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `Set-Cookie`
    SetCookie,
    /// `TE`
    Te,
    /// `traceparent`
    Traceparent,
    /// `tracestate`
    Tracestate,
    /// `Trailer`
    Trailer,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
    /// `Via`
    Via,
    /// `X-B3-Flags`
    B3Flags,
    /// `X-B3-ParentSpanId`
    B3ParentSpanId,
    /// `X-B3-Sampled`
    B3Sampled,
    /// `X-B3-SpanId`
    B3SpanId,
    /// `X-B3-TraceId`
    B3TraceId,
    /// `X-Forwarded-For`
    ForwardedFor,
    /// `X-Forwarded-Host`
    ForwardedHost,
    /// `X-Forwarded-Proto`
    ForwardedProto,
    /// `X-Real-IP`
    RealIp,
    /// `X-Request-Id`
    RequestId,
}

/// As we write them; the place in this list is the name's number.
const TEXTS: [&str; 36] = [
    "",
    "",
    "",
    "b3",
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
    /// What `text` is the name of, in whatever case.
    #[inline]
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        use HeaderName::*;
        let small = |at: usize| text.get(at).map_or(0, |byte: &u8| byte | 0x20);
        // By length and first letter, which leaves one to compare with; of a family, by one letter more.
        let known = match (text.len(), small(0)) {
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
            (11, b't') => Traceparent,
            (11, b'x') => B3SpanId,
            (12, b'c') => ContentType,
            (12, b'x') if small(2) == b'r' => RequestId,
            (12, b'x') if small(5) == b't' => B3TraceId,
            (12, b'x') => B3Sampled,
            (14, b'c') => ContentLength,
            (14, b'h') => Http2Settings,
            (15, b'x') => ForwardedFor,
            (16, b'p') => ProxyConnection,
            (16, b'x') => ForwardedHost,
            (17, b't') => TransferEncoding,
            (17, b'x') if small(2) == b'f' => ForwardedProto,
            (17, b'x') => B3ParentSpanId,
            (18, b'p') => ProxyAuthenticate,
            (19, b'p') => ProxyAuthorization,
            (25, b'p') => ProxyAuthenticationInfo,
            _ => return Self::unusual(text),
        };
        let name = known.text().as_bytes();
        // Most write it as we do, which is found faster.
        if name == text || name.eq_ignore_ascii_case(text) { known } else { Self::unusual(text) }
    }

    /// What is no known name: it may look like one.
    fn unusual(text: &[u8]) -> Self {
        const FAMILY: &[u8] = b"x-forwarded-";
        if text.contains(&b'_') {
            let dashed: Vec<u8> = text.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
            return if Self::of(&dashed) == Self::Other { Self::Other } else { Self::Disguised };
        }
        match text.get(..FAMILY.len()) {
            Some(begin) if begin.eq_ignore_ascii_case(FAMILY) => Self::ForwardedOther,
            _ => Self::Other,
        }
    }

    /// As we write it; empty for those that stand for many.
    #[inline]
    #[must_use]
    pub fn text(self) -> &'static str {
        TEXTS[self as usize]
    }

    /// Its bit in a set of names.
    #[inline]
    pub(super) const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// A set of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderSet(u64);

impl HeaderSet {
    /// A set of these.
    #[must_use]
    pub const fn new(names: &[HeaderName]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= names[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// With one more.
    #[must_use]
    pub const fn and(self, name: HeaderName) -> Self {
        Self(self.0 | name.bit())
    }

    /// Whether it has the name.
    #[inline]
    #[must_use]
    pub const fn has(self, name: HeaderName) -> bool {
        self.0 & name.bit() != 0
    }

    pub(super) const fn has_any(self, bits: u64) -> bool {
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
    fn every_name_is_found_in_any_case() {
        let named: Vec<&str> = TEXTS.into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(named.len(), 33);
        for text in named {
            for text in [text.to_owned(), text.to_lowercase(), text.to_uppercase()] {
                let name = HeaderName::of(text.as_bytes());
                assert!(name.text().eq_ignore_ascii_case(&text), "{text} is {name:?}");
            }
        }
        assert_eq!(HeaderName::RequestId.text(), "X-Request-Id");
        assert_eq!(HeaderName::B3.text(), "b3");
        assert_eq!(HeaderName::Via.text(), "Via");
    }

    #[test]
    fn what_only_looks_like_a_name_is_told_apart() {
        let cases = [
            ("", HeaderName::Other),
            ("Accept", HeaderName::Other),
            ("Hosts", HeaderName::Other),
            ("my_field", HeaderName::Other),
            ("Transfer_Encoding", HeaderName::Disguised),
            ("x_forwarded_for", HeaderName::Disguised),
            ("X-Forwarded_Prefix", HeaderName::Disguised),
            ("X-Forwarded-Prefix", HeaderName::ForwardedOther),
            ("X-Forwarded-", HeaderName::ForwardedOther),
        ];
        for (text, name) in cases {
            assert_eq!(HeaderName::of(text.as_bytes()), name, "{text}");
        }
    }
}
