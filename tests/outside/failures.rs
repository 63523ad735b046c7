//! Servers that refuse, hang, break off or talk nonsense, and what their clients see.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Recorder, Refusing, Server, reset, respond};

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

/// The number of attempts in the last line of the log that has this word.
#[track_caller]
fn tries(lb: &Lb, word: &str) -> String {
    let line = lb.logs("the request", |line| line.contains(word));
    line.split(" tries=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number").to_owned()
}

fn retries(lb: &Lb) -> f64 {
    let series = |reason| format!("lb_retries_total{{pool=\"default\",reason=\"{reason}\"}}");
    ["connect", "not_sent", "broken", "down", "status"]
        .map(|reason| lb.metric(&series(reason)).expect("a series"))
        .iter()
        .sum()
}

/// Serves the first `kept` requests of a connection, then reads one more and closes without a response, as a server does
/// that closes an idle connection, or resets it, while the request is on its way.
fn closes_kept(name: &'static str, kept: usize, resets: bool) -> Server {
    Server::scripted(move |mut stream, recorder| {
        for served in 0.. {
            if recorder.next(&mut stream).is_none() || served == kept {
                if resets {
                    reset(stream.get_ref());
                }
                return;
            }
            let length = name.len();
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"));
        }
    })
}

const NO_RETRIES: &str = "[retry]\nattempts = 0\nbudget = \"0%\"\n";

// Case: reset-before-response
#[test]
fn a_request_on_a_closed_idle_connection_is_sent_again_and_that_counts_nowhere() {
    for (kept, resets) in [(1, false), (2, true), (5, false), (5, true)] {
        let (server, other) = (closes_kept("server1", kept, resets), closes_kept("server2", kept, resets));
        let health = "[health]\ninterval = \"1h\"\nfall = 1\n";
        let both = servers(&[("server1", server.address, 1), ("server2", other.address, 1)]);
        let lb = Lb::start(&format!("{health}{ONE_WORKER}{NO_RETRIES}{both}"));
        let mut client = Client::connect(lb.address());
        for number in 0..60 {
            let (method, length) =
                [("GET", ""), ("DELETE", ""), ("OPTIONS", ""), ("PUT", "Content-Length: 0\r\n")][number % 4];
            let response = client.request(format!("{method} /{number} HTTP/1.1\r\nHost: a\r\n{length}\r\n"));
            assert_eq!(response.status, 200, "{method} {number}, {kept}");
        }
        assert_eq!(retries(&lb), 0.0);
        assert_eq!(tries(&lb, "/59 "), "1");
        let sent = server.requests().len() + other.requests().len();
        assert!(sent > 60, "no idle connection was closed: {sent}");
        for name in ["server1", "server2"] {
            assert_eq!((&lb.server(name)["status"], &lb.server(name)["ejected"]), (&"up".into(), &().into()));
        }
    }
}

#[test]
fn a_408_for_an_idle_connection_reaches_no_request_that_can_be_sent_again() {
    const GIVES_UP: &str = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // As if the 408 had been sent while the second request was on its way.
    let server = Server::scripted(|mut stream, recorder| {
        for response in [OK, GIVES_UP] {
            if recorder.next(&mut stream).is_some() {
                respond(&mut stream, response);
            }
        }
    });
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}{NO_RETRIES}"));
    for _ in 0..3 {
        assert_eq!(get(lb.address(), "/").status, 200);
    }
    assert_eq!(server.requests().len(), 5, "each but the first is sent twice");
    assert_eq!(post(lb.address()), 408, "it may be about this request");
    // On a new connection, it is about the request.
    let server = Server::responding(GIVES_UP);
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    assert_eq!((get(lb.address(), "/").status, server.requests().len()), (408, 1));
}

#[test]
fn a_server_that_gives_idle_connections_up_soon_gets_each_post_on_a_new_one() {
    // Reads the second request of a connection, and takes its time for the 408.
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, OK);
        }
        if recorder.next(&mut stream).is_some() {
            std::thread::sleep(Duration::from_millis(150));
            respond(&mut stream, "HTTP/1.0 408 Request Time-out\r\nConnection: close\r\n\r\n");
        }
    });
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    let statuses: Vec<u16> = (0..20).map(|_| post(lb.address())).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 408).count(), 3, "{statuses:?}");
    assert!(statuses[10..].iter().all(|status| *status == 200), "{statuses:?}");
}

