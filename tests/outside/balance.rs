//! Who gets which request.

use std::collections::BTreeMap;

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::Server;

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
fn eleven_in_a_row_are_shared_two_to_three_to_six_on_whatever_connections() {
    let up = three();
    let lb = Lb::start(&format!("{NO_CHECKS}{}", weighted(&up)));
    let address = lb.address();
    let mut kept: Vec<Client> = (0..4).map(|_| Client::connect(address)).collect();
    let names: Vec<String> =
        (0..110).map(|i| if i % 3 == 0 { get(address, "/").text() } else { kept[i % 4].get("/").text() }).collect();
    for window in names.windows(11) {
        let expected = BTreeMap::from([("server1", 2), ("server2", 3), ("server3", 6)]);
        assert_eq!(counts(window), expected, "{window:?}");
    }
    assert!(longest_run(&names) <= 2, "{names:?}");
}

#[test]
fn what_is_down_is_left_out_and_the_rest_stays_in_proportion() {
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
