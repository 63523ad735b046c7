//! Servers that refuse, hang, break off or talk nonsense, and what their clients see of it.

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
fn what_was_answered_with_nonsense_is_not_asked_again() {
    let server = Server::responding("nonsense\r\n\r\n");
    let lb = Lb::in_front_of(&server, "");
    assert_eq!((get(lb.address(), "/").status, server.requests().len()), (502, 1));
}

/// Resets the first `count` connections after their request, and answers on the others.
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
fn tries_are_counted_and_limited_and_every_other_server_comes_first() {
    let broken: Vec<Server> = (0..3).map(|_| resets(usize::MAX)).collect();
    let lb = Lb::in_front_of(&broken[0], "[retry]\nattempts = 4\n");
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(broken[0].requests().len(), 5, "one, and four more");
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"), Some(4.0));
    lb.logs("the request", |line| line.contains("tries=5"));
    let whole = Server::named("whole");
    let tables = [&broken[1], &broken[2], &whole].map(|server| server.address);
    let tables: Vec<_> =
        ["b", "c", "whole"].into_iter().zip(tables).map(|(name, address)| (name, address, 1)).collect();
    lb.apply(&format!("{NO_CHECKS}{}", servers(&tables)));
    for _ in 0..3 {
        assert_eq!(get(lb.address(), "/").text(), "whole");
    }
}

#[test]
fn tries_stay_within_their_budget() {
    let server = resets(usize::MAX);
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\nbudget = \"10%\"\n"));
    let address = lb.address();
    let (mut client, start) = (Client::connect(address), Instant::now());
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 502);
    }
    // Ten are free, and one more each second; and ten more are a tenth of the requests.
    let again = server.requests().len() - 100;
    let most = 21 + usize::try_from(start.elapsed().as_secs()).expect("a few");
    assert!((19..=most).contains(&again), "{again} tries again, not {most}");
    lb.logs("who was within it", |line| line.contains("\" 502 ") && line.contains("tries=2"));
    lb.logs("who was not", |line| line.contains("\" 502 ") && line.contains("tries=1"));
    let counted = lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}");
    assert_eq!(counted, Some(again as f64));
}

#[test]
fn few_requests_are_all_tried_again() {
    let server = resets(usize::MAX);
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\n"));
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").status, 502);
    }
    assert_eq!(server.requests().len(), 20);
}

#[test]
fn of_many_that_break_a_fifth_is_tried_again() {
    let (broken, good) = (resets(usize::MAX), Server::named("good"));
    let both = servers(&[("broken", broken.address, 1), ("good", good.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}[retry]\nattempts = 1\n{both}"));
    let (mut client, start) = (Client::connect(lb.address()), Instant::now());
    let good = (0..400).filter(|_| client.get("/").status == 200).count();
    let (broke, again) = (broken.requests().len(), lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"));
    let again = again.expect("a series") as usize;
    let most = 91 + usize::try_from(start.elapsed().as_secs()).expect("a few");
    assert!((88..=most).contains(&again), "{again} tries again of 400, not {most}: a fifth, and ten are free");
    assert_eq!(good, 400 - broke + again, "all that are tried again come through, and the rest is passed on");
    let passed_on = eventually("the log", || Some(lb.stdout()).filter(|lines| lines.len() == 400));
    assert_eq!(passed_on.iter().filter(|line| line.contains("\" 502 ")).count(), broke - again);
}

#[test]
fn a_post_that_cannot_have_been_sent_is_sent_on_a_new_connection() {
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, OK);
        }
    });
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    for i in 0..10 {
        assert_eq!(post(lb.address()), 200);
        eventually("the balancer knows of the closed connection", || {
            (lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(0.0)).then_some(())
        });
        assert_eq!(server.requests().len(), i + 1);
    }
}

#[test]
fn a_server_may_keep_quiet_about_a_request_that_it_never_read() {
    // Accepts, reads nothing, closes: with bytes unread that is a reset, before or after the request was sent.
    let calls = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let counted = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, SeqCst);
            drop(stream);
        }
    });
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("server1", address, 1)])));
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(calls.load(SeqCst), 3, "one try and two more");
}
