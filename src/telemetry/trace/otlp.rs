//! OTLP, OpenTelemetry's own protocol, as JSON over HTTP.
//!
//! Written by hand: the mapping is stable and small, while `opentelemetry-otlp` would add a protobuf
//! library with its derive macros, and retries that sleep on the control plane's thread.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;
use serde_json::json;

use super::exporter_queue::ExportError;
use crate::telemetry::trace::post;

#[derive(Debug)]
pub(super) struct OtlpClient {
    endpoint: Uri,
    service: String,
}

impl OtlpClient {
    /// A client of the collector at `url`, with `service` as the service's name.
    ///
    /// # Errors
    /// Why `url` cannot be used.
    pub(super) fn new(url: &str, service: &str) -> Result<Self, String> {
        Ok(Self { endpoint: post::endpoint(url)?, service: service.to_owned() })
    }

    /// Sends `spans` in one request.
    ///
    /// # Errors
    /// When the collector did not accept all of them.
    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<(), ExportError> {
        let mut request = Request::new(Bytes::from(body(&spans, &self.service).to_string()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response =
            post::post(request, post::TIMEOUT).await.map_err(|error| ExportError::of_all(error.to_string()))?;
        rejection(response.status(), response.body()).map_or(Ok(()), Err)
    }
}

/// An `ExportTraceServiceRequest`. All spans have one scope, our own.
fn body(spans: &[SpanData], service: &str) -> serde_json::Value {
    let scope = spans.first().map(|span| scope(&span.instrumentation_scope));
    let spans: Vec<_> = spans.iter().map(span).collect();
    json!({
        "resourceSpans": [{
            "resource": { "attributes": [attribute(&KeyValue::new("service.name", service.to_owned()))] },
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }],
    })
}

fn scope(scope: &InstrumentationScope) -> serde_json::Value {
    json!({ "name": scope.name(), "version": scope.version() })
}

fn span(span: &SpanData) -> serde_json::Value {
    /// Flags above the W3C's eight bits: whether it is known where the parent is, and whether that is another process.
    const PARENT_KNOWN: u32 = 0x100;
    const PARENT_REMOTE: u32 = 0x200;
    let remote = if span.parent_span_is_remote { PARENT_REMOTE } else { 0 };
    let mut json = json!({
        "traceId": span.span_context.trace_id().to_string(),
        "spanId": span.span_context.span_id().to_string(),
        "flags": u32::from(span.span_context.trace_flags().to_u8()) | PARENT_KNOWN | remote,
        "name": span.name,
        "kind": kind(&span.span_kind),
        "startTimeUnixNano": nanos(span.start_time),
        "endTimeUnixNano": nanos(span.end_time),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
        // The error itself is in `error.type`.
        "status": if matches!(span.status, Status::Error { .. }) { json!({ "code": 2 }) } else { json!({}) },
    });
    if span.parent_span_id != SpanId::INVALID {
        json["parentSpanId"] = span.parent_span_id.to_string().into();
    }
    json
}

fn attribute(attribute: &KeyValue) -> serde_json::Value {
    // 64-bit integers are strings in protobuf's JSON.
    let value = match &attribute.value {
        Value::I64(number) => json!({ "intValue": number.to_string() }),
        Value::Bool(truth) => json!({ "boolValue": truth }),
        other => json!({ "stringValue": other.as_str() }),
    };
    json!({ "key": attribute.key.as_str(), "value": value })
}

fn kind(kind: &SpanKind) -> u8 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// Returns the spans that a response rejects: all, or some by `partialSuccess`.
fn rejection(status: StatusCode, body: &[u8]) -> Option<ExportError> {
    if !status.is_success() {
        return Some(ExportError::of_all(format!("the collector responded with {status}")));
    }
    // A body that is empty or not JSON rejects nothing.
    let response: serde_json::Value = serde_json::from_slice(body).ok()?;
    let partial = response.get("partialSuccess")?;
    let rejected = partial.get("rejectedSpans")?;
    let spans = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).filter(|spans| *spans > 0)?;
    let reason = partial.get("errorMessage").and_then(serde_json::Value::as_str).unwrap_or("no reason given");
    Some(ExportError { spans: Some(spans), reason: format!("the collector rejected spans: {reason}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_may_reject_all_or_some() {
        let some = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        let cases: [(u16, &[u8], _); 7] = [
            (200, b"{}", None),
            (200, b"", None),
            (200, b"thanks", None),
            (200, br#"{"partialSuccess":{"errorMessage":"a warning"}}"#, None),
            (200, some, Some((Some(3), "the collector rejected spans: too old"))),
            (
                200,
                br#"{"partialSuccess":{"rejectedSpans":1}}"#,
                Some((Some(1), "the collector rejected spans: no reason given")),
            ),
            (503, some, Some((None, "the collector responded with 503 Service Unavailable"))),
        ];
        for (status, body, expected) in cases {
            let error = rejection(StatusCode::from_u16(status).expect("a status"), body);
            let error = error.as_ref().map(|error| (error.spans, error.reason.as_str()));
            assert_eq!(error, expected, "{status} {}", body.escape_ascii());
        }
    }
}
