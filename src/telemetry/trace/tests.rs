//! Tests of the export to a collector on a real socket.

use super::*;
use crate::telemetry::trace::exporter_queue::{BATCH, QUEUE};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// The span of a client's request.
pub(super) fn request(span_id: u64) -> Span {
    Span {
        trace_id: 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124,
        span_id,
        parent_span_id: None,
        start: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_309_323_456_789),
        duration: Duration::from_micros(1_500),
        method: http::Method::GET,
        scheme: "http",
        path: "/v1/things".into(),
        version: http::Version::HTTP_11,
        address: Some(("example.com".into(), None)),
        status: Some(200),
        grpc_status: None,
        error: None,
        route: Some("things".into()),
        pool: Some("api".into()),
        server: Some("api-1".into()),
        generation: 7,
        side: SpanSide::Client { address: std::net::IpAddr::from([127, 0, 0, 9]).into(), path: Some("/v1".into()) },
    }
}

/// The span of an attempt.
pub(super) fn attempt(parent: u64) -> Span {
    Span {
        span_id: parent + 1,
        parent_span_id: Some(parent),
        address: Some(("127.0.0.1".into(), Some(9001))),
        status: Some(502),
        side: SpanSide::Upstream { resend_count: 1 },
        ..request(parent)
    }
}

/// A collector that hands over each batch that it receives.
struct FakeCollector {
    url: String,
    batches: mpsc::UnboundedReceiver<Value>,
}

impl FakeCollector {
    /// A Zipkin collector that responds with `status`.
    async fn start(status: &'static str) -> Self {
        Self::at("/api/v2/spans", status, "").await
    }

    /// One that responds to requests for `path` with `status` and `body`.
    async fn at(path: &'static str, status: &'static str, body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}{path}", listener.local_addr().expect("an address"));
        let (received, batches) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut head = Vec::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.expect("a head");
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    head.push(line);
                }
                assert_eq!(head.first().map(String::as_str), Some(&*format!("POST {path} HTTP/1.1\r\n")));
                let mut sent = vec![0; length];
                stream.read_exact(&mut sent).await.expect("a body");
                let response = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(response.as_bytes()).await.expect("written");
                if received.send(serde_json::from_slice(&sent).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        Self { url, batches }
    }

    /// The next batch.
    async fn next(&mut self) -> Value {
        timeout(SOON, self.batches.recv()).await.expect("a batch, soon").expect("a batch")
    }

    /// The spans of the next batch, if this is a Zipkin collector.
    async fn batch(&mut self) -> Vec<Value> {
        let Value::Array(spans) = self.next().await else { panic!("an array of spans") };
        spans
    }
}

fn config(zipkin: Option<&str>, service: &str) -> config::TracingConfig {
    config::TracingConfig { zipkin: zipkin.map(Into::into), otlp: None, service: service.to_owned(), sample: 1.0 }
}

fn otlp(url: &str) -> config::TracingConfig {
    config::TracingConfig { otlp: Some(url.into()), ..config(None, "edge") }
}

#[tokio::test]
async fn spans_arrive_in_zipkins_format() {
    let mut collector = FakeCollector::start("202 Accepted").await;
    let (sink, export) = start(&config(Some(&collector.url), "edge"));
    assert!(sink.enabled());
    sink.record(request(1));
    sink.record(attempt(1));
    // Two spans are no batch, so these are sent at the interval.
    let spans = collector.batch().await;
    let scope = env!("CARGO_PKG_VERSION");
    assert_eq!(
        spans,
        [
            json!({
                "traceId": "463ac35c9f6413ad48485a3953bb6124", "id": "0000000000000001",
                "kind": "SERVER", "name": "GET /v1", "timestamp": 1_795_309_323_456_789_u64, "duration": 1500,
                "localEndpoint": {"serviceName": "edge"}, "annotations": [], "debug": false, "shared": false,
                "tags": {
                    "http.request.method": "GET", "url.scheme": "http", "url.path": "/v1/things",
                    "http.response.status_code": "200", "http.route": "/v1", "server.address": "example.com",
                    "client.address": "127.0.0.9", "network.protocol.version": "1.1",
                    "lb.route": "things", "lb.pool": "api", "lb.server": "api-1", "lb.generation": "7",
                    "otel.library.name": "lb", "otel.library.version": scope,
                },
            }),
            json!({
                "traceId": "463ac35c9f6413ad48485a3953bb6124", "id": "0000000000000002", "parentId": "0000000000000001",
                "kind": "CLIENT", "name": "GET", "timestamp": 1_795_309_323_456_789_u64, "duration": 1500,
                "localEndpoint": {"serviceName": "edge"}, "remoteEndpoint": {"serviceName": "api-1"},
                "annotations": [], "debug": false, "shared": false,
                "tags": {
                    "http.request.method": "GET", "url.scheme": "http", "url.path": "/v1/things",
                    "http.response.status_code": "502", "error.type": "502", "error": "502",
                    "otel.status_code": "ERROR", "server.address": "127.0.0.1", "server.port": "9001",
                    "http.request.resend_count": "1", "network.protocol.version": "1.1",
                    "lb.route": "things", "lb.pool": "api", "lb.server": "api-1", "lb.generation": "7",
                    "otel.library.name": "lb", "otel.library.version": scope,
                },
            }),
        ]
    );
    assert!(export.shutdown(SOON).await);
    assert_eq!((sink.exported(), sink.dropped(), sink.enabled()), (2, 0, false));
}

