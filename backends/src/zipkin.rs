//! Reports spans to Zipkin as version 2 JSON, in batches, without delaying requests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Uri;
use http::uri::Scheme;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client;
use crate::trace::{Parent, SpanId, TraceId};

/// The most spans that wait for the exporter; beyond that they are dropped and counted.
const QUEUE: usize = 1024;

/// The most spans in one request.
const BATCH: usize = 100;

/// The longest time that a span waits for its batch to fill.
const LINGER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectorUrl {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for CollectorUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let hint = "write a URL such as http://127.0.0.1:9411/api/v2/spans";
        let uri: Uri = url.parse().map_err(|error| format!("invalid collector `{url}`: {error}; {hint}"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if uri.scheme() != Some(&Scheme::HTTP) || host.is_empty() {
            return Err(format!("invalid collector `{url}`: {hint}"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

/// The two ends of the span queue. The exporter ends when the reporter is dropped.
pub(crate) fn channel(service: &str, collector: CollectorUrl) -> (SpanReporter, SpanExporter) {
    let (sender, spans) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let reporter = SpanReporter { service: service.to_owned(), sender, dropped: dropped.clone() };
    (reporter, SpanExporter { collector, spans, dropped })
}

/// Queues spans without waiting.
#[derive(Debug)]
pub(crate) struct SpanReporter {
    service: String,
    sender: mpsc::Sender<ZipkinSpan>,
    dropped: Arc<AtomicU64>,
}

impl SpanReporter {
    /// Starts the server span of a request that `parent` sent to the address `local`.
    pub(crate) fn start(&self, parent: Parent, name: String, local: SocketAddr) -> ActiveSpan<'_> {
        let endpoint = ZipkinEndpoint::new(self.service.clone(), local);
        ActiveSpan::new(self, parent, Some(SpanKind::Server), name, endpoint)
    }

    /// The number of spans lost on the way to the collector.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn report(&self, span: ZipkinSpan) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A span that has not ended. If it is dropped without [`finish`](Self::finish), it is not reported.
#[derive(Debug)]
pub(crate) struct ActiveSpan<'a> {
    reporter: &'a SpanReporter,
    span: ZipkinSpan,
    started: Instant,
}

impl<'a> ActiveSpan<'a> {
    fn new(
        reporter: &'a SpanReporter,
        parent: Parent,
        kind: Option<SpanKind>,
        name: String,
        local_endpoint: ZipkinEndpoint,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let span = ZipkinSpan {
            trace_id: parent.trace,
            id: SpanId::random(),
            parent_id: parent.span,
            kind,
            name,
            timestamp: micros(now),
            duration: 0,
            local_endpoint,
            tags: BTreeMap::new(),
        };
        Self { reporter, span, started: Instant::now() }
    }

    /// Starts a child span.
    pub(crate) fn child(&self, name: &str) -> Self {
        let parent = Parent { trace: self.span.trace_id, span: self.span.id };
        let endpoint = self.span.local_endpoint.clone();
        Self::new(self.reporter, parent, None, name.to_owned(), endpoint)
    }

    pub(crate) fn tag(&mut self, key: &'static str, value: &str) {
        self.span.tags.insert(key, value.to_owned());
    }

    /// Ends the span and queues it for the exporter.
    pub(crate) fn finish(mut self) {
        // Zipkin reads 0 as "unknown".
        self.span.duration = micros(self.started.elapsed()).max(1);
        self.reporter.report(self.span);
    }
}

/// Posts spans to the collector.
#[derive(Debug)]
pub(crate) struct SpanExporter {
    collector: CollectorUrl,
    spans: mpsc::Receiver<ZipkinSpan>,
    dropped: Arc<AtomicU64>,
}

impl SpanExporter {
    /// Posts spans until the reporter is dropped and the queue is empty. Batches that the collector does not accept are
    /// dropped.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = self.spans.recv().await {
            batch.push(first);
            let fill = async {
                while batch.len() < BATCH
                    && let Some(span) = self.spans.recv().await
                {
                    batch.push(span);
                }
            };
            let _ = timeout(LINGER, fill).await;
            if !self.post(&batch).await {
                self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            batch.clear();
        }
    }

    async fn post(&self, batch: &[ZipkinSpan]) -> bool {
        let CollectorUrl { host, port, path } = &self.collector;
        let Ok(json) = serde_json::to_vec(batch) else {
            return false;
        };
        client::post(host, *port, path, json).await.is_ok_and(|status| status.is_success())
    }
}

/// A span in Zipkin's format. Times are in microseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan {
    trace_id: TraceId,
    id: SpanId,
    parent_id: SpanId,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<SpanKind>,
    name: String,
    timestamp: u64,
    duration: u64,
    local_endpoint: ZipkinEndpoint,
    tags: BTreeMap<&'static str, String>,
}

/// The side of a call that a span describes. A child within a server has none.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum SpanKind {
    Server,
}

/// The service that recorded a span.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinEndpoint {
    service_name: String,
    #[serde(flatten)]
    ip: IpVersion,
    port: u16,
}

impl ZipkinEndpoint {
    fn new(service_name: String, address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(_) => IpVersion::Ipv4(address.ip()),
            IpAddr::V6(_) => IpVersion::Ipv6(address.ip()),
        };
        Self { service_name, ip, port: address.port() }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum IpVersion {
    Ipv4(IpAddr),
    Ipv6(IpAddr),
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::CollectorUrl;

    #[test]
    fn collector_urls_are_parsed() {
        let cases = [
            ("http://127.0.0.1:9411/api/v2/spans", Some(("127.0.0.1", 9411, "/api/v2/spans"))),
            ("http://zipkin/api?x=1", Some(("zipkin", 80, "/api?x=1"))),
            ("http://[::1]:9411", Some(("::1", 9411, "/"))),
            ("https://zipkin/api", None),
            ("zipkin:9411", None),
            ("/api/v2/spans", None),
            ("http://", None),
            ("", None),
        ];
        for (url, parts) in cases {
            let expected = parts.map(|(host, port, path): (&str, u16, &str)| CollectorUrl {
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            });
            assert_eq!(url.parse().ok(), expected, "{url}");
        }
    }
}
