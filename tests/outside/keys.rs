//! Every key of the file but one takes effect without a restart.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::failures::resets;
use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, run, servers};
use crate::support::servers::{Gate, Server, respond};

const NO_CHECKS: &str = "[health]\nkind = \"none\"\n";

/// A balancer with one server, whose file is edited between the checks.
struct Scene {
    lb: Lb,
    server: Server,
    gate: Gate,
}

impl Scene {
    fn new() -> Self {
        let gate = Gate::default();
        let server = Server::gated("a", &gate);
        let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("a", server.address, 1)])));
        Self { lb, server, gate }
    }

    /// Applies the file with `more` in it.
    #[track_caller]
    fn with(&self, more: &str) {
        self.lb.apply(&format!("{NO_CHECKS}{more}\n{}", servers(&[("a", self.server.address, 1)])));
    }

    fn client(&self) -> Client {
        Client::connect(self.lb.address())
    }

    fn response(&self, request: &str) -> Response {
        self.client().request(request)
    }
}

/// The address of the listener with that name.
fn listener(lb: &Lb, name: &str) -> Option<SocketAddr> {
    let listeners = lb.api("/api/listeners");
    let listener = listeners["listeners"].as_array()?.iter().find(|listener| listener["name"] == name)?;
    listener["address"].as_str()?.parse().ok()
}

#[test]
fn limits() {
    let scene = Scene::new();
    let headers = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345";
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(20_000));
    for (more, request, status) in [
        ("[limits]\nheaders = 3", headers, 431),
        ("[limits]\nheaders = 4", headers, 200),
        ("[limits]\nbody_bytes = \"4B\"", post, 413),
        ("[limits]\nbody_bytes = \"5B\"", post, 200),
        ("[limits]\nheader_bytes = \"10KiB\"", &long, 431),
        ("[limits]\nheader_bytes = \"30KiB\"", &long, 200),
    ] {
        scene.with(more);
        assert_eq!(scene.response(request).status, status, "{more}");
    }
    scene.with("[limits]\nconnections = 1");
    let mut first = scene.client();
    assert_eq!(first.get("/").status, 200);
    let mut second = scene.client();
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let before = scene.server.requests().len();
    assert_eq!(first.get("/").status, 200);
    assert_eq!(scene.server.requests().len(), before + 1, "the second client has to wait");
    scene.with("[limits]\nconnections = 2");
    assert_eq!(second.response().status, 200);
}