#[tokio::test]
async fn spans_arrive_in_otlp_format() {
    let mut collector = FakeCollector::at("/v1/traces", "200 OK", "{}").await;
    let (sink, export) = start(&otlp(&collector.url));
    sink.record(request(1));
    sink.record(attempt(1));
    let string = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let int = |key: &str, value: &str| json!({ "key": key, "value": { "intValue": value } });
    let scope = json!({ "name": "lb", "version": env!("CARGO_PKG_VERSION") });
    let (start, end) = ("1795309323456789000", "1795309323458289000");
    assert_eq!(
        collector.next().await,
        json!({ "resourceSpans": [{
            "resource": { "attributes": [string("service.name", "edge")] },
            "scopeSpans": [{ "scope": scope, "spans": [
                {
                    "traceId": "463ac35c9f6413ad48485a3953bb6124", "spanId": "0000000000000001", "flags": 0x301,
                    "name": "GET /v1", "kind": 2, "startTimeUnixNano": start, "endTimeUnixNano": end, "status": {},
                    "attributes": [
                        string("http.request.method", "GET"), string("url.scheme", "http"),
                        string("url.path", "/v1/things"), int("lb.generation", "7"),
                        string("network.protocol.version", "1.1"), string("server.address", "example.com"),
                        int("http.response.status_code", "200"), string("lb.route", "things"), string("lb.pool", "api"),
                        string("lb.server", "api-1"), string("client.address", "127.0.0.9"),
                        string("http.route", "/v1"),
                    ],
                },
                {
                    "traceId": "463ac35c9f6413ad48485a3953bb6124", "spanId": "0000000000000002", "flags": 0x101,
                    "parentSpanId": "0000000000000001",
                    "name": "GET", "kind": 3, "startTimeUnixNano": start, "endTimeUnixNano": end,
                    "status": { "code": 2 },
                    "attributes": [
                        string("http.request.method", "GET"), string("url.scheme", "http"),
                        string("url.path", "/v1/things"), int("lb.generation", "7"),
                        string("network.protocol.version", "1.1"), string("server.address", "127.0.0.1"),
                        int("server.port", "9001"), int("http.response.status_code", "502"),
                        string("error.type", "502"), string("lb.route", "things"), string("lb.pool", "api"), string("lb.server", "api-1"),
                        int("http.request.resend_count", "1"),
                    ],
                },
            ] }],
        }] })
    );
    assert!(export.shutdown(SOON).await);
    assert_eq!((sink.exported(), sink.dropped()), (2, 0));
}

#[tokio::test]
async fn spans_that_a_collector_rejects_are_counted_as_dropped() {
    let some = r#"{"partialSuccess":{"rejectedSpans":"2"}}"#;
    let collector = FakeCollector::at("/v1/traces", "200 OK", some).await;
    let (sink, export) = start(&otlp(&collector.url));
    for id in 1..=3 {
        sink.record(request(id));
    }
    assert!(export.shutdown(SOON).await);
    assert_eq!((sink.exported(), sink.dropped()), (1, 2));
}

