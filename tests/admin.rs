//! The responses of the admin address, from a state that is built by hand.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{ALLOW, CONTENT_TYPE};
use lb::config::problem::Problem;
use lb::live::health::HealthState;
use lb::live::reloads::{Outcome, Reload};
use lb::live::server::Check;
use serde_json::{Value, json};

mod support;
use support::ask::{ask, get, mixed, names, ok};
use support::{Fixture, config, pool, server, three};

#[test]
fn a_server_is_shown_in_full() {
    let mut fixture = Fixture::new(config(vec![three()]));
    let two = fixture.server("server2");
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    two.set_last_check(Check {
        at,
        took: Duration::from_millis(8),
        error: Some("connection refused".into()),
        refused: true,
        hint: None,
    });
    two.set_memory(Some(12_345_678));
    two.counters().of(0).started.add(5);
    two.counters().of(1).finished.add(1);
    two.counters().of(1).started.add(2);
    two.counters().of(0).codes.add(200);
    let mut view = ok(&fixture, "/api/servers/server2");
    let since = view["since"].take();
    assert!(humantime::parse_rfc3339(since.as_str().expect("text")).is_ok(), "{since}");
    let expected = json!({
        "pool": "default",
        "name": "server2",
        "address": "127.0.0.1:8082",
        "weight": 3,
        "enabled": true,
        "status": "up",
        "active_requests": 6,
        "requests_total": 1,
        "memory_bytes": 12_345_678,
        "share": 3.0 / 11.0,
        "last_check": {
            "at": "2023-11-14T22:13:20.250Z", "ok": false, "error": "connection refused", "seconds": 0.008
        },
        "ejected": null,
        "since": null,
    });
    assert_eq!(view, expected);
    fixture.eject("server2", "3 requests in a row failed: connection refused");
    let mut view = ok(&fixture, "/api/servers/server2");
    assert_eq!(view["ejected"]["at"].take(), view["since"], "down since the ejection");
    assert_eq!(view["ejected"]["error"], "3 requests in a row failed: connection refused");
    two.clear_ejection();
    assert_eq!(ok(&fixture, "/api/servers/server2")["ejected"], Value::Null, "not ejected once its checks fail too");
    let view = ok(&fixture, "/api/servers/server1");
    assert_eq!(view.get("memory_bytes"), None);
    assert_eq!(view["last_check"], Value::Null);
}

#[test]
fn lists_of_servers_are_filtered() {
    let fixture = mixed();
    let all = ["default/server1", "default/server2", "default/server3", "default/server4", "default/server5"];
    let spare = ["spare/server1", "spare/spare1"];
    let cases: [(&str, &[&str]); 12] = [
        ("", &[&all[..], &spare].concat()),
        ("?pool=default", &all),
        ("?pool=spare", &spare),
        ("?active=true", &["default/server3", "spare/server1", "spare/spare1"]),
        ("?active=false", &["default/server1", "default/server2", "default/server4", "default/server5"]),
        ("?status=up", &["default/server3", "spare/server1", "spare/spare1"]),
        ("?status=down", &["default/server2"]),
        ("?status=draining", &["default/server1"]),
        ("?status=disabled", &["default/server5"]),
        ("?status=checking", &["default/server4"]),
        ("?active=true&pool=default", &["default/server3"]),
        ("?status=down&pool=spare", &[]),
    ];
    for (query, expected) in cases {
        let list = ok(&fixture, &format!("/api/servers{query}"));
        assert_eq!(names(&list), expected, "{query}");
        assert_eq!(list["generation"], 2);
        assert_eq!(list.get("next"), None);
    }
}

#[test]
fn weight_zero_is_up_but_not_active() {
    let fixture = Fixture::new(config(vec![pool("default", vec![server("a", 1, 0), server("b", 2, 1)])]));
    assert_eq!(names(&ok(&fixture, "/api/servers?status=up")), ["default/a", "default/b"]);
    assert_eq!(names(&ok(&fixture, "/api/servers?active=true")), ["default/b"]);
}

