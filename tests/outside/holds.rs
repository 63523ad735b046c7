//! Old servers serve a route until a server that replaces them is up, whatever kind of edit replaces them.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use serde_json::Value;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, run, servers};
use crate::support::servers::{Gate, Refusing, Server};

const CHECKS: &str = "[health]\ninterval = \"50ms\"\n";

/// A pool with one server.
fn pool(name: &str, server: &Server) -> String {
    format!("[[pool.{name}.server]]\nname = \"{name}\"\naddress = \"{}\"\n", server.address)
}

fn route(path: &str, pool: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\npool = \"{pool}\"\n")
}

fn state(lb: &Lb) -> Value {
    lb.api("/api/config")["state"].clone()
}

/// Whether a check of the server has ended.
fn is_checked(lb: &Lb, name: &str) {
    eventually("it has been checked", || lb.server(name)["last_check"].is_object().then_some(()));
}

#[track_caller]
fn all_from(lb: &Lb, path: &str, name: &str) {
    for _ in 0..5 {
        let response = get(lb.address(), path);
        assert_eq!((response.status, response.text().as_str()), (200, name), "{:#}", lb.api("/api/servers"));
    }
}

#[test]
fn every_kind_of_replacement_waits_for_a_server_that_is_up() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    let blue = pool("blue", &old) + &route("/", "blue");
    let top = old.table("blue");
    let cases = [
        ("route switched", &blue, pool("blue", &old) + &pool("green", &new) + &route("/", "green")),
        ("pool renamed", &blue, pool("green", &new) + &route("/", "green")),
        ("top-level servers moved to a pool", &top, pool("green", &new) + &route("/", "green")),
        ("a pool's servers moved to the top level", &blue, new.table("green")),
        ("servers replaced", &top, new.table("green")),
        (
            "pool split",
            &blue,
            pool("blue", &old) + &pool("green", &new) + &route("/other", "blue") + &route("/", "green"),
        ),
        ("route renamed, too", &blue, pool("green", &new) + &route("/", "green") + "name = \"other\"\n"),
        (
            "a more specific route",
            &blue,
            pool("blue", &old) + &pool("green", &new) + &route("/", "blue") + &route("/x", "green"),
        ),
        ("a wider path, too", &(pool("blue", &old) + &route("/x", "blue")), pool("green", &new) + &route("/", "green")),
        (
            "a wider host, too",
            &(pool("blue", &old) + &route("/", "blue") + "host = \"127.0.0.1\"\n"),
            pool("green", &new) + &route("/", "green"),
        ),
        ("a narrower path, too", &blue, pool("green", &new) + &route("/x", "green")),
        (
            "routes merged",
            &(pool("blue", &old) + &route("/x", "blue") + &route("/y", "blue")),
            pool("green", &new) + &route("/", "green"),
        ),
        ("route with a path moved to the top level", &(pool("blue", &old) + &route("/x", "blue")), new.table("green")),
        (
            "checked by another rule",
            &blue,
            pool("green", &new)
                + &route("/", "green")
                + "[pool.green.health]\ninterval = \"40ms\"\npath = \"/health\"\n",
        ),
    ];
    for (name, before, after) in cases {
        new.set_healthy(false);
        let lb = Lb::start(&format!("{CHECKS}{before}"));
        is_checked(&lb, "blue");
        lb.apply(&format!("{CHECKS}{after}"));
        is_checked(&lb, "green");
        all_from(&lb, "/x", "old");
        assert_eq!((state(&lb), lb.ask("/ready").status), ("holding".into(), 200), "{name}");
        let held = lb.api("/api/pools")["pools"].as_array().unwrap().iter().any(|pool| pool["holding"] == true);
        assert!(held, "{name}: {:#}", lb.api("/api/pools"));
        new.set_healthy(true);
        eventually(&format!("{name}: the hold ends"), || (state(&lb) == "current").then_some(()));
        all_from(&lb, "/x", "new");
    }
}

