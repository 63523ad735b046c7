//! Which server gets which request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Server, respond};

const NAMES: [&str; 3] = ["server1", "server2", "server3"];

fn three() -> [Server; 3] {
    NAMES.map(Server::named)
}

fn weighted(up: &[Server; 3]) -> String {
    let tables = [(NAMES[0], up[0].address, 2), (NAMES[1], up[1].address, 3), (NAMES[2], up[2].address, 6)];
    servers(&tables)
}

fn counts(names: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

fn longest_run(names: &[String]) -> usize {
    names.chunk_by(|a, b| a == b).map(<[_]>::len).max().unwrap_or(0)
}

#[test]
fn any_eleven_requests_in_a_row_are_shared_two_to_three_to_six() {
    let up = three();
    let lb = Lb::start(&format!("{NO_CHECKS}{}", weighted(&up)));
    let address = lb.address();
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(address)).collect();
    let names: Vec<String> =
        (0..110).map(|i| if i % 3 == 0 { get(address, "/").text() } else { clients[i % 4].get("/").text() }).collect();
    for window in names.windows(11) {
        let expected = BTreeMap::from([("server1", 2), ("server2", 3), ("server3", 6)]);
        assert_eq!(counts(window), expected, "{window:?}");
    }
    assert!(longest_run(&names) <= 2, "{names:?}");
}

#[test]
fn a_server_that_is_down_gets_nothing_and_the_others_stay_in_proportion() {
    let up = three();
    let lb = Lb::start(&format!("[health]\ninterval = \"50ms\"\ntimeout = \"2s\"\n{}", weighted(&up)));
    up[1].set_healthy(false);
    lb.server_is("server2", "down");
    let address = lb.address();
    let names: Vec<String> = (0..16).map(|_| get(address, "/").text()).collect();
    assert_eq!(counts(&names), BTreeMap::from([("server1", 4), ("server3", 12)]));
    up[1].set_healthy(true);
    lb.server_is("server2", "up");
    let names: Vec<String> = (0..22).map(|_| get(address, "/").text()).collect();
    assert_eq!(counts(&names), BTreeMap::from([("server1", 4), ("server2", 6), ("server3", 12)]));
}

/// Sends `count` requests, one after another, each on a new connection. Returns the names of the servers.
fn ask(address: SocketAddr, count: usize) -> Vec<String> {
    (0..count).map(|_| get(address, "/").text()).collect()
}

fn algorithm(name: &str) -> String {
    format!("{NO_CHECKS}[balance]\nalgorithm = \"{name}\"\n")
}

#[test]
fn threads_together_get_exact_shares_on_mixed_connections() {
    let up = three();
    let lb = Lb::start(&format!("{NO_CHECKS}[proxy]\nworkers = 3\n{}", weighted(&up)));
    let address = lb.address();
    let names = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let names = &names;
            scope.spawn(move || {
                let mut client = Client::connect(address);
                // 6 * 14 + 2 * 13 = 110.
                for i in 0..if thread < 6 { 14 } else { 13 } {
                    let name = if i % 2 == 0 { client.get("/").text() } else { get(address, "/").text() };
                    names.lock().expect("names").push(name);
                }
            });
        }
    });
    let names = names.into_inner().expect("names");
    assert_eq!(counts(&names), BTreeMap::from([("server1", 20), ("server2", 30), ("server3", 60)]));
}

#[test]
fn round_robin_ignores_weights() {
    let up = three();
    let lb = Lb::start(&format!("{}{}", algorithm("round-robin"), weighted(&up)));
    let names = ask(lb.address(), 12);
    for window in names.windows(3) {
        assert_eq!(counts(window).len(), 3, "{names:?}");
    }
}

