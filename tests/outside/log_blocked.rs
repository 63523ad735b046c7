//! Outputs that nobody reads, that are full or closed: only the log suffers.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::PoisonError;

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command};
use crate::support::servers::{Gate, Server};

/// A log that has many lines about each request to the admin address.
const TALKATIVE: &str = "[log]\nlevel = \"trace\"\n";

/// Has the process log lines until some are lost.
fn flood(lb: &Lb) {
    let dropped = || lb.metric("lb_log_dropped_lines_total").expect("a metric");
    for _ in 0..1_000 {
        if dropped() > 0.0 {
            return;
        }
        for _ in 0..10 {
            assert_eq!(lb.ask("/health").status, 200);
        }
    }
    panic!("no line was lost");
}

/// Everything but the log still works.
fn assert_serves(lb: &Lb, server: &Server) {
    for path in ["/health", "/ready", "/metrics", "/", "/api/servers"] {
        assert_eq!(lb.ask(path).status, 200, "{path}");
    }
    let before = lb.generation();
    lb.edit(&format!("{NO_CHECKS}[timeouts]\ndrain = \"1h\"\n# {before}\n{}", server.table("server1")));
    lb.reaches(before + 1);
    let address = lb.address();
    assert_eq!(get(address, "/").text(), "server1");
}

// Case: log-stuck
#[test]
fn a_reader_of_standard_error_that_stops_blocks_only_the_log() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, TALKATIVE);
    let (_, stderr) = lb.outputs();
    let stopped = stderr.lock().unwrap_or_else(PoisonError::into_inner);
    flood(&lb);
    assert_serves(&lb, &server);
    drop(stopped);
    // The log says how many lines are missing where they are missing.
    eventually("all lost lines are reported", || {
        let lost = lb.metric("lb_log_dropped_lines_total")?;
        let report =
            |line: &String| line.split("log lines were lost").nth(1)?.split("lines=").nth(1)?.parse::<f64>().ok();
        (lb.stderr().iter().filter_map(report).sum::<f64>() == lost && lost > 0.0).then_some(())
    });
    let before = lb.stderr().len();
    lb.signal("HUP");
    eventually("later lines are written", || (lb.stderr().len() > before).then_some(()));
    let started = lb.stderr().iter().filter(|line| line.contains("listening")).count();
    assert_eq!(started, 1);
}

// Case: log-stuck
#[test]
fn blocked_outputs_delay_the_end_by_a_limited_time() {
    let server = Server::named("server1");
    let mut lb = Lb::in_front_of(&server, TALKATIVE);
    let (stdout, stderr) = lb.outputs();
    let (_out, _err) = (stdout.lock().unwrap(), stderr.lock().unwrap());
    let mut client = Client::connect(lb.address());
    for _ in 0..1_500 {
        client.get("/");
    }
    flood(&lb);
    assert_serves(&lb, &server);
    drop(client);
    lb.signal("TERM");
    assert!(lb.ends().success());
}

// Case: log-stuck
#[test]
fn a_second_signal_ends_the_process_whatever_the_log_does() {
    let gate = Gate::default();
    let server = Server::gated("server1", &gate);
    let mut lb = Lb::in_front_of(&server, &format!("{TALKATIVE}[timeouts]\ndrain = \"1h\"\n"));
    let (_, stderr) = lb.outputs();
    let _stopped = stderr.lock().unwrap();
    flood(&lb);
    let mut client = Client::connect(lb.address());
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the server has the request", || (!server.requests().is_empty()).then_some(()));
    lb.signal("TERM");
    eventually("it is stopping", || (lb.ask("/health").status == 503).then_some(()));
    lb.signal("USR1");
    assert_eq!(lb.ask("/health").status, 503);
    lb.signal("TERM");
    assert!(lb.ends().success());
}

#[test]
fn a_closed_or_full_output_changes_nothing() {
    let server = Server::named("server1");
    let mut lb = Lb::in_front_of(&server, "");
    // Standard error is closed by its reader.
    lb.deafen();
    for _ in 0..3 {
        assert_serves(&lb, &server);
    }
    eventually("lost lines are counted", || lb.metric("lb_log_dropped_lines_total").filter(|lost| *lost > 0.0));
    lb.signal("TERM");
    assert!(lb.ends().success());

    // Standard output is full, and standard error closed from the start.
    for redirect in [">/dev/full", ">&-"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("lb.toml");
        let config = format!("{PORTS}{NO_CHECKS}{}", server.table("server1"));
        std::fs::write(&path, config).unwrap();
        let mut shell = Command::new("sh");
        let script = format!("exec {} \"$@\" {redirect}", env!("CARGO_BIN_EXE_lb"));
        shell.arg("-c").arg(script).arg("sh").env("NO_COLOR", "1");
        let mut lb = Lb::start_as(shell, directory, path);
        assert_serves(&lb, &server);
        lb.signal("TERM");
        assert!(lb.ends().success(), "{redirect}");
    }
}

