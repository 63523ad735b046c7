//! An edit that needs a port in use is pending as a whole: reported, and applied by itself once the port is free.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reload::outcomes;
use crate::support::client::get;
use crate::support::lb::{Lb, PORTS, command, run, servers};
use crate::support::servers::Server;
use crate::support::{DEADLINE, eventually};

/// No health checks and no poll, so that nothing else leads to another attempt.
const EVENTS: &str = "[health]\nkind = \"none\"\n[reload]\npoll = \"0s\"\nquiet = \"30ms\"\n";

fn file(server: &Server, weight: u32, more: &str) -> String {
    format!("{PORTS}{EVENTS}{}{more}", servers(&[("a", server.address, weight)]))
}

fn listener(address: SocketAddr) -> String {
    format!("[[listener]]\naddress = \"{address}\"\n")
}

fn with_admin(file: &str, address: SocketAddr) -> String {
    file.replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"{address}\""))
}

/// A socket that holds a port, and its address.
fn taken() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// The newest reload, once it has this outcome.
#[track_caller]
fn becomes(lb: &Lb, outcome: &str) -> Value {
    eventually(&format!("{outcome}: {:#}", lb.api("/api/reloads")), || {
        Some(lb.newest_reload()).filter(|reload| reload["outcome"] == outcome)
    })
}

fn reloads(lb: &Lb, result: &str) -> Option<f64> {
    lb.metric(&format!("lb_reloads_total{{result=\"{result}\"}}"))
}

// Case: port-taken
#[test]
fn an_edit_whose_port_is_in_use_is_applied_once_it_is_free() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let (socket, address) = taken();
    lb.edit_file(&file(&server, 2, &listener(address)));
    let pending = becomes(&lb, "pending");
    let words = format!("cannot listen on {address}");
    let problem = &pending["problems"][0];
    assert!(problem["message"].as_str().unwrap().starts_with(&words), "{pending:#}");
    // The place is that of the new listener's address.
    let text = std::fs::read_to_string(lb.path()).unwrap();
    let line = text.lines().position(|line| line.contains(&address.to_string())).unwrap() + 1;
    assert_eq!((&problem["line"], &problem["column"]), (&json!(line), &json!(11)), "{pending:#}");
    assert_eq!((&pending["generation"], &pending["changes"]), (&json!(1), &json!([])), "{pending:#}");
    assert_eq!((&lb.server("a")["weight"], get(lb.address(), "/").text().as_str()), (&json!(1), "a"));

    // It is reported everywhere.
    assert_eq!(lb.api("/api/config")["state"], "pending");
    assert_eq!((reloads(&lb, "pending"), lb.metric("lb_config_last_reload_successful")), (Some(1.0), Some(0.0)));
    let is_logged = |line: &String| line.contains("WARN") && line.contains(&words);
    assert!(lb.stderr().iter().any(is_logged), "{:#?}", lb.stderr());
    let status = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(status.contains("pending") && status.contains(&words), "{status}");

    drop(socket);
    let applied = becomes(&lb, "applied");
    assert_eq!(applied["hash"], pending["hash"]);
    assert_eq!(outcomes(&lb), ["applied", "pending", "applied"], "it is tried silently");
    assert_eq!((get(address, "/").text().as_str(), &lb.server("a")["weight"]), ("a", &json!(2)));
    assert_eq!((lb.api("/api/config")["state"].clone(), reloads(&lb, "pending")), (json!("current"), Some(1.0)));
    assert_eq!(lb.metric("lb_config_last_reload_successful"), Some(1.0));
}

// Case: port-taken
#[test]
fn the_admin_address_may_be_pending_too() {
    let server = Server::named("a");
    let mut lb = Lb::start_file(&file(&server, 1, ""));
    let (socket, address) = taken();
    lb.edit_file(&with_admin(&file(&server, 2, ""), address));
    becomes(&lb, "pending");
    assert_eq!(lb.server("a")["weight"], 1);
    drop(socket);
    lb.admin = address;
    eventually("the admin address has moved", || TcpStream::connect(address).ok());
    assert_eq!(lb.server("a")["weight"], 2);
}

