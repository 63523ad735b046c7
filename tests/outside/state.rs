//! State that outlives an edit, and servers that an edit adds or removes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::{Gate, Server};

const NO_CHECKS: &str = "[health]\nkind = \"none\"\n";
const CHECKS: &str = "[health]\ninterval = \"100ms\"\n";

/// Sends a request whose response the server's gate holds back, and waits until the server has it.
fn open_slow(lb: &Lb, server: &Server) -> Client {
    let before = server.requests().len();
    let mut client = Client::connect(lb.address());
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the server has the request", || (server.requests().len() > before).then_some(()));
    client
}

fn status(lb: &Lb, name: &str) -> Value {
    lb.server(name)["status"].clone()
}

/// Waits, because a response is counted just after its last byte is sent.
fn total_is(lb: &Lb, name: &str, total: u64) {
    eventually("all its requests are counted", || (lb.server(name)["requests_total"] == total).then_some(()));
}

fn is_gone(lb: &Lb, name: &str) {
    eventually("the server is gone", || (lb.ask(&format!("/api/servers/{name}")).status == 404).then_some(()));
}

#[test]
fn a_hundred_edits_of_others_leave_a_server_alone() {
    let gate = Gate::default();
    let (a, b) = (Server::gated("a", &gate), Server::named("b"));
    let config = |weight: u32, extra: bool| {
        let table = [("a", a.address, 1), ("b", b.address, weight), ("c", b.address, 1)];
        format!("{NO_CHECKS}{}", servers(&table[..if extra { 3 } else { 2 }]))
    };
    // At first it is the only server, so that it gets the slow request and one more.
    let lb = Lb::start(&format!("{NO_CHECKS}{}", a.table("a")));
    let mut slow = open_slow(&lb, &a);
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").text(), "a");
    assert_eq!(a.connections(), 2);
    let mut responses = BTreeMap::<_, u64>::from([("a".to_owned(), 1)]);
    for edit in 0..100 {
        lb.apply(&config(1 + edit % 3, edit % 2 == 0));
        for _ in 0..5 {
            *responses.entry(client.get("/").text()).or_default() += 1;
        }
        eventually("only the slow request is open", || (lb.server("a")["active_requests"] == 1).then_some(()));
    }
    assert_eq!(a.connections(), 2, "both connections survive 100 edits");
    assert!(responses["a"] > 50, "{responses:?}");
    gate.open();
    assert_eq!(slow.response().text(), "a");
    let total = responses["a"] + 1;
    total_is(&lb, "a", total);
    let series = "lb_server_requests_total{pool=\"default\",server=\"a\",code=\"200\"}";
    assert_eq!(lb.metric(series).unwrap().to_string(), total.to_string());
    assert_eq!(lb.generation(), 101);
}

#[test]
fn health_outlives_edits() {
    let (good, bad) = (Server::named("good"), Server::named("bad"));
    let config = |weight| format!("{CHECKS}{}", servers(&[("good", good.address, weight), ("bad", bad.address, 1)]));
    let lb = Lb::start(&config(1));
    bad.set_healthy(false);
    lb.server_is("bad", "down");
    eventually("checked", || lb.server("good")["last_check"].is_object().then_some(()));
    let since = |name| lb.server(name)["since"].clone();
    let before = (since("good"), since("bad"));
    for weight in 2..7 {
        lb.apply(&config(weight));
        assert_eq!((status(&lb, "good"), status(&lb, "bad")), ("up".into(), "down".into()));
        assert_eq!(get(lb.address(), "/").text(), "good");
    }
    assert_eq!((since("good"), since("bad")), before);
}

#[test]
fn an_edit_keeps_the_position_of_the_picker() {
    let up = ["a", "b", "c"].map(Server::named);
    let config = |extra: &str| {
        let table = [("a", up[0].address, 2), ("b", up[1].address, 3), ("c", up[2].address, 6)];
        format!("{NO_CHECKS}{extra}{}", servers(&table))
    };
    let lb = Lb::start(&config(""));
    let mut client = Client::connect(lb.address());
    let mut names = Vec::new();
    for edit in 0..8 {
        names.extend((0..7).map(|_| client.get("/").text()));
        lb.apply(&config(&format!("[timeouts]\nidle = \"{}s\"\n", 100 + edit)));
    }
    for window in names.windows(11) {
        let count = |name| window.iter().filter(|other| *other == name).count();
        assert_eq!((count("a"), count("b"), count("c")), (2, 3, 6), "{names:?}");
    }
}

