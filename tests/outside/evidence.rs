//! Evidence: a request that fails speaks against a server only if the request itself is not to blame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::{Gate, Server, reset, respond};

/// A check at the start, and no more during a test; reports from a single worker arrive in order.
const CONFIG: &str = "[proxy]\nworkers = 1\n[health]\ninterval = \"1h\"\n";
const NAMES: [&str; 10] = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10"];
const BROKEN: &str = "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n";

/// In perfect health, but `/drop` closes the connection, `/badhead` has an invalid response, `/500` an error, and `/slow`
/// waits for the gate.
fn fragile(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            match request.path() {
                "/drop" => return,
                "/badhead" => return respond(&mut stream, "HTTP/1.1 200 OK\r\nbad header here\r\n\r\n"),
                "/500" => respond(&mut stream, BROKEN),
                "/slow" => gate.pass(),
                _ => respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            }
        }
    })
}

fn request(address: SocketAddr, method: &str, path: &str) -> u16 {
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    Client::connect(address).request(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{length}\r\n")).status
}

fn tables(all: &[(&'static str, &Server)]) -> String {
    servers(&all.iter().map(|(name, server)| (*name, server.address, 1)).collect::<Vec<_>>())
}

/// The names of the ejected servers.
fn ejected(lb: &Lb) -> Vec<String> {
    let list = lb.api("/api/servers?pool=default");
    let all = list["servers"].as_array().expect("servers").iter();
    all.filter(|server| server["ejected"].is_object()).map(|server| server["name"].to_string()).collect()
}

// Case: bad-path
#[test]
fn requests_that_every_server_fails_eject_none() {
    let healthy: Vec<Server> = (0..10).map(|_| fragile(&Gate::opened())).collect();
    let broken = Server::scripted(|mut stream, recorder| drop(recorder.next(&mut stream)));
    let all: Vec<_> = NAMES.into_iter().zip(&healthy).collect();
    for retry in ["", "[retry]\nattempts = 0\n", "eject = { failures = 1 }\n[retry]\nbudget = \"0%\"\n"] {
        let lb = Lb::start(&format!("{CONFIG}{retry}{}", tables(&all)));
        let address = lb.address();
        for name in NAMES {
            eventually("the first check", || lb.server(name)["last_check"].is_object().then_some(()));
        }
        for (method, path) in [("GET", "/drop"), ("POST", "/drop"), ("GET", "/badhead"), ("POST", "/badhead")] {
            for _ in 0..30 {
                assert_eq!(request(address, method, path), 502);
            }
        }
        assert_eq!(ejected(&lb), [""; 0], "{retry:?}");
        // A broken server beside them is ejected all the same, so reports do arrive.
        let with: Vec<_> = all.iter().copied().chain([("broken", &broken)]).collect();
        lb.apply(&format!("{CONFIG}{retry}{}", tables(&with)));
        lb.server_is("broken", "up");
        eventually("it is ejected", || {
            request(address, "POST", "/");
            Some(ejected(&lb)).filter(|names| !names.is_empty())
        });
        assert_eq!(ejected(&lb), ["\"broken\""], "{retry:?}");
    }
}

#[test]
fn a_bad_path_among_good_requests_ejects_none() {
    let healthy: Vec<Server> = (0..5).map(|_| fragile(&Gate::opened())).collect();
    let all: Vec<_> = NAMES.into_iter().zip(&healthy).collect();
    let lb = Lb::start(&format!(
        "{CONFIG}[health.eject]\nfailures = 12\n[balance]\nalgorithm = \"random\"\n{}",
        tables(&all)
    ));
    let address = lb.address();
    // In no step with anything: five of eleven requests are bad. A short series may be chance.
    for number in 0..600_u64 {
        let bad = number * number % 11 < 4;
        request(address, "POST", if bad { "/drop" } else { "/" });
    }
    let total: f64 = NAMES[..5].iter().map(|name| lb.metric(&series(name)).expect("a series")).sum();
    assert_eq!(total, 0.0);
}

fn series(name: &str) -> String {
    format!("lb_server_ejections_total{{pool=\"default\",server=\"{name}\"}}")
}

#[test]
fn a_client_that_its_cookie_leads_to_a_server_cannot_eject_it() {
    let healthy: Vec<Server> = (0..4).map(|_| fragile(&Gate::opened())).collect();
    let all: Vec<_> = NAMES.into_iter().zip(&healthy).collect();
    let rules =
        "trusted_proxies = [\"127.0.0.1\"]\n[balance]\nsticky = { cookie = \"lb\" }\n[health]\ninterval = \"1h\"\n";
    let lb = Lb::start(&format!("[proxy]\nworkers = 1\n{rules}{}", tables(&all)));
    let request = |method: &str, path: &str, (address, cookie): (&str, &str)| {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\nContent-Length: 0\r\n");
        Client::connect(lb.address()).request(format!("{head}Cookie: {cookie}\r\n\r\n"))
    };
    // Turns are exact, so each new client gets another server.
    let cookies: Vec<String> = (0..4)
        .map(|_| {
            let response = request("GET", "/", ("192.0.2.1", ""));
            response.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie").to_owned()
        })
        .collect();
    let ejections = || NAMES[..4].iter().map(|name| lb.metric(&series(name)).expect("a series")).sum::<f64>();
    let fail = |address: &str, place: usize| {
        assert_eq!(request("POST", "/drop", (address, &cookies[place])).status, 502);
        // The others serve meanwhile.
        for cookie in cookies.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, cookie)| cookie) {
            assert_eq!(request("POST", "/", ("192.0.2.2", cookie)).status, 200);
        }
    };
    for (place, cookie) in cookies.iter().enumerate() {
        (0..9).for_each(|_| fail("192.0.2.66", place));
        assert_eq!(ejections(), 0.0);
        // For the next server, it serves again.
        assert_eq!(request("GET", "/", ("192.0.2.2", cookie)).status, 200);
    }
    // The first one may be sent on an idle connection, whose end says nothing.
    for address in ["192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"] {
        fail(address, 0);
    }
    eventually("several clients suffice", || (ejections() == 1.0).then_some(()));
}

#[test]
fn a_slow_path_is_no_fault_of_the_servers() {
    let gate = Gate::default();
    let healthy: Vec<Server> = (0..3).map(|_| fragile(&gate)).collect();
    let all: Vec<_> = NAMES.into_iter().zip(&healthy).collect();
    let lb = Lb::start(&format!("{CONFIG}[timeouts]\nresponse_header = \"500ms\"\n{}", tables(&all)));
    let address = lb.address();
    let clients: Vec<_> = (0..9)
        .map(|_| {
            let mut client = Client::connect(address);
            client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.response().status, 504);
    }
    for _ in 0..9 {
        assert_eq!(request(address, "POST", "/"), 200);
    }
    assert_eq!(NAMES[..3].iter().map(|name| lb.metric(&series(name)).expect("a series")).sum::<f64>(), 0.0);
    gate.open();
}

#[test]
fn a_broken_server_is_ejected_soon_whatever_the_method_and_the_size_of_the_pool() {
    let healthy: Vec<Server> = (0..9).map(|_| fragile(&Gate::opened())).collect();
    let resets = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            reset(stream.get_ref());
        }
    });
    let garbage = Server::responding("SSH-2.0-OpenSSH_9.9\r\n\r\n");
    for (broken, method, retry) in [
        (&resets, "POST", ""),
        (&garbage, "POST", ""),
        (&garbage, "GET", ""),
        (&resets, "GET", ""),
        (&resets, "GET", "[retry]\nattempts = 0\n"),
    ] {
        for others in [1, 2, 9] {
            let mut all: Vec<_> = NAMES.into_iter().zip(&healthy[..others]).collect();
            all.push(("broken", broken));
            let health = "[proxy]\nworkers = 1\n[health]\nkind = \"tcp\"\ninterval = \"1h\"\n";
            let lb = Lb::start(&format!("{health}{retry}{}", tables(&all)));
            // They count as up before that, and a check that passes ends a series of failures.
            for (name, _) in &all {
                eventually("the first check", || lb.server(name)["last_check"].is_object().then_some(()));
            }
            let (address, before) = (lb.address(), broken.requests().len());
            let failed = || broken.requests().len() - before;
            for _ in 0..20 * others {
                if failed() < 3 {
                    request(address, method, "/");
                }
            }
            assert_eq!(failed(), 3, "{method}, {others}");
            eventually("three failures suffice", || Some(ejected(&lb)).filter(|names| !names.is_empty()));
            assert_eq!(ejected(&lb), ["\"broken\""]);
        }
    }
}

