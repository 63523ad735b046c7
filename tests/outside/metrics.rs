//! `/metrics` of a running `lb`: exact figures for known traffic.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;

use sha2::{Digest, Sha256};

use crate::support::client::{Client, get};
use crate::support::demo::Demo;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Gate, Refusing, Server, hanging, respond};

/// Waits for a figure.
#[track_caller]
fn becomes(lb: &Lb, series: &str, value: f64) {
    let now = || lb.metric(series);
    eventually(&format!("{series} {value}, not {:?}", now()), || (now() == Some(value)).then_some(()));
}

/// All series: names with labels.
fn series(lb: &Lb) -> BTreeSet<String> {
    let text = lb.ask("/metrics").text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

#[test]
fn requests_are_counted_by_route_and_by_server_exactly() {
    // Answers with the status that the path ends with.
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let status = request.path().rsplit('/').next().expect("a status");
            let body = if request.line.starts_with("HEAD") { "" } else { "ok" };
            respond(&mut stream, format!("HTTP/1.1 {status} Word\r\nContent-Length: 2\r\n\r\n{body}"));
        }
    });
    let route = |path: &str| format!("[[route]]\nname = \"{path}s\"\npath = \"/{path}\"\npool = \"default\"\n");
    let lb = Lb::start(&format!("{NO_CHECKS}{}{}{}", route("cat"), route("dog"), server.table("server1")));
    let mut clients = [0; 3].map(|_| Client::connect(lb.address()));
    let cases = [
        ("GET", "cat", 200, 5),
        ("GET", "cat", 404, 2),
        ("POST", "cat", 201, 3),
        ("GET", "dog", 500, 4),
        ("BREW", "dog", 200, 2),
    ];
    for (method, path, status, count) in cases {
        for turn in 0..count {
            let request = format!("{method} /{path}/{status} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(clients[turn % 3].request(request).status, status);
        }
    }
    assert_eq!(get(lb.address(), "/cow/200").status, 404);
    for (method, path, status, count) in cases {
        let method = if method == "BREW" { "OTHER" } else { method };
        let name = format!("lb_requests_total{{route=\"{path}s\",method=\"{method}\",code=\"{status}\"}}");
        becomes(&lb, &name, f64::from(u32::try_from(count).expect("few")));
    }
    becomes(&lb, "lb_requests_total{route=\"-\",method=\"GET\",code=\"404\"}", 1.0);
    for (code, count) in [(200, 7.0), (201, 3.0), (404, 2.0), (500, 4.0)] {
        let name = format!("lb_server_requests_total{{pool=\"default\",server=\"server1\",code=\"{code}\"}}");
        becomes(&lb, &name, count);
    }
    for (name, count) in [
        ("lb_request_duration_seconds_count{route=\"cats\"}", 10.0),
        ("lb_request_duration_seconds_bucket{route=\"dogs\",le=\"+Inf\"}", 6.0),
        ("lb_server_request_duration_seconds_count{pool=\"default\",server=\"server1\"}", 16.0),
        ("lb_server_active_requests{pool=\"default\",server=\"server1\"}", 0.0),
        ("lb_panics_total", 0.0),
    ] {
        becomes(&lb, name, count);
    }
    // Nothing else was counted.
    let page = lb.ask("/metrics").text();
    let counted = page.lines().filter(|line| line.starts_with("lb_requests_total") && !line.ends_with(" 0"));
    let counted: Vec<_> = counted.collect();
    assert_eq!(counted.len(), cases.len() + 1, "{counted:#?}");
}

