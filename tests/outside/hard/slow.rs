//! Section 5: slow and many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{assert_well, in_front_of};
use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command};
use crate::support::servers::{Server, respond};
use crate::support::{DEADLINE, eventually};
use crate::timeouts::{STEP, endless, trickle};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// Case: slow-head
#[test]
fn the_header_timeout_runs_however_the_head_arrives() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"300ms\"\nidle = \"1h\"\n");
    let address = lb.address();
    let mut silent = Client::connect(address);
    let mut second = Client::connect(address);
    assert_eq!(second.get("/").status, 200);
    assert!(silent.is_closed(), "without a response");
    // On a connection with an earlier request, the timeout starts with the first byte; later bytes do not extend it.
    for (client, part) in [(&mut Client::connect(address), "G"), (&mut second, "GET / HTTP/1.1\r\nHost: a\r\nX: ")] {
        client.send(part);
        let took = trickle(&client.socket(), b"x", DEADLINE);
        assert!(took < DEADLINE / 2, "{took:?}");
        let response = client.response();
        assert_eq!((response.status, response.keeps_alive()), (408, false), "{part}");
        assert!(client.is_closed());
    }
    lb.logs("the late head", |line| line.contains("\" 408 ") && line.contains("error=client_too_slow"));
    assert_well(&lb, &server, "slow-head");
}

// Case: slow-head
#[test]
fn empty_lines_before_a_head_do_not_start_its_timeout() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"200ms\"\nidle = \"1s\"\n");
    let (mut new, mut kept) = (Client::connect(lb.address()), Client::connect(lb.address()));
    // Some clients send an empty line after the body of a POST.
    let response = kept.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok\r\n");
    assert_eq!(response.status, 200);
    let start = Instant::now();
    new.send("\r\n");
    trickle(&kept.socket(), b"\r\n", 6 * STEP);
    assert_eq!(kept.get("/").status, 200, "longer than a head may take");
    assert!(start.elapsed() >= 6 * STEP);
    kept.send("\r\n\r\n");
    assert!(new.is_closed() && kept.is_closed(), "without a response");
    assert!(!lb.stdout().iter().any(|line| line.contains("\" 408 ")));
    assert_well(&lb, &server, "slow-head");
}

// Case: slow-body
#[test]
fn an_upload_below_the_minimum_rate_is_aborted() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"500ms\"\n[limits]\nbody_rate = \"100B\"\n");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n";
    let (mut slow, mut slower) = (Client::connect(lb.address()), Client::connect(lb.address()));
    std::thread::scope(|scope| {
        // 20 bytes a second.
        scope.spawn(|| {
            slower.send(head);
            let took = trickle(&slower.socket(), b"x", DEADLINE);
            assert!(took < DEADLINE / 2, "{took:?}");
            assert_eq!(slower.response().status, 408);
        });
        // 4000 bytes a second, for longer than the period of `body_idle`.
        slow.send(head);
        let took = trickle(&slow.socket(), &[b'x'; 200], 25 * STEP);
        assert!(took >= 25 * STEP, "{took:?}");
        slow.send(vec![b'x'; 10_000]);
        assert_eq!(slow.response().status, 200);
    });
    lb.logs("the aborted request", |line| line.contains("\" 408 ") && line.contains("client_too_slow"));
    assert_well(&lb, &server, "slow-body");
}

// Case: slow-body
#[test]
fn an_upload_without_a_length_may_be_as_slow_as_body_idle_allows() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"500ms\"\n[limits]\nbody_rate = \"1MiB\"\n");
    let mut client = Client::connect(lb.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let took = trickle(&client.socket(), b"1\r\nx\r\n", 25 * STEP);
    assert!(took >= 25 * STEP, "{took:?}");
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    // Silence ends it all the same.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    assert_eq!(client.response().status, 408);
    assert_well(&lb, &server, "slow-body");
}

// Case: slow-body
#[test]
fn a_response_read_below_the_minimum_rate_is_aborted() {
    let server = endless();
    let (lb, _healthy) = in_front_of(&server, "[timeouts]\nbody_idle = \"500ms\"\n[limits]\nbody_rate = \"256MiB\"\n");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    let (start, mut read) = (Instant::now(), 0);
    while start.elapsed() < DEADLINE && lb.server("server1")["active_requests"] != 0 {
        // At most 20 MiB a second, and never idle for long.
        read += client.read(1 << 20).len();
        std::thread::sleep(STEP);
    }
    assert!(read < 200 << 20, "{read} bytes read in {:?}", start.elapsed());
    lb.logs("the aborted request", |line| line.contains("client_too_slow"));
    assert_well(&lb, &server, "slow-body");
}

// Case: slow-body
#[test]
fn a_slow_server_does_not_count_against_its_client() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 75\r\n\r\n");
            for _ in 0..75 {
                respond(&mut stream, "x");
                std::thread::sleep(STEP);
            }
        }
    });
    let (lb, _healthy) = in_front_of(&server, "[timeouts]\nbody_idle = \"2s\"\n[limits]\nbody_rate = \"1MiB\"\n");
    assert_eq!(Client::connect(lb.address()).get("/").body.len(), 75);
    assert_well(&lb, &server, "slow-body");
}

