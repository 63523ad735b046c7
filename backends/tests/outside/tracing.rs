//! The demo server's part in other servers' traces, as a collector sees it.

use backends::Options;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::{ANYWHERE, Collector, Running, soon};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const CALLER: &str = "e457b5a2e4d86bd1";

async fn traced(url: &str) -> Running {
    let mut options = Options::new("server1", ANYWHERE);
    options.zipkin = Some(url.to_owned());
    Running::start(options).await
}

#[tokio::test]
async fn joins_a_trace_in_each_of_its_forms() {
    let single = format!("{TRACE}-{CALLER}-1");
    let w3c = format!("00-{TRACE}-{CALLER}-01");
    let forms: [&[(&str, &str)]; 3] = [
        &[("b3", &single)],
        &[("X-B3-TraceId", TRACE), ("X-B3-SpanId", CALLER), ("X-B3-Sampled", "1")],
        &[("traceparent", &w3c)],
    ];
    let mut collector = Collector::start().await;
    let server = traced(&collector.url).await;
    for fields in forms {
        server.get_with("/some/path", fields).await;
        let span = collector.next().await;
        assert_eq!(span["traceId"], TRACE, "{fields:?}");
        assert_eq!(span["parentId"], CALLER, "{fields:?}");
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
async fn leaves_what_was_not_sampled() {
    let mut collector = Collector::start().await;
    let server = traced(&collector.url).await;
    let (single, w3c) = (format!("{TRACE}-{CALLER}-0"), format!("00-{TRACE}-{CALLER}-00"));
    server.get("/").await;
    server.get_with("/", &[("b3", &single)]).await;
    server.get_with("/", &[("traceparent", &w3c)]).await;
    soon(server.stop()).await.expect("no panic");
    assert_eq!(collector.pending(), None);
}

#[tokio::test]
async fn shows_the_depth_of_a_slow_request_and_flushes_at_the_end() {
    let mut collector = Collector::start().await;
    let server = traced(&collector.url).await;
    let w3c = format!("00-{TRACE}-{CALLER}-01");
    server.get_with("/slow?seconds=0.05", &[("traceparent", &w3c)]).await;
    soon(server.stop()).await.expect("no panic");

    let spans: Vec<Value> = std::iter::from_fn(|| collector.pending()).collect();
    let [inner, outer] = spans.as_slice() else {
        panic!("two spans are there when the server is gone: {spans:?}");
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
async fn counts_spans_that_nobody_takes() {
    let gone = TcpListener::bind(ANYWHERE).await.expect("bind");
    let url = format!("http://{}/api/v2/spans", gone.local_addr().expect("an address"));
    drop(gone);
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