// Case: port-taken
#[test]
fn a_name_that_cannot_be_resolved_hides_no_port_in_use() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let (_socket, address) = taken();
    let named = "[[server]]\nname = \"b\"\naddress = \"no.such.host.invalid:80\"\n";
    lb.edit_file(&file(&server, 1, &(named.to_owned() + &listener(address))));
    let problems = eventually("both are reported", || {
        let reload = lb.newest_reload();
        let problems = reload["problems"].as_array()?.clone();
        (problems.len() == 2).then_some(problems)
    });
    let text = std::fs::read_to_string(lb.path()).unwrap();
    let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    for (problem, message, part) in [
        (&problems[0], "`no.such.host.invalid` cannot be resolved", "no.such"),
        (&problems[1], "cannot listen on", &address.to_string()),
    ] {
        assert!(problem["message"].as_str().unwrap().starts_with(message), "{problem:#}");
        assert_eq!((&problem["line"], &problem["column"]), (&json!(line(part)), &json!(11)), "{problem:#}");
    }
}

// Case: port-taken
#[test]
fn no_client_is_accepted_at_a_port_of_an_edit_that_is_pending() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let ((socket, in_use), (_, free)) = (taken(), taken());
    let directory = TempDir::new().unwrap();
    let logs = directory.path().join("logs");
    let log = format!("[log]\naccess = \"{}/access.log\"\n", logs.display());
    let (begun, stop) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let goes_on = || !stop.load(Relaxed) && begun.elapsed() < 2 * DEADLINE;
            std::iter::from_fn(|| goes_on().then(|| TcpStream::connect(free))).filter(Result::is_ok).count()
        });
        lb.edit_file(&file(&server, 2, &(listener(free) + &listener(in_use) + &log)));
        let lacks = |what: &str| {
            eventually(what, || lb.newest_reload()["problems"].to_string().contains(what).then_some(()));
        };
        lacks("cannot listen on");
        drop(socket);
        lacks("cannot write the access log");
        stop.store(true, Relaxed);
        assert_eq!(clients.join().unwrap(), 0);
    });
    std::fs::create_dir(&logs).unwrap();
    becomes(&lb, "applied");
    assert_eq!(get(free, "/").text(), "a");
}

// Case: port-taken
#[test]
fn only_what_is_new_about_a_pending_edit_is_recorded() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let ((first, one), (second, two)) = (taken(), taken());
    let text = file(&server, 2, &(listener(one) + &listener(two)));
    lb.edit_file(&text);
    assert_eq!(becomes(&lb, "pending")["problems"].as_array().unwrap().len(), 2);
    drop(first);
    // The reason has changed.
    let reload = eventually("one port is left", || {
        Some(lb.newest_reload()).filter(|reload| reload["problems"].as_array().unwrap().len() == 1)
    });
    assert_eq!(reload["outcome"], "pending");
    eventually("nothing of it is applied", || TcpListener::bind(one).ok());
    // SIGHUP has its answer.
    lb.signal("HUP");
    eventually("it is recorded again", || (outcomes(&lb).len() == 4).then_some(()));
    assert_eq!(outcomes(&lb), ["applied", "pending", "pending", "pending"]);
    // The same bytes are the same edit.
    lb.edit_file(&text);
    drop(second);
    becomes(&lb, "applied");
    assert_eq!(outcomes(&lb), ["applied", "pending", "pending", "pending", "applied"]);
}

// Case: port-taken
#[test]
fn a_pending_edit_ends_when_the_file_changes() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let (socket, address) = taken();
    let text = file(&server, 2, &listener(address));
    for (next, outcome, state, weight) in [
        (file(&server, 1, ""), "unchanged", "current", 1),
        (text.replace("weight", "wieght"), "rejected", "last_good", 1),
        (file(&server, 3, ""), "applied", "current", 3),
    ] {
        lb.edit_file(&text);
        becomes(&lb, "pending");
        let count = outcomes(&lb).len();
        lb.edit_file(&next);
        becomes(&lb, outcome);
        assert_eq!((&lb.api("/api/config")["state"], &lb.server("a")["weight"]), (&json!(state), &json!(weight)));
        assert_eq!(outcomes(&lb).len(), count + 1, "{:#}", lb.api("/api/reloads"));
    }
    // It does not come back when the port is free.
    drop(socket);
    let before = lb.newest_reload();
    lb.edit_file(&file(&server, 4, ""));
    assert_eq!(lb.next_reload(&before)["outcome"], "applied");
    assert!(TcpListener::bind(address).is_ok());
    assert_eq!(lb.server("a")["weight"], 4);
}

