//! Unix sockets: of listeners, servers and the admin address.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use tempfile::TempDir;

use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, command, run};
use crate::support::servers::Server;

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// The response at a socket.
fn ask(path: &Path, headers: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn listener(path: &str, more: &str) -> String {
    format!("[[listener]]\naddress = \"unix:{path}\"\n{more}{ADMIN}{NO_CHECKS}")
}

// Case: unix-client
#[test]
fn a_client_of_a_unix_listener_is_trusted_and_called_unix() {
    let server = Server::named("server1");
    let lb =
        Lb::start_file(&format!("{}{}", listener("a.sock", "[proxy]\nforwarded = \"both\"\n"), server.table("one")));
    let path = lb.path().with_file_name("a.sock");
    for headers in ["", "X-Forwarded-For: 203.0.113.7\r\n"] {
        assert!(ask(&path, headers).expect("a response").starts_with("HTTP/1.1 200"), "{headers}");
    }
    let requests = server.requests();
    assert_eq!(requests[0].values("x-forwarded-for"), ["unix"]);
    assert_eq!(requests[0].values("x-real-ip"), ["unix"]);
    assert_eq!(requests[0].values("forwarded"), ["for=_unix;proto=http;host=a"]);
    assert_eq!(requests[1].values("x-forwarded-for"), ["203.0.113.7, unix"]);
    assert_eq!(requests[1].values("x-real-ip"), ["203.0.113.7"]);
    lb.logs("a client without an address", |line| line.starts_with("unix ") || line.contains(" unix "));
    lb.logs("the client that it reports", |line| line.contains("203.0.113.7"));
    let listeners = lb.api("/api/listeners");
    assert_eq!(listeners["listeners"][0]["address"], format!("unix:{}", path.display()));
}

#[test]
fn a_unix_listener_is_moved_and_removed_with_its_file() {
    let server = Server::named("server1");
    let file = |path, more: &str| format!("{}{}", listener(path, more), server.table("one"));
    let mut lb = Lb::start_file(&file("a.sock", ""));
    let [a, b] = ["a.sock", "b.sock"].map(|name| lb.path().with_file_name(name));
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&a), 0o660);
    lb.edit_file(&file("a.sock", "mode = \"0600\"\n"));
    lb.reaches(2);
    assert_eq!(mode(&a), 0o600);

    // Every client that gets a connection gets a response, whenever the listener is moved.
    let clients = std::thread::spawn(move || {
        let mut responses = 0;
        while let Ok(mut stream) = UnixStream::connect(&a) {
            let mut text = String::new();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
            stream.read_to_string(&mut text).expect("a response");
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            responses += 1;
        }
        (responses, a.exists())
    });
    eventually("clients are served", || (server.requests().len() > 20).then_some(()));
    lb.edit_file(&file("b.sock", ""));
    lb.reaches(3);
    let (responses, exists) = clients.join().expect("no failed client");
    assert!(responses > 20 && !exists, "{responses} {exists}");
    assert!(ask(&b, "").expect("a response").starts_with("HTTP/1.1 200"));
    lb.signal("TERM");
    assert!(lb.ends().success());
    assert!(!b.exists(), "the file goes with the process");
}

// Case: unix-leftover
#[test]
fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let server = Server::named("server1");
    let file = format!("{}{}", listener("a.sock", ""), server.table("one"));
    let mut lb = Lb::start_file(&file);
    let path = lb.path().with_file_name("a.sock");
    let config = lb.path();
    let config = config.to_str().expect("text");
    let second = run(&["--config", config]);
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(second.err.contains("a process listens on"), "{second:#?}");
    assert!(ask(&path, "").expect("the first one is there").starts_with("HTTP/1.1 200"));
    lb.signal("KILL");
    lb.ends();
    assert!(path.exists(), "a killed process leaves its file");

    let directory = TempDir::new().expect("a directory");
    let own = directory.path().join("lb.toml");
    let absolute = format!("{}{}", listener(path.to_str().expect("text"), ""), server.table("one"));
    fs::write(&own, absolute).expect("a file");
    let mut next = Lb::start_in(directory, own);
    assert!(ask(&path, "").expect("the dead one was replaced").starts_with("HTTP/1.1 200"));
    next.signal("TERM");
    next.ends();

    fs::write(&path, "precious").expect("a file");
    let third = run(&["--config", config]);
    assert_eq!(third.code, Some(1), "{third:#?}");
    assert!(third.err.contains("the file is not a socket"), "{third:#?}");
    assert_eq!(fs::read_to_string(&path).expect("it is still there"), "precious");
}

