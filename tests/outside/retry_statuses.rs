//! `retry.statuses`: a response with such a status is retried at another server.

use std::net::SocketAddr;

use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Server, respond};

const STATUSES: &str = "[proxy]\nworkers = 1\n[retry]\nstatuses = [\"502-504\"]\n";

fn unavailable(body: &str) -> String {
    format!("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn request(address: SocketAddr, head: &str) -> Response {
    Client::connect(address).request(format!("{head} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

fn start(config: &str, all: &[(&str, SocketAddr)]) -> Lb {
    let all: Vec<_> = all.iter().map(|(name, address)| (*name, *address, 1)).collect();
    Lb::start(&format!("{NO_CHECKS}{config}{}", servers(&all)))
}

fn retries(lb: &Lb) -> Option<f64> {
    lb.metric("lb_retries_total{pool=\"default\",reason=\"status\"}")
}

#[test]
fn a_response_with_such_a_status_is_retried_elsewhere() {
    let (busy, good) = (Server::responding(unavailable("busy")), Server::named("good"));
    let lb = start(STATUSES, &[("busy", busy.address), ("good", good.address)]);
    for number in 0..10 {
        let response = get(lb.address(), &format!("/{number}"));
        assert_eq!((response.status, response.text()), (200, "good".to_owned()));
    }
    let retried = busy.requests().len();
    assert!(retried >= 5, "{retried}");
    assert_eq!(busy.connections(), 1, "a small response leaves its connection usable");
    assert_eq!(retries(&lb), Some(retried as f64));
    let counted = lb.metric("lb_server_requests_total{pool=\"default\",server=\"busy\",code=\"503\"}");
    assert_eq!(counted, Some(retried as f64));
    let lines = eventually("the log", || Some(lb.stdout()).filter(|lines| lines.len() == 10));
    assert_eq!(lines.iter().filter(|line| line.contains("server=good tries=2")).count(), retried);
    // These are not: they may have been executed, or the status is another one.
    for head in ["POST /", "PATCH /"] {
        let statuses = [0; 2].map(|_| request(lb.address(), head).status);
        assert!(statuses.contains(&503) && statuses.contains(&200), "{head}: {statuses:?}");
    }
    let mut client = Client::connect(lb.address());
    let with_body = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    assert!([0; 2].map(|_| client.request(with_body).status).contains(&503));
    assert_eq!(retries(&lb), Some(retried as f64));
    let broken = Server::responding("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n");
    let lb = start(STATUSES, &[("broken", broken.address), ("good", good.address)]);
    assert!([0; 2].map(|_| get(lb.address(), "/").status).contains(&500));
}

#[test]
fn the_response_itself_is_relayed_if_no_server_is_left() {
    let chunked = "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n4\r\nbusy\r\n0\r\n\r\n";
    let refusing = Refusing::new();
    let resets = Server::scripted(|mut stream, recorder| drop(recorder.next(&mut stream)));
    for response in [unavailable("busy"), chunked.to_owned()] {
        let (one, two) = (Server::responding(response.clone()), Server::responding(response));
        let cases: [&[(&str, SocketAddr)]; 4] = [
            &[("one", one.address)],
            &[("one", one.address), ("two", two.address)],
            &[("one", one.address), ("refusing", refusing.address)],
            &[("one", one.address), ("resets", resets.address)],
        ];
        for all in cases {
            let lb = start(STATUSES, all);
            let mut client = Client::connect(lb.address());
            // On one connection, so that each response must end where the next one begins.
            for _ in 0..4 {
                let response = client.get("/");
                assert_eq!((response.status, response.text()), (503, "busy".to_owned()), "{all:?}");
                assert_eq!(response.header("retry-after"), Some("7"));
            }
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.try_head().expect("a head").0, 503);
            let line = lb.logs("the request", |line| line.contains("\" 503 "));
            assert!(line.contains("server=one") || line.contains("server=two"), "{line}");
        }
    }
}

#[test]
fn retries_of_a_status_have_the_usual_limits() {
    let (busy, good) = (Server::responding(unavailable("busy")), Server::named("good"));
    for limit in ["attempts = 0\n", "budget = \"0%\"\n"] {
        let lb = start(&format!("{STATUSES}{limit}"), &[("busy", busy.address), ("good", good.address)]);
        let statuses = [0; 4].map(|_| get(lb.address(), "/").status);
        assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 2, "{limit}: {statuses:?}");
        assert_eq!(retries(&lb), Some(0.0));
    }
}

#[test]
fn a_large_response_is_given_up_with_its_connection() {
    let large = "x".repeat(100_000);
    let body = large.clone();
    let busy = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, unavailable(&body));
        }
    });
    let good = Server::named("good");
    let lb = start(STATUSES, &[("busy", busy.address), ("good", good.address)]);
    for _ in 0..6 {
        assert_eq!(get(lb.address(), "/").text(), "good");
    }
    let retried = busy.requests().len();
    assert!(retried >= 3 && busy.connections() == retried, "{retried}");
    // Without another server, the client gets all of it.
    let lb = start(STATUSES, &[("busy", busy.address)]);
    let response = get(lb.address(), "/");
    assert!(response.status == 503 && response.text() == large);
}

#[test]
fn a_sticky_client_that_was_retried_stays_with_the_server_that_responded() {
    let (busy, good) = (Server::responding(unavailable("busy")), Server::named("good"));
    let sticky = "[balance]\nsticky = { cookie = \"lb\", max_age = \"1h\" }\n";
    let lb = start(&format!("{sticky}{STATUSES}"), &[("busy", busy.address), ("good", good.address)]);
    let cookies = [0; 4].map(|_| {
        let response = get(lb.address(), "/");
        response.header("set-cookie").expect("a cookie").to_owned()
    });
    assert_eq!(cookies.iter().filter(|cookie| **cookie == cookies[0]).count(), 4, "{cookies:?}");
    assert!(busy.requests().len() >= 2);
}
