//! Spans for collectors, and traces that callers have started.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Shutdown, SocketAddr};

use serde_json::Value;

use crate::support::client::{Client, get};
use crate::support::demo::Demo;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Request, Server, reset, respond};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";

/// A collector that accepts everything.
struct Collector(Server);

impl Collector {
    fn start() -> Self {
        Self(Server::scripted(|mut stream, recorder| {
            while recorder.next(&mut stream).is_some() {
                respond(&mut stream, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
            }
        }))
    }

    fn url(&self) -> String {
        format!("http://{}/api/v2/spans", self.0.address)
    }

    /// The Zipkin spans so far.
    fn spans(&self) -> Vec<Value> {
        let batch = |request: &Request| serde_json::from_slice::<Vec<Value>>(&request.body).expect("spans");
        self.0.requests().iter().flat_map(batch).collect()
    }

    /// The paths of the requests that have a server span so far.
    fn paths(&self) -> Vec<String> {
        let spans = self.spans();
        let served = spans.iter().filter(|span| span["kind"] == "SERVER");
        served.map(|span| span["tags"]["url.path"].as_str().expect("a path").to_owned()).collect()
    }

    #[track_caller]
    fn has(&self, path: &str) {
        eventually(&format!("a span of {path}"), || self.paths().iter().any(|other| other == path).then_some(()));
    }
}

/// The `[tracing]` table, and one server.
fn config(zipkin: &str, sample: f64, server: SocketAddr) -> String {
    let server = servers(&[("server1", server, 1)]);
    format!("{NO_CHECKS}[tracing]\nzipkin = \"{zipkin}\"\nsample = {sample:?}\n{server}")
}

fn request(path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

#[test]
fn a_trace_has_spans_for_the_balancer_each_attempt_and_the_server() {
    let zipkin = Collector::start();
    let refusing = Refusing::new();
    let up = Demo::start("server1", Some(&zipkin.url()));
    let servers = servers(&[("server0", refusing.address, 1), ("server1", up.address, 1)]);
    let lb = Lb::start(&format!(
        "{NO_CHECKS}[tracing]\nzipkin = \"{}\"\n[[route]]\nname = \"shop\"\npath = \"/slow\"\npool = \"default\"\n{servers}",
        zipkin.url()
    ));
    let mut client = Client::connect(lb.address());
    // The first attempt of one of two requests is at the server that refuses.
    for _ in 0..2 {
        assert_eq!(client.request(request("/slow?seconds=0", &[("B3", "1")])).status, 200);
    }
    let trace = eventually("a trace of five spans", || {
        let spans = zipkin.spans();
        let traces: BTreeSet<_> = spans.iter().map(|span| span["traceId"].as_str().expect("an id")).collect();
        assert!(traces.len() <= 2, "{spans:#?}");
        traces.into_iter().find_map(|id| {
            let trace: Vec<_> = spans.iter().filter(|span| span["traceId"] == id).cloned().collect();
            (trace.len() == 5).then_some(trace)
        })
    });
    let find = |kind: &str, service: &str, name: &str| {
        let matches = |span: &&Value| {
            span["kind"].as_str().unwrap_or("") == kind
                && span["localEndpoint"]["serviceName"] == service
                && span["name"] == name
        };
        trace.iter().filter(matches).collect::<Vec<_>>()
    };
    let [server] = find("SERVER", "lb", "GET /slow")[..] else { panic!("{trace:#?}") };
    let [first, second] = find("CLIENT", "lb", "GET")[..] else { panic!("{trace:#?}") };
    let [demo] = find("SERVER", "server1", "GET /slow")[..] else { panic!("{trace:#?}") };
    let [sleep] = find("", "server1", "sleep")[..] else { panic!("{trace:#?}") };

    assert_eq!(server.get("parentId"), None);
    for (child, parent) in [(first, server), (second, server), (demo, second), (sleep, demo)] {
        assert_eq!(child["parentId"], parent["id"], "{trace:#?}");
    }
    let starts = |span: &Value| span["timestamp"].as_u64().expect("a time");
    let ends = |span: &Value| starts(span) + span["duration"].as_u64().expect("a time");
    // Times and durations are truncated to microseconds.
    for attempt in [first, second] {
        assert!(starts(server) <= starts(attempt) && ends(attempt) <= ends(server) + 1, "{trace:#?}");
    }
    assert!(ends(first) <= starts(second) + 1, "{trace:#?}");

    let tags = |span: &Value, expected: &[(&str, &str)]| {
        for (name, value) in expected {
            assert_eq!(span["tags"][name], *value, "{name}: {trace:#?}");
        }
    };
    let common =
        [("http.request.method", "GET"), ("url.scheme", "http"), ("url.path", "/slow"), ("lb.pool", "default")];
    for span in [server, first, second] {
        tags(span, &common);
        tags(span, &[("lb.generation", "1"), ("network.protocol.version", "1.1")]);
    }
    tags(server, &[("http.route", "/slow"), ("http.response.status_code", "200"), ("lb.server", "server1")]);
    tags(server, &[("client.address", "127.0.0.1"), ("server.address", "localhost")]);
    let port = |address: SocketAddr| address.port().to_string();
    tags(first, &[("lb.server", "server0"), ("server.address", "127.0.0.1"), ("error.type", "unreachable")]);
    tags(first, &[("server.port", &port(refusing.address))]);
    tags(second, &[("lb.server", "server1"), ("http.request.resend_count", "1"), ("server.port", &port(up.address))]);
    tags(second, &[("http.response.status_code", "200")]);
    assert_eq!(first["tags"].get("http.request.resend_count"), None);
    assert_eq!(first["tags"].get("http.response.status_code"), None);
    for span in [server, second] {
        assert_eq!((span["tags"].get("error"), span["tags"].get("error.type")), (None, None), "{trace:#?}");
    }
    assert_eq!(first["remoteEndpoint"]["serviceName"], "server0");
    assert_eq!(second["remoteEndpoint"]["serviceName"], "server1");
}

#[test]
fn a_callers_trace_is_continued_in_each_format() {
    let (zipkin, server) = (Collector::start(), Server::named("server1"));
    let lb = Lb::start(&config(&zipkin.url(), 0.0, server.address));
    let b3 = format!("{TRACE}-{SPAN}-1");
    let w3c = format!("00-{TRACE}-{SPAN}-01");
    let formats: [&[(&str, &str)]; 3] = [
        &[("b3", &b3)],
        &[("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "1")],
        &[("traceparent", &w3c), ("tracestate", "vendor=1")],
    ];
    let mut client = Client::connect(lb.address());
    for (number, headers) in formats.iter().enumerate() {
        let path = format!("/{number}");
        assert_eq!(client.request(request(&path, headers)).status, 200);
        zipkin.has(&path);
        let spans = zipkin.spans();
        let of_path = |kind: &str| {
            spans.iter().find(|span| span["kind"] == kind && span["tags"]["url.path"] == path.as_str()).expect("a span")
        };
        let (served, attempt) = (of_path("SERVER"), of_path("CLIENT"));
        assert_eq!((&served["traceId"], &served["parentId"]), (&TRACE.into(), &SPAN.into()));
        assert_eq!((&attempt["traceId"], &attempt["parentId"]), (&TRACE.into(), &served["id"]));

        let (id, parent) = (attempt["id"].as_str().expect("an id"), served["id"].as_str().expect("an id"));
        let seen = server.requests().into_iter().find(|request| request.path() == path).expect("a request");
        for (name, value) in [
            ("b3", format!("{TRACE}-{id}-1-{parent}")),
            ("x-b3-traceid", TRACE.to_owned()),
            ("x-b3-spanid", id.to_owned()),
            ("x-b3-parentspanid", parent.to_owned()),
            ("x-b3-sampled", "1".to_owned()),
            ("traceparent", format!("00-{TRACE}-{id}-01")),
        ] {
            assert_eq!(seen.values(name), [value], "{name} of {seen:#?}");
        }
        assert_eq!(seen.values("tracestate"), if number == 2 { vec!["vendor=1"] } else { vec![] });
    }
}

#[test]
fn a_callers_sampling_decision_is_kept() {
    let (zipkin, server) = (Collector::start(), Server::named("server1"));
    let lb = Lb::start(&config(&zipkin.url(), 1.0, server.address));
    let b3 = format!("{TRACE}-{SPAN}-0");
    let w3c = format!("00-{TRACE}-{SPAN}-00");
    let formats: [&[(&str, &str)]; 4] = [
        &[("b3", &b3)],
        &[("b3", "0")],
        &[("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "0")],
        &[("traceparent", &w3c)],
    ];
    let mut client = Client::connect(lb.address());
    for headers in formats {
        assert_eq!(client.request(request("/no", headers)).status, 200);
    }
    assert_eq!(client.get("/yes").status, 200);
    zipkin.has("/yes");
    assert_eq!(zipkin.paths(), ["/yes"]);
    let seen = server.requests();
    assert_eq!(seen.len(), 5);
    for seen in &seen[..4] {
        assert_eq!(seen.values("x-b3-sampled"), ["0"], "{seen:#?}");
        assert!(seen.values("traceparent")[0].ends_with("-00"), "{seen:#?}");
        assert_eq!(seen.values("b3")[0].split('-').nth(2), Some("0"), "{seen:#?}");
    }
    assert!([0, 2, 3].iter().all(|at| seen[*at].values("x-b3-traceid") == [TRACE]), "{seen:#?}");
}

#[test]
fn the_sampled_share_is_the_configured_one() {
    let (zipkin, server) = (Collector::start(), Server::named("server1"));
    let lb = Lb::start(&config(&zipkin.url(), 0.0, server.address));
    let mut client = Client::connect(lb.address());
    for (sample, path) in [(0.0, "/none"), (1.0, "/all"), (0.25, "/some")] {
        if sample > 0.0 {
            lb.apply(&config(&zipkin.url(), sample, server.address));
        }
        for _ in 0..400 {
            client.get(path);
        }
    }
    assert_eq!(client.request(request("/end", &[("b3", "1")])).status, 200);
    zipkin.has("/end");
    let paths = zipkin.paths();
    let count = |path: &str| paths.iter().filter(|other| *other == path).count();
    assert_eq!((count("/none"), count("/all")), (0, 400));
    // Six standard deviations, so this fails once in a billion runs.
    assert!((100 - 52..=100 + 52).contains(&count("/some")), "{}", count("/some"));
}

// Case: telemetry-fails
#[test]
fn a_collector_that_is_down_costs_nothing_and_is_logged_once() {
    let (refusing, server) = (Refusing::new(), Server::named("server1"));
    let lb = Lb::start(&config(&format!("http://{}/api/v2/spans", refusing.address), 1.0, server.address));
    for lost in [2.0, 4.0] {
        assert_eq!(get(lb.address(), "/").status, 200);
        eventually("the loss of spans", || (lb.metric("lb_spans_dropped_total") == Some(lost)).then_some(()));
    }
    let lines = lb.stderr().into_iter().filter(|line| line.contains("spans were lost")).count();
    assert_eq!(lines, 1, "{:#?}", lb.stderr());
}

// Case: telemetry-fails
#[test]
fn a_slow_collector_costs_nothing() {
    let silent = Server::scripted(|mut stream, recorder| while recorder.next(&mut stream).is_some() {});
    let server = Server::named("server1");
    let lb = Lb::start(&config(&format!("http://{}/", silent.address), 1.0, server.address));
    let mut client = Client::connect(lb.address());
    client.get("/");
    eventually("a batch is stuck", || (silent.requests().len() == 1).then_some(()));
    let start = std::time::Instant::now();
    // More spans than the queue holds.
    for _ in 0..1_100 {
        assert_eq!(client.get("/").status, 200);
    }
    // The stuck batch ends after five seconds, so no request has waited for it.
    if start.elapsed().as_secs() < 4 {
        assert_eq!((silent.requests().len(), lb.metric("lb_spans_exported_total")), (1, Some(0.0)));
        assert!(lb.metric("lb_spans_dropped_total") >= Some(100.0));
    }
}

#[test]
fn edits_turn_tracing_on_and_off_and_change_the_collector() {
    let (first, second, server) = (Collector::start(), Collector::start(), Server::named("server1"));
    let b3 = format!("{TRACE}-{SPAN}-1");
    let lb = Lb::start(&config("", 1.0, server.address));
    let mut client = Client::connect(lb.address());
    client.get("/off");
    lb.apply(&config(&first.url(), 1.0, server.address));
    client.get("/first");
    first.has("/first");
    lb.apply(&config(&second.url(), 1.0, server.address));
    client.get("/second");
    second.has("/second");
    lb.apply(&config("", 1.0, server.address));
    client.request(request("/off-again", &[("b3", &b3)]));
    lb.apply(&config(&first.url(), 1.0, server.address));
    client.get("/first-again");
    first.has("/first-again");
    assert_eq!(first.paths(), ["/first", "/first-again"]);
    assert_eq!(second.paths(), ["/second"]);

    // Without tracing no trace is started, and a caller's trace is forwarded unchanged.
    let requests = server.requests();
    let of = |path: &str| requests.iter().find(|request| request.path() == path).expect("a request");
    assert_eq!((of("/off").values("b3"), of("/off").values("traceparent")), (vec![], vec![]));
    assert_eq!(of("/off-again").values("b3"), [b3]);
    assert_eq!(of("/off-again").values("traceparent"), [format!("00-{TRACE}-{SPAN}-01")]);
}

#[test]
fn the_last_spans_are_sent_before_the_process_ends() {
    let (zipkin, otlp, server) = (Collector::start(), Collector::start(), Server::named("server1"));
    let both = format!("otlp = \"http://{}/v1/traces\"\nsample = 1.0", otlp.0.address);
    let config = config(&zipkin.url(), 1.0, server.address).replace("sample = 1.0", &both);
    let mut lb = Lb::start(&config);
    assert_eq!(get(lb.address(), "/last").status, 200);
    lb.signal("TERM");
    assert!(lb.ends().success());
    assert_eq!(zipkin.paths(), ["/last"]);
    let [batch] = &otlp.0.requests()[..] else { panic!("one batch") };
    let batch: Value = serde_json::from_slice(&batch.body).expect("JSON");
    let resource = &batch["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "lb");
    let spans = resource["scopeSpans"][0]["spans"].as_array().expect("spans");
    let kinds: BTreeSet<_> = spans.iter().map(|span| span["kind"].as_u64()).collect();
    assert_eq!(kinds, BTreeSet::from([Some(2), Some(3)]), "{spans:#?}");
    assert_eq!(spans[0]["traceId"], zipkin.spans()[0]["traceId"]);
}

#[test]
fn a_tunnel_is_one_attempt_which_ends_with_it() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n";
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(request) = recorder.next(&mut stream) else { return };
        respond(&mut stream, switch);
        while matches!(stream.read(&mut [0]), Ok(1)) {
            if request.path() == "/reset" {
                return reset(stream.get_ref());
            }
        }
    });
    let zipkin = Collector::start();
    let lb = Lb::start(&config(&zipkin.url(), 1.0, server.address));
    for (index, (path, error)) in [("/closed", None), ("/reset", Some("tunnel_broken"))].into_iter().enumerate() {
        let mut client = Client::connect(lb.address());
        client.send(request(path, &[("Connection", "upgrade"), ("Upgrade", "foo")]));
        assert_eq!(client.try_head().expect("a head").0, 101);
        client.send("bytes of the tunnel");
        if error.is_none() {
            client.socket().shutdown(Shutdown::Write).expect("a socket");
        }
        assert!(client.is_closed());
        let attempt = eventually("the span of the attempt", || {
            zipkin.spans().into_iter().filter(|span| span["kind"] == "CLIENT").nth(index)
        });
        let (status, label) = (&attempt["tags"]["http.response.status_code"], &attempt["tags"]["error.type"]);
        assert_eq!((status.as_str(), label.as_str()), (Some("101"), error), "{attempt:#?}");
    }
}