#[test]
fn a_closed_idle_connection_moves_no_sticky_client() {
    let (one, two) = (closes_kept("server1", 1, false), closes_kept("server2", 1, true));
    let sticky = "[balance]\nsticky = { cookie = \"lb\", max_age = \"1h\" }\n";
    let both = servers(&[("server1", one.address, 1), ("server2", two.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{ONE_WORKER}{sticky}{both}"));
    let first = get(lb.address(), "/");
    let cookie = first.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie");
    let mut client = Client::connect(lb.address());
    for _ in 0..20 {
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
        assert_eq!((response.text(), response.header("set-cookie")), (first.text(), None));
    }
    assert_eq!(retries(&lb), 0.0);
}

#[test]
fn the_new_connection_is_an_attempt_like_any_other() {
    // After the first request, no connection gets a response.
    let served = AtomicUsize::new(0);
    let server = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() && served.fetch_add(1, SeqCst) == 0 {
            respond(&mut stream, OK);
        }
    });
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}[retry]\nattempts = 1\n"));
    assert_eq!((get(lb.address(), "/first").status, get(lb.address(), "/second").status), (200, 502));
    assert_eq!(server.requests().len(), 4, "on the idle connection, on a new one, and one retry");
    assert_eq!((tries(&lb, "/second "), retries(&lb)), ("2".to_owned(), 1.0));
}

#[test]
fn a_server_that_never_keeps_a_connection_soon_gets_each_post_on_a_new_one() {
    let server = closes_kept("server1", 1, false);
    let lb = Lb::in_front_of(&server, &format!("{ONE_WORKER}{NO_RETRIES}"));
    let statuses: Vec<u16> = (0..30).map(|_| post(lb.address())).collect();
    let failed = statuses.iter().filter(|status| **status == 502).count();
    assert!((1..=3).contains(&failed), "{statuses:?}");
    assert!(statuses[10..].iter().all(|status| *status == 200), "{statuses:?}");
    // Requests that can be sent again find out whether that is still so.
    assert_eq!(get(lb.address(), "/").status, 200);
}

#[test]
fn a_server_says_how_long_it_keeps_a_connection() {
    let server = Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok");
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    assert_eq!((get(lb.address(), "/").status, get(lb.address(), "/").status), (200, 200));
    assert_eq!(server.connections(), 1);
    let started = Instant::now();
    eventually("lb closes it first", || {
        (lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(0.0)).then_some(())
    });
    assert!(started.elapsed().as_millis() < 5000, "it would be kept for a minute");
}

// Case: unreachable
#[test]
fn servers_that_refuse_are_passed_over_and_that_counts_nowhere() {
    let refusing: Vec<Refusing> = (0..5).map(|_| Refusing::new()).collect();
    let good = Server::named("good");
    let names = ["a", "b", "c", "d", "e"];
    let mut all: Vec<_> = names.into_iter().zip(&refusing).map(|(name, one)| (name, one.address, 1)).collect();
    let lb = Lb::start(&format!("{NO_CHECKS}{NO_RETRIES}{}", servers(&all)));
    assert_eq!((get(lb.address(), "/none").status, post(lb.address())), (502, 502));
    assert_eq!((tries(&lb, "/none "), retries(&lb)), ("1".to_owned(), 0.0));
    all.push(("good", good.address, 1));
    lb.apply(&format!("{NO_CHECKS}{NO_RETRIES}{}", servers(&all)));
    for _ in 0..12 {
        assert_eq!((get(lb.address(), "/one").status, post(lb.address())), (200, 200));
    }
    assert_eq!((tries(&lb, "/one "), retries(&lb)), ("1".to_owned(), 0.0));
}

#[test]
fn a_reset_after_a_refused_connection_is_the_first_attempt() {
    let (refusing, broken) = (Refusing::new(), resets(usize::MAX));
    let both = servers(&[("refusing", refusing.address, 1), ("broken", broken.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{NO_RETRIES}{both}"));
    for number in 0..6 {
        assert_eq!(get(lb.address(), &format!("/{number}")).status, 502);
        assert_eq!((broken.requests().len(), tries(&lb, &format!("/{number} "))), (number + 1, "1".to_owned()));
    }
    lb.logs("the last request", |line| line.contains("/5 ") && line.contains("server=broken"));
    assert_eq!(retries(&lb), 0.0);
}
