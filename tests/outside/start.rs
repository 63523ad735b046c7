//! Starting and failing to start: the output and the exit codes.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, Lines, PORTS, command, lines, servers};
use crate::support::servers::Server;

const SERVER: &str = "[[server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";

/// Runs `lb` to its end in a directory.
fn lb(directory: &Path, arguments: &[&str]) -> Output {
    command().args(arguments).current_dir(directory).output().expect("lb runs")
}

/// A directory with a configuration in it.
fn directory(config: &str) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    fs::write(directory.path().join("lb.toml"), config).expect("a file");
    directory
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn taken() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

#[test]
fn a_taken_port_is_shown_in_the_file_with_what_to_do() {
    let (_held, address) = taken();
    let free = "127.0.0.1:0".parse().unwrap();
    let (_too, other) = taken();
    for (listener, admin, named) in
        [(address, free, vec![address]), (free, address, vec![address]), (address, other, vec![address, other])]
    {
        let config = format!("[[listener]]\naddress = \"{listener}\"\n[admin]\naddress = \"{admin}\"\n{SERVER}");
        let output = lb(directory(&config).path(), &["run"]);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        for address in &named {
            let port = address.port();
            let line = if *address == listener { 2 } else { 4 };
            for part in [
                format!("error: cannot listen on {address}"),
                format!("lb.toml:{line}:11"),
                format!("{line} | address = \"{address}\""),
                format!("port {port} is taken: stop the process that has it"),
            ] {
                assert_eq!(text.matches(&part).count(), 1, "{part}: {text}");
            }
        }
        let addresses: Vec<String> = named.iter().map(ToString::to_string).collect();
        let last = format!("lb: cannot listen on {}; nothing was started", addresses.join(", "));
        assert_eq!(text.lines().last(), Some(last.as_str()), "{text}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn every_problem_of_a_bad_file_is_printed_and_nothing_starts() {
    let directory = directory(&format!("{PORTS}{SERVER}wieght = 1\nenabled = 1\n[limits]\nheaders = -1\n"));
    let output = lb(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let picture = "error: unknown key `wieght` in [[server]]\n --> lb.toml:8:1\n  |\n8 | wieght = 1\n  | ^^^^^^\n";
    for part in [picture, "help: did you mean `weight`?", "--> lb.toml:9:11\n", "--> lb.toml:11:11\n"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("the configuration has 3 problems; nothing was started"), "{text}");
}

#[test]
fn a_missing_file_is_reported_with_a_way_to_get_one() {
    let directory = TempDir::new().unwrap();
    for arguments in [&["run"][..], &["check"], &["run", "--config", "other.toml"]] {
        let output = lb(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = stderr(&output) + &stdout(&output);
        let name = if arguments.len() > 1 { "other.toml" } else { "lb.toml" };
        for part in [name, "there is no such file", "--config", "lb demo"] {
            assert!(text.contains(part), "{arguments:?}: {part} in {text}");
        }
    }
}

#[test]
fn bad_usage_has_another_exit_code_than_a_bad_file() {
    let directory = directory(&format!("{PORTS}{SERVER}"));
    for arguments in [&["--nope"][..], &["nope"], &["check", "--format", "nope"], &["--config"]] {
        let output = lb(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("--help"), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn version_and_help_exit_with_0() {
    let directory = TempDir::new().unwrap();
    let output = lb(directory.path(), &["--version"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), format!("lb {}\n", env!("CARGO_PKG_VERSION"))));
    let output = lb(directory.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for command in
        ["run", "demo", "check", "plan", "wait", "status", "explain", "server", "healthcheck", "schema", "completions"]
    {
        assert!(stdout(&output).contains(command), "{}", stdout(&output));
    }
}

#[test]
fn lb_check_has_formats_for_people_programs_and_ci() {
    let good = directory(&format!("{PORTS}{SERVER}"));
    let bad = directory(&format!("{PORTS}{SERVER}wieght = 1\n"));
    for (directory, code) in [(&good, 0), (&bad, 1)] {
        for arguments in [&["check"][..], &["check", "lb.toml"], &["--config", "lb.toml", "check"]] {
            let output = lb(directory.path(), arguments);
            assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(code), ""), "{arguments:?}");
        }
        let output = lb(directory.path(), &["check", "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((output.status.code(), &report["fine"]), (Some(code), &(code == 0).into()));
        assert_eq!(report["problems"].as_array().map(Vec::len), usize::try_from(code).ok());
        let output = lb(directory.path(), &["check", "--format", "github"]);
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(stdout(&output).starts_with("::error file=lb.toml,line=8,col=1,"), code == 1);
    }
    assert!(stdout(&lb(good.path(), &["check"])).contains("valid (1 server in 1 pool"));
    let text = stdout(&lb(bad.path(), &["check"]));
    assert!(text.contains("8 | wieght = 1\n  | ^^^^^^"), "{text}");
}

#[test]
fn lb_healthcheck_reports_whether_the_balancer_is_ready() {
    let server = Server::named("a");
    let running = Lb::start(&format!("[health]\ninterval = \"50ms\"\n{}", servers(&[("a", server.address, 1)])));
    let config = |admin| {
        directory(&format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"{admin}\"\n{SERVER}"))
    };
    let directory_of_running = config(running.admin);
    let output = lb(directory_of_running.path(), &["healthcheck"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));

    server.set_healthy(false);
    running.server_is("a", "down");
    let output = lb(directory_of_running.path(), &["healthcheck"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not ready") && stderr(&output).contains("default"), "{}", stderr(&output));

    let (listener, closed) = taken();
    drop(listener);
    let output = lb(config(closed).path(), &["healthcheck"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("no response from {closed}")), "{}", stderr(&output));
}

#[test]
fn the_environment_can_name_the_file() {
    let directory = directory("wieght = 1\n");
    fs::write(directory.path().join("other.toml"), format!("{PORTS}{SERVER}")).unwrap();
    let check = |arguments: &[&str]| {
        let mut command = command();
        command.args(arguments).current_dir(directory.path()).env("LB_CONFIG", "other.toml");
        command.output().expect("lb runs").status.code()
    };
    assert_eq!(check(&["check"]), Some(0));
    assert_eq!(check(&["--config", "lb.toml", "check"]), Some(1), "an argument takes precedence over the environment");
}

/// The ports of the demo are fixed, and may be taken on this machine. Then it names them, and ends.
#[test]
fn the_demo_writes_its_file_and_prints_what_to_try() {
    let directory = TempDir::new().unwrap();
    let mut command = command();
    command.arg("demo").current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = KillOnDrop(command.spawn().expect("lb runs"));
    let KillOnDrop(child) = &mut child;
    let (out, err) = (lines(child.stdout.take().expect("piped")), lines(child.stderr.take().expect("piped")));
    let text = |lines: &Lines| lines.lock().unwrap().join("\n");
    let ended = eventually("the demo listens or has ended", || match child.try_wait().expect("a child") {
        Some(status) => Some(Some(status)),
        None => text(&err).contains("listening").then_some(None),
    });
    let written = fs::read_to_string(directory.path().join("lb.toml")).expect("the file was written");
    assert!(written.contains("name = \"server3\"") && written.contains("weight = 6"), "{written}");
    // Its first line refers to the schema.
    let schema = fs::read_to_string(directory.path().join("lb.schema.json")).expect("the schema was written");
    assert!(written.starts_with("#:schema ./lb.schema.json\n") && schema.contains("\"$schema\""), "{written}");
    let Some(status) = ended else {
        for port in [8080, 8081, 8082, 8083] {
            assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], port)), "/").status, 200);
        }
        let another = lb(directory.path(), &["demo"]);
        assert_eq!((another.status.code(), stderr(&another).lines().count()), (Some(1), 3), "{another:?}");
        for line in stderr(&another).lines() {
            assert_eq!(line.matches("cannot listen on").count(), 1, "{line}");
        }
        for part in ["lb.toml was written", "curl", "http://127.0.0.1:8080/", "/api/servers", "weight"] {
            eventually(part, || text(&out).contains(part).then_some(()));
        }
        return;
    };
    assert_eq!(status.code(), Some(1), "{}", text(&err));
    let taken = |port: u16| format!("port {port} is taken: stop the process that has it");
    eventually("it names the taken port", || {
        [8080, 8081, 8082, 8083, 9900].iter().any(|port| text(&err).contains(&taken(*port))).then_some(())
    });
    assert_eq!(text(&out), "", "nothing runs, so there is nothing to try");
    eprintln!("ports of the demo are taken here, so only its error was tested");
}

#[test]
fn the_demos_certificate_can_be_made_without_the_demo() {
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("certificate");
    let make = || lb(directory.path(), &["demo", "--certificate", "certificate"]);
    let ran = make();
    assert_eq!((ran.status.code(), stderr(&ran)), (Some(0), String::new()));
    let read = || ["ca.pem", "localhost.pem", "localhost.key"].map(|name| fs::read(place.join(name)).expect(name));
    let made = read();
    assert_eq!(make().status.code(), Some(0));
    assert_eq!(read(), made, "it is still valid");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is written");
    fs::write(directory.path().join("file"), "").unwrap();
    let ran = lb(directory.path(), &["demo", "--certificate", "file"]);
    assert!(ran.status.code() == Some(1) && stderr(&ran).contains("cannot write a certificate to file"), "{ran:?}");
}

/// Ends the demo when dropped, because others may need its ports.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