#[test]
fn at_most_a_share_of_the_servers_is_ejected() {
    let good = Server::named("good");
    let broken: Vec<Server> =
        (0..3).map(|_| Server::scripted(|mut stream, recorder| drop(recorder.next(&mut stream)))).collect();
    let mut all: Vec<_> = NAMES.into_iter().zip(&broken).collect();
    all.push(("good", &good));
    let file = |max: &str| format!("{CONFIG}{max}[retry]\nattempts = 3\nbudget = \"100%\"\n{}", tables(&all));
    let lb = Lb::start(&file(""));
    let address = lb.address();
    eventually("the limit is reached", || {
        request(address, "GET", "/");
        lb.stderr()
            .into_iter()
            .find(|line| line.contains("as many servers of the pool are ejected as health.eject.max"))
    });
    assert_eq!(ejected(&lb).len(), 2);
    let limit = |lb: &Lb| lb.stderr().iter().filter(|line| line.contains("health.eject.max")).count();
    for _ in 0..20 {
        assert_eq!(request(address, "GET", "/"), 200);
    }
    assert_eq!(limit(&lb), 1, "it is logged once a minute");
    lb.apply(&file("eject = { max = \"100%\" }\n"));
    eventually("the third is ejected", || {
        assert_eq!(request(address, "GET", "/"), 200);
        (ejected(&lb).len() == 3).then_some(())
    });
    assert_eq!(lb.server("good")["status"], "up");
}

