//! What the real Prometheus makes of a running `lb`: the figures, the alerts, and every expression of the dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::Client;
use crate::support::demo::Demo;
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::prometheus::{Prometheus, Sample};
use crate::support::servers::Refusing;

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

/// Two pools of demo servers whose memory is asked for, a route that leads nowhere, and clients of all that.
struct Scene {
    lb: Lb,
    config: String,
    _demo: Vec<Demo>,
    _refusing: Refusing,
}

impl Scene {
    fn start() -> Self {
        let demo: Vec<_> = ["server1", "server2", "server3"].map(|name| Demo::start(name, None)).into();
        let refusing = Refusing::new();
        let pool = |name: &str, address| {
            format!(
                "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\npool = \"{name}\"\n\
                 [[pool.{name}.server]]\nname = \"{name}1\"\naddress = \"{address}\"\n"
            )
        };
        let shop = "[[route]]\nname = \"shop\"\npath = \"/\"\npool = \"default\"\n";
        let tried = format!(
            "{}[[pool.tried.server]]\nname = \"tried2\"\naddress = \"{}\"\n",
            pool("tried", refusing.address),
            demo[2].address
        );
        let config = format!(
            "[health]\ninterval = \"200ms\"\nfall = 1000\nmemory = \"/metrics\"\n[retry]\nbudget = \"100%\"\n{shop}{tried}{}{}",
            pool("down", refusing.address),
            servers(&[("server1", demo[0].address, 1), ("server2", demo[1].address, 3)]),
        );
        Self { lb: Lb::start(&config), config, _demo: demo, _refusing: refusing }
    }

    /// Eight requests to the route `shop`, as many to `tried`, and some that fail.
    fn requests(&self) {
        let mut client = Client::connect(self.lb.address());
        for _ in 0..8 {
            assert_eq!(client.get("/").status, 200);
            assert_eq!(client.get("/tried").status, 200);
        }
        for _ in 0..2 {
            assert_eq!(client.get("/status/404").status, 404);
            assert_eq!(client.get("/down").status, 502);
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
    becomes("route", "sum by (route) (lb_requests_total)", &[("shop", 10.0), ("tried", 8.0), ("down", 2.0)]);
    becomes("code", "sum by (code) (lb_requests_total)", &[("200", 16.0), ("404", 2.0), ("502", 2.0)]);
    let of_shop = "sum by (code) (lb_server_requests_total{pool=\"default\"})";
    becomes("code", of_shop, &[("200", 8.0), ("404", 2.0)]);
    becomes("pool", "sum by (pool) (lb_server_requests_total)", &[("default", 10.0), ("tried", 8.0)]);
    // Ten requests by the weights 1 and 3, of any place in the turn.
    let by_server = by("server", &prometheus.query("sum by (server) (lb_server_requests_total{pool=\"default\"})"));
    assert!((2.0..=3.0).contains(&by_server["server1"]), "{by_server:?}");

    // The one connection of the client's worker to each server, and the clients'.
    let open = by("server", &prometheus.query("lb_server_connections{pool=\"default\"}"));
    assert!(open.len() == 2 && open.values().all(|open| (1.0..=2.0).contains(open)), "{open:?}");
    let _open = Client::connect(scene.lb.address());
    becomes("job", "sum by (job) (lb_client_connections)", &[("lb", 1.0)]);

    let memory = eventually("the memory of three servers", || {
        let memory = by("server", &prometheus.query("lb_server_memory_bytes"));
        (memory.len() == 3).then_some(memory)
    });
    assert!(memory.values().all(|bytes| (1e6..1e11).contains(bytes)), "{memory:?}");
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
    for quiet in ["LbGone", "LbFault", "LbReplicasDisagree", "LbTellsLess"] {
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
        prometheus.query(&substituted(annotation["expr"].as_str().expect("an expression")))
    };
    let applied = scene.lb.metric("lb_config_last_reload_timestamp_seconds").expect("a time");
    let [(labels, milliseconds)] = &at("Applied edits")[..] else { panic!("one edit") };
    assert_eq!(labels["generation"], "2");
    assert!((milliseconds / 1e3 - applied).abs() < 0.002, "{milliseconds} {applied}");
    assert_eq!(by("job", &at("Refused edits")), BTreeMap::from([("lb".to_owned(), 1.0)]));
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
