//! No request is answered 502 or 503 while an ejected server would serve it.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::{Recorder, Refusing, Server, respond};

/// A check at the start, and no more during a test.
const ONE_CHECK: &str = "[health]\ninterval = \"1h\"\nretry = \"1h\"\n";
const NO_RETRIES: &str = "[retry]\nattempts = 0\nbudget = \"0%\"\n";

fn name(name: &'static str) -> impl Fn(std::io::BufReader<TcpStream>, &Recorder) + Send + Sync + 'static {
    move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            let length = name.len();
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"));
        }
    }
}

/// Stops a server, and waits until its address refuses connections.
fn stop(server: &Server) {
    server.stop();
    eventually("it refuses connections", || TcpStream::connect(server.address).is_err().then_some(()));
}

fn post(address: SocketAddr) -> (u16, String) {
    let response = Client::connect(address).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    (response.status, response.text())
}

fn checked(lb: &Lb, names: &[&str]) {
    for name in names {
        eventually("the first check", || lb.server(name)["last_check"].is_object().then_some(()));
    }
}

#[test]
fn servers_that_restart_one_after_the_other_fail_no_request() {
    for retry in ["", NO_RETRIES] {
        let mut all = [("one", Server::named("one")), ("two", Server::named("two")), ("three", Server::named("three"))];
        let tables = servers(&[0, 1, 2].map(|place: usize| (all[place].0, all[place].1.address, 1)));
        let lb = Lb::start(&format!("{ONE_CHECK}fall = 1\n{retry}{tables}"));
        let address = lb.address();
        checked(&lb, &["one", "two", "three"]);
        // Each is away for some requests, and back before the next one leaves. Nothing checks them.
        for (name_of, server) in &mut all {
            stop(server);
            for _ in 0..12 {
                assert_eq!((get(address, "/").status, post(address).0), (200, 200), "{name_of} is away");
            }
            *server = Server::on(server.address, name(name_of));
        }
        // At last, only the first one is left, which may have been ejected since it was away.
        stop(&all[1].1);
        stop(&all[2].1);
        for _ in 0..12 {
            assert_eq!((get(address, "/").text(), post(address)), ("one".to_owned(), (200, "one".to_owned())));
        }
        lb.server_is("one", "up");
    }
}

#[test]
fn one_success_readmits_an_ejected_server() {
    for retry in ["", NO_RETRIES] {
        let (one, two) = (Server::named("one"), Server::named("two"));
        let both = servers(&[("one", one.address, 1), ("two", two.address, 1)]);
        let sticky = "[balance]\nsticky = { cookie = \"lb\", max_age = \"1h\" }\n";
        let lb = Lb::start(&format!("{ONE_CHECK}{retry}{sticky}{both}"));
        let address = lb.address();
        checked(&lb, &["one", "two"]);
        let cookie = eventually("a client of the second server", || {
            let response = get(address, "/");
            let cookie = response.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie");
            (response.text() == "two").then(|| cookie.to_owned())
        });
        stop(&one);
        eventually("it is ejected", || {
            assert_eq!(get(address, "/").text(), "two");
            lb.server("one")["ejected"].is_object().then_some(())
        });
        let _back = Server::on(one.address, name("one"));
        stop(&two);
        let response =
            Client::connect(address).request(format!("GET /stuck HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
        assert_eq!((response.status, response.text()), (200, "one".to_owned()));
        assert!(response.header("set-cookie").is_some(), "its server refuses");
        lb.server_is("one", "up");
        assert!(lb.server("one")["ejected"].is_null());
        lb.logs("the request", |line| line.contains("/stuck ") && line.contains("server=one tries=1"));
        eventually("it is logged", || {
            let line = lb.stderr().into_iter().find(|line| line.contains("ejected server is readmitted"))?;
            (line.contains("server=one") && line.contains("it served a request")).then_some(())
        });
        assert_eq!(post(address), (200, "one".to_owned()));
    }
}

#[test]
fn a_server_that_was_ejected_for_its_responses_is_a_last_resort_too() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&broken);
    let one = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() && !flag.load(SeqCst) {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
        }
    });
    let two = Server::named("two");
    let lb = Lb::start(&format!("{ONE_CHECK}{}", servers(&[("one", one.address, 1), ("two", two.address, 1)])));
    let address = lb.address();
    checked(&lb, &["one", "two"]);
    eventually("it is ejected", || {
        assert_eq!(get(address, "/").text(), "two");
        lb.server("one")["ejected"].is_object().then_some(())
    });
    stop(&two);
    // While it is broken, it fails this request too, and stays out.
    assert_eq!((get(address, "/").status, lb.server("one")["ejected"].is_object()), (502, true));
    broken.store(false, SeqCst);
    assert_eq!((get(address, "/").text(), post(address).1), ("one".to_owned(), "one".to_owned()));
    lb.server_is("one", "up");
}