#[test]
fn invalid_parameters_are_rejected_with_the_allowed_ones() {
    let fixture = mixed();
    let cases: [(&str, &[&str]); 9] = [
        ("/api/servers?active=yes", &["true", "false"]),
        ("/api/servers?status=UP", &["up", "down", "draining", "disabled", "checking"]),
        ("/api/servers?pool=nope", &["default", "spare"]),
        ("/api/servers?state=up", &["pool", "active", "status", "limit", "after"]),
        ("/api/random?pool=nope", &["default", "spare"]),
        ("/api/servers?limit=0", &[]),
        ("/api/servers?after=default/nope/127.0.0.1:1", &[]),
        ("/api/reloads?after=now", &[]),
        ("/api/pools?pool=default", &[]),
    ];
    for (target, allowed) in cases {
        let (status, problem) = get(&fixture, target);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{target}");
        let offered = problem["allowed"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(offered, allowed, "{target}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
    }
}

#[test]
fn paging_through_servers_neither_skips_nor_repeats() {
    let mut fixture = Fixture::new(config(vec![three(), pool("spare", vec![server("server1", 9001, 1)])]));
    // The old server3 stays in the list beside the new one while it drains.
    fixture.server("server3").counters().of(0).started.add(1);
    fixture.edit(|config| Arc::make_mut(&mut config.pools[0]).servers[2] = server("server3", 8093, 1));
    let all = ok(&fixture, "/api/servers");
    let expected = names(&all);
    assert_eq!(expected.len(), 5);
    for limit in 1..=6 {
        let mut listed = Vec::new();
        let mut target = format!("/api/servers?limit={limit}");
        for _ in 0..=expected.len() {
            let page = ok(&fixture, &target);
            listed.extend(page["servers"].as_array().expect("servers").clone());
            let Some(next) = page.get("next") else { break };
            target = format!("/api/servers?limit={limit}&after={}", next.as_str().expect("text"));
        }
        assert_eq!(&Value::Array(listed), &all["servers"], "{limit}");
    }
}

#[test]
fn a_server_is_found_by_name_and_pool() {
    let fixture = mixed();
    for (target, address) in [
        ("/api/servers/server2", "127.0.0.1:8082"),
        ("/api/servers/server%32", "127.0.0.1:8082"),
        ("/api/servers/server1?pool=default", "127.0.0.1:8081"),
        ("/api/servers/server1?pool=spare", "127.0.0.1:9001"),
    ] {
        assert_eq!(ok(&fixture, target)["address"], address, "{target}");
    }
    let (status, problem) = get(&fixture, "/api/servers/server1");
    assert_eq!((status, &problem["pools"]), (StatusCode::CONFLICT, &json!(["default", "spare"])));
    for target in ["/api/servers/nope", "/api/servers/server2?pool=spare", "/api/servers/server2?pool=nope"] {
        assert_eq!(get(&fixture, target).0, StatusCode::NOT_FOUND, "{target}");
    }
}

#[test]
fn a_server_that_drains_does_not_hide_its_namesake() {
    let mut fixture = Fixture::new(config(vec![three()]));
    fixture.server("server3").counters().of(0).started.add(1);
    fixture.edit(|config| Arc::make_mut(&mut config.pools[0]).servers[2] = server("server3", 8093, 1));
    assert_eq!(ok(&fixture, "/api/servers/server3")["address"], "127.0.0.1:8093");
}

#[test]
fn random_servers_are_active_and_equally_likely() {
    let fixture = Fixture::new(config(vec![three(), pool("spare", vec![server("server1", 9001, 1000)])]));
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..2000 {
        let server = ok(&fixture, "/api/random");
        *counts.entry(server["address"].to_string()).or_default() += 1;
    }
    // 500 each; the standard deviation is below 20.
    assert!(counts.len() == 4 && counts.values().all(|count| (380..620).contains(count)), "{counts:?}");

    let mut fixture = mixed();
    for _ in 0..50 {
        assert_eq!(ok(&fixture, "/api/random?pool=default")["name"], "server3");
    }
    fixture.health("server3", HealthState::Down);
    assert_eq!(get(&fixture, "/api/random?pool=default").0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&fixture, "/api/random").0, StatusCode::OK);
}

#[test]
fn readiness_concerns_the_pools_and_health_the_process() {
    let mut fixture = mixed();
    assert_eq!(ok(&fixture, "/ready"), json!({ "generation": 2, "status": "ready", "config": "current" }));
    fixture.health("server3", HealthState::Down);
    let (status, problem) = get(&fixture, "/ready");
    assert_eq!((status, &problem["pools"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(["default"])));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("default")), "{problem}");
    // Another pool has a server, but no route leads to it.
    assert_eq!(get(&fixture, "/ready?any").0, StatusCode::SERVICE_UNAVAILABLE);
    fixture.health("server3", HealthState::Up);
    fixture.health("server1", HealthState::Down);
    // Probes may add parameters.
    assert_eq!(ok(&fixture, "/ready?probe=1&probe=2&%ff")["status"], "ready");
    assert_eq!(ok(&fixture, "/health?x=1"), json!({ "generation": 2, "status": "serving" }));
    fixture.state.stop();
    for target in ["/health", "/ready"] {
        assert_eq!(get(&fixture, target).0, StatusCode::SERVICE_UNAVAILABLE, "{target}");
    }
    ok(&fixture, "/api/servers");
}