#[test]
fn no_server_is_ejected_if_the_share_is_zero() {
    let (bad, good) =
        (Server::scripted(|mut stream, recorder| drop(recorder.next(&mut stream))), Server::named("good"));
    let all = tables(&[("bad", &bad), ("good", &good)]);
    let lb = Lb::start(&format!("{CONFIG}eject = {{ max = \"0%\" }}\n{all}"));
    let address = lb.address();
    eventually("the limit is logged", || {
        request(address, "GET", "/");
        lb.stderr().into_iter().find(|line| line.contains("health.eject.max"))
    });
    assert_eq!(ejected(&lb), [""; 0]);
}

#[test]
fn statuses_count_as_failures_if_the_file_says_so() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&broken);
    let bad = Server::scripted(move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, if flag.load(SeqCst) { BROKEN } else { "HTTP/1.1 204 No\r\n\r\n" });
        }
    });
    let good = fragile(&Gate::opened());
    let all = tables(&[("bad", &bad), ("good", &good)]);
    let lb = Lb::start(&format!("{CONFIG}{all}"));
    let address = lb.address();
    for _ in 0..20 {
        request(address, "POST", "/");
    }
    assert_eq!(bad.requests().len(), 10, "by default, a response of any status is a success");
    let statuses = "eject = { failures = 2, statuses = [\"500-599\"] }\n";
    lb.apply(&format!("{CONFIG}{statuses}{all}"));
    eventually("it is ejected", || {
        request(address, "POST", "/");
        Some(ejected(&lb)).filter(|names| !names.is_empty())
    });
    assert_eq!(lb.server("bad")["ejected"]["error"], "2 requests in a row failed: status 500");
    assert!(bad.requests().len() <= 14, "{}", bad.requests().len());
    // Every server has this status for one path: that speaks against none.
    broken.store(false, SeqCst);
    let other = fragile(&Gate::opened());
    let lb = Lb::start(&format!("{CONFIG}{statuses}{}", tables(&[("good", &good), ("other", &other)])));
    for method in ["GET", "POST"] {
        for _ in 0..20 {
            assert_eq!(request(lb.address(), method, "/500"), 500);
        }
    }
    for name in ["good", "other"] {
        assert_eq!(lb.metric(&series(name)), Some(0.0));
    }
}
