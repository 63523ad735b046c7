//! `/metrics`: every name of the contract, with its labels, from a state in which everything has happened.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::Method;
use lb::config::UpstreamTlsConfig;
use lb::live::listener::{ListenerId, LiveListener};
use lb::live::reloads::{Outcome, Reload};
use lb::live::retry_budget::RetryReason;
use lb::live::server::Check;
use lb::telemetry::metrics::{Metrics, ProcessMetric, counter};

mod support;
use support::{Fixture, WORKERS, config, pool, server, three};

fn metrics(fixture: &Fixture) -> Metrics {
    Metrics::new(Arc::clone(&fixture.state), Vec::new()).expect("distinct names")
}

/// Returns the value of a series, given by its name and labels.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

/// A state in which everything that is counted has happened at three servers.
fn busy() -> Fixture {
    let mut spare = pool("spare", vec![server("server1", 9001, 1)]);
    spare.upstream.tls = Some(UpstreamTlsConfig { verify: false, ..UpstreamTlsConfig::default() });
    let mut fixture = Fixture::new(config(vec![three(), spare]));
    let snapshot = fixture.state.snapshot.load_full();
    for (worker, status) in [(0, 200), (1, 200), (1, 503)] {
        let route = snapshot.routes[0].live.counters.of(worker);
        route.codes.add(lb::live::method::key(&Method::GET, status));
        route.seconds.observe(Duration::from_millis(3));
        route.count_call(if status == 200 { 0 } else { 14 });
        let one = fixture.server("server1");
        let counters = one.counters().of(worker);
        counters.started.add(2);
        counters.finished.add(1);
        counters.opened.add(1);
        counters.codes.add(status.into());
        counters.seconds.observe(Duration::from_millis(2));
    }
    snapshot.unrouted.counters.of(0).codes.add(lb::live::method::key(&Method::POST, 404));
    snapshot.pools[0].live.counters.of(1).retries[RetryReason::Broken as usize].add(4);
    fixture.server("server1").set_memory(Some(64 << 20));
    fixture.server("server1").set_last_check(check(None));
    fixture.server("server2").set_last_check(check(Some("connection refused")));
    fixture.eject("server2", "3 requests in a row failed: connection refused");
    let listener = LiveListener {
        id: ListenerId(1),
        name: "web".into(),
        configured: std::net::SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
        rules: Arc::default(),
        counters: lb::live::counters::PerWorker::new(WORKERS).into(),
    };
    listener.counters.of(0).opened.add(5);
    listener.counters.of(0).closed.add(2);
    fixture.state.set_listeners(vec![Arc::new(listener)]);
    fixture.edit(|config| Arc::make_mut(&mut config.pools[0]).servers[2].enabled = false);
    for outcome in [Outcome::Applied, Outcome::Rejected] {
        fixture.state.reloads().add(Arc::new(reload(outcome)), 10);
    }
    fixture
}

fn check(error: Option<&str>) -> Check {
    Check {
        at: SystemTime::now(),
        took: Duration::from_millis(1),
        error: error.map(Into::into),
        refused: false,
        hint: None,
    }
}

fn reload(outcome: Outcome) -> Reload {
    Reload {
        generation: 2,
        hash: "aa".into(),
        outcome,
        at: SystemTime::now(),
        took: Duration::from_millis(7),
        changes: Vec::new(),
        problems: Vec::new(),
    }
}

