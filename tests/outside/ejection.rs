//! Passive ejection: a server whose requests fail in a row leaves before its checks say so, and returns by them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, run, servers};
use crate::support::servers::{Gate, Server, answer, hanging};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One check at the start, and none after it in a test's time.
const ONE_CHECK: &str = "[health]\ninterval = \"1h\"\n";

/// Starts with two servers that have passed their first check.
fn start(config: &str, bad: SocketAddr, good: SocketAddr) -> Lb {
    let lb = Lb::start(&format!("{config}{}", servers(&[("bad", bad, 1), ("good", good, 1)])));
    for name in ["bad", "good"] {
        eventually("the first check", || lb.server(name)["last_check"].is_object().then_some(()));
    }
    lb
}

/// Passes its checks, and closes instead of answering anything else while `broken` says so.
fn breaking(broken: &Arc<AtomicBool>) -> Server {
    let broken = Arc::clone(broken);
    Server::scripted(move |mut stream, note| {
        while note.next(&mut stream).is_some() && !broken.load(SeqCst) {
            answer(&mut stream, OK);
        }
    })
}

fn ejections(lb: &Lb) -> f64 {
    lb.metric("lb_server_ejections_total{pool=\"default\",server=\"bad\"}").expect("a series")
}

fn post(address: SocketAddr) -> u16 {
    Client::connect(address).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").status
}

