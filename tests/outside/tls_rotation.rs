//! Edits of the rules for TLS to servers, and new contents of their files: new connections follow them, old ones are retired,
//! and no request fails.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Gate, Server};
use crate::support::tls::{Ca, FrontRules, TlsFront};
use crate::tls_checks::tls;

const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";
/// The requests between two steps of a rotation.
const ENOUGH: usize = 200;

fn config(directory: &Path, keys: &str, front: &TlsFront) -> String {
    format!("{NO_CHECKS}{ONE_WORKER}{}{}", tls(directory, keys), front.table("server1"))
}

// Case: tls-old-rules
#[test]
fn idle_connections_under_earlier_rules_end_at_once_and_busy_ones_after_their_response() {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let front = TlsFront::new(&FrontRules::new(ca.issue(&["127.0.0.1", "api.test"])), server.address);
    let lb = Lb::start(&config(directory.path(), "", &front));
    let mut busy = Client::connect(lb.address());
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the slow request", || (server.requests().len() == 1).then_some(()));
    assert_eq!(get(lb.address(), "/").text(), "a");
    assert_eq!((front.open(), front.handshakes()), (2, (1, 1)));
    lb.apply(&config(directory.path(), "server_name = \"api.test\"\n", &front));
    eventually("the idle connection ends", || (front.open() == 1).then_some(()));
    gate.open();
    assert_eq!(busy.response().text(), "a");
    eventually("the busy connection ends", || (front.open() == 0).then_some(()));
    // Sessions from before are not resumed: they were verified by other rules.
    assert_eq!(get(lb.address(), "/").text(), "a");
    assert_eq!(front.handshakes(), (2, 1));
    assert_eq!(front.names().last(), Some(&Some("api.test".to_owned())));
    // Back to plain text, at another server, and to TLS again.
    lb.apply(&format!("{NO_CHECKS}{ONE_WORKER}{}", server.table("server1")));
    assert_eq!(get(lb.address(), "/").text(), "a");
    eventually("no connection with TLS is left", || (front.open() == 0).then_some(()));
    lb.apply(&config(directory.path(), "", &front));
    assert_eq!(get(lb.address(), "/").text(), "a");
    assert_eq!(front.handshakes(), (3, 1));
}

#[test]
fn turning_tls_off_and_on_retires_connections_to_the_same_address() {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let server = Server::named("a");
    let front = TlsFront::new(&FrontRules::new(ca.issue(&["127.0.0.1"])), server.address);
    let lb = Lb::start(&config(directory.path(), "", &front));
    assert_eq!(get(lb.address(), "/").text(), "a");
    lb.apply(&format!("{NO_CHECKS}{ONE_WORKER}{}", front.table("server1")));
    eventually("the connection ends", || (front.open() == 0).then_some(()));
    assert_eq!(get(lb.address(), "/").status, 502, "the server speaks only TLS");
    lb.apply(&config(directory.path(), "", &front));
    assert_eq!(get(lb.address(), "/").text(), "a");
}

/// Sends requests on several connections until `done`, and returns the failures.
fn load(lb: &Lb, done: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    let address = lb.address();
    let client = |number: usize| {
        let mut failures = Vec::new();
        let mut client = Client::connect(address);
        while !done.load(SeqCst) {
            let request = match number % 2 {
                0 => "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                _ => "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            };
            client.send(request);
            match client.try_response() {
                Ok(response) if response.status == 200 => drop(served.fetch_add(1, SeqCst)),
                other => {
                    failures.push(format!("{other:?}"));
                    client = Client::connect(address);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        failures
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

// Case: tls-old-rules
#[test]
fn a_rotation_of_the_servers_ca_and_of_our_certificate_fails_no_request() {
    let directory = TempDir::new().expect("a directory");
    let [old_ca, new_ca] = ["old", "new"].map(Ca::new);
    let [old_clients, new_clients] = ["old clients", "new clients"].map(Ca::new);
    let ca_file = directory.path().join("ca.pem");
    old_ca.write(&ca_file);
    let (old_pair, new_pair) = (old_clients.issue(&["lb.test"]), new_clients.issue(&["lb.test"]));
    old_pair.write(directory.path(), "lb");
    let server = Server::named("a");
    let both = |a: &Ca, b: &Ca| format!("{}{}", a.pem, b.pem);
    let rules =
        |ca: &Ca, clients: String| FrontRules { client_ca: Some(clients), ..FrontRules::new(ca.issue(&["127.0.0.1"])) };
    let front = TlsFront::new(&rules(&old_ca, old_clients.pem.clone()), server.address);
    let path = |name: &str| directory.path().join(name).display().to_string();
    let text = config(
        directory.path(),
        &format!("certificate = \"{}\"\nkey = \"{}\"\n", path("lb.pem"), path("lb.key")),
        &front,
    );
    let lb = Lb::start(&text);
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let wait = || {
        let before = served.load(SeqCst);
        eventually("requests are served", || (served.load(SeqCst) >= before + ENOUGH).then_some(()));
    };
    let failures = std::thread::scope(|scope| {
        let clients = scope.spawn(|| load(&lb, &done, &served));
        let end = EndOnDrop(&done);
        let changed = |write: &dyn Fn()| {
            wait();
            let before = lb.generation();
            write();
            // The contents of the files alone make a generation.
            lb.reaches(before + 1);
        };
        // Both CAs, then the server's new certificate, then only its CA.
        changed(&|| std::fs::write(&ca_file, both(&old_ca, &new_ca)).expect("a file"));
        front.set(&rules(&new_ca, both(&old_clients, &new_clients)));
        changed(&|| new_ca.write(&ca_file));
        wait();
        assert!(front.has_seen(&old_pair));
        // Our certificate and its key, one after the other.
        changed(&|| new_pair.write(directory.path(), "lb"));
        wait();
        eventually("the new certificate is used", || front.has_seen(&new_pair).then_some(()));
        front.set(&rules(&new_ca, new_clients.pem.clone()));
        wait();
        drop(end);
        clients.join().expect("the clients")
    });
    assert!(failures.is_empty(), "{} of {}: {:#?}", failures.len(), served.load(SeqCst), failures.first());
    assert_eq!(front.failed(), 0);
    assert!(front.handshakes().0 >= 3, "{:?}", front.handshakes());
}

/// Ends the clients also if the test fails, so that it does not hang.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