#[test]
fn a_wider_route_is_not_held_by_servers_of_which_only_some_had_its_requests() {
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    let before = pool("one", &a) + &pool("two", &b) + &route("/one", "one") + &route("/two", "two");
    let lb = Lb::start(&format!("{CHECKS}{before}"));
    is_checked(&lb, "two");
    // Neither route alone could serve both.
    lb.apply(&format!("{CHECKS}{}{}", pool("three", &c), route("/", "three")));
    assert_eq!(state(&lb), "current");
    all_from(&lb, "/one", "c");
    all_from(&lb, "/two", "c");
    lb.apply(&format!("{CHECKS}{before}"));
    eventually("the hold ends", || (state(&lb) == "current").then_some(()));
    // Narrower routes that stay keep their servers for themselves.
    lb.apply(&format!("{CHECKS}{}{}{}", before, pool("four", &c), route("/", "four")));
    assert_eq!(state(&lb), "current");
    all_from(&lb, "/", "c");
}

#[test]
fn renaming_the_pool_of_healthy_servers_fails_no_request() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let config = |pool: &str| {
        let server =
            |server: &Server| format!("[[pool.{pool}.server]]\nname = \"{0}\"\naddress = \"{0}\"\n", server.address);
        format!("{CHECKS}{}{}{}", server(&a), server(&b), route("/", pool)).replace("name = \"127.0.0.1:", "name = \"s")
    };
    let lb = Lb::start(&config("blue"));
    let (address, stop) = (lb.address(), AtomicBool::new(false));
    let requests = thread::scope(|scope| {
        let load = || {
            let mut client = Client::connect(address);
            let mut statuses = Vec::new();
            while !stop.load(SeqCst) {
                statuses.push(client.get("/").status);
            }
            statuses
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for name in ["green", "web", "blue", "web", "green", "blue"] {
            lb.apply(&config(name));
            eventually("the hold ends", || (state(&lb) == "current").then_some(()));
        }
        stop.store(true, SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let failed = requests.iter().filter(|status| **status != 200).count();
    assert_eq!(failed, 0, "of {}", requests.len());
    assert!(requests.len() > 100, "{}", requests.len());
}

#[test]
fn an_edit_that_nobody_survives_keeps_the_old_servers_with_a_warning() {
    let old = Server::named("old");
    let nobody = Refusing::new();
    let rules = format!("{CHECKS}[reload]\nhold = \"200ms\"\n");
    let before = format!("{rules}{}", old.table("a"));
    let lb = Lb::start(&before);
    is_checked(&lb, "a");
    lb.apply(&format!("{rules}{}", servers(&[("a", nobody.address, 1)])));
    let warnings = || lb.api("/api/config")["warnings"].clone();
    eventually("it warns", || {
        let text = warnings().to_string();
        (text.contains("no server of pool `default`") && text.contains("reload.hold")).then_some(())
    });
    let logged = |line: &String| line.contains("WARN") && line.contains("in time") && line.contains("pool=default");
    eventually("it logs", || lb.stderr().iter().any(logged).then_some(()));
    all_from(&lb, "/", "old");
    assert_eq!((state(&lb), lb.ask("/ready").status), ("holding".into(), 200));
    assert_eq!(lb.metric("lb_pool_holding{pool=\"default\"}"), Some(1.0));
    let status = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(
        status.contains("warning: no server of pool `default`") && status.contains("has come up in time"),
        "{status}"
    );
    let explained = run(&["explain", "/", "--admin", &lb.admin.to_string()]);
    assert_eq!(explained.code, Some(0), "{explained:#?}");
    assert!(explained.out.contains("the old servers of pool default serve"), "{}", explained.out);
    assert_eq!(run(&["healthcheck", "--config", lb.path().to_str().unwrap()]).code, Some(1), "its port is 0");

    let mut client = Client::connect(lb.address());
    lb.edit(&before);
    eventually("the edit is taken back", || {
        assert_eq!(client.get("/").text(), "old");
        (lb.generation() == 3).then_some(())
    });
    all_from(&lb, "/", "old");
    assert_eq!((state(&lb), warnings()), ("current".into(), Value::Array(Vec::new())));
    assert_eq!(lb.metric("lb_pool_holding{pool=\"default\"}"), Some(0.0));
}

#[test]
fn a_hold_can_give_way_after_its_time() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let rules = format!("{CHECKS}[reload]\nhold = \"300ms\"\nhold_then = \"switch\"\n");
    let lb = Lb::start(&format!("{rules}{}", old.table("old")));
    lb.apply(&format!("{rules}{}", new.table("new")));
    all_from(&lb, "/", "old");
    eventually("the old one leaves", || (lb.ask("/api/servers/old").status == 404).then_some(()));
    assert_eq!((state(&lb), get(lb.address(), "/").status), ("current".into(), 503));
    let logged = |line: &String| line.contains("WARN") && line.contains("drain all the same");
    eventually("it logs", || lb.stderr().iter().any(logged).then_some(()));
    // The edit is taken back: nobody else can serve, so the server counts as up at once.
    lb.apply(&format!("{rules}{}", old.table("old")));
    all_from(&lb, "/", "old");
}

#[test]
fn a_rule_that_changes_during_a_hold_applies_to_it() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let rules = |then: &str| format!("{CHECKS}[reload]\nhold = \"0s\"\nhold_then = \"{then}\"\n");
    let lb = Lb::start(&format!("{}{}", rules("keep"), old.table("old")));
    lb.apply(&format!("{}{}", rules("keep"), new.table("new")));
    is_checked(&lb, "new");
    eventually("it is late at once", || (lb.api("/api/pools")["pools"][0]["overdue"] == true).then_some(()));
    all_from(&lb, "/", "old");
    lb.apply(&format!("{}{}", rules("switch"), new.table("new")));
    eventually("the old one leaves", || (lb.ask("/api/servers/old").status == 404).then_some(()));
}

#[test]
fn more_time_for_a_hold_that_is_overdue_counts_at_once() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let rules = |hold: &str| format!("{CHECKS}[reload]\nhold = \"{hold}\"\n");
    let lb = Lb::start(&format!("{}{}", rules("100ms"), old.table("old")));
    lb.apply(&format!("{}{}", rules("100ms"), new.table("new")));
    let overdue = || lb.api("/api/pools")["pools"][0]["overdue"] == true;
    for _ in 0..5 {
        eventually("it is overdue", || overdue().then_some(()));
        lb.apply(&format!("{}{}", rules("1h"), new.table("new")));
        assert!(!overdue(), "{:#}", lb.api("/api/pools"));
        assert_eq!(state(&lb), "holding");
        lb.apply(&format!("{}{}", rules("100ms"), new.table("new")));
    }
}

