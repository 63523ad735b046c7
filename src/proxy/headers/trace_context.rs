//! The trace context of a request, in B3 (single and multiple headers) and W3C Trace Context. Pure.
//!
//! A request may carry several formats at once. The ids come from the first that has them, and the
//! sampling decision from the first that has one, in this order: `b3`, `X-B3-*`, `traceparent`. B3
//! requires that order for its two formats, and OpenTelemetry's `tracecontext,b3` has the same effect:
//! the format that a user adds to the default wins.

use crate::http1::head::Headers;
use crate::http1::name::{HeaderName, HeaderSet};

/// A span and its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace_id: u128,
    /// Never zero.
    pub span_id: u64,
    /// The parent, which may be a span of another process.
    pub parent_span_id: Option<u64>,
    pub sampled: bool,
    /// B3's debug flag: the trace is recorded whatever any sampler decides. Implies `sampled`.
    pub debug: bool,
    id_format: TraceIdFormat,
    /// Whether `tracestate` belongs to this trace and may be forwarded.
    keeps_tracestate: bool,
}

/// The headers that identify a trace or carry its sampling decision.
const TRACE: HeaderSet = HeaderSet::new(&[
    HeaderName::B3,
    HeaderName::B3Flags,
    HeaderName::B3Sampled,
    HeaderName::B3SpanId,
    HeaderName::B3TraceId,
    HeaderName::Traceparent,
]);

/// The headers that are replaced.
const WRITTEN: HeaderSet = TRACE.with(HeaderName::B3ParentSpanId);

impl TraceContext {
    /// Whether these headers carry a trace context, valid or not.
    #[must_use]
    pub fn is_present(headers: &Headers) -> bool {
        headers.may_have_any(TRACE)
    }

    /// Returns the span of a request with these headers: a child of the caller's span if the headers
    /// identify one, otherwise the root of a new trace. A sampling decision that was received is kept;
    /// without one, the share `sample` (0 to 1) of the requests is sampled.
    #[must_use]
    pub fn continue_or_start(headers: &Headers, sample: f64, rng: &mut fastrand::Rng) -> Self {
        let received = ReceivedContext::parse(headers);
        let (trace_id, parent_span_id, id_format) = match received.caller {
            Some(caller) => (caller.trace_id, Some(caller.span_id), caller.id_format),
            None => (rng.u128(1..), None, TraceIdFormat::Full { random: false }),
        };
        Self {
            trace_id,
            span_id: rng.u64(1..),
            parent_span_id,
            sampled: received.decision.map_or_else(|| rng.f64() < sample, SamplingDecision::is_sampled),
            debug: received.decision == Some(SamplingDecision::Debug),
            id_format,
            keeps_tracestate: received.w3c.is_some_and(|w3c| w3c.trace_id == trace_id),
        }
    }

    /// Returns a child span, which goes to the server with one attempt.
    #[must_use]
    pub fn child(&self, rng: &mut fastrand::Rng) -> Self {
        Self { span_id: rng.u64(1..), parent_span_id: Some(self.span_id), ..*self }
    }

    /// Returns the context for the server while no spans are exported: the caller's own span, because a
    /// span that is never reported would leave a gap in the caller's trace. `None` if there is no caller;
    /// then the request is forwarded without a context, so that the server can start the trace.
    #[must_use]
    pub fn unrecorded(&self) -> Option<Self> {
        let span_id = self.parent_span_id?;
        Some(Self { span_id, parent_span_id: None, ..*self })
    }

    /// Sets the headers of all three formats, replacing any that were received.
    pub fn write(&self, headers: &mut Headers) {
        let flags =
            u8::from(self.sampled) | if self.id_format == (TraceIdFormat::Full { random: true }) { 2 } else { 0 };
        let state = match (self.debug, self.sampled) {
            (true, _) => b'd',
            (_, true) => b'1',
            (_, false) => b'0',
        };

        // The parts have fixed positions. The optional ones are at the ends, so that a slice leaves them out.
        let mut b3 = [b'-'; B3_LEN];
        write_hex(&mut b3[..32], &self.trace_id.to_be_bytes());
        write_hex(&mut b3[33..49], &self.span_id.to_be_bytes());
        b3[50] = state;
        write_hex(&mut b3[52..], &self.parent_span_id.unwrap_or_default().to_be_bytes());
        let start = if self.id_format == TraceIdFormat::Short { 16 } else { 0 };
        let end = if self.parent_span_id.is_some() { B3_LEN } else { 51 };

        let mut traceparent = [b'-'; TRACEPARENT_LEN];
        traceparent[..2].copy_from_slice(b"00");
        traceparent[3..52].copy_from_slice(&b3[..49]);
        traceparent[53..].copy_from_slice(&[b'0', b'0' + flags]);

        headers.remove_all(if self.keeps_tracestate { WRITTEN } else { WRITTEN.with(HeaderName::Tracestate) });
        headers.add(HeaderName::Traceparent, &traceparent);
        headers.add(HeaderName::B3, &b3[start..end]);
        headers.add(HeaderName::B3TraceId, &b3[start..32]);
        headers.add(HeaderName::B3SpanId, &b3[33..49]);
        if self.parent_span_id.is_some() {
            headers.add(HeaderName::B3ParentSpanId, &b3[52..]);
        }
        // B3 allows only one of the two: debug implies sampled.
        match self.debug {
            true => headers.add(HeaderName::B3Flags, b"1"),
            false => headers.add(HeaderName::B3Sampled, &b3[50..51]),
        }
    }
}

