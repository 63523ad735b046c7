//! Requests that wait for a response of a server while its checks take it down.

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::{Gate, Server, respond};

const CHECKS: &str = "[health]\ninterval = \"100ms\"\n[limits]\nbody_rate = \"0\"\n";

/// Waits at `/slow` until the gate is open, and in the middle of the body of `/half`. Otherwise responds with its name.
fn waiting(name: &'static str, gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let (length, half) = (name.len(), request.path() == "/half");
            if request.path() == "/slow" {
                gate.pass();
            }
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", &name[..1]));
            if half {
                gate.pass();
            }
            respond(&mut stream, &name[1..]);
        }
    })
}

/// Sends a request, and waits until the server has it.
fn send(lb: &Lb, server: &Server, request: &str) -> Client {
    let mut client = Client::connect(lb.address());
    let before = server.requests().len();
    client.send(request);
    eventually("the server has the request", || (server.requests().len() > before).then_some(()));
    client
}

fn retries(lb: &Lb) -> Option<f64> {
    lb.metric("lb_retries_total{pool=\"default\",reason=\"down\"}")
}

const GET: &str = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
const PUT_BODY: &str = "PUT /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
const HALF: &str = "GET /half HTTP/1.1\r\nHost: a\r\n\r\n";

// Case: goes-down
#[test]
fn requests_that_can_be_sent_again_go_to_another_server() {
    let gate = Gate::default();
    let (bad, good) = (waiting("bad", &gate), Server::named("good"));
    // Only the first is up at first, so that all requests go there.
    good.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}", servers(&[("bad", bad.address, 1), ("good", good.address, 1)])));
    lb.server_is("good", "down");
    let moved: Vec<_> =
        [GET, GET, GET, "DELETE /slow HTTP/1.1\r\nHost: a\r\n\r\n"].map(|one| send(&lb, &bad, one)).into();
    let waits: Vec<_> = [POST, PUT_BODY, HALF].map(|one| send(&lb, &bad, one)).into();
    good.set_healthy(true);
    lb.server_is("good", "up");
    assert_eq!(retries(&lb), Some(0.0));
    bad.set_healthy(false);
    for mut client in moved {
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "good".to_owned()));
    }
    assert_eq!(retries(&lb), Some(4.0));
    lb.logs("a request", |line| line.contains("GET /slow") && line.contains("server=good tries=2"));
    lb.server_is("bad", "down");
    // The others may have been executed, or are being responded to.
    gate.open();
    for mut client in waits {
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "bad".to_owned()));
    }
    assert_eq!(lb.metric("lb_server_ejections_total{pool=\"default\",server=\"bad\"}"), Some(0.0));
}

#[test]
fn requests_move_on_when_the_next_server_goes_down_too() {
    let gate = Gate::default();
    let (one, two, three) = (waiting("one", &gate), waiting("two", &gate), Server::named("three"));
    let all = [("one", &one), ("two", &two), ("three", &three)].map(|(name, server)| (name, server.address, 1));
    two.set_healthy(false);
    three.set_healthy(false);
    let lb = Lb::start(&format!("{CHECKS}{}", servers(&all)));
    lb.server_is("two", "down");
    lb.server_is("three", "down");
    let mut client = send(&lb, &one, GET);
    two.set_healthy(true);
    lb.server_is("two", "up");
    one.set_healthy(false);
    eventually("the second has the request", || (two.requests().len() == 1).then_some(()));
    three.set_healthy(true);
    lb.server_is("three", "up");
    two.set_healthy(false);
    assert_eq!(client.response().text(), "three");
    gate.open();
}

#[test]
fn requests_wait_on_if_there_is_no_other_server_or_no_retry_is_allowed() {
    for (retry, others) in [("", 0), ("[retry]\nattempts = 0\n", 1)] {
        let gate = Gate::default();
        let (bad, good) = (waiting("bad", &gate), Server::named("good"));
        let all = [("bad", bad.address, 1), ("good", good.address, 1)];
        good.set_healthy(false);
        let lb = Lb::start(&format!("{CHECKS}{retry}{}", servers(&all[..=others])));
        if others > 0 {
            lb.server_is("good", "down");
        }
        let mut client = send(&lb, &bad, GET);
        if others > 0 {
            good.set_healthy(true);
            lb.server_is("good", "up");
        }
        bad.set_healthy(false);
        lb.server_is("bad", "down");
        gate.open();
        assert_eq!((client.response().text(), retries(&lb)), ("bad".to_owned(), Some(0.0)));
    }
}
