//! Signals, once, twice and a hundred times, in each state that a file can put a running `lb` in.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command, servers};
use crate::support::servers::{Gate, Server};

/// A balancer in some state, which serves from the server `a`, and whatever must live as long.
struct Scene {
    lb: Lb,
    _kept: Vec<Box<dyn std::any::Any>>,
}

/// Brings a balancer into a state.
type Arrange = fn(&Server) -> Scene;

/// A good file with one server.
fn file(server: &Server, more: &str) -> String {
    let table = servers(&[("a", server.address, 1)]);
    format!("{PORTS}{NO_CHECKS}[timeouts]\ndrain = \"1h\"\n[reload]\npoll = \"100ms\"\nquiet = \"30ms\"\n{more}{table}")
}

fn start(server: &Server) -> Scene {
    Scene { lb: Lb::start_file(&file(server, "")), _kept: Vec::new() }
}

/// Makes an edit, and asserts that it is rejected.
fn rejected(scene: Scene, edit: impl FnOnce(&Lb)) -> Scene {
    not_applied(scene, "rejected", edit)
}

fn not_applied(scene: Scene, outcome: &str, edit: impl FnOnce(&Lb)) -> Scene {
    let before = scene.lb.newest_reload();
    edit(&scene.lb);
    assert_eq!(scene.lb.next_reload(&before)["outcome"], outcome);
    scene
}

/// The cases of "The file" in `docs/http-cases.md` as states, and that of a start from the last good copy.
const STATES: [(&str, Arrange); 10] = [
    ("as started", start),
    ("deleted", |server| rejected(start(server), |lb| fs::remove_file(lb.path()).unwrap())),
    ("its directory deleted", |server| {
        let directory = TempDir::new().unwrap();
        let etc = directory.path().join("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("lb.toml"), file(server, "")).unwrap();
        let lb = Lb::start_in(directory, etc.join("lb.toml"));
        rejected(Scene { lb, _kept: Vec::new() }, |_| fs::remove_dir_all(etc).unwrap())
    }),
    ("half written, never quiet", |server| {
        let scene = start(server);
        let before = scene.lb.generation();
        scene.lb.edit_file(&file(server, "").replace("\"30ms\"", "\"1h\""));
        scene.lb.reaches(before + 1);
        File::create(scene.lb.path()).unwrap().write_all(b"[[listener]\naddr").unwrap();
        scene
    }),
    ("a ConfigMap, swapped for a bad one", |server| {
        let directory = TempDir::new().unwrap();
        let place = |name: &str| directory.path().join(name);
        for (version, text) in [("..1", file(server, "")), ("..2", "wieght = 1\n".to_owned())] {
            fs::create_dir(place(version)).unwrap();
            fs::write(place(version).join("lb.toml"), text).unwrap();
        }
        symlink("..1", place("..data")).unwrap();
        symlink("..data/lb.toml", place("lb.toml")).unwrap();
        symlink("..2", place("..data_tmp")).unwrap();
        let (from, to, path) = (place("..data_tmp"), place("..data"), place("lb.toml"));
        let scene = Scene { lb: Lb::start_in(directory, path), _kept: Vec::new() };
        rejected(scene, |_| fs::rename(from, to).unwrap())
    }),
    ("not UTF-8", |server| rejected(start(server), |lb| lb.edit_bytes(b"\xff\0"))),
    ("too large", |server| rejected(start(server), |lb| lb.edit_bytes(&vec![b'#'; (16 << 20) + 1]))),
    ("a FIFO", |server| {
        rejected(start(server), |lb| {
            let fifo = lb.path().with_file_name("fifo");
            assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            fs::rename(fifo, lb.path()).unwrap();
        })
    }),
    ("a new listener's port is taken", |server| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let table = format!("[[listener]]\naddress = \"{}\"\n", taken.local_addr().unwrap());
        let scene = not_applied(start(server), "pending", |lb| lb.edit_file(&(file(server, "") + &table)));
        Scene { _kept: vec![Box::new(taken)], ..scene }
    }),
    ("started from the last good copy", |server| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("lb.toml");
        let state = directory.path().join("state");
        fs::write(&path, file(server, &format!("state_dir = \"{}\"\n", state.display()))).unwrap();
        let mut first = Lb::start_as(command(), TempDir::new().unwrap(), path.clone());
        first.signal("TERM");
        // The copy is written before the process ends.
        assert!(first.ends().success());
        let bad = fs::read_to_string(&path).unwrap() + "wieght = 1\n";
        fs::write(&path, bad).unwrap();
        let lb = Lb::start_as(command(), TempDir::new().unwrap(), path);
        assert_eq!(lb.api("/api/config")["state"], "last_good");
        Scene { lb, _kept: vec![Box::new(directory)] }
    }),
];