#[test]
fn an_edit_leads_the_access_log_away_from_an_output_that_is_stuck() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, "");
    let (stdout, _) = lb.outputs();
    let _stopped = stdout.lock().unwrap();
    let mut client = Client::connect(lb.address());
    for _ in 0..1_500 {
        client.get("/stuck");
    }
    lb.apply(&format!("{NO_CHECKS}[log]\naccess = \"access.log\"\n{}", server.table("server1")));
    client.get("/file");
    let path = lb.path().with_file_name("access.log");
    let text =
        eventually("the file has a line", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    assert!(text.contains("/file") && !text.contains("/stuck"), "{text}");
}

// Case: log-stuck
#[test]
fn a_paused_terminal_stops_nothing() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: there is no script(1) for a terminal");
        return;
    }
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, format!("{PORTS}{NO_CHECKS}{TALKATIVE}{}", server.table("server1"))).unwrap();
    let mut terminal = Command::new("sh");
    // The test looks for its first lines on standard error.
    let script = format!("exec script -qec '{} run --config '\"$2\" /dev/null >&2", env!("CARGO_BIN_EXE_lb"));
    terminal.arg("-c").arg(script).arg("sh").env("NO_COLOR", "1").env_remove("LB_CONFIG").stdin(Stdio::piped());
    let mut lb = Lb::start_as(terminal, directory, path);
    let mut keyboard = lb.stdin();
    keyboard.write_all(b"\x13").unwrap();
    flood(&lb);
    let mut client = Client::connect(lb.address());
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "server1");
    }
    assert_serves(&lb, &server);
    drop(client);
    // Ctrl-C, twice.
    keyboard.write_all(b"\x03").unwrap();
    eventually("it is stopping, or has stopped", || {
        let stopped = Client::try_connect(lb.admin).is_err();
        (stopped || lb.ask("/health").status == 503).then_some(())
    });
    // It may have ended.
    let _ = keyboard.write_all(b"\x03");
    lb.ends();
}

#[test]
fn a_start_that_fails_ends_although_nobody_reads_why() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    // More problems than a pipe holds.
    let problems: String = (0..300).map(|number| format!("no_such_key_{number} = \"{}\"\n", "x".repeat(90))).collect();
    std::fs::write(&path, problems).unwrap();
    let mut child = command().arg("--config").arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    let ended = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
}

#[test]
fn standard_output_may_be_a_file_that_is_full() {
    let server = Server::named("server1");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, format!("{PORTS}{NO_CHECKS}{}", server.table("server1"))).unwrap();
    let stdout = File::create(directory.path().join("out")).unwrap();
    let mut shell = Command::new("sh");
    // One block is 512 bytes.
    let script = format!("ulimit -f 2; exec {} \"$@\" >>\"$0\"", env!("CARGO_BIN_EXE_lb"));
    shell.arg("-c").arg(script).arg(directory.path().join("out")).env("NO_COLOR", "1");
    drop(stdout);
    let mut lb = Lb::start_as(shell, directory, path);
    let mut client = Client::connect(lb.address());
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    drop(client);
    eventually("lost lines are counted", || lb.metric("lb_access_log_dropped_lines_total").filter(|lost| *lost > 0.0));
    lb.signal("TERM");
    assert!(lb.ends().success());
}

#[test]
fn the_log_names_the_dashboard_at_the_start_and_after_a_move() {
    let server = Server::named("server1");
    let file = |admin| {
        format!(
            "listener = [{{ address = \"127.0.0.1:0\" }}]\nadmin.address = \"{admin}\"\n{NO_CHECKS}{}",
            server.table("s")
        )
    };
    let lb = Lb::start_file(&file("0.0.0.0:0"));
    for (number, (address, host)) in
        (1..).zip([("0.0.0.0:0", "127.0.0.1"), ("127.0.0.2:0", "127.0.0.2"), ("[::]:0", "[::1]")])
    {
        if number > 1 {
            lb.edit_file(&file(address));
        }
        let line = eventually("a URL", || {
            lb.stderr().into_iter().filter(|line| line.contains("admin address")).nth(number - 1)
        });
        let url = line.split("dashboard=").nth(1).and_then(|rest| rest.split(' ').next()).expect(&line);
        let authority = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).expect(url);
        assert!(authority.starts_with(&format!("{host}:")) && !authority.ends_with(":0"), "{line}");
        assert_eq!(get(authority.parse().unwrap(), "/").status, 200, "{line}");
    }
}
