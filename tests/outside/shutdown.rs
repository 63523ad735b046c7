//! Signals: draining, an immediate stop, reading the file again.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, PORTS, servers};
use crate::support::servers::{Gate, Server};
use crate::support::{DEADLINE, eventually};

const NO_CHECKS: &str = "[health]\nkind = \"none\"\n";

/// A balancer, its server, and a request whose response the gate holds back.
struct Scene {
    lb: Lb,
    server: Server,
    gate: Gate,
    slow: Client,
}

impl Scene {
    fn new(config: &str) -> Self {
        let gate = Gate::default();
        let server = Server::gated("a", &gate);
        let lb = Lb::start(&format!("{NO_CHECKS}{config}{}", servers(&[("a", server.address, 1)])));
        let mut slow = Client::connect(lb.address());
        slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the server has the request", || (!server.requests().is_empty()).then_some(()));
        Self { lb, server, gate, slow }
    }

    fn is_stopping(&self) {
        eventually("/health shows it", || (self.lb.ask("/health").status == 503).then_some(()));
    }
}

fn logs(lb: &Lb, words: &str) {
    eventually(words, || lb.stderr().iter().any(|line| line.contains(words)).then_some(()));
}

// Case: stop-refuses
#[test]
fn a_stop_accepts_no_clients_and_lets_open_requests_finish() {
    for signal in ["TERM", "INT"] {
        let Scene { mut lb, gate, mut slow, server } = Scene::new("");
        let address = lb.address();
        let mut idle = Client::connect(address);
        assert_eq!(idle.get("/").text(), "a");
        let (mut silent, mut late) = (Client::connect(address), Client::connect(address));
        eventually("the last two clients are accepted", || {
            (lb.api("/api/listeners")["listeners"][0]["connections"] == 4).then_some(())
        });

        lb.signal(signal);
        eventually("/health shows it", || (lb.ask("/health").status == 503).then_some(()));
        assert_eq!(lb.ask("/ready").status, 503);
        assert_eq!(lb.ask("/metrics").status, 200);
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err(), "it accepts new clients");
        assert!(idle.is_closed());
        // Clients that have connected just before are not reset.
        let response = late.get("/");
        assert_eq!((response.text().as_str(), response.keeps_alive()), ("a", false));
        assert!(silent.is_closed());

        gate.open();
        let response = slow.response();
        assert_eq!((response.text().as_str(), response.keeps_alive()), ("a", false));
        assert!(slow.is_closed());
        drop(slow);
        assert!(lb.ends().success(), "{signal}");
        logs(&lb, "stopped");
        assert_eq!(server.requests().len(), 3);
    }
}

/// Connects as soon as a client gets an answer, and returns how it ended.
fn connect(address: SocketAddr) -> ErrorKind {
    // A client whose SYN was dropped sends it again after a second.
    TcpStream::connect_timeout(&address, DEADLINE).map_or_else(|error| error.kind(), |_| ErrorKind::Other)
}

// Case: stop-refuses
#[test]
fn once_it_stops_new_clients_are_refused_and_the_ports_are_free() {
    for signal in ["TERM", "INT"] {
        let more = "[[listener]]\naddress = \"127.0.0.2:0\"\nname = \"second\"\n[timeouts]\ndrain = \"1h\"\n";
        let Scene { mut lb, server: _server, gate, mut slow } = Scene::new(more);
        let listeners = lb.api("/api/listeners");
        let addresses = [0, 1].map(|i| listeners["listeners"][i]["address"].as_str().unwrap().parse().unwrap());
        lb.signal(signal);
        eventually("/health shows it", || (lb.ask("/health").status == 503).then_some(()));
        for address in addresses {
            assert_eq!(connect(address), ErrorKind::ConnectionRefused, "{signal}");
            eventually("a successor has the port", || TcpListener::bind(address).ok());
        }
        assert_eq!(lb.ask("/health").status, 503);
        gate.open();
        assert_eq!(slow.response().text(), "a");
        drop(slow);
        assert!(lb.ends().success(), "{signal}");
    }
}

// Case: stop-refuses
#[test]
fn clients_that_wait_for_room_are_served_when_it_stops() {
    let Scene { mut lb, server: _server, gate, mut slow } =
        Scene::new("[limits]\nconnections = 1\n[timeouts]\ndrain = \"1h\"\n");
    let address = lb.address();
    // Some are held by the workers, the others wait in the socket's queue.
    let mut waiting: Vec<Client> = (0..8).map(|_| Client::connect(address)).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    lb.signal("TERM");
    for client in &mut waiting {
        assert_eq!(client.response().text(), "a");
    }
    assert_eq!(connect(address), ErrorKind::ConnectionRefused);
    gate.open();
    assert_eq!(slow.response().text(), "a");
    drop((slow, waiting));
    assert!(lb.ends().success());
}

