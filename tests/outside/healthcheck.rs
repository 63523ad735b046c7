//! What a container is asked for its health with.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::lb::{Lb, command, servers};
use crate::support::servers::Server;

/// Asks by a file that has this admin address.
fn healthcheck(path: &Path, admin: impl Display, rest: &str) -> Output {
    fs::write(path, format!("[admin]\naddress = \"{admin}\"\n{rest}")).expect("a file");
    command().arg("healthcheck").arg("--config").arg(path).output().expect("lb runs")
}

#[test]
fn it_is_ready_as_long_as_it_serves_whatever_became_of_the_file() {
    let up = Server::named("server1");
    let lb = Lb::start(&servers(&[("server1", up.address, 1)]));
    // Not its own file: that has port 0.
    let path = lb.path().with_file_name("asked.toml");
    let table = servers(&[("server1", up.address, 1)]);
    let listener = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
    for rest in [&format!("{listener}{table}"), "colour = 1\n", "[[server]\nname = \"a"] {
        let output = healthcheck(&path, lb.admin, rest);
        assert!(output.status.success() && output.stderr.is_empty(), "{rest}: {output:?}");
    }
}

#[test]
fn nobody_there_is_told() {
    let directory = TempDir::new().expect("a directory");
    // Port 1 is never handed out, and nothing listens there.
    let output = healthcheck(&directory.path().join("lb.toml"), "127.0.0.1:1", "");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("lb: no response from 127.0.0.1:1: "), "{told}");
}
