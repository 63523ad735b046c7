//! Section 5: slow and many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{assert_well, before};
use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command};
use crate::support::servers::{Server, respond};
use crate::support::{DEADLINE, eventually};
use crate::timeouts::{STEP, endless, trickle};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn row_42_a_head_has_its_time_however_it_comes() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"300ms\"\nidle = \"1h\"\n");
    let address = lb.address();
    let began = Instant::now();
    let mut silent = Client::connect(address);
    let mut second = Client::connect(address);
    assert_eq!(second.get("/").status, 200);
    assert!(silent.is_closed());
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    // After its first request the time begins with the next one's first byte, and no byte prolongs it.
    second.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let took = trickle(&second, b"x", Duration::from_secs(10));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(second.is_closed());
    assert_well(&lb, &server, "row 42");
}

#[test]
fn row_43_a_body_sent_too_slowly_is_cut_and_a_slow_one_is_not() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[timeouts]\nbody_idle = \"500ms\"\n[limits]\nbody_rate = \"100B\"\n");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n";
    let (mut slow, mut slower) = (Client::connect(lb.address()), Client::connect(lb.address()));
    std::thread::scope(|scope| {
        // 20 bytes a second.
        scope.spawn(|| {
            slower.send(head);
            let took = trickle(&slower, b"x", DEADLINE);
            assert!(took < DEADLINE / 2, "{took:?}");
            assert_eq!(slower.response().status, 408);
        });
        // 4000, for longer than is judged at once.
        slow.send(head);
        let took = trickle(&slow, &[b'x'; 200], 25 * STEP);
        assert!(took >= 25 * STEP, "{took:?}");
        slow.send(vec![b'x'; 10_000]);
        assert_eq!(slow.response().status, 200);
    });
    lb.logs("the cut", |line| line.contains("\" 408 ") && line.contains("client_too_slow"));
    assert_well(&lb, &server, "row 43");
}

#[test]
fn row_43_an_answer_read_too_slowly_is_cut() {
    let server = endless();
    let (lb, _well) = before(&server, "[timeouts]\nbody_idle = \"500ms\"\n[limits]\nbody_rate = \"256MiB\"\n");
    let mut client = Client::connect(lb.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    let (began, mut read) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(15) && lb.server("server1")["active_requests"] != 0 {
        // Twenty megabytes a second at most, and never idle for long.
        read += client.read(1 << 20).len();
        std::thread::sleep(STEP);
    }
    assert!(read < 200 << 20, "{read} bytes read in {:?}", began.elapsed());
    lb.logs("the cut", |line| line.contains("client_too_slow"));
    assert_well(&lb, &server, "row 43");
}

#[test]
fn row_43_a_slow_server_is_not_its_clients_fault() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 75\r\n\r\n");
            for _ in 0..75 {
                respond(&mut stream, "x");
                std::thread::sleep(STEP);
            }
        }
    });
    let (lb, _well) = before(&server, "[timeouts]\nbody_idle = \"2s\"\n[limits]\nbody_rate = \"1MiB\"\n");
    assert_eq!(Client::connect(lb.address()).get("/").body.len(), 75);
    assert_well(&lb, &server, "row 43");
}

#[test]
fn row_44_many_slow_clients_keep_nobody_else_waiting() {
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

/// The processor time that a process has taken.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // Behind the name, which may hold anything: user and system time are the 12th and 13th of what follows.
    let figures = stat.rsplit(')').next().expect("figures").split_whitespace();
    let ticks: u64 = figures.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // Linux counts a hundred a second, whatever its own clock does.
    Duration::from_millis(10 * ticks)
}

/// The ways of slowhttptest to keep a server busy: with heads, with bodies, with answers that it does not read.
const WAYS: [&[&str]; 3] = [&["-H"], &["-B", "-s", "8192"], &["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"]];

/// A running slowhttptest with a thousand connections. Killed at the end of the test.
struct Slow(Child);