#[test]
fn a_removed_or_disabled_server_finishes_open_requests_and_gets_no_more() {
    for disabled in [false, true] {
        let gate = Gate::default();
        let (stays, leaves) = (Server::named("stays"), Server::gated("leaves", &gate));
        let stay = servers(&[("stays", stays.address, 1)]);
        let leave = servers(&[("leaves", leaves.address, 1000)]);
        let lb = Lb::start(&format!("{NO_CHECKS}{leave}{stay}"));
        let mut slow = open_slow(&lb, &leaves);
        let before = leaves.requests().len();

        let rest = if disabled { format!("{leave}enabled = false\n") } else { String::new() };
        lb.apply(&format!("{NO_CHECKS}{rest}{stay}"));
        assert_eq!(status(&lb, "leaves"), "draining");
        assert_eq!(lb.server("leaves")["active_requests"], 1);
        for _ in 0..20 {
            assert_eq!(get(lb.address(), "/").text(), "stays");
        }
        let series = "lb_server_active_requests{pool=\"default\",server=\"leaves\"}";
        assert_eq!(lb.metric(series), Some(1.0));

        gate.open();
        assert_eq!(slow.response().text(), "leaves");
        if disabled {
            lb.server_is("leaves", "disabled");
            assert_eq!(lb.metric(series), Some(0.0));
        } else {
            is_gone(&lb, "leaves");
            assert!(!lb.ask("/metrics").text().contains("server=\"leaves\""));
        }
        assert_eq!(leaves.requests().len(), before, "it got no new request");
        let connections = "lb_server_connections{pool=\"default\",server=\"leaves\"}";
        eventually("its idle connections are closed", || {
            lb.metric(connections).is_none_or(|open| open == 0.0).then_some(())
        });
    }
}

#[test]
fn requests_that_outlast_the_drain_are_aborted() {
    let gate = Gate::default();
    let (stays, leaves) = (Server::named("stays"), Server::gated("leaves", &gate));
    let stay = servers(&[("stays", stays.address, 1)]);
    let leave = servers(&[("leaves", leaves.address, 1000)]);
    let drain = "[timeouts]\ndrain = \"300ms\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{drain}{leave}{stay}"));
    let mut slow = open_slow(&lb, &leaves);
    lb.apply(&format!("{NO_CHECKS}{drain}{stay}"));
    let response = slow.try_response();
    assert!(response.is_err(), "{response:?}");
    is_gone(&lb, "leaves");
    assert_eq!(get(lb.address(), "/").text(), "stays");
    gate.open();
}

#[test]
fn a_server_that_is_added_again_while_it_drains_continues() {
    let gate = Gate::default();
    let (a, b) = (Server::named("a"), Server::gated("b", &gate));
    let stay = servers(&[("a", a.address, 1)]);
    let back = servers(&[("b", b.address, 1000)]);
    let both = format!("{CHECKS}{back}{stay}");
    let lb = Lb::start(&both);
    eventually("checked", || lb.server("b")["last_check"].is_object().then_some(()));
    let mut slow = open_slow(&lb, &b);
    let mut total = 0;
    for away in [format!("{CHECKS}{stay}"), format!("{CHECKS}{back}enabled = false\n{stay}")] {
        lb.apply(&away);
        assert_eq!(status(&lb, "b"), "draining");
        lb.apply(&both);
        assert_eq!(status(&lb, "b"), "up", "no new check is needed");
        assert_eq!(lb.server("b")["active_requests"], 1);
        total_is(&lb, "b", total);
        let names: Vec<_> = (0..10).map(|_| get(lb.address(), "/").text()).collect();
        let count = names.iter().filter(|name| *name == "b").count();
        assert!(count >= 9, "{names:?}");
        total += count as u64;
    }
    gate.open();
    assert_eq!(slow.response().text(), "b");
}

#[test]
fn a_new_server_gets_no_requests_before_its_first_passed_check() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}", servers(&[("old", old.address, 1)])));
    lb.apply(&format!("{CHECKS}{}", servers(&[("old", old.address, 1), ("new", new.address, 1000)])));
    eventually("it has been checked", || lb.server("new")["last_check"].is_object().then_some(()));
    assert_eq!(status(&lb, "new"), "checking");
    assert_eq!(lb.server("new")["share"], 0.0);
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").text(), "old");
    }
    new.set_healthy(true);
    lb.server_is("new", "up");
    let names: Vec<_> = (0..10).map(|_| get(lb.address(), "/").text()).collect();
    assert!(names.iter().filter(|name| *name == "new").count() >= 9, "{names:?}");
}

