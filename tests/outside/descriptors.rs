//! File descriptors: an idle client has one, and a request borrows another for its connection to a server.

use std::process::Command;

use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command};
use crate::support::servers::{Gate, Server};

/// `lb` with this limit of descriptors.
fn limited(descriptors: usize, file: &str) -> Lb {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, file).unwrap();
    let mut shell = Command::new("sh");
    shell.env_remove("LB_CONFIG").env("NO_COLOR", "1");
    shell.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]).arg(command().get_program());
    Lb::start_as(shell, directory, path)
}

fn accepted(lb: &Lb) -> usize {
    let connections = lb.api("/api/listeners")["listeners"][0]["connections"].as_u64().unwrap();
    usize::try_from(connections).unwrap()
}

// Case: idle-clients
#[test]
fn nearly_all_descriptors_can_have_an_idle_client_and_each_is_served() {
    let server = Server::named("a");
    let lb = limited(256, &format!("{PORTS}{NO_CHECKS}{}", server.table("a")));
    let address = lb.address();
    let limit = lb.metric("lb_client_connections_limit").unwrap();
    assert!(limit >= 180.0, "{limit} clients with 256 descriptors");
    let mut clients: Vec<Client> = (0..180).map(|_| Client::connect(address)).collect();
    eventually("all are accepted", || (accepted(&lb) == clients.len()).then_some(()));
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "a");
    }
    assert_eq!((lb.ask("/health").status, accepted(&lb)), (200, clients.len()));
    assert!(!lb.stderr().iter().any(|line| line.contains("os error 24")), "{:#?}", lb.stderr());
}

/// Clients that each have a request, of which only some can have a connection to the server.
fn short(lb: &Lb, path: &str) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..60).map(|_| Client::connect(lb.address())).collect();
    eventually("all are accepted", || (accepted(lb) == clients.len()).then_some(()));
    clients.iter_mut().for_each(|client| client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")));
    eventually("some have to wait", || {
        lb.stderr().iter().any(|line| line.contains("no file descriptor for a connection")).then_some(())
    });
    clients
}

// Case: idle-clients
#[test]
fn a_request_without_a_descriptor_waits_until_another_one_has_ended() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let lb = limited(128, &format!("{PORTS}{NO_CHECKS}[timeouts]\nconnect = \"1h\"\n{}", server.table("a")));
    let mut clients = short(&lb, "/slow");
    assert!(server.requests().len() < clients.len());
    assert_eq!(lb.ask("/health").status, 200, "the admin address has descriptors");
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "a");
    }
    assert!(!lb.stderr().iter().any(|line| line.contains("os error 24")), "{:#?}", lb.stderr());
}

// Case: idle-clients
#[test]
fn a_request_that_gets_no_descriptor_in_time_gets_a_503_that_nobody_is_blamed_for() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let keys = "[timeouts]\nconnect = \"200ms\"\n[retry]\nattempts = 0\n[health]\ninterval = \"1h\"\nfall = 1\n";
    let lb = limited(128, &format!("{PORTS}{keys}{}", server.table("a")));
    lb.server_is("a", "up");
    let mut clients = short(&lb, "/slow");
    lb.logs("a 503", |line| line.contains("\" 503 ") && line.contains("unreachable"));
    gate.open();
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    assert_eq!(lb.server("a")["status"], "up");
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "a");
    }
}
