//! The headers that are set for a server: forwarding headers, trace context and request id, from any client headers.
#![no_main]

use std::net::IpAddr;

use lb::config::ForwardedMode;
use lb::http1::head::{HeadLimits, RequestHead};
use lb::http1::name::HeaderName;
use lb::proxy::headers::forwarded::{ClientHeaders, client_address};
use lb::proxy::headers::trace_context::TraceContext;
use lb::proxy::headers::{hop_by_hop, request_id};
use lb::transport::ClientAddress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The input is headers only, so that the fuzzer does not have to find a valid request line.
    let text = [b"GET / HTTP/1.1\r\n", bytes, b"\r\n\r\n"].concat();
    let mut head = RequestHead::default();
    let Ok(Some(_)) = head.parse(&text, HeadLimits { bytes: 8192, headers: 100 }) else { return };
    let mut rng = fastrand::Rng::with_seed(1);
    let trace = TraceContext::continue_or_start(&head.headers, 0.5, &mut rng);
    assert!(trace.trace_id != 0 && trace.span_id != 0);
    request_id::ensure(&mut head.headers, &mut rng);
    let ids: Vec<_> = head.headers.all(HeaderName::RequestId).collect();
    assert!(ids.len() == 1 && !ids[0].is_empty() && ids[0].iter().all(u8::is_ascii_graphic), "{ids:?}");
    hop_by_hop::prepare_request(&mut head.headers, head.version);
    assert!(!head.headers.has(HeaderName::Connection) && !head.headers.has(HeaderName::TransferEncoding));
    let peer = ClientAddress::from(IpAddr::from([192, 0, 2, 1]));
    let proxies = ["192.0.2.0/24", "10.0.0.0/8", "::/0"].map(|network| network.parse().expect("a network"));
    for trusted in [&[][..], &proxies] {
        let mut headers = head.headers.clone();
        let client = ClientHeaders::new(peer, "http").set(&mut headers, ForwardedMode::Both, trusted);
        assert_eq!(client, client_address(&head.headers, ForwardedMode::Both, peer, trusted));
        if trusted.is_empty() {
            assert_eq!(client, peer);
            assert_eq!(headers.get(HeaderName::ForwardedFor), Some(&b"192.0.2.1"[..]));
        }
        trace.write(&mut headers);
        for name in [
            HeaderName::ForwardedFor,
            HeaderName::ForwardedProto,
            HeaderName::Forwarded,
            HeaderName::Traceparent,
            HeaderName::B3,
        ] {
            assert_eq!(headers.all(name).count(), 1, "{name:?}");
        }
        // The next hop continues the trace.
        let next = TraceContext::continue_or_start(&headers, 0.5, &mut rng);
        assert_eq!((next.trace_id, next.sampled), (trace.trace_id, trace.sampled));
        // The head for the next hop is valid.
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        headers.write(&mut text);
        text.extend_from_slice(b"\r\n");
        let mut reparsed = RequestHead::default();
        assert_eq!(reparsed.parse(&text, HeadLimits { bytes: usize::MAX, headers: 200 }), Ok(Some(text.len())));
    }
});