#[test]
fn random_shares_roughly_by_weight_and_in_no_order() {
    let up = three();
    let lb = Lb::start(&format!("{}{}", algorithm("random"), weighted(&up)));
    let mut client = Client::connect(lb.address());
    let names: Vec<String> = (0..1100).map(|_| client.get("/").text()).collect();
    let counts = counts(&names);
    // More than seven standard deviations.
    for (name, expected) in [("server1", 200_usize), ("server2", 300), ("server3", 600)] {
        assert!(counts[name].abs_diff(expected) < 120, "{counts:?}");
    }
    assert!(longest_run(&names) > 2, "a random order has runs");
}

#[test]
fn least_connections_avoids_a_busy_server() {
    let (sender, receiver) = channel::<()>();
    let receiver = Mutex::new(receiver);
    let slow = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            let _ = receiver.lock().expect("a receiver").recv();
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    let quick = Server::named("quick");
    let lb = Lb::start(&format!("{}{}{}", algorithm("least-connections"), slow.table("slow"), quick.table("quick")));
    let address = lb.address();
    let mut waiting = Client::connect(address);
    // With equal counts they take turns, so one of the first two requests goes to the slow server.
    for sent in 1..=2 {
        waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("a request", || (slow.requests().len() + quick.requests().len() == sent).then_some(()));
        if !slow.requests().is_empty() {
            break;
        }
        assert_eq!(waiting.response().text(), "quick");
    }
    assert_eq!(counts(&ask(address, 20)), BTreeMap::from([("quick", 20)]));
    sender.send(()).expect("a server");
    assert_eq!(waiting.response().text(), "slow");
}

#[test]
fn weight_0_gets_no_new_clients() {
    let up = three();
    let tables = |weight| {
        servers(&[(NAMES[0], up[0].address, weight), (NAMES[1], up[1].address, 1), (NAMES[2], up[2].address, 1)])
    };
    let lb = Lb::start(&format!("{NO_CHECKS}{}", tables(0)));
    assert_eq!(counts(&ask(lb.address(), 10)), BTreeMap::from([("server2", 5), ("server3", 5)]));
    lb.apply(&format!("{NO_CHECKS}{}", tables(1)));
    assert_eq!(counts(&ask(lb.address(), 9)).len(), 3);
}

#[test]
fn each_pool_balances_for_itself() {
    let up = three();
    let api = ["api1", "api2"].map(Server::named);
    let tables: String = ["api1", "api2"]
        .into_iter()
        .zip(&api)
        .map(|(name, server)| server.table(name).replace("[[server]]", "[[pool.api.server]]"))
        .collect();
    let lb = Lb::start(&format!(
        "{NO_CHECKS}[[route]]\npool = \"default\"\n[[route]]\npath = \"/api\"\npool = \"api\"\n{}{tables}\
         [pool.api.balance]\nalgorithm = \"round-robin\"\n",
        weighted(&up)
    ));
    let mut client = Client::connect(lb.address());
    // In turn: neither pool moves the position of the other.
    let (mut default, mut api) = (Vec::new(), Vec::new());
    for _ in 0..22 {
        default.push(client.get("/").text());
        api.push(client.get("/api/x").text());
    }
    assert_eq!(counts(&default), BTreeMap::from([("server1", 4), ("server2", 6), ("server3", 12)]));
    assert_eq!(counts(&api), BTreeMap::from([("api1", 11), ("api2", 11)]));
    assert!(longest_run(&default) <= 2 && longest_run(&api) == 1, "{default:?} {api:?}");
}

#[test]
fn an_edit_does_not_reset_the_position() {
    let up = three();
    let file = |level: &str| format!("{NO_CHECKS}[log]\nlevel = \"{level}\"\n{}", weighted(&up));
    let lb = Lb::start(&file("info"));
    let address = lb.address();
    let mut names = Vec::new();
    for level in ["warn", "info", "debug", "info"] {
        // With a reset, these would be the same five servers each time.
        names.extend(ask(address, 5));
        lb.apply(&file(level));
    }
    names.extend(ask(address, 2));
    assert_eq!(names.len(), 22);
    for window in names.windows(11) {
        assert_eq!(counts(window), BTreeMap::from([("server1", 2), ("server2", 3), ("server3", 6)]), "{names:?}");
    }
}
