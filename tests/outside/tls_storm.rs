//! A storm of edits while h2load sends requests at a steady rate over TLS, in HTTP/1.1 and HTTP/2: no request fails.
//!
//! `LB=target/release/lb cargo test --test outside tls_storm -- --ignored --nocapture` measures 200 edits at 5,000 requests a second.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::certificates::pair;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Request, Server, respond};

const NAME: &str = "site.example.com";
const CLIENTS: usize = 16;
/// The pause between two edits.
const PAUSE: Duration = Duration::from_millis(100);
/// How many edits there are for each rotation of the certificate.
const ROTATION: usize = 10;

/// The file at one step: weights change with every edit, and servers come and go.
fn file(step: usize, servers: &[Server]) -> String {
    let mut file = "[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n[[certificate]]\nfile = \"site.pem\"\n\
                    key = \"site.key\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = false\n"
        .to_owned()
        + NO_CHECKS;
    for (number, server) in servers.iter().enumerate() {
        if number == 0 || !(step + number).is_multiple_of(3) {
            file += &format!("{}weight = {}\n", server.table(&format!("server{number}")), 1 + (step + number) % 7);
        }
    }
    file
}

/// Starts `requests` requests at this rate in total; `None` if h2load is not installed.
fn load(lb: &Lb, protocol: &str, rate: usize, requests: usize) -> Option<Child> {
    let address = lb.address();
    let mut command = Command::new("h2load");
    command
        .args([protocol, "-c", &CLIENTS.to_string(), "-n", &requests.to_string()])
        .args(["--rps", &(rate as f64 / CLIENTS as f64).to_string(), "--connect-to", &address.to_string()])
        .arg(format!("https://{NAME}:{}/", address.port()))
        .stdout(Stdio::piped());
    command.spawn().inspect_err(|error| eprintln!("skipped: h2load: {error}")).ok()
}

/// Edits the file ten times a second while `rate` requests a second are sent, for a second longer than that takes `edits` times.
/// Returns how long the requests took.
fn storm(protocol: &str, rate: usize, edits: usize) -> Duration {
    let directory = TempDir::new().expect("a directory");
    let at = directory.path().to_owned();
    let write = || pair(&[NAME]).rename(&at.join("site.pem"), &at.join("site.key"));
    write();
    let servers = [(); 3].map(|()| {
        Server::scripted(|mut stream, _| {
            while Request::read(&mut stream).is_some() {
                respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            }
        })
    });
    std::fs::write(at.join("lb.toml"), file(0, &servers)).expect("a file");
    let lb = Lb::start_in(directory, at.join("lb.toml"));
    let applied = || lb.metric("lb_reloads_total{result=\"applied\"}").unwrap_or_default();
    let before = applied();
    let requests = rate * (edits / 10 + 1);
    let Some(mut load) = load(&lb, protocol, rate, requests) else { return Duration::ZERO };
    let mut done = 0;
    let start = Instant::now();
    while load.try_wait().expect("a child").is_none() {
        assert!(start.elapsed() < Duration::from_secs(240), "h2load does not end");
        done += 1;
        lb.edit_file(&file(done, &servers));
        if done.is_multiple_of(ROTATION) {
            write();
        }
        std::thread::sleep(PAUSE);
    }
    let took = start.elapsed();
    let output = load.wait_with_output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("requests:")).expect("the result");
    eventually("the last edit is applied", || (lb.api("/api/config")["state"] == "current").then_some(()));
    let applied = applied() - before;
    eprintln!("{protocol} {done} edits, {applied} applied, in {took:?}; {line}");
    let wanted = format!(
        "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
    );
    assert_eq!(line, wanted, "{protocol}: {text}");
    assert!(applied * 2.0 >= edits as f64, "{applied} of {edits} edits were applied");
    assert!(!lb.has_panicked());
    took
}

const PROTOCOLS: [&str; 2] = ["--h1", "-m8"];

#[test]
fn no_request_over_tls_fails_while_the_file_is_edited() {
    for protocol in PROTOCOLS {
        storm(protocol, 500, 30);
    }
}

#[test]
#[ignore = "measures time; run it on a quiet machine"]
fn no_request_of_5000_a_second_over_tls_fails_while_the_file_is_edited() {
    let took = PROTOCOLS.map(|protocol| storm(protocol, 5000, 200));
    let in_time = took.iter().all(|took| *took < Duration::from_secs(23));
    assert!(in_time, "{took:?}: too slow for the rate; is it an optimised build, on a quiet machine?");
}