#[test]
fn who_fails_in_a_row_is_out_before_its_checks_say_so_and_everybody_is_told() {
    let (bad, good) = (breaking(&Arc::new(true.into())), Server::named("good"));
    let lb = start(ONE_CHECK, bad.address, good.address);
    let mut client = Client::connect(lb.address());
    eventually("it is out", || {
        assert_eq!(client.get("/").text(), "good");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    let told = lb.server("bad");
    assert_eq!(told["ejected"]["error"], "3 requests in a row failed: connection closed before a response");
    assert_eq!((&told["last_check"]["ok"], &told["share"]), (&true.into(), &0.0.into()), "{told}");
    assert_eq!((ejections(&lb), lb.metric("lb_server_up{pool=\"default\",server=\"bad\"}")), (1.0, Some(0.0)));
    eventually("the log says so", || {
        let line = lb.stderr().into_iter().find(|line| line.contains("server is ejected"))?;
        (line.contains("server=bad") && line.contains("3 requests in a row failed")).then_some(())
    });
    let (path, admin) = (lb.path(), lb.admin.to_string());
    for (command, words) in [("status", "ejected: 3 requests in a row failed"), ("explain", "bad")] {
        let asked = if command == "explain" { &["/"][..] } else { &[] };
        let ran = run(&[&["--config", path.to_str().expect("text"), command, "--admin", &admin], asked].concat());
        assert!(ran.out.contains(words) && ran.out.contains("closed before a response"), "{ran:?}");
    }
    let before = bad.requests().len();
    assert!(before >= 3);
    for _ in 0..20 {
        assert_eq!(client.get("/after").text(), "good");
    }
    assert_eq!(bad.requests().len(), before, "it is asked nothing more");
    let last = lb.logs("the last request", |line| line.contains("/after"));
    assert!(last.contains("server=good tries=1"), "{last}");
    assert_eq!(lb.ask("/ready").status, 200);
}

#[test]
fn who_refuses_is_tried_first_no_longer_than_until_it_falls() {
    let (bad, good) = (Server::named("bad"), Server::named("good"));
    let lb = start(ONE_CHECK, bad.address, good.address);
    bad.stop();
    eventually("it refuses", || TcpStream::connect(bad.address).is_err().then_some(()));
    let address = lb.address();
    let retries = || lb.metric("lb_retries_total{pool=\"default\",reason=\"connect\"}").expect("a series");
    eventually("it is out", || {
        assert_eq!(get(address, "/").text(), "good");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    let error = lb.server("bad")["ejected"]["error"].to_string();
    assert!(error.contains("requests in a row failed: connection refused"), "{error}");
    let before = retries();
    assert!(before >= 3.0);
    for _ in 0..20 {
        assert_eq!((get(address, "/").status, post(address)), (200, 200));
    }
    assert_eq!(retries(), before, "every request goes to the right one at once");
}

#[test]
fn who_was_out_returns_by_its_checks() {
    let broken = Arc::new(AtomicBool::new(true));
    let (bad, good) = (breaking(&broken), Server::named("good"));
    let lb = start("[health]\ninterval = \"100ms\"\n", bad.address, good.address);
    let address = lb.address();
    eventually("it is out", || {
        assert_eq!(get(address, "/").text(), "good");
        lb.server("bad")["ejected"].is_object().then_some(())
    });
    assert!(ejections(&lb) >= 1.0);
    broken.store(false, SeqCst);
    lb.server_is("bad", "up");
    assert!(lb.server("bad")["ejected"].is_null());
    eventually("it serves", || (get(address, "/").text() == "ok").then_some(()));
}

#[test]
fn a_failed_check_makes_it_down_like_any_other() {
    let (bad, good) = (breaking(&Arc::new(true.into())), Server::named("good"));
    let lb = start("[health]\ninterval = \"100ms\"\nrise = 1000\n", bad.address, good.address);
    let address = lb.address();
    eventually("it is out", || {
        assert_eq!(get(address, "/").text(), "good");
        (lb.server("bad")["ejected"].is_object()).then_some(())
    });
    bad.set_healthy(false);
    eventually("it is down by its check", || {
        let told = lb.server("bad");
        (told["ejected"].is_null() && told["status"] == "down" && told["last_check"]["ok"] == false).then_some(())
    });
}

#[test]
fn each_way_of_failing_counts_and_is_said() {
    let (_socket, _queue, hangs) = hanging();
    // It was there for its check.
    let silent = Server::scripted(|mut stream, note| while note.next(&mut stream).is_some() {});
    let nonsense = Server::saying("SSH-2.0-OpenSSH_9.9\r\n\r\n");
    let closes = breaking(&Arc::new(true.into()));
    let good = Server::named("good");
    let cases = [
        (silent.address, 504, "response_timeout", "a request failed: response timeout"),
        (nonsense.address, 502, "bad_response", "a request failed: the response is not valid HTTP/1.1"),
        (closes.address, 502, "bad_response", "a request failed: connection closed before a response"),
        (hangs, 504, "connect_timeout", "a request failed: no connection in time"),
    ];
    for (bad, status, word, error) in cases {
        // Its check, an hour long, says nothing of who hangs; the first weight brings the request there.
        let config = "[health]\ninterval = \"1h\"\ntimeout = \"1h\"\nfall = 1\n[retry]\nattempts = 0\n\
                      [timeouts]\nconnect = \"1s\"\nresponse_header = \"1s\"\n";
        let lb = Lb::start(&format!("{config}{}", servers(&[("bad", bad, 1000), ("good", good.address, 1)])));
        let address = lb.address();
        let failed = eventually("it fails", || Some(post(address)).filter(|status| *status != 200));
        assert_eq!(failed, status, "{word}");
        lb.server_is("bad", "down");
        assert_eq!(lb.server("bad")["ejected"]["error"], error);
        lb.logs("the failure", |line| {
            line.contains(&format!("\" {status} ")) && line.contains(&format!("error={word}"))
        });
        assert_eq!((post(address), ejections(&lb)), (200, 1.0), "{word}");
    }
}

#[test]
fn what_is_not_the_servers_fault_does_not_count() {
    let gate = Gate::default();
    let asked = AtomicUsize::new(0);
    let held = gate.clone();
    let bad = Server::scripted(move |mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            match request.path() {
                "/slow" => held.pass(),
                "/503" => answer(&mut stream, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
                // Never three in a row, however it is asked.
                "/third" if asked.fetch_add(1, SeqCst) % 3 < 2 => return,
                // A kept connection may close at any time.
                "/once" => return answer(&mut stream, OK),
                "/never" => return,
                _ => answer(&mut stream, OK),
            }
        }
    });
    let good = Server::named("good");
    let file = |weights: [u32; 2]| {
        let tables = servers(&[("bad", bad.address, weights[0]), ("good", good.address, weights[1])]);
        // To and fro it is all on one connection after the other.
        format!("{ONE_CHECK}[proxy]\nworkers = 1\n[retry]\nattempts = 0\n{tables}")
    };
    let lb = Lb::start(&file([1, 0]));
    eventually("the first check", || lb.server("bad")["last_check"].is_object().then_some(()));
    // Has the other take new requests too, so that it would not stay for being the last.
    lb.apply(&file([1000, 1]));
    let address = lb.address();
    let ask =
        |path: &str| (0..20).map(|_| get(address, path).status).filter(|status| *status != 200).collect::<Vec<_>>();
    for _ in 0..5 {
        let before = bad.requests().len();
        let mut leaves = Client::connect(address);
        leaves.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it is asked", || (bad.requests().len() > before).then_some(()));
        drop(leaves);
        let mut cut = Client::connect(address);
        cut.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhi");
        cut.socket().shutdown(std::net::Shutdown::Both).expect("a socket");
    }
    eventually("they are gone", || (lb.server("bad")["active_requests"] == 0).then_some(()));
    assert!(ask("/503").iter().all(|status| *status == 503));
    let broken = ask("/third").len();
    assert!((13..=14).contains(&broken), "{broken} of 20, or one of them went to the other server");
    // Who meets a connection that is just closing is not tried again here, and says nothing of the server.
    assert!(ask("/once").iter().all(|status| *status == 502));
    assert!(ask("/").len() <= 1);
    // Whatever was to be told was told before this.
    eventually("what counts is counted", || {
        get(address, "/never");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    assert_eq!(ejections(&lb), 1.0);
    gate.open();
}

#[test]
fn the_last_that_serves_stays() {
    let broken = Arc::new(AtomicBool::new(true));
    let (bad, good) = (breaking(&broken), breaking(&broken));
    let lb = start("[health]\ninterval = \"50ms\"\nrise = 1000\n", bad.address, good.address);
    let address = lb.address();
    let down = || ["bad", "good"].map(|name| lb.server(name)["status"] == "down");
    eventually("one is out", || {
        assert_eq!(post(address), 502);
        down().contains(&true).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(post(address), 502, "somebody is asked");
    }
    let (out, rest, name) = if down() == [true, false] { (&bad, &good, "bad") } else { (&good, &bad, "good") };
    assert_eq!(down().iter().filter(|down| **down).count(), 1);
    // Its checks may take the last one out; then the other, of whom they say no ill, is back.
    rest.set_healthy(false);
    lb.server_is(name, "up");
    broken.store(false, SeqCst);
    let before = out.requests().len();
    assert_eq!(post(address), 200);
    assert_eq!(out.requests().len(), before + 1);
}

#[test]
fn without_checks_nobody_is_out() {
    let (bad, good) = (breaking(&Arc::new(true.into())), Server::named("good"));
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("bad", bad.address, 1), ("good", good.address, 1)])));
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").text(), "good");
    }
    assert_eq!((lb.server("bad")["status"].as_str(), ejections(&lb)), (Some("up"), 0.0));
    // Checks that come with an edit count what comes from then on.
    lb.apply(&format!("{ONE_CHECK}{}", servers(&[("bad", bad.address, 1), ("good", good.address, 1)])));
    eventually("it is out", || {
        assert_eq!(get(lb.address(), "/").text(), "good");
        (lb.server("bad")["ejected"].is_object()).then_some(())
    });
}
