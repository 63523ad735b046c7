//! The dashboard's files and the API paths that it uses.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

mod support;
use support::ask::{ask, ask_with, get, mixed, names, ok};

#[test]
fn the_dashboard_loads_nothing_but_its_own_files() {
    let fixture = mixed();
    let page = ask(&fixture, "GET", "/");
    let links: Vec<&str> = page.body().split("=\"").filter_map(|rest| rest.split('"').next()).collect();
    let files = links.iter().filter(|link| link.starts_with("dashboard/")).map(|file| format!("/{file}"));
    let files: Vec<String> = files.chain(["/".to_owned()]).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for (path, content_type) in files.iter().zip(["text/css", "text/javascript", "text/html"]) {
        let response = ask(&fixture, "GET", path);
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[CONTENT_TYPE], format!("{content_type}; charset=utf-8"));
        let policy = response.headers()["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let tag = response.headers()["etag"].to_str().expect("text");
        let revalidated = ask_with(&fixture, "GET", path, &[("if-none-match", tag)]);
        assert_eq!((revalidated.status(), revalidated.body().as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(ask_with(&fixture, "GET", path, &[("if-none-match", "\"another\"")]).status(), StatusCode::OK);
        let cross_origin = ask_with(&fixture, "GET", path, &[("origin", "http://evil.example")]);
        assert_eq!(cross_origin.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(get(&fixture, "/dashboard/index.html").0, StatusCode::NOT_FOUND);
}

#[test]
fn figures_and_history_cover_the_last_minutes() {
    let fixture = mixed();
    let figures = ok(&fixture, "/api/figures");
    assert_eq!((&figures["generation"], &figures["stopping"]), (&json!(2), &json!(false)));
    assert_eq!((names(&figures).len(), &figures["files"]), (7, &json!(["lb.toml"])));
    assert_eq!(figures["total"]["active_requests"], 1);
    // The counters have not been sampled yet.
    assert_eq!(
        (&figures["servers"][0]["served_share"], &figures["servers"][0]["recent"]["requests"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(ok(&fixture, "/api/history"), json!({ "generation": 2, "step_seconds": 5, "samples": [] }));
    fixture.state.stop();
    assert_eq!(ok(&fixture, "/api/figures")["stopping"], true);
}

#[test]
fn events_are_a_stream() {
    let fixture = mixed();
    let response = ask(&fixture, "GET", "/api/events?figures=true");
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    let (status, problem) = get(&fixture, "/api/events?figures=all");
    assert_eq!((status, &problem["allowed"]), (StatusCode::BAD_REQUEST, &json!(["true", "false"])));
    let cross_origin = ask_with(&fixture, "GET", "/api/events", &[("origin", "http://evil.example")]);
    assert_eq!(cross_origin.status(), StatusCode::FORBIDDEN);
}