#[tokio::test]
async fn two_collectors_receive_all_spans_and_do_not_wait_for_each_other() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut collector = FakeCollector::at("/v1/traces", "200 OK", "{}").await;
    let url = format!("http://{}/api/v2/spans", silent.local_addr().expect("an address"));
    let (sink, export) = start(&config::TracingConfig { zipkin: Some(url.into()), ..otlp(&collector.url) });
    sink.record(request(1));
    collector.next().await;
    let _connection = timeout(SOON, silent.accept()).await.expect("a connection, soon").expect("a connection");
    // Zipkin's exporter is still busy with the first.
    sink.record(request(2));
    collector.next().await;
    drop(export);
}

#[tokio::test]
async fn only_a_full_batch_wakes_the_exporter() {
    let (sink, export) = start(&config(Some("http://127.0.0.1:0/"), "lb"));
    for (id, woken) in (1..=BATCH as u64).map(|id| (id, id == BATCH as u64)) {
        sink.record(request(id));
        let is_woken = tokio::select! {
            biased;
            () = sink.zipkin.woken() => true,
            () = std::future::ready(()) => false,
        };
        assert_eq!(is_woken, woken, "span {id}");
    }
    drop(export);
}

#[tokio::test]
async fn a_shutdown_sends_the_queued_spans_in_batches() {
    let mut collector = FakeCollector::start("202 Accepted").await;
    let (sink, export) = start(&config(Some(&collector.url), "lb"));
    for id in 1..=BATCH as u64 + 10 {
        sink.record(request(id));
    }
    assert!(export.shutdown(SOON).await);
    assert_eq!(collector.batch().await.len(), BATCH);
    assert_eq!(collector.batch().await.len(), 10);
    assert_eq!(sink.exported(), BATCH as u64 + 10);
}

#[tokio::test]
async fn a_reload_changes_the_collector_and_switches_the_export_off_and_on() {
    let mut first = FakeCollector::start("202 Accepted").await;
    let mut second = FakeCollector::start("202 Accepted").await;
    let (sink, export) = start(&config(Some(&first.url), "lb"));
    sink.record(request(1));
    assert_eq!(first.batch().await.len(), 1);

    export.apply(&config(Some(&second.url), "edge"));
    sink.record(request(2));
    let batch = second.batch().await;
    assert_eq!(
        (&batch[0]["id"], &batch[0]["localEndpoint"]["serviceName"]),
        (&json!("0000000000000002"), &json!("edge"))
    );

    export.apply(&config(None, "edge"));
    while sink.enabled() {
        tokio::task::yield_now().await;
    }
    sink.record(request(3));
    export.apply(&config(Some(&first.url), "lb"));
    while !sink.enabled() {
        tokio::task::yield_now().await;
    }
    sink.record(request(4));
    assert_eq!(first.batch().await[0]["id"], "0000000000000004");
    assert!(export.shutdown(SOON).await);
    assert_eq!((sink.exported(), sink.dropped()), (3, 0));
}

#[tokio::test]
async fn a_collector_that_is_down_or_rejects_costs_only_spans() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let down = format!("http://{}/api/v2/spans", listener.local_addr().expect("an address"));
    drop(listener);
    let rejecting = FakeCollector::start("400 Bad Request").await;
    for url in [&down, &rejecting.url] {
        let (sink, export) = start(&config(Some(url), "lb"));
        sink.record(request(1));
        assert!(export.shutdown(SOON).await);
        assert_eq!((sink.exported(), sink.dropped()), (0, 1), "{url}");
    }
}

#[tokio::test]
async fn a_silent_collector_delays_neither_requests_nor_the_shutdown() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/api/v2/spans", silent.local_addr().expect("an address"));
    let (sink, export) = start(&config(Some(&url), "lb"));
    for id in 1..=BATCH as u64 {
        sink.record(request(id));
    }
    // The collector has accepted a connection, so one batch has left the queue and waits for a response.
    let _connection = timeout(SOON, silent.accept()).await.expect("a connection, soon").expect("a connection");
    for id in 1..=QUEUE as u64 + 10 {
        sink.record(request(id));
    }
    assert_eq!(sink.dropped(), 10);
    assert!(!export.shutdown(Duration::from_millis(20)).await);
    // The exporter has ended.
    sink.record(request(1));
    assert_eq!(sink.exported(), 0);
}

#[tokio::test]
async fn an_unusable_url_switches_the_export_off() {
    let (sink, export) = start(&config(Some("https://zipkin/"), "lb"));
    assert!(!sink.enabled());
    sink.record(request(1));
    assert!(export.shutdown(SOON).await);
    assert_eq!((sink.exported(), sink.dropped()), (0, 0));
}