#[test]
fn every_metric_has_its_name_and_labels() {
    let page = metrics(&busy()).text();
    let version = concat!("lb_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    let hash = format!("lb_config_info{{hash=\"{:064x}\"}}", 2);
    let cases = [
        (r#"lb_requests_total{route="all",method="GET",code="200"}"#, 2.0),
        (r#"lb_requests_total{route="all",method="GET",code="503"}"#, 1.0),
        (r#"lb_requests_total{route="-",method="POST",code="404"}"#, 1.0),
        (r#"lb_grpc_responses_total{route="all",status="0"}"#, 2.0),
        (r#"lb_grpc_responses_total{route="all",status="14"}"#, 1.0),
        (r#"lb_grpc_responses_total{route="all",status="4"}"#, 0.0),
        (r#"lb_request_duration_seconds_bucket{route="all",le="0.0025"}"#, 0.0),
        (r#"lb_request_duration_seconds_bucket{route="all",le="0.005"}"#, 3.0),
        (r#"lb_request_duration_seconds_bucket{route="all",le="+Inf"}"#, 3.0),
        (r#"lb_request_duration_seconds_count{route="all"}"#, 3.0),
        (r#"lb_request_duration_seconds_sum{route="all"}"#, 0.009),
        (r#"lb_server_requests_total{pool="default",server="server1",code="200"}"#, 2.0),
        (r#"lb_server_request_duration_seconds_count{pool="default",server="server1"}"#, 3.0),
        (r#"lb_server_request_duration_seconds_count{pool="default",server="server2"}"#, 0.0),
        (r#"lb_server_active_requests{pool="default",server="server1"}"#, 3.0),
        (r#"lb_server_connections{pool="default",server="server1"}"#, 3.0),
        (r#"lb_server_memory_bytes{pool="default",server="server1"}"#, 67_108_864.0),
        (r#"lb_server_up{pool="default",server="server1"}"#, 1.0),
        (r#"lb_server_up{pool="default",server="server2"}"#, 0.0),
        (r#"lb_server_weight{pool="default",server="server3"}"#, 6.0),
        (r#"lb_server_enabled{pool="default",server="server2"}"#, 1.0),
        (r#"lb_server_enabled{pool="default",server="server3"}"#, 0.0),
        (r#"lb_server_up{pool="spare",server="server1"}"#, 1.0),
        (r#"lb_server_checks_total{pool="default",server="server1",result="passed"}"#, 1.0),
        (r#"lb_server_checks_total{pool="default",server="server2",result="failed"}"#, 1.0),
        (r#"lb_server_checks_total{pool="default",server="server3",result="failed"}"#, 0.0),
        (r#"lb_server_ejections_total{pool="default",server="server1"}"#, 0.0),
        (r#"lb_server_ejections_total{pool="default",server="server2"}"#, 1.0),
        (r#"lb_retries_total{pool="default",reason="broken"}"#, 4.0),
        (r#"lb_retries_total{pool="spare",reason="connect"}"#, 0.0),
        (r#"lb_pool_holding{pool="default"}"#, 0.0),
        (r#"lb_pool_routed{pool="default"}"#, 1.0),
        (r#"lb_pool_routed{pool="spare"}"#, 0.0),
        (r#"lb_pool_tls_unverified{pool="spare"}"#, 1.0),
        (r#"lb_requests_total{route="all",method="GET",code="504"}"#, 0.0),
        (r#"lb_requests_total{route="-",method="OTHER",code="400"}"#, 0.0),
        (r#"lb_server_requests_total{pool="default",server="server2",code="500"}"#, 0.0),
        (r#"lb_client_connections{listener="web"}"#, 3.0),
        ("lb_config_generation", 2.0),
        ("lb_config_last_reload_successful", 0.0),
        ("lb_config_last_reload_timestamp_seconds", 1_700_000_000.25),
        ("lb_config_last_good_saved", 1.0),
        (&hash, 1.0),
        (r#"lb_reloads_total{result="pending"}"#, 0.0),
        (r#"lb_reloads_total{result="applied"}"#, 1.0),
        (r#"lb_reloads_total{result="rejected"}"#, 1.0),
        (r#"lb_reloads_total{result="unchanged"}"#, 0.0),
        ("lb_reload_duration_seconds_count", 2.0),
        (version, 1.0),
    ];
    for (series, expected) in cases {
        let found = value(&page, series).unwrap_or_else(|| panic!("no {series} in\n{page}"));
        assert!((found - expected).abs() < 1e-9, "{series} is {found}, not {expected}");
    }
    for series in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(value(&page, series).is_some(), "{series}");
    }
}

#[test]
fn unknown_values_are_absent() {
    let page = metrics(&Fixture::new(config(vec![three()]))).text();
    assert!(!page.contains("lb_server_memory_bytes"), "{page}");
}

#[test]
fn a_series_ends_with_the_drain_of_its_server() {
    let mut fixture = Fixture::new(config(vec![three()]));
    let metrics = metrics(&fixture);
    fixture.server("server3").counters().of(0).started.add(1);
    fixture.edit(|config| Arc::make_mut(&mut config.pools[0]).servers.truncate(2));
    let series = r#"lb_server_active_requests{pool="default",server="server3"}"#;
    assert_eq!(value(&metrics.text(), series), Some(1.0));
    fixture.expire(Duration::from_secs(31));
    assert!(!metrics.text().contains("server3"));
}

#[test]
fn a_server_that_moved_to_another_address_has_one_series() {
    let mut fixture = Fixture::new(config(vec![three()]));
    fixture.server("server3").counters().of(0).started.add(1);
    fixture.edit(|config| Arc::make_mut(&mut config.pools[0]).servers[2] = server("server3", 8093, 4));
    let page = metrics(&fixture).text();
    let weights = page.lines().filter(|line| line.starts_with("lb_server_weight") && line.contains("server3"));
    assert_eq!(weights.collect::<Vec<_>>(), [r#"lb_server_weight{pool="default",server="server3"} 4"#]);
}

#[test]
fn statuses_beyond_the_slots_are_counted_as_other() {
    let fixture = Fixture::new(config(vec![three()]));
    let one = fixture.server("server1");
    for status in 200..=220 {
        one.counters().of(0).codes.add(status);
        fixture.state.snapshot.load().unrouted.counters.of(0).codes.add(lb::live::method::key(&Method::GET, 418));
    }
    for status in 300..400 {
        fixture.state.snapshot.load().unrouted.counters.of(0).codes.add(lb::live::method::key(&Method::PUT, status));
    }
    let page = metrics(&fixture).text();
    assert_eq!(value(&page, r#"lb_server_requests_total{pool="default",server="server1",code="other"}"#), Some(5.0));
    assert_eq!(value(&page, r#"lb_requests_total{route="-",method="OTHER",code="other"}"#), Some(53.0));
}

#[test]
fn metrics_of_the_process_are_included_and_names_are_checked() {
    let fixture = Fixture::new(config(vec![three()]));
    let lines = Arc::new(AtomicU64::new(0));
    let metrics = |name| {
        let lines = Arc::clone(&lines);
        let metric = ProcessMetric::new(counter(name, "Lines dropped.", &[]), move || lines.load(Relaxed));
        Metrics::new(Arc::clone(&fixture.state), vec![metric])
    };
    let page = metrics("lb_access_log_dropped_total").expect("a new name");
    lines.store(3, Relaxed);
    assert_eq!(value(&page.text(), "lb_access_log_dropped_total"), Some(3.0));
    assert!(metrics("lb_reloads_total").is_err());
    assert!(metrics("not a name").is_err());
}

#[test]
fn promtool_finds_no_problem() {
    let page = metrics(&busy()).text();
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        return eprintln!("skipped: promtool is not installed (Debian's package prometheus has it)");
    };
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let found = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && found.is_empty(), "{}\n{page}", String::from_utf8_lossy(&found));
}

#[test]
fn a_thousand_servers_are_scraped_fast() {
    let many = (0..1000).map(|i| server(&format!("server{i}"), 10_000 + i, 1)).collect();
    let metrics = metrics(&Fixture::new(config(vec![pool("default", many)])));
    let fastest = (0..5)
        .map(|_| {
            let start = cpu_time();
            assert!(metrics.text().len() > 1_000_000);
            cpu_time() - start
        })
        .min();
    // Generous, because the build is not optimised.
    assert!(fastest < Some(Duration::from_millis(250)), "{fastest:?}");
}

/// The CPU time of this thread, which other tests at the same time do not add to.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("statistics of the scheduler");
    Duration::from_nanos(text.split(' ').next().and_then(|time| time.parse().ok()).expect("nanoseconds"))
}

#[test]
fn a_route_costs_little_of_the_page() {
    let config = {
        let mut config = config(vec![three()]);
        let route = config.routes[0].clone();
        config.routes =
            (0..1_000).map(|i| lb::config::RouteConfig { name: format!("route-{i}"), ..route.clone() }).collect();
        config
    };
    let page = metrics(&Fixture::new(config)).text();
    let series = page.lines().filter(|line| line.contains("route=\"route-77\"")).count();
    // The buckets, sum and count of the histogram, and four counts of requests.
    assert_eq!(series, 15 + 1 + 2 + 4);
    let mut zipped = flate2::read::GzEncoder::new(page.as_bytes(), flate2::Compression::fast());
    let zipped = std::io::copy(&mut zipped, &mut std::io::sink()).expect("compressed");
    assert!(page.len() < 1_700 * 1_000 && zipped < 90 * 1_000, "{} bytes, {zipped} compressed", page.len());
}