#[test]
fn timeouts() {
    let scene = Scene::new();
    scene.with("[timeouts]\nrequest_header = \"100ms\"");
    let mut silent = scene.client();
    assert!(silent.is_closed());
    scene.with("[timeouts]\nidle = \"100ms\"");
    let mut idle = scene.client();
    assert_eq!(idle.get("/").status, 200);
    assert!(idle.is_closed());
    scene.with("[timeouts]\nresponse_header = \"100ms\"");
    assert_eq!(scene.response("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").status, 504);
    scene.with("[timeouts]\nbody_idle = \"100ms\"");
    let mut stalled = scene.client();
    stalled.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1");
    match stalled.try_response() {
        Ok(response) => assert!(response.status == 408 && !response.keeps_alive(), "{response:?}"),
        Err(_) => assert!(stalled.is_closed()),
    }
    scene.gate.open();
    scene.with("");
    assert_eq!(scene.response("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
}

#[test]
fn the_timeout_of_tunnels() {
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let tunnel = || {
        let mut client = Client::connect(lb.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        assert_eq!(client.try_head().expect("a head").0, 101);
        client
    };
    let _open = tunnel();
    lb.apply(&format!("{NO_CHECKS}[timeouts]\ntunnel = \"100ms\"\n{}", server.table("server1")));
    assert!(tunnel().is_closed());
    // An open tunnel keeps the timeout that it has started with.
    assert_eq!(lb.server("server1")["active_requests"], 1);
}

#[test]
fn the_log() {
    let scene = Scene::new();
    let newest =
        |words: &str| eventually(words, || scene.lb.stderr().into_iter().rev().find(|line| line.contains(words)));
    scene.with("[log]\nformat = \"json\"");
    let line: Value = serde_json::from_str(&newest("\"generation\":2")).expect("JSON");
    assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"configuration applied".into()));
    scene.with("[log]\nlevel = \"debug\"");
    assert!(newest("generation=3").contains(" INFO "));
    scene.with("[log]\nlevel = \"error\"");
    scene.with("[log]\nlevel = \"info\"\naccess = false");
    newest("generation=5");
    assert!(!scene.lb.stderr().iter().any(|line| line.contains("generation=4")), "an applied edit is no error");
    scene.response("GET /unseen HTTP/1.1\r\nHost: a\r\n\r\n");
    scene.with("[log]\naccess = true\naccess_format = \"combined\"");
    get(scene.lb.address(), "/combined");
    scene.lb.logs("a line in the combined format", |line| line.contains("\"GET /combined HTTP/1.1\" 200"));
    scene.with("[log]\naccess = \"access.log\"\nheaders = [\"Host\"]");
    get(scene.lb.address(), "/file");
    let file = scene.lb.path().with_file_name("access.log");
    let line = eventually("a line in the file", || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')));
    assert!(line.contains("\"GET /file HTTP/1.1\" 200") && line.contains(" headers.host="), "{line}");
    scene.with("[log]\naccess = true");
    scene.response("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the second is in the access log", || {
        scene.lb.stdout().iter().any(|line| line.contains("/seen")).then_some(())
    });
    assert!(!scene.lb.stdout().iter().any(|line| line.contains("/unseen")));
}

#[test]
fn the_admin_address() {
    let mut scene = Scene::new();
    let ask = |admin, host: &str| {
        Client::connect(admin).request(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).status
    };
    assert_eq!(ask(scene.lb.admin, "lb.internal"), 403);
    let config = format!("{NO_CHECKS}{}", servers(&[("a", scene.server.address, 1)]));
    scene.lb.edit_file(&format!("{}hosts = [\"lb.internal\"]\n{config}", PORTS));
    scene.lb.reaches(2);
    assert_eq!(ask(scene.lb.admin, "lb.internal"), 200);

    let old = scene.lb.admin;
    let moved = PORTS.replace("[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"127.0.0.2:0\"");
    scene.lb.edit_file(&format!("{moved}{config}"));
    let line = eventually("the admin address has moved", || {
        scene.lb.stderr().into_iter().find(|line| line.contains("admin address") && line.contains("127.0.0.2:"))
    });
    let address = line.split("address=").nth(1).expect("an address").parse().expect("an address");
    scene.lb.admin = address;
    assert_eq!(scene.lb.generation(), 3);
    eventually("the old address is closed", || TcpStream::connect_timeout(&old, Duration::from_secs(1)).err());
}

#[test]
fn listeners() {
    let scene = Scene::new();
    let pool = servers(&[("a", scene.server.address, 1)]);
    let table = |address: &str, name: &str| format!("[[listener]]\naddress = \"{address}:0\"\nname = \"{name}\"\n");
    let main = scene.lb.address();
    let mut first = Client::connect(main);
    assert_eq!(first.get("/").text(), "a");

    scene.lb.apply(&format!("{NO_CHECKS}{}{pool}", table("127.0.0.2", "second")));
    let second = listener(&scene.lb, "second").expect("a second listener");
    let mut of_second = Client::connect(second);
    assert_eq!(of_second.get("/").text(), "a");

    scene.lb.apply(&format!("{NO_CHECKS}{}{pool}", table("127.0.0.2", "renamed")));
    assert_eq!(listener(&scene.lb, "renamed"), Some(second), "the same socket");
    assert!(of_second.get("/").keeps_alive());

    scene.lb.apply(&format!("{NO_CHECKS}{}{pool}", table("127.0.0.3", "renamed")));
    let third = listener(&scene.lb, "renamed").expect("a third listener");
    assert_eq!((get(third, "/").text(), third.ip().to_string()), ("a".into(), "127.0.0.3".into()));
    eventually("the old one accepts no clients", || TcpStream::connect_timeout(&second, Duration::from_secs(2)).err());
    let last = of_second.get("/");
    assert_eq!((last.text().as_str(), last.keeps_alive()), ("a", false), "its client is asked to leave");
    drop(of_second);
    eventually("it is gone", || (scene.lb.api("/api/listeners")["listeners"].as_array()?.len() == 2).then_some(()));

    scene.lb.apply(&format!("{NO_CHECKS}{pool}"));
    eventually("the third is closed", || TcpStream::connect_timeout(&third, Duration::from_secs(2)).err());
    let response = first.get("/");
    assert_eq!((response.text().as_str(), response.keeps_alive()), ("a", true), "the first connection is not affected");
}

// Case: port-taken
#[test]
fn a_listener_can_replace_one_that_it_overlaps_with() {
    let scene = Scene::new();
    let pool = servers(&[("a", scene.server.address, 1)]);
    // A port that is free now.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = |ip: &str| format!("{NO_CHECKS}[[listener]]\naddress = \"{ip}:{free}\"\nname = \"it\"\n{pool}");
    let here = SocketAddr::from(([127, 0, 0, 1], free));
    for ip in ["127.0.0.1", "0.0.0.0", "127.0.0.1"] {
        scene.lb.apply(&at(ip));
        assert_eq!(get(here, "/").text(), "a");
    }
    let other = Lb::start(&format!("{NO_CHECKS}{pool}"));
    let before = other.newest_reload();
    other.edit(&at("127.0.0.1"));
    let reload = other.next_reload(&before);
    let hint = reload["problems"][0]["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("port {free} is taken")), "another process has it: {reload:#}");
}

#[test]
fn routes_balance_retries_and_sticky_cookies() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let both = servers(&[("a", a.address, 1), ("b", b.address, 9)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{both}"));
    let mut client = Client::connect(lb.address());
    let mut of_ten = || (0..10).filter(|_| client.get("/").text() == "a").count();
    assert_eq!(of_ten(), 1);
    lb.apply(&format!("{NO_CHECKS}[balance]\nalgorithm = \"round-robin\"\n{both}"));
    assert_eq!(of_ten(), 5);
    lb.apply(&format!("{NO_CHECKS}[balance]\nsticky = {{ cookie = \"who\" }}\n{both}"));
    let cookie = get(lb.address(), "/").header("set-cookie").map(str::to_owned);
    assert!(cookie.is_some_and(|cookie| cookie.starts_with("who=")));

    let pool = format!("[[pool.b.server]]\nname = \"b\"\naddress = \"{}\"\n", b.address);
    let only_a = servers(&[("a", a.address, 1)]);
    lb.apply(&format!(
        "{NO_CHECKS}{only_a}{pool}[[route]]\npool = \"default\"\n[[route]]\npath = \"/b\"\npool = \"b\"\n"
    ));
    assert_eq!((get(lb.address(), "/").text(), get(lb.address(), "/b").text()), ("a".into(), "b".into()));
    lb.apply(&format!("{NO_CHECKS}{only_a}{pool}[[route]]\nhost = \"other\"\npool = \"b\"\n"));
    assert_eq!(get(lb.address(), "/").status, 404);

    let resets = resets(usize::MAX);
    let both = servers(&[("a", a.address, 1), ("c", resets.address, 9)]);
    lb.apply(&format!("{NO_CHECKS}[retry]\nattempts = 0\n{both}"));
    let statuses: Vec<u16> = (0..10).map(|_| get(lb.address(), "/").status).collect();
    assert!(statuses.contains(&502), "{statuses:?}");
    lb.apply(&format!("{NO_CHECKS}[retry]\nattempts = 1\nbudget = \"100%\"\n{both}"));
    let statuses: Vec<u16> = (0..10).map(|_| get(lb.address(), "/").status).collect();
    assert_eq!(statuses, [200; 10]);
}

#[test]
fn the_health_rule() {
    let server = Server::named("a");
    let config =
        |rule: &str| format!("[health]\ninterval = \"50ms\"\nfall = 1\n{rule}{}", servers(&[("a", server.address, 1)]));
    let lb = Lb::start(&config(""));
    server.set_healthy(false);
    lb.server_is("a", "down");
    lb.apply(&config("kind = \"tcp\"\nrise = 1\n"));
    lb.server_is("a", "up");
    lb.apply(&config("expect = \"404\"\n"));
    lb.server_is("a", "down");
    lb.apply(&config("expect = \"503\"\nrise = 1\n"));
    lb.server_is("a", "up");
    lb.apply(&config("path = \"/alive\"\n"));
    eventually("it is checked there", || {
        server.requests().iter().any(|request| request.path() == "/alive").then_some(())
    });
    lb.apply(&config("").replace("interval = \"50ms\"\nfall = 1", "kind = \"none\""));
    lb.server_is("a", "up");
}

#[test]
fn trusted_proxies_and_tracing() {
    let scene = Scene::new();
    let collector = Server::named("zipkin");
    let ask = || {
        scene.response("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
        scene.server.requests().pop().expect("a request")
    };
    assert!(!ask().values("x-forwarded-for").concat().contains("192.0.2.7"));
    scene.with("[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]");
    assert!(ask().values("x-forwarded-for").concat().contains("192.0.2.7"));
    let zipkin = format!("[tracing]\nzipkin = \"http://{}/api/v2/spans\"\n", collector.address);
    scene.with(&format!("{zipkin}sample = 0.0"));
    assert!(!ask().values("traceparent").concat().ends_with("-01"));
    for service in ["first", "second"] {
        scene.with(&format!("{zipkin}service = \"{service}\""));
        assert!(ask().values("traceparent")[0].ends_with("-01"));
        eventually("spans have that name", || {
            let bodies = collector.requests().into_iter().map(|request| request.body);
            let mut texts = bodies.map(|body| String::from_utf8_lossy(&body).into_owned());
            texts.find(|text| text.contains(&format!("\"serviceName\":\"{service}\"")))
        });
    }
}

#[test]
fn the_path_that_servers_get() {
    let scene = Scene::new();
    let route = "[[route]]\npool = \"default\"\n[[route]]\npath = \"/b\"\npool = \"default\"\n";
    for (more, sent, status, seen) in [
        ("", "/a/../c/%7E?%7E", 200, "/a/../c/%7E?%7E"),
        ("", "/a/../b", 400, ""),
        ("[proxy]\npath = \"normalized\"\n", "/a/../c/%7E?%7E", 200, "/c/~?%7E"),
        ("[proxy]\npath = \"normalized\"\n", "/a/../b", 200, "/b"),
        ("[proxy]\npath = \"as-sent\"\n", "/a/./c", 200, "/a/./c"),
        ("[proxy]\npath = \"as-sent\"\n", "/./b", 400, ""),
    ] {
        scene.with(&format!("{more}# {sent}\n{route}"));
        let before = scene.server.requests().len();
        assert_eq!(scene.response(&format!("GET {sent} HTTP/1.1\r\nHost: a\r\n\r\n")).status, status, "{more}{sent}");
        let requests = scene.server.requests().split_off(before);
        let paths: Vec<_> = requests.iter().map(|request| request.path()).collect();
        assert_eq!(paths, if seen.is_empty() { vec![] } else { vec![seen] }, "{more}{sent}");
    }
}

#[test]
fn via_and_forwarded() {
    let scene = Scene::new();
    // One connection, which edits reach too.
    let mut client = scene.client();
    let mut ask = || {
        let response = client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = scene.server.requests().pop().expect("a request");
        let has = |name: &str| !request.values(name).is_empty();
        let via = (has("via"), response.header("via").is_some());
        (via, has("x-forwarded-for"), has("x-real-ip"), has("forwarded"))
    };
    assert_eq!(ask(), ((false, false), true, true, false));
    for (mode, x, forwarded) in
        [("forwarded", false, true), ("both", true, true), ("none", false, false), ("x-forwarded", true, false)]
    {
        scene.with(&format!("[proxy]\nforwarded = \"{mode}\""));
        assert_eq!(ask(), ((false, false), x, x, forwarded), "{mode}");
    }
    scene.with("[proxy]\nvia = true");
    assert_eq!(ask(), ((true, true), true, true, false));
}

#[test]
fn the_rules_of_reloading() {
    let scene = Scene::new();
    scene.with("[reload]\nhistory = 2");
    scene.with("[reload]\nhistory = 3");
    assert_eq!(scene.lb.api("/api/reloads")["reloads"].as_array().map(Vec::len), Some(3));
    scene.with("[reload]\nhistory = 2");
    assert_eq!(scene.lb.api("/api/reloads")["reloads"].as_array().map(Vec::len), Some(2));
    // With these settings an edit in place is not read; a renamed file is.
    let never = "[reload]\nquiet = \"1h\"\npoll = \"0s\"";
    scene.with(never);
    let text = fs::read_to_string(scene.lb.path()).unwrap();
    fs::write(scene.lb.path(), text.replace("weight = 1", "weight = 5")).unwrap();
    scene.with("[reload]\nquiet = \"10ms\"");
    assert_eq!(scene.lb.server("a")["weight"], 1);
    let text = fs::read_to_string(scene.lb.path()).unwrap();
    fs::write(scene.lb.path(), text.replace("weight = 1", "weight = 6")).unwrap();
    eventually("the edit in place is read", || (scene.lb.server("a")["weight"] == 6).then_some(()));
}

#[test]
fn a_new_number_of_workers_takes_effect_at_the_next_start_and_a_warning_says_so() {
    let scene = Scene::new();
    scene.with("[proxy]\nworkers = 3");
    let reload = scene.lb.newest_reload();
    assert_eq!(reload["changes"], serde_json::json!(["proxy.workers: 0 -> 3 (takes effect at the next start)"]));
    eventually("the log warns", || {
        let warns =
            |line: &String| line.contains("WARN") && line.contains("proxy.workers") && line.contains("next start");
        scene.lb.stderr().iter().any(warns).then_some(())
    });
    assert_eq!(scene.response("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    // It stays visible until the numbers agree.
    let warning = |path: &str| scene.lb.api(path)["warnings"].to_string();
    scene.with("[proxy]\nworkers = 3\n[log]\nlevel = \"debug\"");
    for path in ["/api/config", "/api/figures"] {
        assert!(warning(path).contains("`proxy.workers` asks for 3"), "{}", warning(path));
    }
    let status = run(&["status", "--admin", &scene.lb.admin.to_string()]).out;
    assert!(status.contains("warning: `proxy.workers` asks for 3") && status.contains("restarted"), "{status}");
    scene.with("");
    assert_eq!(warning("/api/config"), "[]");
}

#[test]
fn a_failed_check_is_repeated_after_retry() {
    let server = Server::named("a");
    let config =
        |rule: &str| format!("[health]\ninterval = \"1h\"\nrise = 2\n{rule}{}", servers(&[("a", server.address, 1)]));
    server.set_healthy(false);
    let lb = Lb::start(&config("retry = \"1h\"\n"));
    lb.server_is("a", "down");
    lb.apply(&config("retry = \"20ms\"\n"));
    let failed = || lb.metric("lb_server_checks_total{pool=\"default\",server=\"a\",result=\"failed\"}").unwrap_or(0.0);
    eventually("it is checked again and again", || (failed() >= 4.0).then_some(()));
    server.set_healthy(true);
    eventually("it passes", || (lb.server("a")["last_check"]["ok"] == true).then_some(()));
    assert_eq!(lb.server("a")["status"], "down", "the second pass is an interval away");
}

#[test]
fn the_time_and_the_end_of_a_hold() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let config =
        |rule: &str, server: &Server| format!("[health]\ninterval = \"50ms\"\n[reload]\n{rule}\n{}", server.table("a"));
    let lb = Lb::start(&config("hold = \"1h\"", &old));
    lb.apply(&config("hold = \"1h\"", &new));
    let warnings = || lb.api("/api/config")["warnings"].as_array().map(Vec::len);
    assert_eq!(warnings(), Some(0));
    lb.apply(&config("hold = \"10ms\"", &new));
    eventually("it warns", || (warnings() == Some(1)).then_some(()));
    assert_eq!(get(lb.address(), "/").text(), "old");
    lb.apply(&config("hold = \"10ms\"\nhold_then = \"switch\"", &new));
    eventually("the old one leaves", || (get(lb.address(), "/").status == 503).then_some(()));
}