/// Sends a signal many times, as fast as a shell can.
fn signals(lb: &Lb, name: &str, times: usize) {
    let script = format!("for i in $(seq {times}); do kill -{name} {}; done", lb.pid());
    assert!(Command::new("sh").arg("-c").arg(script).status().unwrap().success());
}

/// Asserts that only applied reloads change the generation, and only rejected and pending ones have problems.
fn assert_consistent(lb: &Lb) {
    let listed = lb.api("/api/reloads?limit=500");
    let reloads: Vec<&Value> = listed["reloads"].as_array().unwrap().iter().rev().collect();
    let mut generation = 0;
    for reload in reloads {
        let applied = reload["outcome"] == "applied";
        generation += u64::from(applied);
        assert_eq!(reload["generation"], generation, "{reload:#}");
        let failed = reload["outcome"] == "rejected" || reload["outcome"] == "pending";
        assert_eq!(failed, !reload["problems"].as_array().unwrap().is_empty(), "{reload:#}");
    }
    assert_eq!(lb.generation(), generation);
}

// Case: signals
#[test]
fn a_hundred_hangups_change_nothing_and_it_ends_in_order() {
    for (state, arrange) in STATES {
        let server = Server::named("a");
        let Scene { mut lb, _kept } = arrange(&server);
        let (hash, address) = (lb.api("/api/config")["hash"].clone(), lb.address());
        signals(&lb, "HUP", 1);
        signals(&lb, "HUP", 100);
        assert_eq!(get(address, "/").text(), "a", "{state}");
        assert_consistent(&lb);
        assert_eq!(lb.api("/api/config")["hash"], hash, "{state}");
        signals(&lb, "TERM", 1);
        assert!(lb.ends().success(), "{state}");
        assert!(!lb.has_panicked(), "{state}: {:#?}", lb.stderr());
    }
}

// Case: signals
#[test]
fn a_second_stop_is_immediate() {
    for (number, (state, arrange)) in STATES.into_iter().enumerate() {
        let gate = Gate::default();
        let server = Server::gated("a", &gate);
        let Scene { mut lb, _kept } = arrange(&server);
        let mut slow = Client::connect(lb.address());
        slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the server has the request", || (!server.requests().is_empty()).then_some(()));
        let (first, second) = if number % 2 == 0 { ("TERM", "INT") } else { ("INT", "TERM") };
        signals(&lb, first, 1);
        eventually("it is stopping", || (lb.ask("/health").status == 503).then_some(()));
        signals(&lb, "HUP", 100);
        // Its drain timeout is an hour.
        assert_eq!(lb.ask("/health").status, 503, "{state}");
        signals(&lb, second, 1);
        assert!(slow.try_response().is_err(), "{state}");
        assert!(lb.ends().success(), "{state}");
    }
}

// Case: signals
#[test]
fn a_hundred_stops_are_like_one() {
    for (number, (state, arrange)) in STATES.into_iter().enumerate() {
        let server = Server::named("a");
        let Scene { mut lb, _kept } = arrange(&server);
        let script = format!("for i in $(seq 100); do kill -{} {} 2>&1; done", ["TERM", "INT"][number % 2], lb.pid());
        // The process may end before the last signal.
        Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert!(lb.ends().success(), "{state}");
    }
}
