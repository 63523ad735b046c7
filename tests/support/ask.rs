//! Requests to the admin address, without a socket.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use lb::admin::{self, AdminContext};
use lb::live::health::HealthState;
use lb::telemetry::metrics::Metrics;
use serde_json::Value;

use super::{Fixture, config, pool, server, three};

/// Returns the response to a request without headers.
pub(crate) fn ask(fixture: &Fixture, method: &str, target: &str) -> Response<String> {
    ask_with(fixture, method, target, &[])
}

pub(crate) fn ask_with(fixture: &Fixture, method: &str, target: &str, headers: &[(&str, &str)]) -> Response<String> {
    let metrics = Metrics::new(Arc::clone(&fixture.state), Vec::new()).expect("names that differ");
    let context = AdminContext::new(Arc::clone(&fixture.state), metrics);
    let mut request = Request::builder().method(method).uri(target).header(HOST, "127.0.0.1:9900");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let (head, body) = admin::respond(&head, &context).into_parts();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let body = runtime.block_on(body.collect()).expect("no errors").to_bytes();
    assert_eq!(head.headers["x-content-type-options"], "nosniff", "{target}");
    assert_eq!(head.headers["referrer-policy"], "no-referrer", "{target}");
    // A browser may store a page, but must revalidate it.
    let path = target.split('?').next().unwrap_or_default();
    let is_page = head.status.is_success() && (path == "/" || path.starts_with("/dashboard/"));
    let caching = if is_page || head.status == 304 { "no-cache" } else { "no-store" };
    assert_eq!(head.headers["cache-control"], caching, "{target}");
    assert!(!head.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{target}");
    Response::from_parts(head, String::from_utf8(body.into()).expect("text"))
}

/// GETs JSON, and checks that its type fits the status and that it ends with a line feed.
pub(crate) fn get(fixture: &Fixture, target: &str) -> (StatusCode, Value) {
    let response = ask(fixture, "GET", target);
    let expected = if response.status().is_success() { "application/json" } else { "application/problem+json" };
    assert_eq!(response.headers()[CONTENT_TYPE], expected, "{target}");
    assert!(response.body().ends_with("}\n"), "{target}");
    let value: Value = serde_json::from_str(response.body()).expect("JSON");
    if !response.status().is_success() {
        assert_eq!(value["status"], response.status().as_u16());
        assert_eq!(value["title"], response.status().canonical_reason().expect("a registered status"));
    }
    (response.status(), value)
}

pub(crate) fn ok(fixture: &Fixture, target: &str) -> Value {
    let (status, value) = get(fixture, target);
    assert_eq!(status, StatusCode::OK, "{target}: {value}");
    value
}

/// `pool/name` of each server in a list.
pub(crate) fn names(list: &Value) -> Vec<String> {
    let servers = list["servers"].as_array().expect("servers").iter();
    servers.map(|server| [&server["pool"], &server["name"]].map(|v| v.as_str().expect("text")).join("/")).collect()
}

/// Two pools: `default` with a server in each status; `spare` with two that are up, one of them also named `server1`.
pub(crate) fn mixed() -> Fixture {
    let spare = pool("spare", vec![server("server1", 9001, 1), server("spare1", 9002, 3)]);
    let mut fixture = Fixture::new(config(vec![three(), spare]));
    fixture.server("server1").counters().of(0).started.add(1);
    fixture.edit(|config| {
        let servers = &mut Arc::make_mut(&mut config.pools[0]).servers;
        servers[0].enabled = false;
        servers.push(server("server4", 8084, 1));
        servers.push(lb::config::ServerConfig { enabled: false, ..server("server5", 8085, 1) });
    });
    fixture.health("server2", HealthState::Down);
    fixture
}