/// Serves a Unix socket until its listener is shut down: `200` for everything. Returns the hosts of the requests.
fn serve(listener: UnixListener) -> std::sync::mpsc::Receiver<String> {
    let (sender, hosts) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                    if let Some(host) = line.strip_prefix("Host: ") {
                        let _ = sender.send(host.trim().to_owned());
                    }
                    if line == "\r\n" {
                        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                    line.clear();
                }
            });
        }
    });
    hosts
}

#[test]
fn a_unix_server_is_checked_and_gets_requests() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("app.sock");
    let hosts = serve(UnixListener::bind(&socket).expect("a socket"));
    let address = format!("unix:{}", socket.display());
    let lb = Lb::start(&format!(
        "[health]\ninterval = \"100ms\"\nretry = \"100ms\"\nrise = 1\nfall = 1\n[[server]]\nname = \"app\"\naddress = \"{address}\"\n"
    ));
    lb.server_is("app", "up");
    assert_eq!(hosts.recv().expect("a check"), "localhost");
    assert_eq!(crate::support::client::get(lb.address(), "/").text(), "ok");
    assert_eq!(lb.server("app")["address"], address);
    let admin = lb.admin.to_string();
    let status = run(&["status", "--admin", &admin]);
    assert!(status.out.contains(&address), "{status:#?}");

    fs::remove_file(&socket).expect("removed");
    lb.server_is("app", "down");
    let error = lb.server("app")["last_check"]["error"].to_string();
    assert!(error.contains("app.sock"), "{error}");
    let _hosts = serve(UnixListener::bind(&socket).expect("a socket"));
    lb.server_is("app", "up");
}

#[test]
fn the_admin_address_may_be_a_unix_socket() {
    let server = Server::named("server1");
    let directory = TempDir::new().expect("a directory");
    let (config, socket) = (directory.path().join("lb.toml"), directory.path().join("admin.sock"));
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"unix:admin.sock\"\n{NO_CHECKS}{}",
        server.table("one")
    );
    fs::write(&config, text).expect("a file");
    let mut child = command().arg("--config").arg(&config).spawn().expect("lb starts");
    eventually("lb listens", || UnixStream::connect(&socket).ok());
    let address = format!("unix:{}", socket.display());
    let status = run(&["status", "--admin", &address]);
    assert!(status.code == Some(0) && status.out.contains("one"), "{status:#?}");
    let config = config.to_str().expect("text");
    let healthy = run(&["healthcheck", "--config", config]);
    assert_eq!(healthy.code, Some(0), "{healthy:#?}");
    if let Ok(curl) = std::process::Command::new("curl")
        .args(["-s", "--unix-socket", socket.to_str().expect("text"), "http://localhost/ready"])
        .output()
    {
        assert!(String::from_utf8_lossy(&curl.stdout).contains("\"ready\""), "{curl:?}");
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn a_unix_server_is_added_by_command_and_shown_everywhere() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("app.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let (mut path, mut line) = (String::new(), String::new());
                while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                    if line.starts_with("GET ") {
                        path.clone_from(&line);
                    }
                    let page = if path.contains("/metrics") { "process_resident_memory_bytes 4096\n" } else { "ok" };
                    if line == "\r\n" {
                        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
                        let _ = stream.get_mut().write_all(response.as_bytes());
                    }
                    line.clear();
                }
            });
        }
    });
    let other = Server::named("other");
    let path = directory.path().join("lb.toml");
    let health = "[health]\ninterval = \"100ms\"\nmemory = \"/metrics\"\n";
    fs::write(&path, format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{ADMIN}{health}{}", other.table("one")))
        .expect("a file");
    let lb = Lb::start_in(directory, path);
    // A relative path is relative to the file.
    let config = lb.path();
    for (name, address) in
        [("absolute", format!("unix:{}", socket.display())), ("relative", "unix:app.sock".to_owned())]
    {
        let ran = run(&["--config", config.to_str().expect("text"), "server", "add", name, &address]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        lb.server_is(name, "up");
        let memory = || (lb.server(name)["memory_bytes"] == 4096).then_some(());
        eventually("its memory is read", memory);
        assert_eq!(lb.server(name)["address"], format!("unix:{}", socket.display()));
    }
    let admin = lb.admin.to_string();
    for command in [&["server", "list"][..], &["server", "show", "absolute"], &["status"]] {
        let ran = run(&[command, &["--admin", &admin]].concat());
        assert!(ran.code == Some(0) && ran.out.contains("app.sock"), "{command:?}: {ran:?}");
    }
    let bad = run(&["--config", config.to_str().expect("text"), "server", "add", "bad", "/run/app.sock"]);
    assert!(bad.code == Some(1) && bad.err.contains("write `unix:/run/app.sock`"), "{bad:?}");
    assert!(!lb.has_panicked());
}
