//! Tests with a real Prometheus: the figures, the alerts, and every expression of the dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::Client;
use crate::support::demo::Demo;
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::prometheus::{Prometheus, Sample};
use crate::support::servers::{Refusing, Server, respond};

/// A file under `examples/`.
fn example(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Values by one label.
fn by(label: &str, samples: &[Sample]) -> BTreeMap<String, f64> {
    let one = |(labels, value): &Sample| (labels[label].as_str().expect("a label").to_owned(), *value);
    samples.iter().map(one).collect()
}

/// A running `lb` with four pools: demo servers whose memory is asked for; one server that is reached at the second
/// try; one that never is; and one that fails.
struct Scene {
    lb: Lb,
    config: String,
    _demo: Vec<Demo>,
    _refusing: Refusing,
    _failing: Server,
}

impl Scene {
    fn start() -> Self {
        let demo: Vec<_> = ["server1", "server2", "server3"].map(|name| Demo::start(name, None)).into();
        let refusing = Refusing::new();
        let failing = Server::scripted(|mut stream, recorder| {
            while recorder.next(&mut stream).is_some() {
                respond(&mut stream, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let route = |path: &str, pool| format!("[[route]]\nname = \"{path}\"\npath = \"/{path}\"\npool = \"{pool}\"\n");
        let unchecked = |pool: &str, addresses: &[SocketAddr]| {
            let server = |(number, address)| {
                format!("[[pool.{pool}.server]]\nname = \"{pool}{number}\"\naddress = \"{address}\"\n")
            };
            let servers: String = addresses.iter().enumerate().map(server).collect();
            format!("[pool.{pool}.health]\nkind = \"none\"\n{servers}")
        };
        let config = [
            "[health]\ninterval = \"200ms\"\nmemory = \"/metrics\"\n[retry]\nbudget = \"100%\"\n[reload]\nallow_empty = true\n".to_owned(),
            route("shop", "default")
                + &route("echo", "default")
                + &route("tried", "tried")
                + &route("down", "down")
                + &route("failing", "failing"),
            servers(&[("server1", demo[0].address, 1), ("server2", demo[1].address, 3)]),
            unchecked("tried", &[refusing.address, demo[2].address]),
            unchecked("down", &[refusing.address]),
            unchecked("failing", &[failing.address]),
        ]
        .concat();
        Self { lb: Lb::start(&config), config, _demo: demo, _refusing: refusing, _failing: failing }
    }

    /// To each route some requests, of which some fail.
    fn requests(&self) {
        let mut client = Client::connect(self.lb.address());
        for (path, status, count) in [
            ("/shop", 200, 8),
            ("/tried", 200, 6),
            ("/echo", 405, 4),
            ("/down", 502, 3),
            ("/failing", 500, 1),
            ("/nowhere", 404, 2),
        ] {
            for _ in 0..count {
                assert_eq!(client.get(path).status, status, "{path}");
            }
        }
    }
}

#[test]
fn it_tells_each_figure_of_servers_and_routes() {
    let scene = Scene::start();
    let Some(prometheus) = Prometheus::start(scene.lb.admin, "") else { return };
    scene.requests();
    let becomes = |label: &str, expression: &str, expected: &[(&str, f64)]| {
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let now = || by(label, &prometheus.query(expression));
        eventually(&format!("{expression} {expected:?}, not {:?}", now()), || (now() == expected).then_some(()));
    };
    let routes = [("shop", 8.0), ("tried", 6.0), ("echo", 4.0), ("down", 3.0), ("failing", 1.0), ("-", 2.0)];
    becomes("route", "sum by (route) (lb_requests_total)", &routes);
    let codes = [("200", 14.0), ("405", 4.0), ("502", 3.0), ("500", 1.0), ("404", 2.0)];
    becomes("code", "sum by (code) (lb_requests_total) > 0", &codes);
    let of_servers = "sum by (code) (lb_server_requests_total{pool=\"default\"}) > 0";
    becomes("code", of_servers, &[("200", 8.0), ("405", 4.0)]);
    // Twelve requests by the weights 1 and 3.
    let by_server = "sum by (server) (lb_server_requests_total{pool=\"default\"})";
    becomes("server", by_server, &[("server1", 3.0), ("server2", 9.0)]);

    // Those of the worker that has the client, and at most of the one that had it before.
    let each = |what: &str, expression: &str, bounds: RangeInclusive<f64>| {
        eventually(what, || {
            let found = by("server", &prometheus.query(expression));
            (found.len() == 2 && found.values().all(|value| bounds.contains(value))).then_some(())
        });
    };
    each("one or two connections to each", "lb_server_connections{pool=\"default\"}", 1.0..=2.0);
    let _open = Client::connect(scene.lb.address());
    becomes("job", "sum by (job) (lb_client_connections)", &[("lb", 1.0)]);

    each("the memory of each", "lb_server_memory_bytes{pool=\"default\"}", 1e6..=1e11);
}

#[test]
fn a_refused_edit_and_a_pool_without_a_server_raise_alerts_until_they_are_mended() {
    let scene = Scene::start();
    // As they are, but at once.
    let rules: String = example("prometheus/alerts.yml")
        .lines()
        .map(|line| if line.trim().starts_with("for: ") { "        for: 0s\n".to_owned() } else { format!("{line}\n") })
        .collect();
    let Some(prometheus) = Prometheus::start(scene.lb.admin, &rules) else { return };
    let is = |name: &str, states: &[&str]| {
        eventually(&format!("{name} {states:?}, not {:?}", prometheus.alert(name)), || {
            (prometheus.alert(name) == states).then_some(())
        });
    };
    is("LbReloadRejected", &[]);
    scene.lb.edit("nonsense");
    is("LbReloadRejected", &["firing"]);
    is("LbPoolWithoutServer", &[]);
    let disabled = scene.config.replace("[[server]]\n", "[[server]]\nenabled = false\n");
    scene.lb.apply(&disabled);
    is("LbReloadRejected", &[]);
    is("LbPoolWithoutServer", &["firing"]);
    scene.lb.apply(&scene.config);
    is("LbPoolWithoutServer", &[]);
    for quiet in ["LbFault", "LbReplicasDisagree", "LbTellsLess"] {
        is(quiet, &[]);
    }
}

#[test]
fn every_expression_of_the_dashboard_returns_data() {
    let dashboard: Value = serde_json::from_str(&example("grafana/dashboards/lb.json")).expect("JSON");
    let mut missing = BTreeSet::new();
    expressions(&dashboard, &mut missing);
    assert!(missing.len() > 30, "only {missing:#?}");
    let scene = Scene::start();
    let Some(prometheus) = Prometheus::start(scene.lb.admin, "") else { return };
    scene.lb.apply(&scene.config.replace("weight = 3", "weight = 2"));
    scene.lb.edit("nonsense");

    // Rates need two scrapes between which something happened, so it goes on.
    let begin = Instant::now();
    while !missing.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no data for {missing:#?}");
        scene.requests();
        missing.retain(|expression| {
            // Without traffic a share or a quantile is no number.
            !prometheus.query(expression).iter().any(|(_, value)| value.is_finite())
        });
    }

    // The annotation of an edit stands where the record says that it was accepted.
    let annotations = dashboard["annotations"]["list"].as_array().expect("annotations");
    let at = |name: &str| {
        let annotation = annotations.iter().find(|annotation| annotation["name"] == name).expect(name);
        assert_eq!(annotation["expr"], annotation["target"]["expr"], "{name}");
        let expression = substituted(annotation["expr"].as_str().expect("an expression"));
        eventually(name, || <[Sample; 1]>::try_from(prometheus.query(&expression)).ok())
    };
    let applied = scene.lb.metric("lb_config_last_reload_timestamp_seconds").expect("a time");
    let [(labels, milliseconds)] = at("Applied edits");
    assert_eq!(labels["generation"], "2");
    assert!((milliseconds / 1e3 - applied).abs() < 0.002, "{milliseconds} {applied}");
    let [(labels, refused)] = at("Rejected edits");
    assert_eq!((&labels["job"], refused), (&Value::from("lb"), 1.0));
}

/// The expressions of panels, annotations and variables, as Grafana would send them.
fn expressions(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value.as_str()) {
                    ("expr", Some(expression)) => drop(found.insert(substituted(expression))),
                    ("query", Some(query)) if query.starts_with("label_values(") => {
                        let series = query["label_values(".len()..].rsplit_once(", ").expect("a label").0;
                        found.insert(substituted(series));
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// With the values that the dashboard begins with: every replica, route and pool.
fn substituted(expression: &str) -> String {
    let values = [("$__rate_interval", "10s"), ("$job", "lb"), ("$instance", ".*"), ("$route", ".*"), ("$pool", ".*")];
    let full = values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!full.contains('$'), "{full}");
    full
}
