//! The headers that a server gets in place of any headers of a client: forwarding, trace context, request id.
#![no_main]

use std::net::SocketAddr;

use lb::http1::head::{Limits, RequestHead};
use lb::http1::name::HeaderName;
use lb::proxy::headers::forwarded::{ClientHeaders, client_address};
use lb::proxy::headers::trace_context::TraceContext;
use lb::proxy::headers::{hop_by_hop, request_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The input has only headers, so that the fuzzer need not guess a request line.
    let text = [b"GET / HTTP/1.1\r\n", bytes, b"\r\n\r\n"].concat();
    let mut head = RequestHead::default();
    let Ok(Some(_)) = head.parse(&text, Limits { bytes: 8192, headers: 100 }) else { return };
    let mut rng = fastrand::Rng::with_seed(1);
    let trace = TraceContext::continue_or_start(&head.headers, 0.5, &mut rng);
    assert!(trace.trace_id != 0 && trace.span_id != 0);
    request_id::ensure(&mut head.headers, &mut rng);
    let ids: Vec<_> = head.headers.all(HeaderName::RequestId).collect();
    assert!(ids.len() == 1 && !ids[0].is_empty() && ids[0].iter().all(u8::is_ascii_graphic), "{ids:?}");
    if hop_by_hop::prepare_request(&mut head.headers, head.version).is_err() {
        return;
    }
    assert!(!head.headers.has(HeaderName::Connection) && !head.headers.has(HeaderName::TransferEncoding));
    let peer = SocketAddr::from(([192, 0, 2, 1], 1234));
    let behind = ["192.0.2.0/24", "10.0.0.0/8", "::/0"].map(|network| network.parse().expect("a network"));
    for trusted in [&[][..], &behind] {
        let mut headers = head.headers.clone();
        let client = ClientHeaders::new(peer, "http").set(&mut headers, trusted);
        assert_eq!(client, client_address(&head.headers, peer.ip(), trusted));
        if trusted.is_empty() {
            assert_eq!(client, peer.ip());
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
        // The next hop continues the same trace.
        let next = TraceContext::continue_or_start(&headers, 0.5, &mut rng);
        assert_eq!((next.trace_id, next.sampled), (trace.trace_id, trace.sampled));
        // The written head can be parsed.
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        headers.write(&mut text);
        text.extend_from_slice(b"\r\n");
        let mut again = RequestHead::default();
        assert_eq!(again.parse(&text, Limits { bytes: usize::MAX, headers: 200 }), Ok(Some(text.len())));
    }
});
