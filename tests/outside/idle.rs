//! Idle connections to servers: how many are kept and for how long, and that they end with the server's health.

use std::io::BufReader;
use std::net::TcpListener;
use std::sync::mpsc;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Gate, Request, Server, respond};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

/// The connections to a server of the default pool.
fn connections(lb: &Lb, server: &str) -> Option<f64> {
    lb.metric(&format!("lb_server_connections{{pool=\"default\",server=\"{server}\"}}"))
}

/// Makes this many requests at once, so that as many connections are idle afterwards.
fn burst(lb: &Lb, server: &Server, gate: &Gate, count: usize) {
    let (address, before) = (lb.address(), server.requests().len());
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually("the server has all requests", || (server.requests().len() == before + count).then_some(()));
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
}

/// A server that serves one connection at a time, and keeps it open. Returns its table.
fn one_at_a_time() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            while let Some(request) = Request::read(&mut stream) {
                respond(&mut stream, OK);
                if request.values("connection") == ["close"] {
                    break;
                }
            }
        }
    });
    format!("[[server]]\nname = \"a\"\naddress = \"{address}\"\n")
}

// Case: idle-none
#[test]
fn without_idle_connections_each_request_says_that_it_is_the_last() {
    let (kept, not_kept) = (Server::responding(OK), Server::responding(OK));
    let lb = Lb::start(&format!(
        "{NO_CHECKS}{ONE_WORKER}[upstream]\nidle_connections = 0\n[pool.kept.upstream]\nidle_connections = 9\n\
         [[route]]\npool = \"default\"\n[[route]]\npath = \"/kept\"\npool = \"kept\"\n{}[[pool.kept.server]]\n\
         name = \"k\"\naddress = \"{}\"\n",
        not_kept.table("n"),
        kept.address
    ));
    let mut client = Client::connect(lb.address());
    for _ in 0..5 {
        assert_eq!((client.get("/").status, client.get("/kept").status), (200, 200));
    }
    assert_eq!((not_kept.connections(), kept.connections()), (5, 1));
    assert!(not_kept.requests().iter().all(|request| request.values("connection") == ["close"]));
    assert!(kept.requests().iter().all(|request| request.values("connection").is_empty()));
    eventually("all are closed", || (connections(&lb, "n") == Some(0.0)).then_some(()));
}

// Case: idle-none
#[test]
fn a_server_that_serves_one_connection_at_a_time_is_never_shut_out_without_idle_ones() {
    let health =
        "[health]\npath = \"/\"\ninterval = \"20ms\"\ntimeout = \"5s\"\nfall = 1\n[upstream]\nidle_connections = 0\n";
    let lb = Lb::start(&format!("{health}{}", one_at_a_time()));
    for _ in 0..60 {
        assert_eq!(get(lb.address(), "/").status, 200);
    }
    assert_eq!(lb.metric("lb_server_checks_total{pool=\"default\",server=\"a\",result=\"failed\"}"), Some(0.0));
}

// Case: idle-silence
#[test]
fn a_silent_check_closes_idle_connections_that_may_be_in_its_way() {
    let health = "[health]\npath = \"/\"\ninterval = \"20ms\"\nretry = \"20ms\"\ntimeout = \"200ms\"\nfall = 3\n";
    let lb = Lb::start(&format!("{health}{ONE_WORKER}{}", one_at_a_time()));
    let checks = |result: &str| {
        let series = format!("lb_server_checks_total{{pool=\"default\",server=\"a\",result=\"{result}\"}}");
        lb.metric(&series).unwrap_or(0.0)
    };
    let mut passed = 0.0;
    for round in 1..=2 {
        passed = checks("passed");
        assert_eq!(get(lb.address(), "/").status, 200);
        eventually("a check fails", || (checks("failed") >= f64::from(round)).then_some(()));
        let before = checks("passed");
        eventually("the next one passes", || (checks("passed") > before).then_some(()));
    }
    eventually("connections are kept again", || {
        assert_eq!(get(lb.address(), "/").status, 200);
        (checks("failed") >= 3.0).then_some(())
    });
    // Not after the next check that passes, as if the silence had another cause.
    assert!(checks("passed") >= passed + 12.0, "{passed} and then {}", checks("passed"));
    assert!(lb.stderr().iter().any(|line| line.contains("set `upstream.idle_connections = 0`")), "{:#?}", lb.stderr());
    assert!(!lb.stderr().iter().any(|line| line.contains("server is down")), "{:#?}", lb.stderr());
}

// Case: idle-silence
#[test]
fn idle_connections_end_when_their_server_goes_down() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let health = "[health]\ninterval = \"20ms\"\nfall = 1\nrise = 1\n";
    let lb = Lb::start(&format!("{health}{}", server.table("a")));
    lb.server_is("a", "up");
    burst(&lb, &server, &gate, 5);
    // Checks have connections of their own.
    assert!(connections(&lb, "a") >= Some(5.0));
    server.set_healthy(false);
    lb.server_is("a", "down");
    eventually("they are closed", || (connections(&lb, "a") == Some(0.0)).then_some(()));
    server.set_healthy(true);
    lb.server_is("a", "up");
    assert_eq!(get(lb.address(), "/").text(), "a");
}

// Case: idle-limits
#[test]
fn an_edit_of_the_limits_closes_connections_that_are_idle_already() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let file = |upstream: &str| format!("{NO_CHECKS}{ONE_WORKER}[upstream]\n{upstream}\n{}", server.table("a"));
    let lb = Lb::start(&file(""));
    burst(&lb, &server, &gate, 6);
    assert_eq!(connections(&lb, "a"), Some(6.0));
    lb.apply(&file("idle_connections = 2"));
    eventually("2 are left", || (connections(&lb, "a") == Some(2.0)).then_some(()));
    lb.apply(&file("idle_connections = 2\nidle = \"50ms\""));
    eventually("none is left", || (connections(&lb, "a") == Some(0.0)).then_some(()));
    lb.apply(&file("idle_connections = 2\nidle = \"1h\""));
    burst(&lb, &server, &gate, 6);
    eventually("only 2 are kept", || (connections(&lb, "a") == Some(2.0)).then_some(()));
    assert_eq!(get(lb.address(), "/").text(), "a");
    assert_eq!(connections(&lb, "a"), Some(2.0), "the newest is reused");
}

// Case: idle-limits
#[test]
fn after_a_burst_only_the_connections_in_use_stay() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}[upstream]\nidle = \"2s\"\n"));
    burst(&lb, &server, &gate, 6);
    let opened = server.connections();
    let mut client = Client::connect(lb.address());
    eventually("one is left", || {
        assert_eq!(client.get("/").text(), "a");
        (connections(&lb, "server1") == Some(1.0)).then_some(())
    });
    assert_eq!(server.connections(), opened, "the most recently used one served all requests");
}

// Case: idle-limits
#[test]
fn a_server_says_how_long_and_for_how_many_requests_it_keeps_a_connection() {
    let (sender, receiver) = mpsc::channel();
    let server = Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let header = if request.path() == "/last" { "timeout=60, max=0" } else { "timeout=1, max=5" };
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nKeep-Alive: {header}\r\nContent-Length: 0\r\n\r\n"));
        }
        let _ = sender.send(());
    });
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    let mut client = Client::connect(lb.address());
    assert_eq!((client.get("/").status, client.get("/last").status, server.connections()), (200, 200, 1));
    receiver.recv_timeout(crate::support::DEADLINE).expect("it is closed after the last request");
    assert_eq!((client.get("/").status, server.connections()), (200, 2));
    receiver.recv_timeout(crate::support::DEADLINE).expect("it is closed before its time is over");
}
