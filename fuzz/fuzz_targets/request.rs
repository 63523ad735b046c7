//! What is made of a request's head: its target, its fields for the server, its trace, its cookies.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use lb::config::Sticky;
use lb::proxy::forwarded::ClientFields;
use lb::proxy::head::{Limits, RequestHead};
use lb::proxy::name::Name;
use lb::proxy::target::{Asked, target};
use lb::proxy::trace_context::TraceContext;
use lb::proxy::{fields, framing, request_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut head = RequestHead::default();
    let Ok(Some(_)) = head.parse(bytes, Limits { bytes: 8192, fields: 100 }) else { return };
    let mut rng = fastrand::Rng::with_seed(1);
    if let Ok(Asked::Resource(asked)) = target(&head.method, head.target(), head.version, &head.fields) {
        assert!(asked.path.starts_with('/'));
        assert!(!asked.path.split('/').any(|segment| segment == ".." || segment == "."), "{}", asked.path);
        assert!(!asked.host.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '), "{}", asked.host);
    }
    // Whatever the framing is, it is one.
    let _ = framing::request(&head.fields, head.version);
    let rule = Sticky { cookie: "lb".to_owned(), max_age: Duration::from_secs(1) };
    let _ = lb::sticky::requested(&rule, &head.fields);
    let trace = TraceContext::continue_or_start(&head.fields, 0.5, &mut rng);
    assert!(trace.trace_id != 0 && trace.span_id != 0);
    let id = request_id::request_id(&head.fields, &mut rng);
    assert!(!id.as_bytes().is_empty() && id.as_bytes().iter().all(u8::is_ascii_graphic));
    let trusts = bytes.len() % 2 == 0;
    if fields::prepare_request(&mut head.fields, head.version).is_err() {
        return;
    }
    assert!(!head.fields.has(Name::Connection) && !head.fields.has(Name::TransferEncoding));
    let peer = SocketAddr::from(([192, 0, 2, 1], 1234));
    let trusted: Vec<ipnet::IpNet> = if trusts { vec!["192.0.2.0/24".parse().expect("a network")] } else { Vec::new() };
    ClientFields::new(peer, "http").set(&mut head.fields, &trusted);
    trace.write(&mut head.fields);
    for name in [Name::ForwardedFor, Name::ForwardedProto, Name::Forwarded, Name::Traceparent, Name::B3] {
        assert_eq!(head.fields.all(name).count(), 1, "{name:?}");
    }
    // What goes to the server is a head again.
    let mut text = b"GET / HTTP/1.1\r\n".to_vec();
    head.fields.write(&mut text);
    text.extend_from_slice(b"\r\n");
    let mut again = RequestHead::default();
    assert_eq!(again.parse(&text, Limits { bytes: usize::MAX, fields: 200 }), Ok(Some(text.len())));
});
