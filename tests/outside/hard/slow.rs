//! Section 5: slow and many.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS};
use crate::support::servers::Server;

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
    let line = |line: &&String| line.contains("clients wait for others to leave") && line.contains("file descriptors");
    let said = || lb.stderr().iter().filter(line).count();
    eventually("it is said that there is no room", || (said() > 0).then_some(()));
    let (began, first, before) = (Instant::now(), said(), processor_time(lb.pid()));
    eventually("as many as may be are answered", || (server.requests().len() as f64 >= limit).then_some(()));

    // Everybody else has what he needs meanwhile.
    server.set_healthy(false);
    lb.server_is("server1", "down");
    assert_eq!(lb.ask("/ready").status, 503);
    server.set_healthy(true);
    lb.server_is("server1", "up");
    lb.edit_file(&config(2));
    lb.reaches(2);

    eventually("it is said again and again", || (said() >= first + 3).then_some(()));
    let (lines, took) = (said() - first, began.elapsed());
    assert!(lines as u64 <= took.as_secs() + 1, "{lines} lines in {took:?}");
    let worked = processor_time(lb.pid()) - before;
    assert!(worked < took / 4, "{worked:?} of work in {took:?} of waiting");
    let complaints: Vec<_> = lb.stderr().into_iter().filter(|line| line.contains("os error 24")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");

    // They are served as others leave.
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || assert_eq!((client.answer().status, client.get("/").status), (200, 200)));
        }
    });
    assert_eq!(get(address, "/").status, 200);
    assert!(lb.metric("lb_clients_delayed_total") > Some(0.0));
    eventually("it is said that this is over", || {
        lb.stderr().iter().any(|line| line.contains("clients are served as they come again")).then_some(())
    });
}
