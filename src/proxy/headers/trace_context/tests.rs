//! Tables of received trace headers, and of those that are written.

use super::*;

const T128: &str = "463ac35c9f6413ad48485a3953bb6124";
const T64: &str = "48485a3953bb6124";
const SPAN: &str = "a2fb4a1d1a96d312";
const TRACE: u128 = 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124;
const SHORT_TRACE: u128 = 0x4848_5a39_53bb_6124;
const SPAN_ID: u64 = 0xa2fb_4a1d_1a96_d312;

fn headers(text: &str) -> Headers {
    Headers::from_pairs(text.lines().filter_map(|line| line.trim().split_once(": ")))
}

/// Case of names and order do not matter.
fn sorted(headers: &Headers) -> Vec<(String, String)> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let mut all: Vec<_> =
        headers.iter().map(|(_, name, value)| (text(name).to_ascii_lowercase(), text(value))).collect();
    all.sort();
    all
}

fn text(headers: &Headers, name: HeaderName) -> &str {
    std::str::from_utf8(headers.get(name).expect("the header")).expect("text")
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(11)
}

#[test]
fn a_received_context_is_continued() {
    use SamplingDecision::{Debug, No, Yes};
    let trace = Some(TRACE);
    let short = Some(SHORT_TRACE);
    let cases: &[(&str, Option<u128>, Option<SamplingDecision>)] = &[
        ("", None, None),
        // W3C
        ("traceparent: 00-{T}-{S}-01", trace, Some(Yes)),
        ("traceparent: 00-{T}-{S}-00", trace, Some(No)),
        ("traceparent: 00-{T}-{S}-02", trace, Some(No)),
        ("traceparent: 00-{T}-{S}-03", trace, Some(Yes)),
        ("traceparent: cc-{T}-{S}-01", trace, Some(Yes)),
        ("traceparent: cc-{T}-{S}-01-what-comes", trace, Some(Yes)),
        ("traceparent: cc-{T}-{S}-01.what-comes", None, None),
        ("traceparent: 00-{T}-{S}-01-more", None, None),
        ("traceparent: ff-{T}-{S}-01", None, None),
        ("traceparent: 0-{T}-{S}-01", None, None),
        ("traceparent: 00_{T}-{S}-01", None, None),
        ("traceparent: 00-{T}-{S}", None, None),
        ("traceparent: 00-{T}-{S}-0", None, None),
        ("traceparent: 00-{T}-{S}-0x", None, None),
        ("traceparent: 00-00000000000000000000000000000000-{S}-01", None, None),
        ("traceparent: 00-{T}-0000000000000000-01", None, None),
        ("traceparent: 00-463AC35C9F6413AD48485A3953BB6124-{S}-01", None, None),
        ("traceparent: 00-{T}-{S}-01\ntraceparent: 00-{T}-{S}-01", None, None),
        // B3 single
        ("b3: {T}-{S}", trace, None),
        ("b3: {T}-{S}-1", trace, Some(Yes)),
        ("b3: {T}-{S}-0", trace, Some(No)),
        ("b3: {T}-{S}-d", trace, Some(Debug)),
        ("b3: {T}-{S}-1-05e3ac9a4f6e3b90", trace, Some(Yes)),
        ("b3: {t}-{S}-1", short, Some(Yes)),
        ("b3: 0000000000000000{t}-{S}-1", short, Some(Yes)),
        ("b3: 0", None, Some(No)),
        ("b3: 1", None, Some(Yes)),
        ("b3: d", None, Some(Debug)),
        ("b3: 2", None, None),
        ("b3: {T}", None, None),
        ("b3: {T}-{S}-x", None, None),
        ("b3: {T}-{S}-1-", None, None),
        ("b3: {T}-{S}-1-05e3ac9a4f6e3b90-", None, None),
        ("b3: {T}0-{S}-1", None, None),
        ("b3: 0000000000000000-{S}-1", None, None),
        ("b3: {T}-{S}1-1", None, None),
        // B3 multi
        ("X-B3-TraceId: {T}\nX-B3-SpanId: {S}", trace, None),
        ("X-B3-TraceId: {t}\nX-B3-SpanId: {S}\nX-B3-Sampled: 1", short, Some(Yes)),
        ("X-B3-TraceId: {T}\nX-B3-SpanId: {S}\nX-B3-Sampled: 0", trace, Some(No)),
        ("X-B3-TraceId: {T}\nX-B3-SpanId: {S}\nX-B3-Sampled: true", trace, Some(Yes)),
        ("X-B3-TraceId: {T}\nX-B3-SpanId: {S}\nX-B3-Flags: 1", trace, Some(Debug)),
        ("X-B3-Flags: 1\nX-B3-Sampled: 0", None, Some(Debug)),
        ("X-B3-Flags: 0\nX-B3-Sampled: 0", None, Some(No)),
        ("X-B3-Sampled: maybe", None, None),
        ("X-B3-TraceId: {T}\nX-B3-Sampled: 1", None, Some(Yes)),
        ("X-B3-TraceId: nonsense\nX-B3-SpanId: {S}", None, None),
        // Several formats
        ("b3: {T}-{S}-0\ntraceparent: 00-11111111111111111111111111111111-{S}-01", trace, Some(No)),
        ("b3: nonsense\ntraceparent: 00-{T}-{S}-01", trace, Some(Yes)),
        ("b3: 0\ntraceparent: 00-{T}-{S}-01", trace, Some(No)),
        ("b3: {T}-{S}\nX-B3-TraceId: {t}\nX-B3-SpanId: {S}\nX-B3-Sampled: 0", trace, Some(No)),
        ("X-B3-TraceId: {t}\nX-B3-SpanId: {S}\ntraceparent: 00-{T}-{S}-01", short, Some(Yes)),
    ];
    for (text, trace_id, decision) in cases {
        let received = headers(&text.replace("{T}", T128).replace("{t}", T64).replace("{S}", SPAN));
        for sample in [0.0, 1.0] {
            let context = TraceContext::continue_or_start(&received, sample, &mut rng());
            match trace_id {
                Some(id) => assert_eq!((context.trace_id, context.parent_span_id), (*id, Some(SPAN_ID)), "{text}"),
                None => {
                    assert_eq!(context.parent_span_id, None, "{text}");
                    assert!(context.trace_id > u128::from(u64::MAX), "{text}");
                }
            }
            assert_eq!(context.sampled, decision.map_or(sample == 1.0, SamplingDecision::is_sampled), "{text}");
            assert_eq!(context.debug, *decision == Some(Debug), "{text}");
            assert!(context.span_id != 0 && context.span_id != SPAN_ID, "{text}");
        }
    }
}