#[test]
fn pools_and_routes_are_shown_with_live_figures() {
    let fixture = mixed();
    let snapshot = fixture.state.snapshot.load_full();
    snapshot.pools[0].live.counters.of(1).requests.add(9);
    for (worker, status) in [(0, 200), (1, 204), (1, 404), (0, 503)] {
        snapshot.routes[0].live.counters.of(worker).codes.add(lb::live::method::key(&http::Method::GET, status));
    }
    let view = ok(&fixture, "/api/pools");
    let pool = json!({
        "name": "default",
        "algorithm": "weighted-round-robin",
        "sticky": null,
        "health": serde_json::to_value(&snapshot.config.pools[0].health).expect("JSON"),
        "tls": null,
        "routed": true,
        "ready": true,
        "availability": "unchecked",
        "holding": false,
        "overdue": true,
        "servers": { "up": 1, "down": 1, "draining": 1, "disabled": 1, "checking": 1 },
        "active_requests": 1,
        "requests_total": 9,
    });
    assert_eq!((&view["generation"], &view["pools"][0]), (&json!(2), &pool));
    assert_eq!(view["pools"].as_array().map(Vec::len), Some(2));
    let route = json!({
        "name": "all",
        "host": "*",
        "path": "/",
        "pool": "default",
        "held_by": null,
        "requests_total": 4,
        "responses": { "1xx": 0, "2xx": 2, "3xx": 0, "4xx": 1, "5xx": 1, "other": 0 },
    });
    assert_eq!(ok(&fixture, "/api/routes"), json!({ "generation": 2, "routes": [route] }));
}

#[test]
fn a_removed_pool_is_not_listed_but_its_draining_servers_are() {
    let mut fixture = mixed();
    fixture.server("spare1").counters().of(0).started.add(1);
    fixture.edit(|config| config.pools.truncate(1));
    assert_eq!(ok(&fixture, "/api/pools")["pools"].as_array().map(Vec::len), Some(1));
    assert!(names(&ok(&fixture, "/api/servers?status=draining")).contains(&"spare/spare1".to_owned()));
}

#[test]
fn listeners_are_shown_with_their_bound_address() {
    let fixture = mixed();
    let listener = lb::live::listener::LiveListener {
        id: lb::live::listener::ListenerId(1),
        name: "web".into(),
        configured: std::net::SocketAddr::from(([0, 0, 0, 0], 8080)).into(),
        address: std::net::SocketAddr::from(([0, 0, 0, 0], 8080)).into(),
        rules: Arc::default(),
        counters: lb::live::counters::PerWorker::new(support::WORKERS).into(),
    };
    listener.counters.of(1).opened.add(3);
    listener.counters.of(1).closed.add(1);
    fixture.state.set_listeners(vec![Arc::new(listener)]);
    let expected = json!([{ "name": "web", "address": "0.0.0.0:8080", "connections": 2 }]);
    assert_eq!(ok(&fixture, "/api/listeners")["listeners"], expected);
}

#[test]
fn the_configuration_is_shown_with_its_origin() {
    let mut fixture = Fixture::new(config(vec![three()]));
    let view = ok(&fixture, "/api/config");
    let hash = format!("{:064x}", 1);
    assert_eq!(view["hash"], hash);
    assert_eq!(view["files"], json!([{ "path": "lb.toml", "hash": hash }]));
    assert_eq!(view["applied_at"], "2023-11-14T22:13:20.250Z");
    assert_eq!((&view["state"], &view["generation"]), (&json!("current"), &json!(1)));
    assert_eq!(view["config"]["pool"][0]["server"][2]["weight"], 6);

    fixture.state.reloads().add(Arc::new(reload(Outcome::Rejected)), 9);
    assert_eq!(ok(&fixture, "/api/config")["state"], "last_good");
    fixture.state.reloads().add(Arc::new(reload(Outcome::Applied)), 9);
    assert_eq!(ok(&fixture, "/api/config")["state"], "current");
    fixture.edit(|config| Arc::make_mut(&mut config.pools[0]).servers = vec![server("new", 8099, 1)]);
    assert_eq!(ok(&fixture, "/api/config")["state"], "holding");
}

