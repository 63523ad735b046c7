//! OpenTelemetry's own protocol, as JSON over HTTP.
//!
//! By hand: the mapping is stable and this small, while `opentelemetry-otlp` would bring a protobuf
//! library with its derive, and retries that sleep on the control plane's thread.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;
use serde_json::json;

use super::lane::Loss;
use crate::telemetry::trace::post;

/// A collector that speaks OTLP.
#[derive(Debug)]
pub(super) struct Otlp {
    endpoint: Uri,
    service: String,
}

impl Otlp {
    /// The collector at `url`, to which `lb` is `service`.
    ///
    /// # Errors
    /// In words, when `url` is not one.
    pub(super) fn new(url: &str, service: &str) -> Result<Self, String> {
        Ok(Self { endpoint: post::endpoint(url)?, service: service.to_owned() })
    }

    /// Sends `spans` in one request.
    ///
    /// # Errors
    /// When the collector did not take all of them.
    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<(), Loss> {
        let mut request = Request::new(Bytes::from(body(&spans, &self.service).to_string()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = post::post(request, post::TIMEOUT).await.map_err(|error| Loss::of_all(error.to_string()))?;
        refusal(answer.status(), answer.body()).map_or(Ok(()), Err)
    }
}

/// An `ExportTraceServiceRequest`. All spans are of one scope: our own.
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
    /// Bits above the eight of the W3C: that the parent's place is known, and that it is another process.
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
        // What the error is stands in `error.type`.
        "status": if matches!(span.status, Status::Error { .. }) { json!({ "code": 2 }) } else { json!({}) },
    });
    if span.parent_span_id != SpanId::INVALID {
        json["parentSpanId"] = span.parent_span_id.to_string().into();
    }
    json
}

fn attribute(attribute: &KeyValue) -> serde_json::Value {
    // Numbers of 64 bits are strings in protobuf's JSON.
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

/// What an answer says against the spans, if it does. An answer with `partialSuccess` is no failure
/// as a whole.
fn refusal(status: StatusCode, body: &[u8]) -> Option<Loss> {
    if !status.is_success() {
        return Some(Loss::of_all(format!("the collector answered {status}")));
    }
    // An empty body, or none that is JSON, says nothing.
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let partial = answer.get("partialSuccess")?;
    let rejected = partial.get("rejectedSpans")?;
    let spans = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).filter(|spans| *spans > 0)?;
    let why = partial.get("errorMessage").and_then(serde_json::Value::as_str).unwrap_or("it does not say why");
    Some(Loss { spans: Some(spans), problem: format!("the collector rejected spans: {why}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_refuse_all_or_some() {
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
                Some((Some(1), "the collector rejected spans: it does not say why")),
            ),
            (503, some, Some((None, "the collector answered 503 Service Unavailable"))),
        ];
        for (status, body, expected) in cases {
            let loss = refusal(StatusCode::from_u16(status).expect("a status"), body);
            let loss = loss.as_ref().map(|loss| (loss.spans, loss.problem.as_str()));
            assert_eq!(loss, expected, "{status} {}", body.escape_ascii());
        }
    }
}