#[test]
fn further_edits_during_a_hold_keep_the_servers_that_serve() {
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    b.set_healthy(false);
    c.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}{}", pool("one", &a), route("/", "one")));
    is_checked(&lb, "one");
    let edits = [
        pool("two", &b) + &route("/", "two"),
        pool("three", &c) + &route("/", "three"),
        pool("three", &c) + &route("/", "three") + "[log]\nlevel = \"debug\"\n",
        pool("three", &c) + &pool("two", &b) + &route("/", "two") + &route("/x", "three"),
    ];
    for edit in edits {
        lb.apply(&format!("{CHECKS}{edit}"));
        all_from(&lb, "/x", "a");
        assert_eq!(state(&lb), "holding");
    }
    c.set_healthy(true);
    lb.server_is("three", "up");
    all_from(&lb, "/x", "c");
    all_from(&lb, "/", "a");
    lb.apply(&format!("{CHECKS}{}{}", pool("one", &a), route("/", "one")));
    all_from(&lb, "/", "a");
    assert_eq!(state(&lb), "current");
}

#[test]
fn two_routes_of_different_pools_wait_with_their_own_servers() {
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    c.set_healthy(false);
    let before = pool("one", &a) + &pool("two", &b) + &route("/", "one") + &route("/two", "two");
    let lb = Lb::start(&format!("{CHECKS}{before}"));
    is_checked(&lb, "two");
    lb.apply(&format!("{CHECKS}{}{}{}", pool("three", &c), route("/", "three"), route("/two", "three")));
    all_from(&lb, "/", "a");
    all_from(&lb, "/two", "b");
    let routes = lb.api("/api/routes");
    let held_by: Vec<_> = routes["routes"].as_array().unwrap().iter().map(|route| &route["held_by"]).collect();
    assert_eq!(held_by, ["one", "two"]);
    c.set_healthy(true);
    lb.server_is("three", "up");
    all_from(&lb, "/", "c");
    all_from(&lb, "/two", "c");
}