// Case: unread-responses
#[test]
#[cfg(target_os = "linux")]
fn clients_that_never_read_cost_little_memory() {
    const CLIENTS: u64 = 200;
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n");
            respond(&mut stream, vec![b'x'; 1 << 20]);
        }
    });
    let (lb, _healthy) = in_front_of(&server, "[log]\naccess = false\n");
    assert_well(&lb, &server, "unread-responses");
    let before = lb.resident_kib();
    // The memory is released when they leave: a second round needs no more.
    for round in 1..=2 {
        let unread: Vec<Client> = (0..CLIENTS)
            .map(|_| {
                let mut client = Client::connect(lb.address());
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        eventually("all have asked", || (server.requests().len() as u64 >= round * CLIENTS).then_some(()));
        let grown = lb.resident_kib().saturating_sub(before);
        assert!(grown < 60 * CLIENTS, "{grown} KiB for {CLIENTS} clients, round {round}");
        drop(unread);
        eventually("all have left", || (clients(&lb) == 0.0).then_some(()));
    }
    assert_well(&lb, &server, "unread-responses");
}

// Case: many-slow-clients
#[test]
fn slow_clients_do_not_delay_others() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[proxy]\nworkers = 1\n");
    let address = lb.address();
    let mut slow: Vec<Client> = (0..200).map(|_| Client::connect(address)).collect();
    for piece in ["GET / HTTP/1.1\r\n", "Host: a\r\n", "X: y\r\n"] {
        for client in &mut slow {
            client.send(piece);
        }
        assert_eq!(get(address, "/probe").status, 200);
    }
    assert!(server.requests().iter().all(|request| request.path() == "/probe"));
    for client in &mut slow {
        assert_eq!(client.request("\r\n").status, 200);
    }
}

/// The CPU time that a process has used.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // User and system time are the 12th and 13th fields after the name, which may contain anything.
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // Linux reports a hundred ticks a second, whatever its own clock does.
    Duration::from_millis(10 * ticks)
}

/// The attacks of slowhttptest: slow heads, slow bodies, slow reading.
const ATTACKS: [&[&str]; 3] = [&["-H"], &["-B", "-s", "8192"], &["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"]];

/// A running slowhttptest with a thousand connections, killed when dropped.
struct Slow(Child);

impl Slow {
    /// `None` if slowhttptest is not installed.
    fn start(attack: &[&str], address: SocketAddr) -> Option<Self> {
        let mut command = Command::new("slowhttptest");
        command.args(attack).args(["-c", "1000", "-r", "1000", "-i", "1", "-x", "10", "-p", "3", "-l", "120"]);
        command.args(["-u", &format!("http://{address}/slow")]).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Self(child)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("skipped: slowhttptest is not installed");
                None
            }
            Err(error) => panic!("slowhttptest: {error}"),
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn clients(lb: &Lb) -> f64 {
    lb.metric("lb_client_connections{listener=\"127.0.0.1:0\"}").expect("a value")
}

// Case: many-slow-clients
#[test]
fn every_probe_beside_a_thousand_slow_clients_gets_its_response() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            // More than the buffers hold for a client that does not read.
            let length = if request.path() == "/slow" { 256 << 10 } else { 2 };
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            respond(&mut stream, vec![b'x'; length]);
        }
    });
    for attack in ATTACKS {
        let lb = Lb::in_front_of(&server, "[log]\naccess = false\n[timeouts]\nrequest_header = \"1h\"\n");
        let Some(slow) = Slow::start(attack, lb.address()) else { return };
        let probe = || assert_eq!(get(lb.address(), "/probe").status, 200, "{attack:?}");
        for count in [300.0, 600.0, 900.0] {
            eventually("more of the thousand are connected", || {
                probe();
                (clients(&lb) > count).then_some(())
            });
        }
        (0..20).for_each(|_| probe());
        drop(slow);
        eventually("all clients have left", || (clients(&lb) == 0.0).then_some(()));
        assert_eq!(lb.metric("lb_clients_delayed_total"), Some(0.0), "no client was delayed");
    }
}

// Case: many-slow-clients
#[test]
fn clients_over_the_limit_are_served_as_others_leave() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[limits]\nconnections = 100\n[timeouts]\nrequest_header = \"300ms\"\n");
    let Some(slow) = Slow::start(ATTACKS[0], lb.address()) else { return };
    let start = Instant::now();
    let delays = || logged(&lb, "clients=100 limit=100 set_by=\"limits.connections\"").len();
    eventually("the limit is logged", || (delays() > 0).then_some(()));
    // These queue behind the slow clients, whose timeouts end them.
    for _ in 0..5 {
        assert_eq!(get(lb.address(), "/probe").status, 200);
        assert!(clients(&lb) <= 100.0);
    }
    let (lines, took) = (delays(), start.elapsed());
    assert!(lines as u64 <= took.as_secs() + 1, "{lines} lines in {took:?}");
    drop(slow);
    eventually("the end of the delay is logged", || logged(&lb, "connection limit no longer reached").pop());
    assert!(lb.metric("lb_clients_delayed_total") > Some(0.0));
}

