//! Explanations of a small file, compared with the route that the proxy takes.

use super::*;
use crate::config::file::parse;
use crate::config::source::SourceFile;

const FILE: &str = r#"
        [[listener]]
        address = "127.0.0.1:1"
        [[route]]
        name = "api"
        host = "api.example.com"
        path = "/v1"
        pool = "api"
        [[route]]
        name = "wild"
        host = "*.example.com"
        pool = "web"
        [[route]]
        name = "any"
        path = "/v1"
        pool = "web"
        [[pool.api.server]]
        name = "a"
        address = "127.0.0.1:9001"
        [[pool.api.server]]
        name = "b"
        address = "127.0.0.1:9002"
        enabled = false
        [[pool.web.server]]
        name = "w"
        address = "127.0.0.1:9003"
    "#;

#[test]
fn the_route_is_the_one_that_the_proxy_takes_followed_by_less_specific_ones() {
    let config = parse(&[SourceFile::new("lb.toml", FILE)], &|_| None).expect("a good file");
    let basis = Basis { config, live: None, held_by: HashMap::new() };
    let cases = [
        (Some("api.example.com"), "/v1/users", "api, then wild any"),
        (Some("API.example.com.:8080"), "/v1/a/../b", "api, then wild any"),
        (Some("api.example.com"), "/%761", "api, then wild any"),
        (
            Some("api.example.com"),
            "/a/../v1",
            "rejected with 400 Bad Request: The path matches different routes with and without its dot segments.",
        ),
        (None, "http://api.example.com/v1?q", "api, then wild any"),
        (Some("www.example.com"), "/", "wild, then "),
        (None, "/v1", "any, then "),
        (None, "/", "no route matches (no host)/: the response is 404"),
        (
            Some("a b"),
            "/",
            "rejected with 400 Bad Request: The host is not a name or an IP address with an optional port.",
        ),
        (None, "/../x", "rejected with 400 Bad Request: The path leads above the root."),
    ];
    for (host, target, expected) in cases {
        let result = match follow(&RequestSpec { method: &Method::GET, host, target }, &basis) {
            Ok(explanation) => {
                let others: Vec<&str> = explanation.less_specific.iter().map(|route| route.name.as_str()).collect();
                format!("{}, then {}", explanation.route.name, others.join(" "))
            }
            Err(reason) => reason,
        };
        assert_eq!(result, expected, "{host:?} {target}");
    }
}

#[test]
fn retries_are_described_as_the_proxy_decides_them() {
    let config = parse(&[SourceFile::new("lb.toml", FILE)], &|_| None).expect("a good file");
    let pool = &config.pools[0];
    assert_eq!(retry(&Method::GET, pool), "up to 2 retries if a server cannot be reached or fails");
    assert_eq!(retry(&Method::POST, pool), "up to 2 retries, but not once POST may have reached a server");
}

#[test]
fn a_check_that_passed_is_no_reason_to_be_down() {
    let reason = |last_check: serde_json::Value| {
        let server = serde_json::json!({
            "pool": "web", "name": "a", "address": "127.0.0.1:1", "weight": 1, "enabled": true, "status": "down",
            "active_requests": 0, "requests_total": 0, "share": 0.0, "since": "2026-11-22T00:00:00.000Z",
            "last_check": last_check,
        });
        no_share_reason(&serde_json::from_value(server).expect("a server"))
    };
    let check = |error: Option<&str>| {
        let at = "2026-11-22T00:00:00.000Z";
        serde_json::json!({"at": at, "ok": error.is_none(), "error": error, "hint": "see X", "seconds": 0.1})
    };
    assert!(reason(check(Some("status 503"))).contains(": status 503, "));
    assert!(reason(check(Some("status 503"))).ends_with(" ago; see X"));
    assert!(
        reason(check(None)).ends_with("; its last check passed, but not yet as many in a row as `health.rise` says")
    );
    assert!(!reason(serde_json::Value::Null).contains("check"));
}