impl Slow {
    /// None where the tool is not installed.
    fn start(way: &[&str], address: SocketAddr) -> Option<Self> {
        let mut command = Command::new("slowhttptest");
        command.args(way).args(["-c", "1000", "-r", "1000", "-i", "1", "-x", "10", "-p", "3", "-l", "120"]);
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
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn clients(lb: &Lb) -> f64 {
    lb.metric("lb_client_connections{listener=\"127.0.0.1:0\"}").expect("a figure")
}

#[test]
fn row_44_beside_a_thousand_slow_clients_every_probe_is_answered() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            // More than what waits on the way to who does not read.
            let length = if request.path() == "/slow" { 256 << 10 } else { 2 };
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            respond(&mut stream, vec![b'x'; length]);
        }
    });
    for way in WAYS {
        let lb = Lb::in_front_of(&server, "[log]\naccess = false\n[timeouts]\nrequest_header = \"1h\"\n");
        let Some(slow) = Slow::start(way, lb.address()) else { return };
        let probe = || assert_eq!(get(lb.address(), "/probe").status, 200, "{way:?}");
        for many in [300.0, 600.0, 900.0] {
            eventually("more of the thousand are there", || {
                probe();
                (clients(&lb) > many).then_some(())
            });
        }
        (0..20).for_each(|_| probe());
        drop(slow);
        eventually("all have left", || (clients(&lb) == 0.0).then_some(()));
        assert_eq!(lb.metric("lb_clients_delayed_total"), Some(0.0), "nobody had to wait");
    }
}

#[test]
fn row_44_over_the_limit_clients_are_served_as_there_is_room() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[limits]\nconnections = 100\n[timeouts]\nrequest_header = \"300ms\"\n");
    let Some(slow) = Slow::start(WAYS[0], lb.address()) else { return };
    let began = Instant::now();
    let waiting = || said(&lb, "clients=100 limit=100 set_by=\"limits.connections\"").len();
    eventually("it is said that there is no room", || (waiting() > 0).then_some(()));
    // They stand in line with the slow ones, who are ended in time.
    for _ in 0..5 {
        assert_eq!(get(lb.address(), "/probe").status, 200);
        assert!(clients(&lb) <= 100.0);
    }
    let (lines, took) = (waiting(), began.elapsed());
    assert!(lines as u64 <= took.as_secs() + 1, "{lines} lines in {took:?}");
    drop(slow);
    eventually("it is said that this is over", || said(&lb, "clients are served as they come again").pop());
    assert!(lb.metric("lb_clients_delayed_total") > Some(0.0));
}

/// `lb` by way of a shell.
fn by_shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.env_remove("LB_CONFIG").env("NO_COLOR", "1").args(["-c", script, env!("CARGO_BIN_EXE_lb")]);
    command
}

/// The lines of the log that hold `words`.
fn said(lb: &Lb, words: &str) -> Vec<String> {
    lb.stderr().into_iter().filter(|line| line.contains(words)).collect()
}

#[test]
fn row_45_clients_use_up_their_own_descriptors_and_nobody_elses() {
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
    assert!((1.0..=16.0).contains(&limit), "{limit} clients of 64 descriptors");

    // They ask all at once, and those that are taken are all answered.
    let mut clients: Vec<Client> = (0..80).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    let waiting = || said(&lb, "set_by=\"file descriptors\"").len();
    eventually("it is said that there is no room", || (waiting() > 0).then_some(()));
    let (began, first, before) = (Instant::now(), waiting(), processor_time(lb.pid()));
    eventually("as many as may be are answered", || (server.requests().len() as f64 >= limit).then_some(()));

    // Everybody else has what he needs meanwhile.
    server.set_healthy(false);
    lb.server_is("server1", "down");
    assert_eq!(lb.ask("/ready").status, 503);
    server.set_healthy(true);
    lb.server_is("server1", "up");
    lb.edit_file(&config(2));
    lb.reaches(2);

    eventually("it is said again and again", || (waiting() >= first + 3).then_some(()));
    let (lines, took) = (waiting() - first, began.elapsed());
    assert!(lines as u64 <= took.as_secs() + 1, "{lines} lines in {took:?}");
    let worked = processor_time(lb.pid()) - before;
    assert!(worked < took / 4, "{worked:?} of work in {took:?} of waiting");
    assert!(said(&lb, "os error 24").is_empty(), "{:#?}", lb.stderr());

    // They are served as others leave.
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || assert_eq!((client.response().status, client.get("/").status), (200, 200)));
        }
    });
    assert_eq!(get(address, "/").status, 200);
    assert!(lb.metric("lb_clients_delayed_total") > Some(0.0));
    eventually("it is said that this is over", || said(&lb, "clients are served as they come again").pop());
}

#[test]
fn row_46_a_full_disk_costs_lines_and_no_request() {
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
    eventually("what was lost is counted", || {
        (lb.metric("lb_access_log_dropped_lines_total") == Some(500.0)).then_some(())
    });
    let lost = said(&lb, "access log lines were lost");
    assert!(lost.len() == 1 && lost[0].contains("No space left"), "{lost:#?}");
    assert_well(&lb, &server, "row 46");
}

#[test]
fn row_46_a_process_log_that_nobody_takes_costs_nothing() {
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
    // Each of these is worth a line: of the control plane, and of the workers.
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