#[test]
fn held_servers_are_checked_by_the_rule_that_they_were_up_by() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}fall = 1\n{}", old.table("old")));
    is_checked(&lb, "old");
    // The new version has another status; the old one fails this check.
    lb.apply(&format!("{CHECKS}fall = 1\nexpect = \"299\"\n{}", new.table("new")));
    is_checked(&lb, "new");
    let checks =
        || lb.metric("lb_server_checks_total{pool=\"default\",server=\"old\",result=\"passed\"}").unwrap_or(0.0);
    let before = checks();
    eventually("the old one is checked again", || (checks() > before + 1.0).then_some(()));
    all_from(&lb, "/", "old");
}

#[test]
fn a_sticky_client_of_a_held_server_stays_with_it() {
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    c.set_healthy(false);
    let sticky = format!("{CHECKS}[balance]\nsticky = {{ cookie = \"who\" }}\n");
    let lb = Lb::start(&format!("{sticky}{}", servers(&[("a", a.address, 1), ("b", b.address, 1)])));
    let first = get(lb.address(), "/");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    lb.apply(&format!("{sticky}{}{}", pool("web", &c), route("/", "web")));
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
    for _ in 0..6 {
        assert_eq!(Client::connect(lb.address()).request(&request).text(), first.text());
    }
}

#[test]
fn a_new_pool_without_old_servers_serves_before_its_first_check() {
    let gate = Gate::default();
    let server = Server::scripted({
        let gate = gate.clone();
        move |mut stream, recorder| {
            while let Some(request) = crate::support::servers::Request::read(&mut stream) {
                recorder.add(&request);
                if request.path() == "/health" {
                    gate.pass();
                }
                crate::support::servers::respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew");
            }
        }
    });
    let other = Server::named("other");
    let before = format!("[health]\n{}{}", pool("one", &other), route("/one", "one"));
    let lb = Lb::start(&before);
    lb.apply(&format!("{before}{}{}", pool("two", &server), route("/two", "two")));
    all_from(&lb, "/two", "new");
    assert_eq!((state(&lb), &lb.server("two")["status"]), ("current".into(), &"up".into()));
    gate.open();
}

#[test]
fn a_later_edit_extends_a_drain_that_is_under_way() {
    let gate = Gate::default();
    let (stays, leaves) = (Server::named("stays"), Server::gated("leaves", &gate));
    let rules =
        |drain: &str| format!("[health]\nkind = \"none\"\n[timeouts]\ndrain = \"{drain}\"\n{}", stays.table("stays"));
    let lb = Lb::start(&format!("{}{}", rules("1500ms"), servers(&[("leaves", leaves.address, 1000)])));
    let mut slow = Client::connect(lb.address());
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is open", || (lb.server("leaves")["active_requests"] == 1).then_some(()));
    lb.apply(&rules("1500ms"));
    lb.apply(&rules("1h"));
    // The first drain would have ended by the time that another one of the same length has.
    let other = Lb::start(&format!("{}{}", rules("2s"), servers(&[("leaves", leaves.address, 1000)])));
    let mut aborted = Client::connect(other.address());
    aborted.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is open", || (other.server("leaves")["active_requests"] == 1).then_some(()));
    other.apply(&rules("2s"));
    assert!(aborted.try_response().is_err());
    gate.open();
    assert_eq!(slow.response().text(), "leaves");
}

#[test]
fn a_later_edit_shortens_the_drain_of_a_closed_listener() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let rules =
        |drain: &str| format!("[health]\nkind = \"none\"\n[timeouts]\ndrain = \"{drain}\"\n{}", server.table("a"));
    let second = "[[listener]]\naddress = \"127.0.0.2:0\"\nname = \"second\"\n";
    let lb = Lb::start(&format!("{}{second}", rules("1h")));
    let listeners = lb.api("/api/listeners");
    let address =
        listeners["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "second").unwrap()["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
    let mut slow = Client::connect(address);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is open", || (lb.server("a")["active_requests"] == 1).then_some(()));
    lb.apply(&rules("1h"));
    lb.apply(&rules("10ms"));
    assert!(slow.try_response().is_err());
    gate.open();
}
