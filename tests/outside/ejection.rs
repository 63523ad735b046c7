//! Ejection: a server whose requests fail in a row is taken out before its checks fail, and readmitted by its checks.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, run, servers};
use crate::support::servers::{Gate, Server, hanging, respond};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A check at the start, and no more during a test.
const ONE_CHECK: &str = "[health]\ninterval = \"1h\"\n";

/// Starts with two servers that have passed their first check.
fn start(config: &str, bad: SocketAddr, good: SocketAddr) -> Lb {
    let lb = Lb::start(&format!("{config}{}", servers(&[("bad", bad, 1), ("good", good, 1)])));
    for name in ["bad", "good"] {
        eventually("the first check", || lb.server(name)["last_check"].is_object().then_some(()));
    }
    lb
}

/// Passes its checks. While `broken` is set it closes the connection instead of responding to other requests.
fn breaking(broken: &Arc<AtomicBool>) -> Server {
    let broken = Arc::clone(broken);
    Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() && !broken.load(SeqCst) {
            respond(&mut stream, OK);
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
fn a_failing_server_is_ejected_before_its_checks_fail_and_that_is_reported_everywhere() {
    let (bad, good) = (breaking(&Arc::new(true.into())), Server::named("good"));
    let lb = start(ONE_CHECK, bad.address, good.address);
    let mut client = Client::connect(lb.address());
    eventually("it is ejected", || {
        assert_eq!(client.get("/").text(), "good");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    let server = lb.server("bad");
    assert_eq!(server["ejected"]["error"], "3 requests in a row failed: connection closed before a response");
    assert_eq!((&server["last_check"]["ok"], &server["share"]), (&true.into(), &0.0.into()), "{server}");
    assert_eq!((ejections(&lb), lb.metric("lb_server_up{pool=\"default\",server=\"bad\"}")), (1.0, Some(0.0)));
    eventually("the ejection is logged", || {
        let line = lb.stderr().into_iter().find(|line| line.contains("server is ejected"))?;
        (line.contains("server=bad") && line.contains("3 requests in a row failed")).then_some(())
    });
    let (path, admin) = (lb.path(), lb.admin.to_string());
    for (command, words) in [("status", "ejected: 3 requests in a row failed"), ("explain", "bad")] {
        let arguments = if command == "explain" { &["/"][..] } else { &[] };
        let ran = run(&[&["--config", path.to_str().expect("text"), command, "--admin", &admin], arguments].concat());
        assert!(ran.out.contains(words) && ran.out.contains("closed before a response"), "{ran:?}");
    }
    let before = bad.requests().len();
    assert!(before >= 3);
    for _ in 0..20 {
        assert_eq!(client.get("/after").text(), "good");
    }
    assert_eq!(bad.requests().len(), before, "it gets no more requests");
    let last = lb.logs("the last request", |line| line.contains("/after"));
    assert!(last.contains("server=good tries=1"), "{last}");
    assert_eq!(lb.ask("/ready").status, 200);
}

#[test]
fn a_server_that_refuses_connections_is_ejected() {
    let (bad, good) = (Server::named("bad"), Server::named("good"));
    let lb = start(&format!("{ONE_CHECK}[log]\nlevel = \"lb=debug\"\n"), bad.address, good.address);
    bad.stop();
    eventually("it refuses connections", || TcpStream::connect(bad.address).is_err().then_some(()));
    let address = lb.address();
    let attempts = || lb.stderr().iter().filter(|line| line.contains("attempt failed")).count();
    eventually("it is ejected", || {
        assert_eq!(get(address, "/").text(), "good");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    let error = lb.server("bad")["ejected"]["error"].to_string();
    assert!(error.contains("requests in a row failed: connection refused"), "{error}");
    let before = attempts();
    assert!(before >= 3);
    for _ in 0..20 {
        assert_eq!((get(address, "/").status, post(address)), (200, 200));
    }
    assert_eq!(attempts(), before, "every first attempt is at the good server");
}

#[test]
fn an_ejected_server_is_readmitted_by_its_checks() {
    let broken = Arc::new(AtomicBool::new(true));
    let (bad, good) = (breaking(&broken), Server::named("good"));
    let lb = start("[health]\ninterval = \"100ms\"\n", bad.address, good.address);
    let address = lb.address();
    eventually("it is ejected", || {
        assert_eq!(get(address, "/").text(), "good");
        lb.server("bad")["ejected"].is_object().then_some(())
    });
    assert!(ejections(&lb) >= 1.0);
    broken.store(false, SeqCst);
    lb.server_is("bad", "up");
    assert!(lb.server("bad")["ejected"].is_null());
    eventually("it gets requests", || (get(address, "/").text() == "ok").then_some(()));
}

#[test]
fn a_failed_check_makes_an_ejected_server_down() {
    let (bad, good) = (breaking(&Arc::new(true.into())), Server::named("good"));
    let lb = start("[health]\ninterval = \"100ms\"\nrise = 1000\n", bad.address, good.address);
    let address = lb.address();
    eventually("it is ejected", || {
        assert_eq!(get(address, "/").text(), "good");
        (lb.server("bad")["ejected"].is_object()).then_some(())
    });
    bad.set_healthy(false);
    eventually("its check has failed", || {
        let server = lb.server("bad");
        (server["ejected"].is_null() && server["status"] == "down" && server["last_check"]["ok"] == false).then_some(())
    });
}

#[test]
fn each_kind_of_failure_counts_and_is_reported() {
    const INVALID: &str =
        "2 requests in a row failed: invalid response; the start line is not valid HTTP/1.1 (line 1 of the head)";
    let (_socket, _queue, hanging) = hanging();
    let silent = Server::scripted(|mut stream, recorder| while recorder.next(&mut stream).is_some() {});
    let garbage = Server::responding("SSH-2.0-OpenSSH_9.9\r\n\r\n");
    let closing = breaking(&Arc::new(true.into()));
    let good = Server::named("good");
    let cases = [
        (silent.address, 504, "response_timeout", "2 requests in a row failed: response timeout"),
        (garbage.address, 502, "bad_response", INVALID),
        (closing.address, 502, "bad_response", "2 requests in a row failed: connection closed before a response"),
        // Only this one cannot be the fault of the request.
        (hanging, 504, "connect_timeout", "a request failed: connect timeout"),
    ];
    for (bad, status, label, error) in cases {
        // The check of a server that hangs takes an hour.
        let config = "[health]\ninterval = \"1h\"\ntimeout = \"1h\"\nfall = 1\n[retry]\nattempts = 0\n\
                      [timeouts]\nconnect = \"1s\"\nresponse_header = \"1s\"\n";
        let lb = Lb::start(&format!("{config}{}", servers(&[("bad", bad, 1), ("good", good.address, 1)])));
        let address = lb.address();
        let mut failed = Vec::new();
        eventually("it is ejected", || {
            failed.extend(Some(post(address)).filter(|status| *status != 200));
            (lb.server("bad")["status"] == "down").then_some(())
        });
        assert!(!failed.is_empty() && failed.iter().all(|one| *one == status), "{label}: {failed:?}");
        assert_eq!(lb.server("bad")["ejected"]["error"], error);
        lb.logs("the failure", |line| {
            line.contains(&format!("\" {status} ")) && line.contains(&format!("error={label}"))
        });
        assert_eq!((post(address), ejections(&lb)), (200, 1.0), "{label}");
    }
}

#[test]
fn failures_that_are_not_the_servers_do_not_count() {
    let gate = Gate::default();
    let count = AtomicUsize::new(0);
    let server_gate = gate.clone();
    let bad = Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            match request.path() {
                "/slow" => server_gate.pass(),
                "/503" => respond(&mut stream, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
                // Never three failures in a row.
                "/third" if count.fetch_add(1, SeqCst) % 3 < 2 => return,
                // An idle connection may be closed at any time.
                "/once" => return respond(&mut stream, OK),
                "/never" => return,
                _ => respond(&mut stream, OK),
            }
        }
    });
    let good = Server::named("good");
    let file = |weights: [u32; 2]| {
        let tables = servers(&[("bad", bad.address, weights[0]), ("good", good.address, weights[1])]);
        // A single worker uses one connection after the other.
        format!("{ONE_CHECK}[proxy]\nworkers = 1\n[retry]\nattempts = 0\n{tables}")
    };
    let lb = Lb::start(&file([1, 0]));
    eventually("the first check", || lb.server("bad")["last_check"].is_object().then_some(()));
    // Makes the other server eligible, because the last one is never ejected.
    lb.apply(&file([1000, 1]));
    let address = lb.address();
    let ask =
        |path: &str| (0..20).map(|_| get(address, path).status).filter(|status| *status != 200).collect::<Vec<_>>();
    for _ in 0..5 {
        let before = bad.requests().len();
        let mut leaves = Client::connect(address);
        leaves.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it has the request", || (bad.requests().len() > before).then_some(()));
        drop(leaves);
        let mut aborting = Client::connect(address);
        aborting.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhi");
        aborting.socket().shutdown(std::net::Shutdown::Both).expect("a socket");
    }
    eventually("no request is open", || (lb.server("bad")["active_requests"] == 0).then_some(()));
    assert!(ask("/503").iter().all(|status| *status == 503));
    let broken = ask("/third").len();
    // Of three, the first fails on an idle connection and the second on a new one, for the same request.
    assert!((9..=10).contains(&broken), "{broken} of 20: one may have gone to the other server");
    // A request on a connection that is just closing is sent again, and does not count against the server.
    assert!(ask("/once").is_empty());
    assert!(ask("/").len() <= 1);
    // These count, and reach the control plane after all others. The other server serves as many meanwhile.
    lb.apply(&file([1, 1]));
    eventually("it is ejected", || {
        get(address, "/never");
        (lb.server("bad")["status"] == "down").then_some(())
    });
    assert_eq!(ejections(&lb), 1.0);
    gate.open();
}

#[test]
fn the_last_eligible_server_is_not_ejected() {
    let broken = [true, false].map(|broken| Arc::new(AtomicBool::new(broken)));
    let (bad, good) = (breaking(&broken[0]), breaking(&broken[1]));
    let lb = start("[health]\ninterval = \"50ms\"\nrise = 1000\n", bad.address, good.address);
    let address = lb.address();
    eventually("one is ejected", || {
        post(address);
        (lb.server("bad")["status"] == "down").then_some(())
    });
    broken[1].store(true, SeqCst);
    for _ in 0..20 {
        assert_eq!(post(address), 502, "the other still gets requests");
    }
    assert_eq!(lb.server("good")["status"], "up");
    // Checks may take the last one down. Then the ejected one, whose checks pass, is readmitted.
    good.set_healthy(false);
    lb.server_is("bad", "up");
    broken[0].store(false, SeqCst);
    let before = bad.requests().len();
    assert_eq!(post(address), 200);
    assert_eq!(bad.requests().len(), before + 1);
}

#[test]
fn without_checks_no_server_is_ejected() {
    let (bad, good) = (breaking(&Arc::new(true.into())), Server::named("good"));
    let lb = Lb::start(&format!("{NO_CHECKS}{}", servers(&[("bad", bad.address, 1), ("good", good.address, 1)])));
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").text(), "good");
    }
    assert_eq!((lb.server("bad")["status"].as_str(), ejections(&lb)), (Some("up"), 0.0));
    // With checks that an edit adds, failures count from then on.
    lb.apply(&format!("{ONE_CHECK}{}", servers(&[("bad", bad.address, 1), ("good", good.address, 1)])));
    eventually("it is ejected", || {
        assert_eq!(get(lb.address(), "/").text(), "good");
        (lb.server("bad")["ejected"].is_object()).then_some(())
    });
}
