//! Tests that measure time. A busy machine may fail them, so they run only on demand:
//!
//! ```sh
//! cargo test --test outside timing -- --ignored
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::hard::servers::clients_leave;
use crate::reload::{file, outcomes, weight_becomes};
use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Gate, Server, hanging, reset};
use crate::timeouts::{OK, listener};

/// How long `wait` takes.
fn time(wait: impl FnOnce()) -> Duration {
    let start = Instant::now();
    wait();
    start.elapsed()
}

#[track_caller]
fn assert_between(took: Duration, least: u64, most: u64) {
    assert!((least..most).contains(&(took.as_millis() as u64)), "{took:?}");
}

/// `lb`, and a client whose request for `/slow` is with the server.
fn slow_request(config: &str, server: &Server) -> (Lb, Client) {
    let lb = Lb::in_front_of(server, config);
    let mut client = Client::connect(lb.address());
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request has begun", || (!server.requests().is_empty()).then_some(()));
    (lb, client)
}

#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn clients_have_the_time_of_their_timeouts() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"1h\"\nidle = \"200ms\"\n");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 200);
    assert_between(time(|| assert!(client.is_closed())), 150, 2000);

    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"300ms\"\nidle = \"1h\"\n");
    assert_between(time(|| assert!(Client::connect(lb.address()).is_closed())), 250, 2000);
}

#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn servers_have_the_time_of_their_timeouts() {
    let (_listener, _waiting, hanging) = hanging();
    let table = servers(&[("server1", hanging, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}[timeouts]\nconnect = \"100ms\"\n{table}"));
    assert_between(time(|| assert_eq!(get(lb.address(), "/").status, 504)), 100, 2000);

    let silent = Server::scripted(|mut stream, recorder| while recorder.next(&mut stream).is_some() {});
    let lb = Lb::in_front_of(&silent, "[timeouts]\nresponse_header = \"200ms\"\n");
    assert_between(time(|| assert_eq!(get(lb.address(), "/").status, 504)), 180, 2000);

    let trickling = crate::timeouts::trickling();
    let lb = Lb::in_front_of(&trickling, "[timeouts]\nresponse_header = \"400ms\"\n");
    assert_between(time(|| assert_eq!(get(lb.address(), "/head").status, 504)), 300, 10_000);
}

#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn requests_have_the_drain_timeout_to_finish() {
    let gate = Gate::default();
    let server = Server::gated("server1", &gate);
    let (lb, mut client) = slow_request("[timeouts]\ndrain = \"300ms\"\n", &server);
    lb.signal("TERM");
    assert_between(time(|| assert!(client.try_response().is_err())), 250, 2000);

    let (leaves, stays) = (Server::gated("leaves", &gate), Server::named("stays"));
    let drain = "[timeouts]\ndrain = \"300ms\"\n";
    let (lb, mut client) = slow_request(drain, &leaves);
    let took = time(|| {
        lb.apply(&format!("{NO_CHECKS}{drain}{}", stays.table("stays")));
        assert!(client.try_response().is_err());
    });
    assert_between(took, 300, 2000);

    let server = Server::gated("server1", &gate);
    let file = |listeners: &str| {
        let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
        format!("{listeners}{admin}{NO_CHECKS}[timeouts]\ndrain = \"1s\"\n{}", server.table("server1"))
    };
    let (stays, goes) = (listener("stays", "127.0.0.1:0"), listener("goes", "127.0.0.2:0"));
    let lb = Lb::start_file(&file(&format!("{goes}{stays}")));
    let mut client = Client::connect(lb.address());
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request has begun", || (!server.requests().is_empty()).then_some(()));
    let took = time(|| {
        lb.edit_file(&file(&stays));
        assert!(client.is_closed());
    });
    assert_between(took, 900, 5000);
    gate.open();
}

#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn old_servers_are_held_for_the_hold_timeout() {
    let (old, new) = (Server::named("old"), Server::named("new"));
    new.set_healthy(false);
    let rules = "[health]\ninterval = \"20ms\"\nrise = 1\nfall = 1\n[reload]\nhold = \"300ms\"\n";
    let lb = Lb::start(&format!("{rules}{}", old.table("old")));
    let took = time(|| {
        lb.apply(&format!("{rules}{}", new.table("new")));
        eventually("the old server is gone", || (lb.ask("/api/servers/old").status == 404).then_some(()));
    });
    assert_between(took, 300, 2000);
}

/// Two seconds are promised, and a client that only ends its side has one of them.
#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn requests_are_aborted_soon_after_their_clients_leave() {
    clients_leave(Duration::from_secs(2));

    let (_listener, _waiting, hanging) = hanging();
    let table = servers(&[("server1", hanging, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}[timeouts]\nconnect = \"1h\"\n{table}"));
    let open = |count| (lb.server("server1")["active_requests"] == count).then_some(());
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is open", || open(1));
    drop(client);
    assert_between(time(|| eventually("the request has ended", || open(0))), 1000, 2000);
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is open", || open(1));
    reset(&client.socket());
    drop(client);
    assert_between(time(|| eventually("the request has ended", || open(0))), 0, 500);
}

#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn a_connection_lingers_until_its_client_is_silent() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[limits]\nbody_bytes = \"10B\"\n");
    let clients = || lb.metric("lb_client_connections{listener=\"127.0.0.1:0\"}").expect("a value");
    for (request, least) in [
        // Its body is still to come.
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n", 5000),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET", 2000),
    ] {
        let mut client = Client::connect(lb.address());
        client.send(request);
        client.response();
        assert!(client.is_closed());
        let took = time(|| eventually("it no longer lingers", || (clients() == 0.0).then_some(())));
        assert_between(took, least - 100, least + 1000);
    }
}

// Case: edit-storm
#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn the_last_of_a_thousand_edits_a_second_is_applied_200_ms_after_quiet() {
    let server = Server::named("a");
    let rules = "poll = \"0s\"\nquiet = \"100ms\"";
    let lb = Lb::start_file(&file(&server, rules, 1));
    let mut took = Vec::new();
    // On a busy machine not every round is fast enough.
    for round in 1..=20 {
        for weight in (1..200).chain([500 + round]) {
            fs::write(lb.path(), file(&server, rules, weight)).unwrap();
            sleep(Duration::from_millis(1));
        }
        let written = SystemTime::now();
        weight_becomes(&lb, 500 + round);
        let applied = humantime::parse_rfc3339(lb.newest_reload()["at"].as_str().unwrap()).unwrap();
        took.push(applied.duration_since(written).unwrap_or_default());
        if took.last() <= Some(&Duration::from_millis(300)) {
            return;
        }
    }
    panic!("none within `quiet` + 200 ms: {took:?}");
}

// Case: file-in-pieces
#[test]
#[ignore = "measures time: cargo test -- --ignored"]
fn a_file_written_over_a_quarter_of_a_second_is_read_once() {
    let server = Server::named("a");
    let rules = "poll = \"0s\"\nquiet = \"700ms\"";
    let lb = Lb::start_file(&file(&server, rules, 1));
    let text = file(&server, rules, 2);
    let mut target = File::create(lb.path()).unwrap();
    for piece in text.as_bytes().chunks(text.len() / 12) {
        target.write_all(piece).unwrap();
        sleep(Duration::from_millis(20));
    }
    drop(target);
    weight_becomes(&lb, 2);
    assert_eq!(outcomes(&lb), ["applied"; 2]);
}
