//! `lb healthcheck`, the health check of a container.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::eventually;
use crate::support::lb::{Lb, command, servers};
use crate::support::servers::{Refusing, Request, Server, respond};

/// Runs the command with a file that has this admin address.
fn healthcheck(path: &Path, admin: impl Display, rest: &str) -> Output {
    healthcheck_with(path, admin, rest, &[])
}

fn healthcheck_with(path: &Path, admin: impl Display, rest: &str, options: &[&str]) -> Output {
    fs::write(path, format!("[admin]\naddress = \"{admin}\"\n{rest}")).expect("a file");
    command().arg("healthcheck").arg("--config").arg(path).args(options).output().expect("lb runs")
}

#[test]
fn it_is_healthy_while_it_serves_whatever_the_file_says() {
    let up = Server::named("server1");
    let lb = Lb::start(&servers(&[("server1", up.address, 1)]));
    // Not the file of the process, whose port is 0.
    let path = lb.path().with_file_name("healthcheck.toml");
    let table = servers(&[("server1", up.address, 1)]);
    let listener = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
    for rest in [&format!("{listener}{table}"), "colour = 1\n", "[[server]\nname = \"a"] {
        let output = healthcheck(&path, lb.admin, rest);
        assert!(output.status.success() && output.stderr.is_empty(), "{rest}: {output:?}");
    }
}

#[test]
fn an_unreachable_admin_address_is_reported() {
    let directory = TempDir::new().expect("a directory");
    // Nothing listens on port 1, and the system never hands it out.
    let output = healthcheck(&directory.path().join("lb.toml"), "127.0.0.1:1", "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("lb: no response from 127.0.0.1:1: "), "{error}");
}

#[test]
fn another_program_on_the_admin_address_is_not_healthy() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    for (response, shown) in [
        ("HTTP/1.1 200 OK\r\nServer: other/1\r\nContent-Length: 3\r\n\r\nOK\n", "with `Server: other/1`"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"status\":\"ready\"}", "200 OK"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
    ] {
        let other = Server::scripted(move |mut stream, _| {
            while Request::read(&mut stream).is_some() {
                respond(&mut stream, response);
            }
        });
        for option in [&[][..], &["--any"], &["--alive"]] {
            let output = healthcheck_with(&path, other.address, "", option);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{option:?}: {error}");
            let start = format!("lb: the program at {} is not lb", other.address);
            assert!(error.starts_with(&start) && error.contains(shown), "{option:?}: {error}");
        }
    }
}

#[test]
fn each_option_asks_about_its_own_condition() {
    let (up, down) = (Server::named("up"), Refusing::new());
    let checks = "[health]\ninterval = \"50ms\"\nfall = 1\n";
    let pool = |name: &str, address| format!("[[pool.{name}.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    let route = |pool: &str, path: &str| format!("[[route]]\npath = \"{path}\"\npool = \"{pool}\"\n");
    let pools = [checks, &pool("good", up.address), &pool("bad", down.address)].concat();
    let lb = Lb::start(&format!("{pools}{}{}", route("good", "/"), route("bad", "/bad")));
    let path = lb.path().with_file_name("healthcheck.toml");
    let codes = || {
        [&[][..], &["--any"], &["--alive"]].map(|option| healthcheck_with(&path, lb.admin, "", option).status.code())
    };
    let become_healthy = |codes_now: [i32; 3]| {
        eventually(&format!("{codes_now:?}"), || (codes() == codes_now.map(Some)).then_some(()));
    };
    lb.server_is("good", "up");
    become_healthy([1, 0, 0]);
    let ready = lb.ask("/ready");
    assert!(ready.status == 503 && ready.text().contains("\"pools\":[\"bad\"]"), "{ready:?}");
    assert_eq!(lb.api("/ready?any")["pools"], serde_json::json!(["bad"]));

    // No route leads to the one without a server.
    lb.apply(&format!("{pools}{}", route("good", "/")));
    become_healthy([0, 0, 0]);
    let warning = "no route leads to pool `bad`, so it gets no requests";
    let is_warning = |line: &String| line.contains("WARN") && line.contains(warning);
    eventually("a warning in the log", || lb.stderr().iter().any(is_warning).then_some(()));
    assert_eq!(lb.api("/api/config")["warnings"], serde_json::json!([warning]));
    up.stop();
    become_healthy([1, 1, 0]);
    let both = healthcheck_with(&path, lb.admin, "", &["--any", "--alive"]);
    assert_eq!(both.status.code(), Some(2));
}
