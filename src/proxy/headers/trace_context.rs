//! Which trace a request belongs to: read from, and written to, B3 (single and multi) and W3C header headers. Pure.
//!
//! A request may carry several forms at once. The ids are taken from the first that has them, the
//! sampling decision from the first that has one, in this order: `b3`, `X-B3-*`, `traceparent`.
//! That is what B3 demands of its two forms, and what OpenTelemetry's `tracecontext,b3` does: the
//! form that a user adds beside the default wins.

use crate::http1::head::Headers;
use crate::http1::name::{HeaderName, HeaderSet};

/// One span's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace_id: u128,
    /// This span; never zero.
    pub span_id: u64,
    /// The span that this one is a part of, on whichever side of the network.
    pub parent_span_id: Option<u64>,
    /// Whether spans of this trace are recorded.
    pub sampled: bool,
    /// B3's demand to record this trace whatever the samplers say; then `sampled` is true.
    pub debug: bool,
    form: Form,
    /// `tracestate` describes this trace, so it may go on.
    tracestate: bool,
}

/// The headers that name a trace, or say whether it is recorded.
const TRACE: HeaderSet = HeaderSet::new(&[
    HeaderName::B3,
    HeaderName::B3Flags,
    HeaderName::B3Sampled,
    HeaderName::B3SpanId,
    HeaderName::B3TraceId,
    HeaderName::Traceparent,
]);

/// The headers that we write.
const WRITTEN: HeaderSet = TRACE.and(HeaderName::B3ParentSpanId);

impl TraceContext {
    /// Whether there is anything about a trace in these headers.
    #[must_use]
    pub fn came(headers: &Headers) -> bool {
        headers.has_any(TRACE)
    }

    /// The span of a request with these header headers: a part of the caller's trace if they name
    /// one, else the first of a new trace. A decision that came in is kept; without one, the share
    /// `sample` (0 to 1) is recorded.
    #[must_use]
    pub fn continue_or_start(headers: &Headers, sample: f64, rng: &mut fastrand::Rng) -> Self {
        let came = Received::read(headers);
        let (trace_id, parent_span_id, form) = match came.caller {
            Some(caller) => (caller.trace_id, Some(caller.span_id), caller.form),
            None => (rng.u128(1..), None, Form::Full { random: false }),
        };
        Self {
            trace_id,
            span_id: rng.u64(1..),
            parent_span_id,
            sampled: came.decision.map_or_else(|| rng.f64() < sample, Decision::is_yes),
            debug: came.decision == Some(Decision::Debug),
            form,
            tracestate: came.w3c.is_some_and(|w3c| w3c.trace_id == trace_id),
        }
    }

    /// A span that is a part of this one: what goes to the server with one try.
    #[must_use]
    pub fn child(&self, rng: &mut fastrand::Rng) -> Self {
        Self { span_id: rng.u64(1..), parent_span_id: Some(self.span_id), ..*self }
    }

    /// What goes to the server when no spans are exported: the caller's own span, because a span
    /// that nobody reports would be a hole in the caller's trace. None when no caller named a trace;
    /// then the request is better left without one, so that the server decides for itself.
    #[must_use]
    pub fn unrecorded(&self) -> Option<Self> {
        let span_id = self.parent_span_id?;
        Some(Self { span_id, parent_span_id: None, ..*self })
    }

    /// Sets the headers of all three forms, in place of any that came in.
    pub fn write(&self, headers: &mut Headers) {
        let flags = u8::from(self.sampled) | if self.form == (Form::Full { random: true }) { 2 } else { 0 };
        let state = match (self.debug, self.sampled) {
            (true, _) => b'd',
            (_, true) => b'1',
            (_, false) => b'0',
        };

        // The parts have fixed places. Those that may be missing are at the ends, where they are cut off.
        let mut b3 = [b'-'; B3_LEN];
        write_hex(&mut b3[..32], self.trace_id);
        write_hex(&mut b3[33..49], self.span_id);
        b3[50] = state;
        write_hex(&mut b3[52..], self.parent_span_id.unwrap_or_default());
        let begin = if self.form == Form::Short { 16 } else { 0 };
        let end = if self.parent_span_id.is_some() { B3_LEN } else { 51 };

        let mut traceparent = [b'-'; TRACEPARENT_LEN];
        traceparent[..2].copy_from_slice(b"00");
        traceparent[3..52].copy_from_slice(&b3[..49]);
        traceparent[53..].copy_from_slice(&[b'0', b'0' + flags]);

        headers.remove_all(if self.tracestate { WRITTEN } else { WRITTEN.and(HeaderName::Tracestate) });
        headers.add(HeaderName::Traceparent, &traceparent);
        headers.add(HeaderName::B3, &b3[begin..end]);
        headers.add(HeaderName::B3TraceId, &b3[begin..32]);
        headers.add(HeaderName::B3SpanId, &b3[33..49]);
        if self.parent_span_id.is_some() {
            headers.add(HeaderName::B3ParentSpanId, &b3[52..]);
        }
        // B3 wants one of the two: debug implies sampled.
        match self.debug {
            true => headers.add(HeaderName::B3Flags, b"1"),
            false => headers.add(HeaderName::B3Sampled, &b3[50..51]),
        }
    }
}