#[test]
fn a_server_whose_checks_fail_is_no_last_resort() {
    let (one, refusing) = (Server::named("one"), Refusing::new());
    one.set_healthy(false);
    let both = servers(&[("one", one.address, 1), ("refusing", refusing.address, 1)]);
    // The other server cannot be checked, so it counts as up; it refuses.
    let lb = Lb::start(&format!("{ONE_CHECK}fall = 1000\n{both}"));
    lb.server_is("one", "down");
    for _ in 0..3 {
        let status = get(lb.address(), "/").status;
        assert!(status == 502 || status == 503, "{status}");
    }
    assert_eq!(one.requests().len(), 0);
}

#[test]
fn a_server_that_refused_its_checks_is_a_last_resort_once_it_is_back() {
    let (one, two, three) = (Server::named("one"), Server::named("two"), Server::named("three"));
    let all = [("one", &one), ("two", &two), ("three", &three)];
    stop(&one);
    stop(&three);
    let tables = servers(&all.map(|(name, server)| (name, server.address, 1)));
    let lb = Lb::start(&format!("{ONE_CHECK}{tables}"));
    let address = lb.address();
    lb.server_is("one", "down");
    lb.server_is("three", "down");
    assert_eq!(get(address, "/").text(), "two");
    let _back = Server::on(one.address, name("one"));
    assert_eq!(get(address, "/").text(), "two", "it gets no request while another server is up");
    stop(&two);
    for _ in 0..12 {
        assert_eq!((get(address, "/").text(), post(address)), ("one".to_owned(), (200, "one".to_owned())));
    }
    assert_eq!(lb.server("one")["status"], "down", "its checks decide when it is up");
}

#[test]
fn a_last_resort_that_refuses_does_not_end_the_retries_at_the_server_that_is_up() {
    let (down, closed) = (Refusing::new(), AtomicBool::new(false));
    let up = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() && closed.swap(true, SeqCst) {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup");
        }
    });
    let lb = Lb::start(&format!("{ONE_CHECK}{}", servers(&[("down", down.address, 1), ("up", up.address, 1)])));
    lb.server_is("down", "down");
    assert_eq!((get(lb.address(), "/").text(), up.requests().len()), ("up".to_owned(), 2));
}

#[test]
fn without_a_server_that_is_up_a_request_gets_503_even_if_the_others_refuse_it() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let tables = servers(&[("one", one.address, 1), ("two", two.address, 1)]);
    let lb = Lb::start(&format!("{ONE_CHECK}{tables}"));
    lb.server_is("one", "down");
    lb.server_is("two", "down");
    for _ in 0..5 {
        assert_eq!((get(lb.address(), "/down").status, post(lb.address()).0), (503, 503));
    }
    let line = lb.logs("a request", |line| line.contains("/down "));
    assert!(line.contains("error=no_server"), "{line}");
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"connect\"}"), Some(0.0));
}

#[test]
fn an_ejected_server_that_refused_is_checked_again_soon() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let both = servers(&[("one", one.address, 1), ("two", two.address, 1)]);
    // One failed check does not take an ejected server down.
    let lb = Lb::start(&format!(
        "[health]\ninterval = \"1h\"\nretry = \"200ms\"\nfall = 1000\neject = {{ failures = 3 }}\n{both}"
    ));
    let address = lb.address();
    checked(&lb, &["one", "two"]);
    stop(&one);
    eventually("it is ejected", || {
        assert_eq!(get(address, "/").text(), "two");
        lb.server("one")["ejected"].is_object().then_some(())
    });
    eventually("a check has failed", || (lb.server("one")["last_check"]["ok"] == false).then_some(()));
    assert!(lb.server("one")["ejected"].is_object(), "it is not down by its checks");
    let _back = Server::on(one.address, name("one"));
    lb.server_is("one", "up");
}

#[test]
fn a_server_whose_checks_pass_again_is_a_last_resort() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let both = servers(&[("one", one.address, 1), ("two", two.address, 1)]);
    one.set_healthy(false);
    let rule = "interval = \"50ms\"\nrise = 1000\nfall = 1000\neject = { failures = 1000 }\n";
    let lb = Lb::start(&format!("[health]\n{rule}{both}"));
    let address = lb.address();
    // Its first check takes it down.
    lb.server_is("one", "down");
    checked(&lb, &["two"]);
    one.set_healthy(true);
    eventually("a check has passed", || (lb.server("one")["last_check"]["ok"] == true).then_some(()));
    assert_eq!((get(address, "/").text(), one.requests().len()), ("two".to_owned(), 0));
    stop(&two);
    assert_eq!((get(address, "/").text(), post(address)), ("one".to_owned(), (200, "one".to_owned())));
    assert_eq!(lb.server("one")["status"], "down", "its checks decide when it is up");
}
