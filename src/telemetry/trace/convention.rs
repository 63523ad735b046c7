//! Names, attributes and errors of spans, by OpenTelemetry's conventions for HTTP. Pure.

use http::{Method, Version};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Span, SpanSide};

/// Converts a span to the form that both exporters take.
pub(super) fn span_data(span: Span) -> SpanData {
    let error = error_type(&span);
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace_id),
            SpanId::from(span.span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent_span_id.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: matches!(span.side, SpanSide::Client { .. }),
        span_kind: match span.side {
            SpanSide::Client { .. } => SpanKind::Server,
            SpanSide::Upstream { .. } => SpanKind::Client,
        },
        name: name(&span).into(),
        start_time: span.start,
        end_time: span.start + span.duration,
        status: error.clone().map_or(Status::Unset, Status::error),
        attributes: attributes(span, error),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        instrumentation_scope: InstrumentationScope::builder("lb").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

fn name(span: &Span) -> String {
    let method = known_method(&span.method).unwrap_or("HTTP");
    match &span.side {
        SpanSide::Client { path: Some(path), .. } => format!("{method} {path}"),
        _ => method.to_owned(),
    }
}

fn attributes(span: Span, error: Option<String>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("http.request.method", known_method(&span.method).unwrap_or("_OTHER")),
        KeyValue::new("url.scheme", span.scheme),
        KeyValue::new("url.path", span.path),
        KeyValue::new("lb.generation", i64::try_from(span.generation).unwrap_or(i64::MAX)),
    ];
    let mut add = |attribute: Option<KeyValue>| attributes.extend(attribute);
    add(protocol_version(span.version).map(|version| KeyValue::new("network.protocol.version", version)));
    if let Some((address, port)) = span.address {
        add(Some(KeyValue::new("server.address", address)));
        add(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    add(span.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
    add(span.grpc_status.map(|status| KeyValue::new("rpc.grpc.status_code", i64::from(status))));
    add(error.map(|error| KeyValue::new("error.type", error)));
    add(span.route.map(|route| KeyValue::new("lb.route", route)));
    add(span.pool.map(|pool| KeyValue::new("lb.pool", pool)));
    add(span.server.map(|server| KeyValue::new("lb.server", server)));
    match span.side {
        SpanSide::Client { address, path } => {
            add(Some(KeyValue::new("client.address", address.to_string())));
            add(path.map(|path| KeyValue::new("http.route", path)));
        }
        SpanSide::Upstream { resend_count } => {
            add((resend_count > 0).then(|| KeyValue::new("http.request.resend_count", i64::from(resend_count))));
        }
    }
    if known_method(&span.method).is_none() {
        add(Some(KeyValue::new("http.request.method_original", span.method.to_string())));
    }
    attributes
}

/// Returns the value of `error.type`. A 4xx is an error of the client, so only a span of kind `CLIENT` has it as one.
fn error_type(span: &Span) -> Option<String> {
    match (&span.side, span.status) {
        (SpanSide::Client { .. }, Some(400..=499)) => None,
        (_, status) => {
            let status = status.filter(|status| *status >= 400);
            span.error.map(str::to_owned).or(status.map(|status| status.to_string()))
        }
    }
}

/// Returns the method if the conventions list it. Others are chosen by clients and would make unbounded names.
fn known_method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| method == known)
}

fn protocol_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace::tests::{attempt, request};

    #[test]
    fn names_and_errors_follow_the_conventions() {
        let client = |method: &str, status, error| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            Span { method, status, error, ..request(1) }
        };
        let upstream = |method: &str, status, error| Span { side: attempt(1).side, ..client(method, status, error) };
        let cases = [
            (client("GET", Some(200), None), "GET /v1", None),
            (client("GET", Some(404), None), "GET /v1", None),
            (client("GET", Some(404), Some("no_route")), "GET /v1", None),
            (client("GET", Some(503), None), "GET /v1", Some("503")),
            (client("GET", Some(503), Some("no_server")), "GET /v1", Some("no_server")),
            (client("GET", None, Some("client_gone")), "GET /v1", Some("client_gone")),
            (client("BREW", Some(200), None), "HTTP /v1", None),
            (upstream("POST", Some(399), None), "POST", None),
            (upstream("POST", Some(404), None), "POST", Some("404")),
            (upstream("POST", None, Some("unreachable")), "POST", Some("unreachable")),
            (upstream("BREW", Some(200), None), "HTTP", None),
        ];
        for (span, expected_name, expected_error) in cases {
            assert_eq!(name(&span), expected_name, "{span:?}");
            assert_eq!(error_type(&span).as_deref(), expected_error, "{span:?}");
        }
    }

    #[test]
    fn an_unknown_method_is_reported_as_other() {
        let span = Span { method: Method::from_bytes(b"BREW").expect("a method"), ..request(1) };
        let attributes = attributes(span, None);
        assert!(attributes.contains(&KeyValue::new("http.request.method", "_OTHER")));
        assert!(attributes.contains(&KeyValue::new("http.request.method_original", "BREW")));
    }
}