// Case: port-taken
#[test]
fn a_start_with_a_port_in_use_fails() {
    let server = Server::named("a");
    let (_socket, address) = taken();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, file(&server, 1, &listener(address))).unwrap();
    let output = command().arg("--config").arg(&path).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), text.contains(&format!("cannot listen on {address}"))),
        (Some(1), true),
        "{text}"
    );
}

// Case: port-taken
#[test]
fn one_edit_may_exchange_the_addresses_of_a_listener_and_the_admin_address() {
    let server = Server::named("a");
    let [one, two] = [taken(), taken()].map(|(socket, address)| {
        drop(socket);
        address
    });
    let text = |front: SocketAddr, admin: SocketAddr, weight| {
        let text = file(&server, weight, "").replacen("127.0.0.1:0", &front.to_string(), 1);
        with_admin(&text, admin)
    };
    let mut lb = Lb::start_file(&text(one, two, 1));
    for (front, admin, weight) in [(two, one, 2), (one, two, 3)] {
        lb.edit_file(&text(front, admin, weight));
        lb.admin = admin;
        // The old listener lingers, so a request to this address is served before and after the exchange.
        let shown = format!("\"weight\":{weight}");
        eventually("they are exchanged", || lb.ask("/api/servers/a").text().contains(&shown).then_some(()));
        assert_eq!(get(front, "/").text(), "a");
        assert!(!outcomes(&lb).contains(&"rejected".to_owned()), "{:#}", lb.api("/api/reloads"));
    }
}

// Case: name-not-resolved
#[test]
fn an_edit_whose_server_name_cannot_be_resolved_is_pending() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let named = "[[server]]\nname = \"b\"\naddress = \"name.invalid:80\"\n";
    lb.edit_file(&file(&server, 2, named));
    let pending = becomes(&lb, "pending");
    let message = pending["problems"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("`name.invalid` cannot be resolved: "), "{pending:#}");
    assert_eq!((&lb.server("a")["weight"], &lb.api("/api/config")["state"]), (&json!(1), &json!("pending")));
    // An invalid edit is rejected for that, and at once.
    lb.edit_file(&file(&server, 2, &named.replace("\"b\"", "\"a\"")));
    becomes(&lb, "rejected");
    lb.edit_file(&file(&server, 0, named));
    becomes(&lb, "pending");
    // A disabled server needs no address.
    lb.edit_file(&file(&server, 3, &format!("{named}enabled = false\n")));
    becomes(&lb, "applied");
    assert_eq!(lb.server("a")["weight"], 3);
    lb.edit_file(&file(&server, 4, named));
    becomes(&lb, "pending");
    // The undone edit leaves nothing behind.
    lb.edit_file(&file(&server, 3, &format!("{named}enabled = false\n")));
    becomes(&lb, "unchanged");
}

// Case: name-not-resolved
#[test]
fn an_edit_is_applied_once_the_names_of_its_servers_are_resolved() {
    let directory = TempDir::new().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    // The process gets a file of host names of its own.
    let mount = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let own_hosts = |program: &OsStr| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", mount]).arg(&hosts).arg(program);
        command
    };
    if !own_hosts(OsStr::new("true")).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not create mount namespaces");
        return;
    }
    let (old, new) = (Server::named("old"), Server::named("new"));
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, file(&old, 1, "")).unwrap();
    let lb = Lb::start_as(own_hosts(command().get_program()), directory, path);
    let named = format!("{PORTS}{EVENTS}[[server]]\nname = \"b\"\naddress = \"app.test:{}\"\n", new.address.port());
    lb.edit_file(&named);
    let pending = becomes(&lb, "pending");
    assert_eq!(get(lb.address(), "/").text(), "old");
    std::fs::write(&hosts, "127.0.0.1 localhost app.test\n").unwrap();
    let applied = becomes(&lb, "applied");
    assert_eq!(applied["hash"], pending["hash"]);
    assert_eq!(outcomes(&lb), ["applied", "pending", "applied"], "it is tried silently");
    // Its address is there with the edit; no request finds a server without one.
    assert_eq!(get(lb.address(), "/").text(), "new");
    // A name that is known stays usable, even if it is not resolved any more, so later edits do not wait for it.
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    lb.edit_file(&format!("{named}weight = 2\n"));
    assert_eq!(lb.next_reload(&applied)["outcome"], "applied");
    assert_eq!(lb.server("b")["weight"], 2);
}