// Case: stop-refuses
#[test]
fn a_listener_that_an_edit_has_just_removed_is_closed_by_a_stop_too() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let file = |more: &str| {
        format!("{PORTS}{more}[timeouts]\ndrain = \"1h\"\n{NO_CHECKS}{}", servers(&[("a", server.address, 1)]))
    };
    let mut lb = Lb::start_file(&file("[[listener]]\naddress = \"127.0.0.2:0\"\nname = \"second\"\n"));
    let listeners = lb.api("/api/listeners");
    let second = listeners["listeners"][1]["address"].as_str().unwrap().parse().unwrap();
    let mut slow = Client::connect(second);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the server has the request", || (!server.requests().is_empty()).then_some(()));
    lb.edit_file(&file(""));
    lb.reaches(2);
    lb.signal("TERM");
    assert_eq!(connect(second), ErrorKind::ConnectionRefused);
    gate.open();
    assert_eq!(slow.response().text(), "a");
    drop(slow);
    assert!(lb.ends().success());
}

#[test]
fn requests_that_outlast_the_drain_are_aborted_and_it_ends_in_order() {
    let mut scene = Scene::new("[timeouts]\ndrain = \"300ms\"\n");
    scene.lb.signal("TERM");
    assert!(scene.slow.try_response().is_err());
    assert!(scene.lb.ends().success());
    logs(&scene.lb, "drain timeout reached");
}

#[test]
fn a_second_signal_ends_the_drain() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "INT")] {
        let mut scene = Scene::new("[timeouts]\ndrain = \"1h\"\n");
        scene.lb.signal(first);
        scene.is_stopping();
        scene.lb.signal("HUP");
        scene.lb.signal(second);
        assert!(scene.slow.try_response().is_err());
        assert!(scene.lb.ends().success());
        logs(&scene.lb, "second signal received");
    }
}

#[test]
fn hangups_reload_the_file_and_are_coalesced() {
    let server = Server::named("a");
    let config = |weight| format!("{NO_CHECKS}[reload]\npoll = \"0s\"\n{}", servers(&[("a", server.address, weight)]));
    let mut lb = Lb::start(&config(1));
    let first = lb.newest_reload();
    lb.signal("HUP");
    let reload = lb.next_reload(&first);
    assert_eq!((&reload["outcome"], &reload["generation"]), (&"unchanged".into(), &1.into()));
    assert_eq!(reload["hash"], first["hash"]);
    for _ in 0..100 {
        lb.signal("HUP");
    }
    assert_eq!(get(lb.address(), "/").text(), "a");
    lb.apply(&config(2));
    assert_eq!(lb.generation(), 2);
    let unchanged = lb.metric("lb_reloads_total{result=\"unchanged\"}").unwrap();
    assert!(unchanged <= 60.0, "{unchanged}");
    lb.signal("TERM");
    assert!(lb.ends().success());
}

#[test]
fn a_stop_during_an_edit_is_a_stop() {
    let server = Server::named("a");
    for moment in 0..4 {
        let mut lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("a", server.address, 1)])));
        let mut client = Client::connect(lb.address());
        lb.edit(&format!("{NO_CHECKS}{}", servers(&[("a", server.address, 7), ("b", server.address, 1)])));
        // From the first moment of the edit to its end.
        match moment {
            0 => {}
            1 => drop(lb.ask("/health")),
            2 => drop(lb.newest_reload()),
            _ => lb.reaches(2),
        }
        lb.signal("TERM");
        // Either the response is complete or the request was never read.
        match client.try_get("/") {
            Ok(response) => assert_eq!(response.text(), "a"),
            Err(_) => assert!(client.is_closed()),
        }
        assert!(lb.ends().success());
        assert!(!lb.has_panicked(), "{:#?}", lb.stderr());
    }
}

#[test]
fn a_stop_waits_for_a_lingering_upload_until_the_drain_timeout() {
    let server = Server::named("a");
    let limits = "[limits]\nbody_bytes = \"10B\"\n[timeouts]\ndrain = \"500ms\"\n";
    let mut lb = Lb::start(&format!("{NO_CHECKS}{limits}{}", servers(&[("a", server.address, 1)])));
    let mut client = Client::connect(lb.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    assert_eq!(client.response().status, 413);
    lb.signal("TERM");
    eventually("/health shows it", || (lb.ask("/health").status == 503).then_some(()));
    // It still sends, until `lb` has ended.
    eventually("the connection ends", || client.socket().write_all(b"x").is_err().then_some(()));
    assert!(lb.ends().success());
}