#[test]
fn what_is_open_is_counted_while_it_is() {
    let (open, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
            let _ = wait.lock().expect("a turn").recv();
            respond(&mut stream, "k");
        }
    });
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let lb = Lb::start_file(&format!("{listener}{NO_CHECKS}{}", server.table("server1")));
    let active = "lb_server_active_requests{pool=\"default\",server=\"server1\"}";
    let connections = "lb_server_connections{pool=\"default\",server=\"server1\"}";
    let clients = "lb_client_connections{listener=\"web\"}";
    let counted = "lb_requests_total{route=\"default\",method=\"GET\",code=\"200\"}";
    let mut asking = [0; 2].map(|_| Client::connect(lb.address()));
    for client in &mut asking {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_head().expect("a head");
    }
    let idle = Client::connect(lb.address());
    for (series, count) in [(active, 2.0), (connections, 2.0), (clients, 3.0)] {
        becomes(&lb, series, count);
    }
    // A request is counted at the end of its answer.
    assert_eq!(lb.metric(counted), Some(0.0));
    for _ in 0..2 {
        open.send(()).expect("a server");
    }
    for client in &mut asking {
        assert_eq!(client.read(2), b"ok");
    }
    for (series, count) in [(active, 0.0), (connections, 2.0), (clients, 3.0), (counted, 2.0)] {
        becomes(&lb, series, count);
    }
    drop((idle, asking));
    becomes(&lb, clients, 0.0);
}

#[test]
fn a_tunnel_is_open_until_either_side_ends_it_or_it_never_came_about() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::scripted(move |mut stream, recorder| {
        if let Some(request) = recorder.next(&mut stream) {
            let _ = wait.lock().expect("a turn").recv();
            let more = if request.path() == "/hi" { "hi" } else { "" };
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            respond(&mut stream, format!("{head}{more}"));
            // Never ends of itself.
            std::thread::sleep(3 * crate::support::DEADLINE);
        }
    });
    let lb = Lb::in_front_of(&server, "[log]\nformat = \"json\"\n");
    let active = "lb_server_active_requests{pool=\"default\",server=\"server1\"}";
    let counted = "lb_requests_total{route=\"default\",method=\"GET\",code=\"101\"}";
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");

    let mut client = Client::connect(lb.address());
    client.send(upgrade("/hi"));
    go.send(()).expect("a server");
    assert_eq!(client.try_head().expect("a head").0, 101);
    assert_eq!(client.read(2), b"hi");
    assert_eq!((lb.metric(active), lb.metric(counted)), (Some(1.0), None));
    crate::support::servers::reset(&client.socket());
    drop(client);
    becomes(&lb, active, 0.0);
    becomes(&lb, counted, 1.0);

    // A client that said more and left unseen, before the server agreed.
    let mut client = Client::connect(lb.address());
    client.send(format!("{}early", upgrade("/")));
    eventually("the server has it", || (server.requests().len() == 2).then_some(()));
    crate::support::servers::reset(&client.socket());
    drop(client);
    go.send(()).expect("a server");
    becomes(&lb, active, 0.0);
    becomes(&lb, "lb_client_connections{listener=\"127.0.0.1:0\"}", 0.0);
}

#[test]
fn the_memory_of_a_server_is_its_own_figure_or_absent() {
    let demo = Demo::start("server1", None);
    let silent = Server::named("server2");
    let servers = servers(&[("server1", demo.address, 1), ("server2", silent.address, 1)]);
    let health = "[health]\ninterval = \"50ms\"\n";
    let lb = Lb::start(&format!("{health}memory = \"/metrics\"\n{servers}"));
    let memory = |server: &str| lb.metric(&format!("lb_server_memory_bytes{{pool=\"default\",server=\"{server}\"}}"));
    let bytes = eventually("the memory of server1", || memory("server1"));
    // The demo server is a part of this process.
    assert!((1e6..1e11).contains(&bytes), "{bytes}");
    assert_eq!(lb.server("server1")["memory_bytes"].as_f64().map(|bytes| bytes > 1e6), Some(true));
    for server in ["server1", "server2"] {
        let passed = format!("lb_server_checks_total{{pool=\"default\",server=\"{server}\",result=\"passed\"}}");
        eventually("two checks", || lb.metric(&passed).filter(|passed| *passed >= 2.0));
        assert_eq!(lb.metric(&passed.replace("passed", "failed")), Some(0.0));
    }
    assert_eq!(memory("server2"), None);
    assert_eq!(lb.server("server2").get("memory_bytes"), None);
    // Once nobody asks for it, it is not known.
    lb.apply(&format!("{health}{servers}"));
    eventually("the memory is forgotten", || memory("server1").is_none().then_some(()));
}

