//! What a server is told of who asked: forwarding fields, the trace and the request id, of any fields that came.
#![no_main]

use std::net::SocketAddr;

use lb::proxy::forwarded::{ClientFields, client_address};
use lb::proxy::head::{Limits, RequestHead};
use lb::proxy::name::Name;
use lb::proxy::trace_context::TraceContext;
use lb::proxy::{fields, request_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Only fields come, so that nothing has to be guessed before they are looked at.
    let text = [b"GET / HTTP/1.1\r\n", bytes, b"\r\n\r\n"].concat();
    let mut head = RequestHead::default();
    let Ok(Some(_)) = head.parse(&text, Limits { bytes: 8192, fields: 100 }) else { return };
    let mut rng = fastrand::Rng::with_seed(1);
    let trace = TraceContext::continue_or_start(&head.fields, 0.5, &mut rng);
    assert!(trace.trace_id != 0 && trace.span_id != 0);
    request_id::ensure(&mut head.fields, &mut rng);
    let ids: Vec<_> = head.fields.all(Name::RequestId).collect();
    assert!(ids.len() == 1 && !ids[0].is_empty() && ids[0].iter().all(u8::is_ascii_graphic), "{ids:?}");
    if hop_by_hop::prepare_request(&mut head.fields, head.version).is_err() {
        return;
    }
    assert!(!head.fields.has(Name::Connection) && !head.fields.has(Name::TransferEncoding));
    let peer = SocketAddr::from(([192, 0, 2, 1], 1234));
    let behind = ["192.0.2.0/24", "10.0.0.0/8", "::/0"].map(|network| network.parse().expect("a network"));
    for trusted in [&[][..], &behind] {
        let mut fields = head.fields.clone();
        let client = ClientFields::new(peer, "http").set(&mut fields, trusted);
        assert_eq!(client, client_address(&head.fields, peer.ip(), trusted));
        if trusted.is_empty() {
            assert_eq!(client, peer.ip());
            assert_eq!(fields.get(Name::ForwardedFor), Some(&b"192.0.2.1"[..]));
        }
        trace.write(&mut fields);
        for name in [Name::ForwardedFor, Name::ForwardedProto, Name::Forwarded, Name::Traceparent, Name::B3] {
            assert_eq!(fields.all(name).count(), 1, "{name:?}");
        }
        // The next hop goes on with the same trace.
        let next = TraceContext::continue_or_start(&fields, 0.5, &mut rng);
        assert_eq!((next.trace_id, next.sampled), (trace.trace_id, trace.sampled));
        // And what goes to it is a head again.
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        fields.write(&mut text);
        text.extend_from_slice(b"\r\n");
        let mut again = RequestHead::default();
        assert_eq!(again.parse(&text, Limits { bytes: usize::MAX, fields: 200 }), Ok(Some(text.len())));
    }
});
