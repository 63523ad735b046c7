//! Host names with several addresses, and names whose address changes: one server, at whichever address it answers.
//!
//! Each `lb` has its own `/etc/hosts`, which needs a mount namespace.

use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, command};
use crate::support::servers::{Recorder, Server, respond};

const CHECKS: &str = "[health]\ninterval = \"50ms\"\nretry = \"50ms\"\ntimeout = \"300ms\"\nfall = 3\nrise = 1\n";

/// `lb` whose `/etc/hosts` has these lines, in front of a server named `app` at the name and port; `None`, with a note, if
/// mounts are not permitted.
fn with_hosts(hosts: &str, name: &str, port: u16) -> Option<(Lb, std::path::PathBuf)> {
    let namespace = ["-m", "-rm"].into_iter().find(|flag| {
        let tried = Command::new("unshare").args([flag, "mount", "--bind", "/etc/hosts", "/etc/hosts"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    let Some(namespace) = namespace else {
        eprintln!("skipped: no mount namespace");
        return None;
    };
    let directory = TempDir::new().unwrap();
    let (path, own) = (directory.path().join("lb.toml"), directory.path().join("hosts"));
    std::fs::write(&own, hosts).unwrap();
    std::fs::write(&path, format!("{PORTS}{CHECKS}[[server]]\nname = \"app\"\naddress = \"{name}:{port}\"\n")).unwrap();
    let mut shell = Command::new("unshare");
    let script = format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", own.display());
    shell.env_remove("LB_CONFIG").env("NO_COLOR", "1").args([namespace, "sh", "-c", &script]);
    shell.arg(command().get_program());
    Some((Lb::start_as(shell, directory, path), own))
}

/// Responds with its name.
fn named(name: &'static str) -> impl Fn(BufReader<TcpStream>, &Recorder) + Send + Sync + 'static {
    move |mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    }
}

/// Servers at 127.0.0.2 and 127.0.0.3, on one port.
fn pair() -> [Server; 2] {
    let address = |last, port| SocketAddr::from(([127, 0, 0, last], port));
    eventually("a port that both addresses have", || {
        let first = Server::on(address(2, 0), named("first"));
        let second = address(3, first.address.port());
        TcpListener::bind(second).ok()?;
        Some([first, Server::on(second, named("second"))])
    })
}

const TWO: &str = "127.0.0.1 localhost\n127.0.0.2 app\n127.0.0.3 app\n";

fn failed_checks(lb: &Lb) -> f64 {
    lb.metric("lb_server_checks_total{pool=\"default\",server=\"app\",result=\"failed\"}").unwrap()
}

// Case: name-several-addresses
#[test]
fn a_name_is_one_server_at_whichever_of_its_addresses_accepts() {
    let [first, second] = pair();
    let Some((lb, _)) = with_hosts(TWO, "app", first.address.port()) else { return };
    lb.server_is("app", "up");
    let noted = "app resolves to 2 addresses, 127.0.0.2 is used";
    assert_eq!(lb.stderr().iter().filter(|line| line.contains(noted)).count(), 1, "{:#?}", lb.stderr());
    let mut client = Client::connect(lb.address());
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "first");
    }
    // The other takes over at once: nothing counts as a failure.
    first.stop();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "second");
    }
    let passed = || lb.metric("lb_server_checks_total{pool=\"default\",server=\"app\",result=\"passed\"}");
    let before = passed();
    eventually("it is checked there", || (passed() >= before.map(|count| count + 3.0)).then_some(()));
    // A check may have been under way when the server stopped.
    assert!(failed_checks(&lb) <= 1.0);
    assert_eq!(lb.server("app")["status"], "up");
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"connect\"}").unwrap_or(0.0), 0.0);
    assert!(lb.stderr().iter().any(|line| line.contains("another address of the host name is used")));

    // Errors name the address that was tried last, and the message about their number is not repeated.
    second.stop();
    lb.server_is("app", "down");
    let error = lb.server("app")["last_check"]["error"].as_str().unwrap().to_owned();
    let port = first.address.port();
    let last = [2, 3].map(|last| format!("connection refused by 127.0.0.{last}:{port}"));
    assert!(last.contains(&error), "{error}");
    assert_eq!(lb.stderr().iter().filter(|line| line.contains("resolves to")).count(), 1, "{:#?}", lb.stderr());
}

// Case: name-several-addresses
#[test]
fn localhost_is_found_at_either_family() {
    for (listens, hosts) in [
        ("[::1]:0", "::1 localhost\n127.0.0.1 localhost\n"),
        ("[::1]:0", "127.0.0.1 localhost\n::1 localhost\n"),
        ("127.0.0.1:0", "::1 localhost\n127.0.0.1 localhost\n"),
    ] {
        let address = listens.parse().unwrap();
        if TcpListener::bind(address).is_err() {
            eprintln!("skipped: no IPv6");
            continue;
        }
        let server = Server::on(address, named("app"));
        let Some((lb, _)) = with_hosts(hosts, "localhost", server.address.port()) else { return };
        lb.server_is("app", "up");
        for _ in 0..3 {
            assert_eq!(get(lb.address(), "/").text(), "app", "{listens} {hosts}");
        }
        assert_eq!(failed_checks(&lb), 0.0, "{listens} {hosts}");
    }
}

// Case: name-several-addresses
#[test]
fn an_address_that_accepts_and_stays_silent_is_left_after_a_check() {
    let silent = |mut stream: BufReader<TcpStream>, recorder: &Recorder| {
        while let Some(request) = crate::support::servers::Request::read(&mut stream) {
            recorder.add(&request);
        }
    };
    let (_silent, second) = eventually("a port that both addresses have", || {
        let first = Server::on("127.0.0.2:0".parse().unwrap(), silent);
        let second = SocketAddr::from(([127, 0, 0, 3], first.address.port()));
        TcpListener::bind(second).ok()?;
        Some((first, Server::on(second, named("second"))))
    });
    let Some((lb, _)) = with_hosts(TWO, "app", second.address.port()) else { return };
    eventually("it is checked at the other address", || (failed_checks(&lb) >= 1.0).then_some(()));
    lb.server_is("app", "up");
    assert_eq!(get(lb.address(), "/").text(), "second");
    eventually("it stays there", || (failed_checks(&lb) == 1.0).then_some(()));
}

// Case: name-new-address
#[test]
fn a_name_whose_server_is_gone_is_resolved_again_at_once() {
    let [first, second] = pair();
    let line = |last: u8| format!("127.0.0.{last} app\n");
    let Some((lb, hosts)) = with_hosts(&line(2), "app", first.address.port()) else { return };
    lb.server_is("app", "up");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").text(), "first");
    // As a container that is created again: the name has another address, and the old one refuses.
    std::fs::write(&hosts, line(3)).unwrap();
    let start = Instant::now();
    first.stop();
    eventually("the name's new address is used", || (client.get("/").text() == "second").then_some(()));
    let took = start.elapsed();
    // Without a reason, a name is resolved every 10 seconds.
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(second);
}