#[test]
fn retries_and_checks_are_counted_by_what_came_of_them() {
    let (_listener, _waiting, hanging) = hanging();
    let broken = Server::scripted(|mut stream, recorder| drop(recorder.next(&mut stream)));
    let good = Server::named("good");
    let pool = |name: &str, first| {
        format!(
            "[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n[pool.{name}.balance]\nalgorithm = \"round-robin\"\n\
             [[pool.{name}.server]]\nname = \"bad\"\naddress = \"{first}\"\n\
             [[pool.{name}.server]]\nname = \"good\"\naddress = \"{}\"\n",
            good.address
        )
    };
    let timeouts = "[timeouts]\nconnect = \"200ms\"\n";
    let pools = format!("{}{}", pool("hanging", hanging), pool("broken", broken.address));
    let lb = Lb::start(&format!("{NO_CHECKS}[log]\nformat = \"json\"\n[retry]\nbudget = \"100%\"\n{timeouts}{pools}"));
    let mut client = Client::connect(lb.address());
    for path in ["/hanging", "/broken"] {
        for _ in 0..4 {
            assert_eq!(client.get(path).text(), "good", "{path}");
        }
    }
    let tries = |pool: &str| {
        let lines = eventually("the log", || Some(lb.stdout()).filter(|lines| lines.len() == 8));
        let entries = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let tries =
            entries.filter(|entry| entry["pool"] == pool).map(|entry| entry["tries"].as_f64().expect("a number"));
        tries.sum::<f64>()
    };
    let (hung, broke) = (tries("hanging") - 4.0, tries("broken") - 4.0);
    assert!(hung >= 2.0 && broke >= 2.0, "{hung} {broke}");
    let retries = |pool: &str, reason: &str| format!("lb_retries_total{{pool=\"{pool}\",reason=\"{reason}\"}}");
    let requests = |pool: &str| format!("lb_server_requests_total{{pool=\"{pool}\",server=\"good\",code=\"200\"}}");
    for (series, count) in [
        (retries("hanging", "connect"), hung),
        (retries("hanging", "broken"), 0.0),
        (retries("broken", "broken"), broke),
        (retries("broken", "connect"), 0.0),
        (requests("hanging"), 4.0),
        (requests("broken"), 4.0),
        ("lb_server_active_requests{pool=\"broken\",server=\"bad\"}".to_owned(), 0.0),
        ("lb_server_request_duration_seconds_count{pool=\"broken\",server=\"bad\"}".to_owned(), 0.0),
    ] {
        becomes(&lb, &series, count);
    }
    // A client counts once, however often a server was tried.
    becomes(&lb, "lb_requests_total{route=\"*/broken\",method=\"GET\",code=\"200\"}", 4.0);

    let checks = "[health]\nkind = \"tcp\"\ninterval = \"50ms\"\ntimeout = \"200ms\"\nfall = 1\n";
    lb.apply(&format!("{checks}{pools}"));
    let checks = |server: &str, result: &str| {
        format!("lb_server_checks_total{{pool=\"hanging\",server=\"{server}\",result=\"{result}\"}}")
    };
    for (server, result, never) in [("bad", "failed", "passed"), ("good", "passed", "failed")] {
        eventually("checks", || lb.metric(&checks(server, result)).filter(|count| *count >= 2.0));
        assert_eq!(lb.metric(&checks(server, never)), Some(0.0));
    }
    becomes(&lb, "lb_server_up{pool=\"hanging\",server=\"bad\"}", 0.0);
    becomes(&lb, "lb_server_up{pool=\"hanging\",server=\"good\"}", 1.0);
}

