//! The demo server's spans in its callers' traces, as a collector receives them.

use backends::Options;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::{ANYWHERE, FakeCollector, RunningServer, soon};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const CALLER: &str = "e457b5a2e4d86bd1";

async fn traced(url: &str) -> RunningServer {
    let mut options = Options::new("server1", ANYWHERE);
    options.zipkin = Some(url.to_owned());
    RunningServer::start(options).await
}

#[tokio::test]
async fn traces_are_joined_in_each_format() {
    let single = format!("{TRACE}-{CALLER}-1");
    let w3c = format!("00-{TRACE}-{CALLER}-01");
    let formats: [&[(&str, &str)]; 3] = [
        &[("b3", &single)],
        &[("X-B3-TraceId", TRACE), ("X-B3-SpanId", CALLER), ("X-B3-Sampled", "1")],
        &[("traceparent", &w3c)],
    ];
    let mut collector = FakeCollector::start().await;
    let server = traced(&collector.url).await;
    for headers in formats {
        server.get_with("/some/path", headers).await;
        let span = collector.next().await;
        assert_eq!(span["traceId"], TRACE, "{headers:?}");
        assert_eq!(span["parentId"], CALLER, "{headers:?}");
        let id = span["id"].as_str().expect("an id");
        assert!(id.len() == 16 && id != CALLER, "an id of its own: {id}");
        assert_eq!(span["kind"], "SERVER");
        assert_eq!(span["name"], "GET");
        assert_eq!(span["localEndpoint"]["serviceName"], "server1");
        assert_eq!(span["localEndpoint"]["ipv4"], "127.0.0.1");
        assert_eq!(span["localEndpoint"]["port"], server.address.port());
        assert_eq!(span["tags"]["http.request.method"], "GET");
        assert_eq!(span["tags"]["url.path"], "/some/path");
        assert_eq!(span["tags"]["http.response.status_code"], "200");
        assert!(span["duration"].as_u64().expect("a duration") > 0);
    }
}

#[tokio::test]
async fn unsampled_requests_have_no_span() {
    let mut collector = FakeCollector::start().await;
    let server = traced(&collector.url).await;
    let (single, w3c) = (format!("{TRACE}-{CALLER}-0"), format!("00-{TRACE}-{CALLER}-00"));
    server.get("/").await;
    server.get_with("/", &[("b3", &single)]).await;
    server.get_with("/", &[("traceparent", &w3c)]).await;
    soon(server.stop()).await.expect("no panic");
    assert_eq!(collector.pending(), None);
}

#[tokio::test]
async fn a_slow_request_has_a_child_span_and_spans_are_sent_at_shutdown() {
    let mut collector = FakeCollector::start().await;
    let server = traced(&collector.url).await;
    let w3c = format!("00-{TRACE}-{CALLER}-01");
    server.get_with("/slow?seconds=0.05", &[("traceparent", &w3c)]).await;
    soon(server.stop()).await.expect("no panic");

    let spans: Vec<Value> = std::iter::from_fn(|| collector.pending()).collect();
    let [inner, outer] = spans.as_slice() else {
        panic!("expected two spans after shutdown: {spans:?}");
    };
    assert_eq!(outer["name"], "GET /slow");
    assert_eq!(outer["tags"]["http.route"], "/slow");
    assert_eq!(inner["name"], "sleep");
    assert_eq!(inner.get("kind"), None);
    assert_eq!(inner["traceId"], TRACE);
    assert_eq!(inner["parentId"], outer["id"]);
    assert!(inner["duration"].as_u64().expect("a duration") >= 50_000);
    assert!(outer["duration"].as_u64() >= inner["duration"].as_u64());
}

#[tokio::test]
async fn spans_without_a_collector_are_counted() {
    let listener = TcpListener::bind(ANYWHERE).await.expect("bind");
    let url = format!("http://{}/api/v2/spans", listener.local_addr().expect("an address"));
    drop(listener);
    let server = traced(&url).await;
    let w3c = format!("00-{TRACE}-{CALLER}-01");
    server.get_with("/", &[("traceparent", &w3c)]).await;
    let counted = async {
        while server.get("/metrics").await.metric("demo_spans_dropped_total") != Some(1) {
            tokio::task::yield_now().await;
        }
    };
    soon(counted).await;
}
