//! gRPC through both sides, with grpcio as client and as server.

mod checks;
mod own;
mod retries;
mod tonic;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::http2::HTTP2;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::tls::Ca;

/// `[upstream]` of servers of gRPC.
const H2: &str = "[upstream]\nprotocol = \"h2\"\n";

/// A process of `peer.py`, ended when dropped.
struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `peer.py`; `None` if grpcio is not installed.
    fn start(arguments: &[&str]) -> Option<Self> {
        let Some(python) = std::env::var_os("LB_TEST_PYTHON") else {
            eprintln!("skipped: LB_TEST_PYTHON names no Python with grpcio");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/grpc/peer.py");
        let mut command = Command::new(python);
        command.arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self { input: child.stdin.take(), child, output })
    }

    /// A server, and its address.
    fn server(arguments: &[&str]) -> Option<(Self, SocketAddr)> {
        let mut server = Self::start(&[&["server"], arguments].concat())?;
        let port: u16 = server.line().parse().expect("a port");
        Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Sends it a line and returns its reply.
    fn tell(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().expect("open"), "{line}").expect("told");
        self.line()
    }

    /// Ends its input, waits for its end, and returns the rest of its output.
    #[track_caller]
    fn ends(mut self) -> String {
        drop(self.input.take());
        let status = eventually("the client ends", || self.child.try_wait().expect("a child"));
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        assert!(status.success(), "{status}: {rest}");
        rest.trim_end().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a scenario of the client to its end, and returns its output.
#[track_caller]
fn client(address: SocketAddr, arguments: &[&str]) -> String {
    let client = Peer::start(&[&["client", &address.to_string()], arguments].concat());
    client.expect("grpcio, because there is a server").ends()
}

/// A file with HTTP/2 on both sides and these servers.
fn file(more: &str, addresses: &[(&str, SocketAddr)]) -> String {
    let all: Vec<_> = addresses.iter().map(|(name, address)| (*name, *address, 1)).collect();
    format!("{HTTP2}{H2}{more}{}", servers(&all))
}

/// An `lb` with HTTP/2 on both sides, without checks.
fn start(more: &str, addresses: &[(&str, SocketAddr)]) -> Lb {
    Lb::start_file(&file(&format!("{NO_CHECKS}{more}"), addresses))
}

/// The count of calls of the route to all with this status.
fn calls(lb: &Lb, status: u32) -> f64 {
    lb.metric(&format!("lb_grpc_responses_total{{route=\"default\",status=\"{status}\"}}")).unwrap_or_default()
}

// Case: grpc-calls
#[test]
fn calls_of_all_kinds_pass() {
    let Some((_server, address)) = Peer::server(&[]) else { return };
    let lb = start("", &[("one", address)]);
    client(lb.address(), &["kinds"]);
    for scenario in ["large", "pingpong", "early", "metadata"] {
        client(lb.address(), &[scenario]);
    }
    lb.logs("a call", |line| line.contains("\"POST /t.T/Unary HTTP/2\" 200 ") && line.contains(" grpc_status=0 "));
    assert!(!lb.stdout().iter().any(|line| line.contains("error=")), "{:#?}", lb.stdout());
}

// Case: grpc-calls
#[test]
fn the_statuses_of_servers_arrive_as_they_are_and_are_counted() {
    let Some((_server, address)) = Peer::server(&[]) else { return };
    let lb = start("[health.eject]\nfailures = 1\n", &[("one", address)]);
    assert_eq!(lb.metric("lb_grpc_responses_total{route=\"default\",status=\"0\"}"), None, "no call, no series");
    client(lb.address(), &["errors"]);
    eventually("the calls are counted", || (calls(&lb, 0) == 7.0).then_some(()));
    for status in [1, 2, 3, 5, 7, 13, 14, 16, 12] {
        assert_eq!(calls(&lb, status), 1.0, "{status}");
    }
    assert_eq!((calls(&lb, 4), calls(&lb, 8)), (0.0, 0.0));
    lb.logs("a failed call", |line| line.contains(" 200 ") && line.contains(" grpc_status=14 "));
    // They say nothing about the server.
    assert_eq!(lb.server("one")["status"], "up");
    assert_eq!(lb.metric("lb_server_ejections_total{pool=\"default\",server=\"one\"}"), Some(0.0));
}

// Case: grpc-cancel
#[test]
fn a_call_that_is_given_up_ends_at_the_server() {
    let Some((mut server, address)) = Peer::server(&[]) else { return };
    let lb = start("", &[("one", address)]);
    client(lb.address(), &["cancel"]);
    let seen =
        eventually("both calls end", || Some(server.tell("seen")).filter(|seen| seen.matches("ended").count() == 2));
    assert!(seen.contains("sleeping"), "{seen}");
    eventually("no call is open", || (lb.server("one")["active_requests"] == 0).then_some(()));
    lb.logs("the call", |line| line.contains("/t.T/Unary") && line.contains(" 499 ") && line.contains("client_gone"));
}

#[test]
fn clients_with_tls_choose_http_2_and_servers_may_have_tls_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let ca = Ca::new("one");
    ca.write(&directory.path().join("ca.pem"));
    ca.issue(&["127.0.0.1"]).write(directory.path(), "site");
    let Some((_server, address)) = Peer::server(&["one", &path("site.pem"), &path("site.key")]) else { return };
    let file = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{}}\n[admin]\naddress = \"127.0.0.1:0\"\n[[certificate]]\n\
         file = \"{}\"\nkey = \"{}\"\ndefault = true\n[health]\nkind = \"grpc\"\ninterval = \"100ms\"\n[upstream]\nprotocol = \"h2\"\n\
         tls = {{ ca = \"{}\" }}\n{}",
        path("site.pem"),
        path("site.key"),
        path("ca.pem"),
        servers(&[("one", address, 1)])
    );
    let lb = Lb::start_file(&file);
    lb.server_is("one", "up");
    let ca = path("ca.pem");
    client(lb.address(), &["kinds", &ca]);
    assert!(!lb.stdout().iter().any(|line| line.contains("error=")), "{:#?}", lb.stdout());
}

