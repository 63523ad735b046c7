//! `lb healthcheck`, the health check of a container.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::lb::{Lb, command, servers};
use crate::support::servers::Server;

/// Runs the command with a file that has this admin address.
fn healthcheck(path: &Path, admin: impl Display, rest: &str) -> Output {
    fs::write(path, format!("[admin]\naddress = \"{admin}\"\n{rest}")).expect("a file");
    command().arg("healthcheck").arg("--config").arg(path).output().expect("lb runs")
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
