//! Thousands of servers: their pages are built beside the control plane, with the same result.

use crate::support::client::get;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::Server;

/// More than one batch.
const MANY: usize = 2000;

#[test]
fn thousands_of_servers_can_be_edited_and_listed() {
    let server = Server::named("a");
    let names: Vec<String> = (0..MANY).map(|number| format!("s{number}")).collect();
    let config = |changed: usize, weight| {
        let weight = |number| if number == changed { weight } else { 1 };
        let table = |(number, name): (usize, &'_ String)| servers(&[(name, server.address, weight(number))]);
        format!("{NO_CHECKS}{}", names.iter().enumerate().map(table).collect::<String>())
    };
    let lb = Lb::start(&config(0, 1));
    for (edit, changed) in [0, MANY / 2, MANY - 1].into_iter().enumerate() {
        lb.apply(&config(changed, 7));
        let (name, reload) = (&names[changed], lb.newest_reload());
        let change = format!("server default/{name}: weight 1 -> 7");
        let changes: Vec<_> =
            reload["changes"].as_array().unwrap().iter().map(|change| change.as_str().unwrap()).collect();
        // The previous server gets its old weight back.
        assert!(changes.contains(&&*change) && changes.len() == edit.min(1) + 1, "{changes:?}");
        assert_eq!(lb.server(name)["weight"], 7);
        assert_eq!(get(lb.address(), "/").text(), "a");
    }
    let listed = lb.api("/api/servers");
    assert_eq!(listed["servers"].as_array().unwrap().len(), MANY);
    let page = lb.ask("/metrics").text();
    assert_eq!(page.lines().filter(|line| line.starts_with("lb_server_weight{")).count(), MANY);
}