fn reload(outcome: Outcome) -> Reload {
    let problem = Problem {
        file: "lb.toml".into(),
        line: 3,
        column: 1,
        message: "unknown key `wight`".into(),
        hint: Some("did you mean `weight`?".into()),
        excerpt: "wight = 2".into(),
        width: 5,
    };
    Reload {
        generation: 7,
        hash: "c0ffee".into(),
        outcome,
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_007),
        took: Duration::from_micros(1500),
        changes: vec!["server default/server3: weight 6 -> 2".into()],
        problems: vec![problem],
    }
}

#[test]
fn reloads_are_listed_newest_first_and_paged() {
    let fixture = Fixture::new(config(vec![three()]));
    assert_eq!(ok(&fixture, "/api/reloads"), json!({ "generation": 1, "reloads": [] }));
    for generation in 1..=5 {
        fixture.state.reloads().add(Arc::new(Reload { generation, ..reload(Outcome::Rejected) }), 4);
    }
    let expected = json!({
        "generation": 5,
        "hash": "c0ffee",
        "outcome": "rejected",
        "at": "2023-11-14T22:13:20.007Z",
        "seconds": 0.0015,
        "changes": ["server default/server3: weight 6 -> 2"],
        "problems": [{
            "file": "lb.toml", "line": 3, "column": 1,
            "message": "unknown key `wight`", "hint": "did you mean `weight`?",
            "text": reload(Outcome::Rejected).problems[0].to_text(false),
        }],
    });
    let generations = |page: &Value| {
        let reloads = page["reloads"].as_array().expect("reloads").iter();
        reloads.map(|reload| reload["generation"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let all = ok(&fixture, "/api/reloads");
    assert_eq!((generations(&all), &all["reloads"][0]), (vec![5, 4, 3, 2], &expected));
    let first = ok(&fixture, "/api/reloads?limit=2");
    assert_eq!(generations(&first), [5, 4]);
    // A new reload does not shift the pages.
    fixture.state.reloads().add(Arc::new(reload(Outcome::Applied)), 9);
    let after = first["next"].as_str().expect("there is more");
    let second = ok(&fixture, &format!("/api/reloads?limit=2&after={after}"));
    assert_eq!((generations(&second), second.get("next")), (vec![3, 2], None));
}

#[test]
fn any_ready_pool_is_enough_for_a_probe_that_asks_for_it() {
    let route = |path: &str, pool: &str, config: &lb::config::Config| lb::config::RouteConfig {
        path: path.into(),
        pool: lb::config::PoolRef::find(&config.pools, pool).expect("a pool"),
        ..config.routes[0].clone()
    };
    let mut fixture = Fixture::new({
        let mut config = config(vec![three(), pool("spare", vec![server("spare1", 9001, 1)])]);
        config.routes = vec![route("/", "default", &config), route("/spare", "spare", &config)];
        config
    });
    fixture.health("spare1", HealthState::Down);
    assert_eq!(get(&fixture, "/ready").0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&fixture, "/ready?any=false").0, StatusCode::SERVICE_UNAVAILABLE);
    for query in ["?any", "?any=", "?any=true", "?x=1&any", "?any&"] {
        let expected = json!({ "generation": 1, "status": "ready", "config": "current", "pools": ["spare"] });
        assert_eq!(ok(&fixture, &format!("/ready{query}")), expected, "{query}");
    }
    for query in ["?any=yes", "?any=1", "?any&any"] {
        assert_eq!(get(&fixture, &format!("/ready{query}")).0, StatusCode::BAD_REQUEST, "{query}");
    }
    for name in ["server1", "server2", "server3"] {
        fixture.health(name, HealthState::Down);
    }
    let (status, problem) = get(&fixture, "/ready?any");
    assert_eq!((status, &problem["pools"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(["default", "spare"])));
}

#[test]
fn other_methods_are_rejected_with_instructions() {
    let fixture = mixed();
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        for target in ["/api/servers", "/api/servers/server1", "/", "/nothing/here"] {
            let response = ask(&fixture, method, target);
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {target}");
            assert_eq!(response.headers()[ALLOW], "GET, HEAD");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert!(
                response.body().contains("lb.toml") && response.body().contains("[[server]]"),
                "{}",
                response.body()
            );
        }
    }
    assert_eq!(ask(&fixture, "HEAD", "/api/servers").status(), StatusCode::OK);
    assert_eq!(get(&fixture, "/nothing/here").0, StatusCode::NOT_FOUND);
}

#[test]
fn metrics_are_served_as_text() {
    let metrics = ask(&mixed(), "GET", "/metrics");
    assert_eq!(metrics.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.body().contains("\nlb_config_generation 2\n"), "{}", metrics.body());
}
