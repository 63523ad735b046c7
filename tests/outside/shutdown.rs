//! Signals: draining, stopping at once, reading the file again.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::{Gate, Server};

const NO_CHECKS: &str = "[health]\nkind = \"none\"\n";

/// A balancer, its server, and a request that the server answers once the gate opens.
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

    fn begins_to_stop(&self) {
        eventually("/health says so", || (self.lb.ask("/health").status == 503).then_some(()));
    }
}

fn says(lb: &Lb, words: &str) {
    eventually(words, || lb.stderr().iter().any(|line| line.contains(words)).then_some(()));
}

#[test]
fn a_stop_takes_no_new_clients_and_lets_open_requests_finish() {
    for signal in ["TERM", "INT"] {
        let Scene { mut lb, gate, mut slow, server } = Scene::new("");
        let address = lb.address();
        let mut idle = Client::connect(address);
        assert_eq!(idle.get("/").text(), "a");
        let mut silent = Client::connect(address);
        eventually("the third client is accepted", || {
            (lb.api("/api/listeners")["listeners"][0]["connections"] == 3).then_some(())
        });

        lb.signal(signal);
        eventually("/health says so", || (lb.ask("/health").status == 503).then_some(()));
        assert_eq!(lb.ask("/ready").status, 503);
        assert_eq!(lb.ask("/metrics").status, 200);
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err(), "it takes new clients");
        assert!(idle.is_closed());
        assert!(silent.is_closed());

        gate.open();
        let answer = slow.answer();
        assert_eq!((answer.text().as_str(), answer.is_kept()), ("a", false));
        assert!(slow.is_closed());
        drop(slow);
        assert!(lb.ends().success(), "{signal}");
        says(&lb, "stopped");
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn what_outlasts_the_drain_is_cut_and_the_end_is_in_order_all_the_same() {
    let mut scene = Scene::new("[timeouts]\ndrain = \"300ms\"\n");
    let begin = Instant::now();
    scene.lb.signal("TERM");
    assert!(scene.slow.try_answer().is_err());
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(scene.lb.ends().success());
    says(&scene.lb, "drain timeout reached");
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "INT")] {
        let mut scene = Scene::new("[timeouts]\ndrain = \"1h\"\n");
        scene.lb.signal(first);
        scene.begins_to_stop();
        scene.lb.signal("HUP");
        scene.lb.signal(second);
        assert!(scene.slow.try_answer().is_err());
        assert!(scene.lb.ends().success());
        says(&scene.lb, "second signal received");
    }
}

#[test]
fn a_hangup_reads_the_file_again_and_a_hundred_are_no_hundred_reloads() {
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
fn a_stop_in_the_middle_of_an_edit_is_a_stop() {
    let server = Server::named("a");
    for pause in [0, 2, 5, 40] {
        let mut lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("a", server.address, 1)])));
        let mut client = Client::connect(lb.address());
        lb.edit(&format!("{NO_CHECKS}{}", servers(&[("a", server.address, 7), ("b", server.address, 1)])));
        // Different moments of the edit; any of them is right.
        std::thread::sleep(Duration::from_millis(pause));
        lb.signal("TERM");
        // Either it is answered in full or the connection is closed before: the request was never read.
        match client.try_get("/") {
            Ok(answer) => assert_eq!(answer.text(), "a"),
            Err(_) => assert!(client.is_closed()),
        }
        assert!(lb.ends().success());
        assert!(!lb.stderr().iter().any(|line| line.contains("fault in lb")), "{:#?}", lb.stderr());
    }
}
