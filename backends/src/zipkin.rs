//! Reports spans to Zipkin (its version 2 JSON), in batches and behind the requests' backs.

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

/// Spans that may wait for the collector; more are dropped, and counted.
const QUEUE: usize = 1024;

/// Spans that go in one request at most.
const BATCH: usize = 100;

/// A span waits for others at most this long.
const LINGER: Duration = Duration::from_millis(500);

/// Where spans are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let form = "a collector's URL looks like http://127.0.0.1:9411/api/v2/spans";
        let uri: Uri = url.parse().map_err(|error| format!("`{url}`: {error}; {form}"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if uri.scheme() != Some(&Scheme::HTTP) || host.is_empty() {
            return Err(format!("`{url}`: {form}"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

/// The two ends of the queue of spans. The exporter ends when the reporter is gone.
pub(crate) fn channel(service: &str, collector: Collector) -> (Reporter, Exporter) {
    let (sender, spans) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let reporter = Reporter { service: service.to_owned(), sender, dropped: dropped.clone() };
    (reporter, Exporter { collector, spans, dropped })
}

/// The end that requests see: it never waits.
#[derive(Debug)]
pub(crate) struct Reporter {
    service: String,
    sender: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

impl Reporter {
    /// Begins this server's part of a request that came from `parent` to `local`.
    pub(crate) fn server(&self, parent: Parent, name: String, local: SocketAddr) -> Active<'_> {
        let endpoint = Endpoint::new(self.service.clone(), local);
        Active::begin(self, parent, Some(Kind::Server), name, endpoint)
    }

    /// How many spans did not reach the collector.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn report(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A span under way. Dropped without [`finish`](Self::finish) it is not reported.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    reporter: &'a Reporter,
    span: Span,
    clock: Instant,
}

impl<'a> Active<'a> {
    fn begin(
        reporter: &'a Reporter,
        parent: Parent,
        kind: Option<Kind>,
        name: String,
        local_endpoint: Endpoint,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let span = Span {
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
        Self { reporter, span, clock: Instant::now() }
    }

    /// Begins a part of this span.
    pub(crate) fn child(&self, name: &str) -> Self {
        let parent = Parent { trace: self.span.trace_id, span: self.span.id };
        let endpoint = self.span.local_endpoint.clone();
        Self::begin(self.reporter, parent, None, name.to_owned(), endpoint)
    }

    /// Says something about the span.
    pub(crate) fn tag(&mut self, key: &'static str, value: &str) {
        self.span.tags.insert(key, value.to_owned());
    }

    /// Ends the span and hands it to the exporter.
    pub(crate) fn finish(mut self) {
        // Zipkin takes 0 for "unknown".
        self.span.duration = micros(self.clock.elapsed()).max(1);
        self.reporter.report(self.span);
    }
}

/// The end that talks to the collector.
#[derive(Debug)]
pub(crate) struct Exporter {
    collector: Collector,
    spans: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
}

impl Exporter {
    /// Posts what comes, until the reporter is gone and everything is sent. What a collector does
    /// not take is dropped: nobody's request depends on it.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = self.spans.recv().await {
            batch.push(first);
            let others = async {
                while batch.len() < BATCH
                    && let Some(span) = self.spans.recv().await
                {
                    batch.push(span);
                }
            };
            let _ = timeout(LINGER, others).await;
            if !self.post(&batch).await {
                self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            batch.clear();
        }
    }

    async fn post(&self, batch: &[Span]) -> bool {
        let Collector { host, port, path } = &self.collector;
        let Ok(json) = serde_json::to_vec(batch) else {
            return false;
        };
        client::post(host, *port, path, json).await.is_ok_and(|status| status.is_success())
    }
}

/// A span as Zipkin reads it; times in microseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    trace_id: TraceId,
    id: SpanId,
    parent_id: SpanId,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    name: String,
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint,
    tags: BTreeMap<&'static str, String>,
}

/// Which side of a call a span stands for; a part of a span stands for none.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Server,
}

/// Who recorded a span.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    service_name: String,
    #[serde(flatten)]
    ip: Ip,
    port: u16,
}

impl Endpoint {
    fn new(service_name: String, address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(_) => Ip::Ipv4(address.ip()),
            IpAddr::V6(_) => Ip::Ipv6(address.ip()),
        };
        Self { service_name, ip, port: address.port() }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Ip {
    Ipv4(IpAddr),
    Ipv6(IpAddr),
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Collector;

    #[test]
    fn reads_a_collectors_url() {
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
            let expected = parts.map(|(host, port, path): (&str, u16, &str)| Collector {
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            });
            assert_eq!(url.parse().ok(), expected, "{url}");
        }
    }
}
