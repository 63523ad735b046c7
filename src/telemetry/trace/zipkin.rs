//! Zipkin, by `opentelemetry-zipkin`, which is deprecated upstream and so is used in this file only.
//!
//! Version 0.33 has no option for the names of services, its endpoints have only an address, and it gives
//! root spans a parent of sixteen zeros. Without names Zipkin can neither search by service nor draw the
//! graph of dependencies. So the JSON is parsed and completed between the exporter and the collector.

#![expect(deprecated, reason = "Zipkin's own protocol is what the configuration promises")]

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::SpanId;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use opentelemetry_zipkin::ZipkinExporter;
use serde_json::{Map, Value, json};

use super::exporter_queue::ExportError;
use super::post;

#[derive(Debug)]
pub(super) struct ZipkinClient(ZipkinExporter);

impl ZipkinClient {
    /// A client of the collector at `url`, with `service` as the service's name.
    ///
    /// # Errors
    /// Why `url` cannot be used.
    pub(super) fn new(url: &str, service: &str) -> Result<Self, String> {
        post::endpoint(url)?;
        ZipkinExporter::builder()
            .with_collector_endpoint(url)
            .with_http_client(CompletingClient { service: service.to_owned() })
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Sends `spans` in one request.
    ///
    /// # Errors
    /// When the collector did not accept them.
    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<(), ExportError> {
        self.0.export(spans).await.map_err(|error| ExportError::of_all(error.to_string()))
    }
}

/// Completes the exporter's JSON and sends it.
#[derive(Debug)]
struct CompletingClient {
    service: String,
}

impl HttpClient for CompletingClient {
    // The trait is declared with `#[async_trait]`; this is the signature that it expands to.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = complete(&body, &self.service)?;
            post::post(Request::from_parts(head, body.into()), post::TIMEOUT).await
        })
    }
}

/// Adds the name of the service, and for an attempt that of the server, and removes the parent of root spans.
fn complete(spans: &[u8], service: &str) -> serde_json::Result<Vec<u8>> {
    let mut spans: Vec<Map<String, Value>> = serde_json::from_slice(spans)?;
    for span in &mut spans {
        span.insert("localEndpoint".to_owned(), json!({ "serviceName": service }));
        if span.get("kind").is_some_and(|kind| kind == "CLIENT")
            && let Some(server) = span.get("tags").and_then(|tags| tags.get("lb.server")).cloned()
        {
            span.insert("remoteEndpoint".to_owned(), json!({ "serviceName": server }));
        }
        span.retain(|key, value| key != "parentId" || *value != SpanId::INVALID.to_string());
    }
    serde_json::to_vec(&spans)
}