#[test]
fn reloads_and_the_configuration_in_force_are_told() {
    let server = Server::named("server1");
    let config = format!("{NO_CHECKS}{}", server.table("server1"));
    let lb = Lb::start(&config);
    let hash = || format!("lb_config_info{{hash=\"{:x}\"}}", Hex(std::fs::read(lb.path()).expect("a file")));
    assert_eq!(lb.metric(&hash()), Some(1.0));
    let begin = lb.metric("lb_config_last_reload_timestamp_seconds").expect("a time");
    lb.apply(&format!("{config}weight = 7\n"));
    let good = hash();
    becomes(&lb, "lb_server_weight{pool=\"default\",server=\"server1\"}", 7.0);
    lb.edit("nonsense");
    becomes(&lb, "lb_reloads_total{result=\"rejected\"}", 1.0);
    for (series, value) in [
        (good.as_str(), 1.0),
        ("lb_config_generation", 2.0),
        ("lb_config_last_reload_successful", 0.0),
        ("lb_reloads_total{result=\"applied\"}", 2.0),
        ("lb_reload_duration_seconds_count", 3.0),
    ] {
        assert_eq!(lb.metric(series), Some(value), "{series}");
    }
    assert_eq!(lb.metric(&hash()), None);
    let applied = lb.metric("lb_config_last_reload_timestamp_seconds").expect("a time");
    assert!(begin < applied, "{begin} {applied}");

    lb.edit(&format!("{config}weight = 7\n"));
    becomes(&lb, "lb_config_last_reload_successful", 1.0);
    lb.signal("HUP");
    becomes(&lb, "lb_reloads_total{result=\"unchanged\"}", 2.0);
    assert_eq!(lb.metric("lb_config_last_reload_timestamp_seconds"), Some(applied));
    let version = concat!("lb_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    assert_eq!(lb.metric(version), Some(1.0));
    for (series, least) in
        [("process_resident_memory_bytes", 1e6), ("process_open_fds", 5.0), ("process_start_time_seconds", 1.6e9)]
    {
        assert!(lb.metric(series) >= Some(least), "{series}");
    }
}

/// SHA-256 in hexadecimal.
struct Hex(Vec<u8>);

impl std::fmt::LowerHex for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Sha256::digest(&self.0).iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[test]
fn clients_cannot_make_series_and_removed_servers_leave_none() {
    let (server, gone) = (Server::named("server1"), Server::named("server2"));
    let both = format!("{NO_CHECKS}{}{}", server.table("server1"), gone.table("server2"));
    let lb = Lb::start(&both);
    let mut client = Client::connect(lb.address());
    for method in ["GET", "BREW"] {
        for _ in 0..2 {
            client.request(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        }
    }
    becomes(&lb, "lb_requests_total{route=\"default\",method=\"OTHER\",code=\"200\"}", 2.0);
    let before = series(&lb);
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..1_000 {
        let mut word = |choose: fn(&mut fastrand::Rng) -> char| -> String {
            (0..rng.usize(4..20)).map(|_| choose(&mut rng)).collect()
        };
        let method = word(fastrand::Rng::uppercase);
        let (path, host) = (word(fastrand::Rng::alphanumeric), word(fastrand::Rng::lowercase));
        let method = if path.len() % 2 == 0 { "GET" } else { &method };
        let request = format!("{method} /{path}/?{path} HTTP/1.1\r\nHost: {host}.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.request(request).status, 200);
    }
    assert_eq!(series(&lb), before);
    promtool(&lb.ask("/metrics").text());

    assert!(before.iter().any(|name| name.contains("server=\"server2\"")));
    lb.apply(&format!("{NO_CHECKS}{}", server.table("server1")));
    eventually("the end of its series", || {
        series(&lb).iter().all(|name| !name.contains("server=\"server2\"")).then_some(())
    });
    let kept: BTreeSet<_> = before.into_iter().filter(|name| name.contains("server=\"server1\"")).collect();
    assert!(!kept.is_empty() && kept.is_subset(&series(&lb)), "{kept:#?}");
}

/// Prometheus' own opinion of a page, where its tool is installed.
fn promtool(page: &str) {
    let command =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = command else {
        return eprintln!("note: promtool is not installed, so the page was not checked with it");
    };
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_first_request_and_the_first_error_show_in_a_rate() {
    let (server, gone) = (Server::named("server1"), Refusing::new());
    let route = |name: &str| format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\npool = \"{name}\"\n");
    let pool = |name: &str, address| format!("[[pool.{name}.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    let lb = Lb::start(&format!(
        "{NO_CHECKS}{}{}{}{}",
        route("good"),
        route("bad"),
        pool("good", server.address),
        pool("bad", gone.address)
    ));
    let of_good = "lb_requests_total{route=\"good\",method=\"GET\",code=\"200\"}";
    let of_bad = "lb_requests_total{route=\"bad\",method=\"GET\",code=\"502\"}";
    let of_server = "lb_server_requests_total{pool=\"good\",server=\"good\",code=\"200\"}";
    let of_none = "lb_requests_total{route=\"-\",method=\"GET\",code=\"404\"}";
    let of_invalid = "lb_requests_total{route=\"-\",method=\"OTHER\",code=\"400\"}";
    // A rate needs a value before the first one is counted.
    for series in [of_good, of_bad, of_server, of_none, of_invalid] {
        assert_eq!(lb.metric(series), Some(0.0), "{series}");
    }
    for family in ["lb_request_duration_seconds_count{route=\"bad\"}", "lb_pool_routed{pool=\"bad\"}"] {
        assert!(lb.metric(family).is_some(), "{family}");
    }
    for (path, status) in [("/good", 200), ("/bad", 502), ("/none", 404)] {
        assert_eq!(get(lb.address(), path).status, status);
    }
    let invalid = Client::connect(lb.address()).request("nonsense\r\n\r\n");
    assert_eq!(invalid.status, 400);
    for series in [of_good, of_bad, of_server, of_none, of_invalid] {
        becomes(&lb, series, 1.0);
    }
}

#[test]
fn metrics_are_compressed_for_those_who_accept_it() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, "");
    let ask = |method: &str, path: &str, accept: &str| {
        let accept = if accept.is_empty() { String::new() } else { format!("Accept-Encoding: {accept}\r\n") };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{accept}\r\n");
        Client::connect(lb.admin).request(head)
    };
    let plain = ask("GET", "/metrics", "");
    for (accept, expected) in [
        ("gzip", true),
        ("deflate, gzip;q=0.5", true),
        ("*", true),
        ("gzip;q=0", false),
        ("gzip;q=0.0, *;q=1", false),
        ("identity, gzip;q=0.9", false),
        ("br", false),
    ] {
        let response = ask("GET", "/metrics", accept);
        assert_eq!(response.header("vary"), Some("accept-encoding"), "{accept}");
        assert_eq!(response.header("content-type"), plain.header("content-type"), "{accept}");
        if !expected {
            assert_eq!(response.header("content-encoding"), None, "{accept}");
            assert!(response.text().contains("\nlb_config_generation 1\n"), "{accept}");
            continue;
        }
        assert_eq!(response.header("content-encoding"), Some("gzip"), "{accept}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*response.body).read_to_string(&mut text).unwrap();
        assert!(text.contains("\nlb_config_generation 1\n"), "{accept}: {text}");
        assert!(response.body.len() * 4 < text.len(), "{} of {}", response.body.len(), text.len());
    }
    // The other responses that may be large, but not those that fit into a packet, and no stream.
    for (path, expected) in [("/api/openapi.json", true), ("/api/config", true), ("/ready", false), ("/", false)] {
        let response = ask("GET", path, "gzip");
        assert_eq!(response.header("content-encoding").is_some(), expected, "{path}");
    }
    let mut head = Client::connect(lb.admin);
    head.send("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n");
    let (_, headers) = head.try_head().expect("a head");
    for (name, value) in [("content-encoding", "gzip"), ("vary", "accept-encoding")] {
        assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{headers:?}");
    }
    let mut events = Client::connect(lb.admin);
    events.send("GET /api/events HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n");
    let (_, headers) = events.try_head().expect("a head");
    assert!(headers.iter().all(|(name, _)| name != "content-encoding"), "{headers:?}");
}

#[test]
fn the_series_of_a_removed_server_last_as_long_as_its_drain() {
    let gate = Gate::default();
    let (server, leaving) = (Server::named("server1"), Server::gated("server2", &gate));
    let memory = "[health]\ninterval = \"50ms\"\nmemory = \"/health\"\n";
    let file = |weight| format!("{memory}{}weight = {weight}\n{}", server.table("server1"), leaving.table("server2"));
    let lb = Lb::start(&file(0));
    lb.server_is("server2", "up");
    let mut client = Client::connect(lb.address());
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    becomes(&lb, "lb_server_active_requests{pool=\"default\",server=\"server2\"}", 1.0);
    lb.apply(&format!("{memory}{}", server.table("server1")));
    let left = || series(&lb).into_iter().filter(|name| name.contains("server=\"server2\"")).count();
    assert!(left() > 10, "it drains: {}", left());
    gate.open();
    assert_eq!(client.try_head().expect("a response").0, 200);
    eventually("all of its series end", || (left() == 0).then_some(()));
}