const TRACEPARENT_LEN: usize = "00-".len() + 32 + "-".len() + 16 + "-01".len();
const B3_LEN: usize = 32 + "-".len() + 16 + "-1-".len() + 16;

/// The format of a received trace id, which is kept when it is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TraceIdFormat {
    /// 64 bits, as in older B3; padded in `traceparent`.
    Short,
    /// 128 bits; `random` is the flag of `traceparent` that the id is random.
    Full { random: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SamplingDecision {
    No,
    Yes,
    Debug,
}

impl SamplingDecision {
    fn is_sampled(self) -> bool {
        self != Self::No
    }

    fn from_b3(state: &[u8]) -> Option<Self> {
        match state {
            b"0" => Some(Self::No),
            b"1" => Some(Self::Yes),
            b"d" => Some(Self::Debug),
            _ => None,
        }
    }
}

/// The span that sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallerSpan {
    trace_id: u128,
    span_id: u64,
    id_format: TraceIdFormat,
}

impl CallerSpan {
    fn from_b3(trace_id: &[u8], span_id: &[u8]) -> Option<Self> {
        let id_format = match trace_id.len() {
            16 => TraceIdFormat::Short,
            32 => TraceIdFormat::Full { random: false },
            _ => return None,
        };
        let trace_id = parse_hex(trace_id).filter(|id| *id != 0)?;
        Some(Self { trace_id, span_id: parse_span_id(span_id)?, id_format })
    }
}

/// The trace context in the headers of a request.
struct ReceivedContext {
    caller: Option<CallerSpan>,
    decision: Option<SamplingDecision>,
    /// The span in a valid `traceparent`, even if B3 takes precedence.
    w3c: Option<CallerSpan>,
}

impl ReceivedContext {
    fn parse(headers: &Headers) -> Self {
        if !TraceContext::is_present(headers) {
            return Self { caller: None, decision: None, w3c: None };
        }
        let single = only(headers, HeaderName::B3).and_then(parse_b3).unwrap_or_default();
        let multi = parse_b3_multi(headers);
        let w3c = only(headers, HeaderName::Traceparent).and_then(parse_traceparent);
        Self {
            caller: single.0.or(multi.0).or(w3c.map(|(caller, _)| caller)),
            decision: single.1.or(multi.1).or(w3c.map(|(_, decision)| decision)),
            w3c: w3c.map(|(caller, _)| caller),
        }
    }
}

/// Parses `{trace}-{span}[-{state}[-{parent}]]`, or `{state}` alone.
fn parse_b3(value: &[u8]) -> Option<(Option<CallerSpan>, Option<SamplingDecision>)> {
    if let Some(decision) = SamplingDecision::from_b3(value) {
        return Some((None, Some(decision)));
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let caller = CallerSpan::from_b3(parts.next()?, parts.next()?)?;
    let decision = match parts.next() {
        Some(state) => Some(SamplingDecision::from_b3(state)?),
        None => None,
    };
    if let Some(parent) = parts.next() {
        parse_span_id(parent)?;
    }
    parts.next().is_none().then_some((Some(caller), decision))
}

fn parse_b3_multi(headers: &Headers) -> (Option<CallerSpan>, Option<SamplingDecision>) {
    let caller = only(headers, HeaderName::B3TraceId)
        .zip(only(headers, HeaderName::B3SpanId))
        .and_then(|(trace_id, span_id)| CallerSpan::from_b3(trace_id, span_id));
    let decision = match (only(headers, HeaderName::B3Flags), only(headers, HeaderName::B3Sampled)) {
        (Some(b"1"), _) => Some(SamplingDecision::Debug),
        // The earliest B3 libraries wrote the words.
        (_, Some(b"1" | b"true")) => Some(SamplingDecision::Yes),
        (_, Some(b"0" | b"false")) => Some(SamplingDecision::No),
        _ => None,
    };
    (caller, decision)
}

/// Parses `{version}-{trace}-{parent}-{flags}`; a version above 00 may append more after another dash.
fn parse_traceparent(value: &[u8]) -> Option<(CallerSpan, SamplingDecision)> {
    let (head, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
    let version = parse_hex(&head[..2]).filter(|version| *version != 0xff)?;
    let has_dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
    if !has_dashes || !(rest.is_empty() || version > 0 && rest[0] == b'-') {
        return None;
    }
    let flags = parse_hex(&head[53..])?;
    let caller = CallerSpan {
        trace_id: parse_hex(&head[3..35]).filter(|id| *id != 0)?,
        span_id: parse_span_id(&head[36..52])?,
        id_format: TraceIdFormat::Full { random: flags & 2 != 0 },
    };
    Some((caller, if flags & 1 == 0 { SamplingDecision::No } else { SamplingDecision::Yes }))
}

fn parse_span_id(text: &[u8]) -> Option<u64> {
    if text.len() != 16 {
        return None;
    }
    parse_hex(text).and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0)
}

/// Returns the value of a header that occurs exactly once. A repeated one is ambiguous and ignored.
fn only(headers: &Headers, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.all(name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Parses up to 32 digits, in lower case only, as both specifications require. `const_hex` also accepts
/// upper case and a `0x` prefix.
fn parse_hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// Writes `bytes` as digits, in lower case. `digits` must be twice as long as `bytes`.
pub(super) fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    let written = const_hex::encode_to_slice(bytes, digits);
    debug_assert!(written.is_ok(), "{} digits for {} bytes", digits.len(), bytes.len());
}

#[cfg(test)]
mod tests;
