//! Reads the trace that a request belongs to: from a single B3 header, several B3 headers, or W3C `traceparent`.

use std::fmt;

use http::HeaderMap;
use serde::{Serialize, Serializer};

/// A trace's id: 128 bits, written as 32 digits, or 64 bits, written as 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 >> 64 == 0 { 16 } else { 32 };
        write!(formatter, "{:0digits$x}", self.0)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A span's id, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanId(u64);

impl SpanId {
    pub(crate) fn random() -> Self {
        Self(fastrand::u64(1..))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The caller's span of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
}

impl Parent {
    /// The caller's span, if the caller sampled the trace. If the request has several forms of it, the first valid one
    /// decides: `b3`, then `X-B3-*`, then `traceparent`.
    pub(crate) fn sampled(headers: &HeaderMap) -> Option<Self> {
        let header = |name| headers.get(name)?.to_str().ok().map(str::trim);
        let (parent, sampled) = header("b3")
            .and_then(b3_single)
            .or_else(|| b3_multi(header))
            .or_else(|| header("traceparent").and_then(traceparent))?;
        sampled.then_some(parent)
    }

    fn parse(trace: &str, span: &str) -> Option<Self> {
        let trace = match trace.len() {
            16 | 32 => hex(trace)?,
            _ => return None,
        };
        let span = match span.len() {
            16 => u64::try_from(hex(span)?).ok()?,
            _ => return None,
        };
        let parent = Self { trace: TraceId(trace), span: SpanId(span) };
        (trace != 0 && span != 0).then_some(parent)
    }
}

/// `trace-span-decision-parent`; the parent may be missing. Without a decision, the header is ignored.
fn b3_single(value: &str) -> Option<(Parent, bool)> {
    let mut parts = value.split('-');
    let parent = Parent::parse(parts.next()?, parts.next()?)?;
    Some((parent, matches!(parts.next()?, "1" | "d")))
}

fn b3_multi<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<(Parent, bool)> {
    let parent = Parent::parse(header("x-b3-traceid")?, header("x-b3-spanid")?)?;
    let debug = header("x-b3-flags") == Some("1");
    Some((parent, debug || matches!(header("x-b3-sampled"), Some("1" | "true"))))
}

/// `version-trace-span-flags`. Later versions may add parts; version ff is invalid.
fn traceparent(value: &str) -> Option<(Parent, bool)> {
    let mut parts = value.split('-');
    let version = Some(parts.next()?).filter(|part| part.len() == 2 && *part != "ff")?;
    hex(version)?;
    let trace = Some(parts.next()?).filter(|part| part.len() == 32)?;
    let parent = Parent::parse(trace, parts.next()?)?;
    let flags = Some(parts.next()?).filter(|part| part.len() == 2).and_then(hex)?;
    (version != "00" || parts.next().is_none()).then_some((parent, flags & 1 == 1))
}

/// Parses hexadecimal digits. The standard parser would accept a sign too.
fn hex(digits: &str) -> Option<u128> {
    let only_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    only_digits.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::Parent;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";
    const W3C: &str = "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01";

    type HeaderList<'a> = &'a [(&'static str, &'a str)];

    fn read(headers: HeaderList<'_>) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a header value");
            (HeaderName::from_static(name), value)
        });
        let parent = Parent::sampled(&HeaderMap::from_iter(headers))?;
        Some(format!("{} {}", parent.trace, parent.span))
    }

    #[test]
    fn sampled_traces_are_joined() {
        let whole = format!("{TRACE} {SPAN}");
        let short = format!("64fe8b2a57d3eff7 {SPAN}");
        let b3 = |rest: &str| format!("{TRACE}-{SPAN}{rest}");
        let cases: &[(HeaderList<'_>, Option<&str>)] = &[
            (&[("b3", &b3("-1"))], Some(&whole)),
            (&[("b3", &b3("-d"))], Some(&whole)),
            (&[("b3", &b3("-1-05e3ac9a4f6e3b90"))], Some(&whole)),
            (&[("b3", &format!("64fe8b2a57d3eff7-{SPAN}-1"))], Some(&short)),
            (&[("b3", &b3("-0"))], None),
            (&[("b3", &b3(""))], None),
            (&[("b3", "0")], None),
            (&[("b3", "1")], None),
            (&[("b3", &format!("+{}-{SPAN}-1", &TRACE[1..]))], None),
            (&[("b3", &format!("{}-{SPAN}-1", "0".repeat(32)))], None),
            (&[("b3", &format!("{TRACE}-{}-1", "0".repeat(16)))], None),
            (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")], Some(&whole)),
            (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")], Some(&whole)),
            (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")], None),
            (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)], None),
            (&[("x-b3-traceid", TRACE), ("x-b3-sampled", "1")], None),
            (&[("traceparent", W3C)], Some(&whole)),
            (&[("traceparent", &W3C.replace("-01", "-00"))], None),
            (&[("traceparent", &W3C.replace("00-", "ff-"))], None),
            (&[("traceparent", &format!("{W3C}-more"))], None),
            (&[("traceparent", &W3C.replacen("00-", "01-", 1)), ("tracestate", "a=b")], Some(&whole)),
            (&[("traceparent", &format!("00-64fe8b2a57d3eff7-{SPAN}-01"))], None),
            (&[("b3", &b3("-0")), ("traceparent", W3C)], None),
            (&[("b3", "nonsense"), ("traceparent", W3C)], Some(&whole)),
            (&[], None),
        ];
        for (headers, expected) in cases {
            assert_eq!(read(headers).as_deref(), *expected, "{headers:?}");
        }
    }
}
