//! The demo server as a process: flags, signals, exit codes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

fn demo_server(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo-server"));
    command
        .args(arguments)
        .env_remove("NAME")
        .env_remove("ADDRESS")
        .env_remove("ZIPKIN_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Killed when the test ends, even if it fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_serves_until_a_signal_stops_it() {
    let mut command = demo_server(&["--address", "127.0.0.1:0"]);
    let mut process = Process(command.env("NAME", "server7").spawn().expect("start"));
    let mut lines = BufReader::new(process.0.stderr.take().expect("stderr"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("server7 listens on http://").expect("the address");

    let healthy = demo_server(&["healthcheck"]).env("ADDRESS", address).status().expect("run");
    assert_eq!(healthy.code(), Some(0));

    // The shell's built-in `kill`, because not every machine has the program.
    let kill = format!("kill -TERM {}", process.0.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh").success());
    assert_eq!(process.0.wait().expect("wait").code(), Some(0));
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "", "nothing else is printed");

    let output = demo_server(&["healthcheck", "--address", address]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let reason = String::from_utf8(output.stderr).expect("text");
    assert!(reason.starts_with(&format!("demo-server: {address} is not healthy: ")), "{reason}");
}

#[test]
fn invalid_flags_are_errors() {
    let cases: [(&[&str], i32, &str); 3] = [
        (&["--address", "nowhere"], 2, "nowhere"),
        (&["--address", "127.0.0.1:0", "--name", "two words"], 1, "`two words`"),
        (&["--address", "127.0.0.1:0", "--zipkin", "zipkin"], 1, "`zipkin`"),
    ];
    for (arguments, code, named) in cases {
        let output = demo_server(arguments).output().expect("run");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let message = String::from_utf8(output.stderr).expect("text");
        assert!(message.contains(named), "{message}");
    }
}