#[test]
fn old_servers_are_held_until_a_new_one_is_up() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}", servers(&[("old", old.address, 1)])));
    lb.apply(&format!("{CHECKS}{}", servers(&[("new", new.address, 1)])));
    eventually("it has been checked", || lb.server("new")["last_check"].is_object().then_some(()));
    assert_eq!(lb.api("/api/config")["state"], "holding");
    assert_eq!(lb.api("/api/pools")["pools"][0]["holding"], true);
    assert_eq!(lb.ask("/ready").status, 200);
    for _ in 0..5 {
        assert_eq!(get(lb.address(), "/").text(), "old");
    }
    new.set_healthy(true);
    lb.server_is("new", "up");
    is_gone(&lb, "old");
    assert_eq!(lb.api("/api/config")["state"], "current");
    for _ in 0..5 {
        assert_eq!(get(lb.address(), "/").text(), "new");
    }
}

#[test]
fn the_last_serving_server_is_held_while_the_others_have_not_passed_a_check() {
    let (old, new, newer) = (Server::named("old"), Server::named("new"), Server::named("newer"));
    new.set_healthy(false);
    newer.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}", servers(&[("old", old.address, 1)])));
    lb.apply(&format!("{CHECKS}{}", servers(&[("old", old.address, 1), ("new", new.address, 1)])));
    assert_eq!(lb.api("/api/config")["state"], "current");
    lb.apply(&format!("{CHECKS}{}", servers(&[("new", new.address, 1), ("newer", newer.address, 1)])));
    assert_eq!(lb.api("/api/config")["state"], "holding");
    assert_eq!(get(lb.address(), "/").text(), "old");
    newer.set_healthy(true);
    is_gone(&lb, "old");
    assert_eq!(get(lb.address(), "/").text(), "newer");
}

#[test]
fn nothing_is_held_for_a_pool_that_becomes_empty() {
    let old = Server::named("old");
    let allow = "[reload]\nallow_empty = true\n";
    let lb = Lb::start(&format!("{CHECKS}{allow}{}", servers(&[("old", old.address, 1)])));
    let off = servers(&[("old", old.address, 1)]);
    lb.apply(&format!("{CHECKS}{allow}{off}enabled = false\n"));
    lb.server_is("old", "disabled");
    assert_eq!(get(lb.address(), "/").status, 503);
    lb.apply(&format!("{CHECKS}{allow}{off}"));
    assert_eq!(get(lb.address(), "/").text(), "old", "its health is still known");
}

#[test]
fn a_name_at_another_address_is_another_server() {
    let gate = Gate::default();
    let (first, second) = (Server::gated("first", &gate), Server::named("second"));
    let other = Server::named("other");
    let config = |at| format!("{NO_CHECKS}{}", servers(&[("s", at, 1000), ("other", other.address, 1)]));
    let lb = Lb::start(&config(first.address));
    let mut slow = open_slow(&lb, &first);
    lb.apply(&config(second.address));
    let listed = lb.api("/api/servers");
    let of_name: Vec<_> = listed["servers"].as_array().unwrap().iter().filter(|server| server["name"] == "s").collect();
    let addresses: Vec<_> = of_name.iter().map(|server| (&server["address"], &server["status"])).collect();
    let expected = [(first.address, "draining"), (second.address, "up")];
    for (address, status) in expected {
        assert!(addresses.contains(&(&address.to_string().into(), &status.into())), "{listed}");
    }
    assert_eq!(get(lb.address(), "/").text(), "second");
    gate.open();
    assert_eq!(slow.response().text(), "first");
    eventually("the old one is gone", || {
        (lb.api("/api/servers?status=draining")["servers"].as_array()?.is_empty()).then_some(())
    });
}

#[test]
fn a_server_that_the_edit_sets_to_weight_0_is_held() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}", servers(&[("old", old.address, 1)])));
    lb.apply(&format!("{CHECKS}{}", servers(&[("old", old.address, 0), ("new", new.address, 1)])));
    assert_eq!(lb.api("/api/config")["state"], "holding");
    assert_eq!(get(lb.address(), "/").text(), "old");
    new.set_healthy(true);
    lb.server_is("new", "up");
    eventually("the hold is over", || (lb.api("/api/config")["state"] == "current").then_some(()));
    for _ in 0..5 {
        assert_eq!(get(lb.address(), "/").text(), "new");
    }
}
