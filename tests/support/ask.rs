//! Asking the admin address, without a socket.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use lb::admin::{self, Context};
use lb::live::health::HealthState;
use lb::telemetry::metrics::Metrics;
use serde_json::Value;

use super::{Fixture, config, pool, server, three};

/// What a path answers.
pub(crate) fn ask(fixture: &Fixture, method: &str, target: &str) -> Response<String> {
    ask_with(fixture, method, target, &[])
}

/// The same with fields of the request.
pub(crate) fn ask_with(fixture: &Fixture, method: &str, target: &str, fields: &[(&str, &str)]) -> Response<String> {
    let metrics = Metrics::new(Arc::clone(&fixture.state), Vec::new()).expect("names that differ");
    let context = Context::new(Arc::clone(&fixture.state), metrics);
    let mut request = Request::builder().method(method).uri(target).header(HOST, "127.0.0.1:9900");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let (head, body) = admin::respond(&head, &context).into_parts();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let body = runtime.block_on(body.collect()).expect("no errors").to_bytes();
    assert_eq!(head.headers["x-content-type-options"], "nosniff", "{target}");
    assert_eq!(head.headers["referrer-policy"], "no-referrer", "{target}");
    // A page may be kept, but not shown without asking.
    let is_page = head.status.is_success() && (target == "/" || target.starts_with("/dashboard/"));
    let kept = if is_page || head.status == 304 { "no-cache" } else { "no-store" };
    assert_eq!(head.headers["cache-control"], kept, "{target}");
    assert!(!head.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{target}");
    Response::from_parts(head, String::from_utf8(body.into()).expect("text"))
}

/// What a path answers as JSON, which must end its line and be of the type that goes with the status.
pub(crate) fn get(fixture: &Fixture, target: &str) -> (StatusCode, Value) {
    let answer = ask(fixture, "GET", target);
    let expected = if answer.status().is_success() { "application/json" } else { "application/problem+json" };
    assert_eq!(answer.headers()[CONTENT_TYPE], expected, "{target}");
    assert!(answer.body().ends_with("}\n"), "{target}");
    let value: Value = serde_json::from_str(answer.body()).expect("JSON");
    if !answer.status().is_success() {
        assert_eq!(value["status"], answer.status().as_u16());
        assert_eq!(value["title"], answer.status().canonical_reason().expect("a known one"));
    }
    (answer.status(), value)
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

/// Two pools: `default` with a server of every status, `spare` with one that is up, and another `server1`.
pub(crate) fn mixed() -> Fixture {
    let spare = pool("spare", vec![server("server1", 9001, 1), server("spare1", 9002, 3)]);
    let mut fixture = Fixture::new(config(vec![three(), spare]));
    fixture.server("server1").counters().of(0).started.add(1);
    fixture.edit(|config| {
        let servers = &mut Arc::make_mut(&mut config.pools[0]).servers;
        servers[0].enabled = false;
        servers.push(server("server4", 8084, 1));
        servers.push(config::ServerConfig { enabled: false, ..server("server5", 8085, 1) });
    });
    fixture.health("server2", HealthState::Down);
    fixture
}
