//! Section 5: slow and many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS};
use crate::support::servers::{Server, answer};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

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
    let server = Server::scripted(|mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            // More than what waits on the way to who does not read.
            let length = if request.path() == "/slow" { 256 << 10 } else { 2 };
            answer(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            answer(&mut stream, vec![b'x'; length]);
        }
    });
    for way in WAYS {
        let lb = Lb::before(&server, "[log]\naccess = false\n[timeouts]\nrequest_header = \"1h\"\n");
        let Some(slow) = Slow::start(way, lb.address()) else { return };
        let probe = || assert_eq!(get(lb.address(), "/probe").status, 200, "{way:?}");
        eventually("most of a thousand are there", || {
            probe();
            (clients(&lb) > 900.0).then_some(())
        });
        (0..20).for_each(|_| probe());
        drop(slow);
        eventually("all have left", || (clients(&lb) == 0.0).then_some(()));
        assert_eq!(lb.metric("lb_clients_delayed_total"), Some(0.0), "nobody had to wait");
    }
}

#[test]
fn row_44_over_the_limit_clients_are_served_as_there_is_room() {
    let server = Server::saying(OK);
    let lb = Lb::before(&server, "[limits]\nconnections = 100\n[timeouts]\nrequest_header = \"300ms\"\n");
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

/// The lines of the log that hold `words`.
fn said(lb: &Lb, words: &str) -> Vec<String> {
    lb.stderr().into_iter().filter(|line| line.contains(words)).collect()
}

#[test]
fn row_45_clients_use_up_their_own_descriptors_and_nobody_elses() {
    let server = Server::saying(OK);
    let config = |weight| {
        format!(
            "{PORTS}[health]\ninterval = \"50ms\"\nfall = 1\nrise = 1\n{}weight = {weight}\n",
            server.table("server1")
        )
    };
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, config(1)).expect("a file");
    let mut few = Command::new("sh");
    few.env_remove("LB_CONFIG").env("NO_COLOR", "1");
    few.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lb")]);
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
            scope.spawn(move || assert_eq!((client.answer().status, client.get("/").status), (200, 200)));
        }
    });
    assert_eq!(get(address, "/").status, 200);
    assert!(lb.metric("lb_clients_delayed_total") > Some(0.0));
    eventually("it is said that this is over", || said(&lb, "clients are served as they come again").pop());
}