/// `lb`, started by a shell.
fn by_shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.env_remove("LB_CONFIG").env("NO_COLOR", "1").args(["-c", script, env!("CARGO_BIN_EXE_lb")]);
    command
}

/// The lines of the process log that contain `words`.
fn logged(lb: &Lb, words: &str) -> Vec<String> {
    lb.stderr().into_iter().filter(|line| line.contains(words)).collect()
}

// Case: no-descriptors
#[test]
fn clients_cannot_use_up_the_descriptors_of_other_tasks() {
    let server = Server::responding(OK);
    let config = |weight| {
        format!(
            "{PORTS}[health]\ninterval = \"50ms\"\nfall = 1\nrise = 1\n{}weight = {weight}\n",
            server.table("server1")
        )
    };
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, config(1)).expect("a file");
    let few = by_shell("ulimit -n 64; exec \"$0\" \"$@\"");
    let lb = Lb::start_as(few, directory, path);
    let address = lb.address();
    let limit = lb.metric("lb_client_connections_limit").expect("a limit");
    assert!((12.0..=24.0).contains(&limit), "{limit} clients with 64 descriptors");

    // All send their requests at once, and all that are accepted get their responses.
    let mut clients: Vec<Client> = (0..80).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    let delays = || logged(&lb, "set_by=\"file descriptors\"").len();
    eventually("the limit is logged", || (delays() > 0).then_some(()));
    let (start, first, before) = (Instant::now(), delays(), cpu_time(lb.pid()));
    eventually("as many as the limit allows are served", || (server.requests().len() as f64 >= limit).then_some(()));

    // Health checks, the admin address and edits still have descriptors.
    server.set_healthy(false);
    lb.server_is("server1", "down");
    assert_eq!(lb.ask("/ready").status, 503);
    server.set_healthy(true);
    lb.server_is("server1", "up");
    lb.edit_file(&config(2));
    lb.reaches(2);

    eventually("the limit is logged again", || (delays() >= first + 3).then_some(()));
    let (lines, took) = (delays() - first, start.elapsed());
    assert!(lines as u64 <= took.as_secs() + 1, "{lines} lines in {took:?}");
    let cpu = cpu_time(lb.pid()) - before;
    assert!(cpu < took / 4, "{cpu:?} of CPU time in {took:?}");
    assert!(logged(&lb, "os error 24").is_empty(), "{:#?}", lb.stderr());

    // The others are served as these leave.
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || assert_eq!((client.response().status, client.get("/").status), (200, 200)));
        }
    });
    assert_eq!(get(address, "/").status, 200);
    assert!(lb.metric("lb_clients_delayed_total") > Some(0.0));
    eventually("the end of the delay is logged", || logged(&lb, "connection limit no longer reached").pop());
}

// Case: telemetry-fails
#[test]
fn a_full_disk_loses_log_lines_and_no_request() {
    let server = Server::named("server1");
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, format!("{PORTS}{NO_CHECKS}{}", server.table("server1"))).expect("a file");
    let full = by_shell("exec \"$0\" \"$@\" >/dev/full");
    let lb = Lb::start_as(full, directory, path);
    let mut client = Client::connect(lb.address());
    for _ in 0..500 {
        assert_eq!(client.get("/").status, 200);
    }
    eventually("lost lines are counted", || {
        (lb.metric("lb_access_log_dropped_lines_total") == Some(500.0)).then_some(())
    });
    let lost = logged(&lb, "access log lines were lost");
    assert!(lost.len() == 1 && lost[0].contains("No space left"), "{lost:#?}");
    assert_well(&lb, &server, "telemetry-fails");
}

// Case: telemetry-fails
#[test]
fn a_closed_process_log_costs_nothing() {
    let server = Server::named("server1");
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    let config = |weight| {
        let limits = "[limits]\nconnections = 2\n[log]\nlevel = \"debug\"\n";
        format!("{PORTS}{NO_CHECKS}{limits}{}weight = {weight}\n", server.table("server1"))
    };
    std::fs::write(&path, config(1)).expect("a file");
    let mut lb = Lb::start_as(command(), directory, path);
    let address = lb.address();
    lb.deafen();
    // Each edit makes the control plane log a line, and the clients make the workers log.
    for weight in 2..5_u64 {
        lb.edit_file(&config(weight));
        lb.reaches(weight);
        let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(address)).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        }
        assert!(clients.iter_mut().all(|client| client.response().status == 200));
    }
    assert_eq!(lb.metric("lb_panics_total"), Some(0.0));
}