// Case: grpc-edits
#[test]
fn no_call_fails_while_unrelated_edits_are_applied() {
    let Some((_one, one)) = Peer::server(&["one"]) else { return };
    let (_two, two) = Peer::server(&["two"]).expect("another");
    let (_three, three) = Peer::server(&["three"]).expect("another");
    let checks = "[health]\nkind = \"grpc\"\ninterval = \"100ms\"\n";
    let edit = |number: usize| {
        let mut all = vec![("one", one, 1), ("two", two, 1 + number as u32 % 7)];
        if number % 3 == 1 {
            all.push(("three", three, 2));
        }
        format!("{HTTP2}{H2}{checks}[timeouts]\ndrain = \"60s\"\nidle = \"{}s\"\n{}", 100 + number, servers(&all))
    };
    let lb = Lb::start_file(&edit(0));
    let mut mixed = Peer::start(&["client", &lb.address().to_string(), "mixed"]).expect("a client");
    assert_eq!(mixed.line(), "started");
    for number in 1..=40 {
        let before = lb.generation();
        lb.edit_file(&edit(number));
        lb.reaches(before + 1);
        if number % 3 == 1 {
            lb.server_is("three", "up");
        }
    }
    let calls = mixed.ends();
    eprintln!("{calls} calls during 40 edits");
    assert!(calls.parse::<u32>().expect("a number") > 100, "{calls}");
    for server in ["two", "three"] {
        lb.logs(server, |line| line.contains(&format!("server={server}")) && line.contains("grpc_status=0"));
    }
    let failed: Vec<_> = lb.stdout().into_iter().filter(|line| !line.contains("grpc_status=0")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
