//! Zipkin, through `opentelemetry-zipkin`, which no other file names: it is deprecated upstream.

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

use super::lane::Loss;
use crate::telemetry::trace::post;

/// A Zipkin collector.
#[derive(Debug)]
pub(super) struct Zipkin(ZipkinExporter);

impl Zipkin {
    /// The collector at `url`, to which `lb` is `service`.
    ///
    /// # Errors
    /// In words, when `url` is not one.
    pub(super) fn new(url: &str, service: &str) -> Result<Self, String> {
        post::endpoint(url)?;
        ZipkinExporter::builder()
            .with_collector_endpoint(url)
            .with_http_client(Client { service: service.to_owned() })
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Sends `spans` in one request.
    ///
    /// # Errors
    /// When the collector did not take them.
    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<(), Loss> {
        self.0.export(spans).await.map_err(|error| Loss::of_all(error.to_string()))
    }
}

/// Sends what the exporter made, after completing it.
#[derive(Debug)]
struct Client {
    service: String,
}

impl HttpClient for Client {
    // What `#[async_trait]` makes of it, without that crate.
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

/// Adds what `opentelemetry-zipkin` 0.33 cannot say: the service's name, and that of a try's other
/// end, without which there is no graph of dependencies. And takes away the parent of spans that have none.
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