#[test]
fn the_configured_share_of_new_traces_is_sampled() {
    let mut rng = rng();
    let received = Headers::new();
    let sampled = (0..10_000).filter(|_| TraceContext::continue_or_start(&received, 0.25, &mut rng).sampled).count();
    assert!((2_300..2_700).contains(&sampled), "{sampled} of 10000");
}

#[test]
fn a_child_is_written_in_all_formats() {
    let cases = [
        (
            "traceparent: 00-{T}-{S}-03\ntracestate: a=b",
            "traceparent: 00-{T}-{C}-03\ntracestate: a=b\nb3: {T}-{C}-1-{P}\nx-b3-traceid: {T}\nx-b3-sampled: 1",
        ),
        // Without a valid traceparent of the same trace, tracestate belongs to another trace.
        (
            "b3: {T}-{S}-0\ntraceparent: 00-11111111111111111111111111111111-{S}-01\ntracestate: a=b",
            "traceparent: 00-{T}-{C}-00\nb3: {T}-{C}-0-{P}\nx-b3-traceid: {T}\nx-b3-sampled: 0",
        ),
        // The length of a B3 id is kept; in traceparent the id is padded.
        (
            "X-B3-TraceId: {t}\nX-B3-SpanId: {S}\nX-B3-Sampled: 1\nX-B3-ParentSpanId: {S}\ntracestate: a=b",
            "traceparent: 00-0000000000000000{t}-{C}-01\nb3: {t}-{C}-1-{P}\nx-b3-traceid: {t}\nx-b3-sampled: 1",
        ),
        (
            "b3: {T}-{S}-d\nX-B3-Sampled: 0\nb3x: kept",
            "traceparent: 00-{T}-{C}-01\nb3: {T}-{C}-d-{P}\nx-b3-traceid: {T}\nx-b3-flags: 1\nb3x: kept",
        ),
        // Repeated and invalid headers are not forwarded.
        (
            "b3: {T}-{S}-1\nX-B3-Flags: what\ntraceparent: nonsense\ntraceparent: nonsense",
            "traceparent: 00-{T}-{C}-01\nb3: {T}-{C}-1-{P}\nx-b3-traceid: {T}\nx-b3-sampled: 1",
        ),
    ];
    for (text, written) in cases {
        let mut received = headers(&text.replace("{T}", T128).replace("{t}", T64).replace("{S}", SPAN));
        let ours = TraceContext::continue_or_start(&received, 0.5, &mut rng());
        let child = ours.child(&mut rng());
        child.write(&mut received);
        let expected = format!("{written}\nx-b3-spanid: {{C}}\nx-b3-parentspanid: {{P}}")
            .replace("{T}", T128)
            .replace("{t}", T64)
            .replace("{C}", &format!("{:016x}", child.span_id))
            .replace("{P}", &format!("{:016x}", ours.span_id));
        assert_eq!(sorted(&received), sorted(&headers(&expected)), "{text}");
    }
}

#[test]
fn a_root_has_no_parent() {
    let mut received = headers("X-B3-ParentSpanId: a2fb4a1d1a96d312");
    let context = TraceContext::continue_or_start(&received, 0.0, &mut rng());
    context.write(&mut received);
    assert_eq!(received.get(HeaderName::B3ParentSpanId), None);
    assert_eq!(text(&received, HeaderName::B3), format!("{:032x}-{:016x}-0", context.trace_id, context.span_id));
    assert_eq!(text(&received, HeaderName::B3Sampled), "0");
}

#[test]
fn without_our_own_spans_the_caller_stays_the_parent() {
    let mut received = headers(&format!("b3: {T64}-{SPAN}-1-05e3ac9a4f6e3b90"));
    let context = TraceContext::continue_or_start(&received, 0.0, &mut rng());
    context.unrecorded().expect("a caller").write(&mut received);
    assert_eq!(text(&received, HeaderName::B3), format!("{T64}-{SPAN}-1"));
    assert_eq!(text(&received, HeaderName::Traceparent), format!("00-0000000000000000{T64}-{SPAN}-01"));
    assert_eq!(TraceContext::continue_or_start(&Headers::new(), 1.0, &mut rng()).unrecorded(), None);
}