const TRACEPARENT_LEN: usize = "00-".len() + 32 + "-".len() + 16 + "-01".len();
const B3_LEN: usize = 32 + "-".len() + 16 + "-1-".len() + 16;

/// How the trace's id came in, which is how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 64 bits, as older B3 has them; padded in `traceparent`.
    Short,
    /// 128 bits; `random` is `traceparent`'s flag that says so, to be kept.
    Full { random: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    No,
    Yes,
    Debug,
}

impl Decision {
    fn is_yes(self) -> bool {
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

/// The span that a request was sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    trace_id: u128,
    span_id: u64,
    form: Form,
}

impl Caller {
    fn from_b3(trace_id: &[u8], span_id: &[u8]) -> Option<Self> {
        let form = match trace_id.len() {
            16 => Form::Short,
            32 => Form::Full { random: false },
            _ => return None,
        };
        Some(Self { trace_id: unhex(trace_id).filter(|id| *id != 0)?, span_id: parse_span_id(span_id)?, form })
    }
}

/// What the header headers of a request say about its trace.
struct Received {
    caller: Option<Caller>,
    decision: Option<Decision>,
    /// What a valid `traceparent` says, whether or not it decided.
    w3c: Option<Caller>,
}

impl Received {
    fn read(headers: &Headers) -> Self {
        if !TraceContext::came(headers) {
            return Self { caller: None, decision: None, w3c: None };
        }
        let single = only(headers, HeaderName::B3).and_then(parse_b3).unwrap_or_default();
        let multi = read_b3_multi(headers);
        let w3c = only(headers, HeaderName::Traceparent).and_then(parse_traceparent);
        Self {
            caller: single.0.or(multi.0).or(w3c.map(|(caller, _)| caller)),
            decision: single.1.or(multi.1).or(w3c.map(|(_, decision)| decision)),
            w3c: w3c.map(|(caller, _)| caller),
        }
    }
}

/// `{trace}-{span}[-{state}[-{parent}]]`, or `{state}` alone.
fn parse_b3(value: &[u8]) -> Option<(Option<Caller>, Option<Decision>)> {
    if let Some(decision) = Decision::from_b3(value) {
        return Some((None, Some(decision)));
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let caller = Caller::from_b3(parts.next()?, parts.next()?)?;
    let decision = match parts.next() {
        Some(state) => Some(Decision::from_b3(state)?),
        None => None,
    };
    if let Some(parent) = parts.next() {
        parse_span_id(parent)?;
    }
    parts.next().is_none().then_some((Some(caller), decision))
}

fn read_b3_multi(headers: &Headers) -> (Option<Caller>, Option<Decision>) {
    let caller = only(headers, HeaderName::B3TraceId)
        .zip(only(headers, HeaderName::B3SpanId))
        .and_then(|(trace_id, span_id)| Caller::from_b3(trace_id, span_id));
    let decision = match (only(headers, HeaderName::B3Flags), only(headers, HeaderName::B3Sampled)) {
        (Some(b"1"), _) => Some(Decision::Debug),
        // The words were written by the earliest B3 libraries.
        (_, Some(b"1" | b"true")) => Some(Decision::Yes),
        (_, Some(b"0" | b"false")) => Some(Decision::No),
        _ => None,
    };
    (caller, decision)
}

/// `{version}-{trace}-{parent}-{flags}`; a version above 00 may have more behind another dash.
fn parse_traceparent(value: &[u8]) -> Option<(Caller, Decision)> {
    let (head, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
    let version = unhex(&head[..2]).filter(|version| *version != 0xff)?;
    let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
    if !dashes || !(rest.is_empty() || version > 0 && rest[0] == b'-') {
        return None;
    }
    let flags = unhex(&head[53..])?;
    let caller = Caller {
        trace_id: unhex(&head[3..35]).filter(|id| *id != 0)?,
        span_id: parse_span_id(&head[36..52])?,
        form: Form::Full { random: flags & 2 != 0 },
    };
    Some((caller, if flags & 1 == 0 { Decision::No } else { Decision::Yes }))
}

fn parse_span_id(text: &[u8]) -> Option<u64> {
    if text.len() != 16 {
        return None;
    }
    unhex(text).and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0)
}

/// The value of a field that is there once; said twice, it says nothing.
fn only(headers: &Headers, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.all(name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Digits in lower case only, as both specifications have them. At most 32.
fn unhex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// Fills `digits` with the last ones of `value`.
pub(super) fn write_hex(digits: &mut [u8], value: impl Into<u128>) {
    for (pair, byte) in digits.rchunks_exact_mut(2).zip(value.into().to_le_bytes()) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests;
