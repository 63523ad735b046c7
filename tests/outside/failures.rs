//! Servers that refuse, hang, break off or talk nonsense, and what their clients see.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Recorder, Server, reset, respond};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

pub(crate) fn post(address: SocketAddr) -> u16 {
    Client::connect(address).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").status
}

#[test]
fn an_invalid_response_is_not_retried() {
    let server = Server::responding("nonsense\r\n\r\n");
    let lb = Lb::in_front_of(&server, "");
    assert_eq!((get(lb.address(), "/").status, server.requests().len()), (502, 1));
}

/// Resets the first `count` connections after their request, and responds on the others.
pub(crate) fn resets(count: usize) -> Server {
    let left = AtomicUsize::new(count);
    Server::scripted(move |mut stream, recorder: &Recorder| {
        while recorder.next(&mut stream).is_some() {
            if left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return reset(stream.get_ref());
            }
            respond(&mut stream, OK);
        }
    })
}

#[test]
fn attempts_are_counted_and_limited_and_prefer_other_servers() {
    let broken: Vec<Server> = (0..3).map(|_| resets(usize::MAX)).collect();
    let lb = Lb::in_front_of(&broken[0], "[retry]\nattempts = 4\n");
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(broken[0].requests().len(), 5, "one attempt and four retries");
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"), Some(4.0));
    lb.logs("the request", |line| line.contains("tries=5"));
    let healthy = Server::named("healthy");
    let tables = [&broken[1], &broken[2], &healthy].map(|server| server.address);
    let tables: Vec<_> =
        ["b", "c", "healthy"].into_iter().zip(tables).map(|(name, address)| (name, address, 1)).collect();
    lb.apply(&format!("{NO_CHECKS}{}", servers(&tables)));
    for _ in 0..3 {
        assert_eq!(get(lb.address(), "/").text(), "healthy");
    }
}

#[test]
fn retries_stay_within_their_budget() {
    let server = resets(usize::MAX);
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\nbudget = \"10%\"\n"));
    let address = lb.address();
    let (mut client, start) = (Client::connect(address), Instant::now());
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 502);
    }
    // Ten are free, and one more each second; ten more are a tenth of the requests.
    let retries = server.requests().len() - 100;
    let limit = 21 + usize::try_from(start.elapsed().as_secs()).expect("a few");
    assert!((19..=limit).contains(&retries), "{retries} retries, not {limit}");
    lb.logs("a request within the budget", |line| line.contains("\" 502 ") && line.contains("tries=2"));
    lb.logs("a request over the budget", |line| line.contains("\" 502 ") && line.contains("tries=1"));
    let counted = lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}");
    assert_eq!(counted, Some(retries as f64));
}

#[test]
fn a_few_requests_are_all_retried() {
    let server = resets(usize::MAX);
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\n"));
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").status, 502);
    }
    assert_eq!(server.requests().len(), 20);
}

#[test]
fn of_many_broken_requests_a_fifth_is_retried() {
    let (broken, good) = (resets(usize::MAX), Server::named("good"));
    let both = servers(&[("broken", broken.address, 1), ("good", good.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}[retry]\nattempts = 1\n{both}"));
    let (mut client, start) = (Client::connect(lb.address()), Instant::now());
    let good = (0..400).filter(|_| client.get("/").status == 200).count();
    let (broke, retries) = (broken.requests().len(), lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"));
    let retries = retries.expect("a series") as usize;
    let limit = 91 + usize::try_from(start.elapsed().as_secs()).expect("a few");
    assert!((88..=limit).contains(&retries), "{retries} retries of 400, not {limit}: a fifth, and ten are free");
    assert_eq!(good, 400 - broke + retries, "every retry succeeds, every other failure reaches its client");
    let lines = eventually("the log", || Some(lb.stdout()).filter(|lines| lines.len() == 400));
    assert_eq!(lines.iter().filter(|line| line.contains("\" 502 ")).count(), broke - retries);
}

#[test]
fn a_post_is_never_sent_on_a_closed_connection() {
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, OK);
        }
    });
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    for i in 0..10 {
        assert_eq!(post(lb.address()), 200);
        eventually("the closed connection is noticed", || {
            (lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(0.0)).then_some(())
        });
        assert_eq!(server.requests().len(), i + 1);
    }
}

#[test]
fn a_request_that_the_server_never_read_is_retried() {
    // Accepts, reads nothing, closes. With unread bytes that is a reset, before or after the request is sent.
    let calls = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let counter = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            counter.fetch_add(1, SeqCst);
            drop(stream);
        }
    });
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("server1", address, 1)])));
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(calls.load(SeqCst), 3, "one attempt and two retries");
}
