//! `lb wait`: it ends when all balancers have applied exactly the file, when one has rejected it, or at the timeout.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, PORTS, Ran, command, run, servers};
use crate::support::servers::{Gate, Refusing, Request, Server, respond};
use crate::support::{DEADLINE, eventually};

/// Waits until the balancers at these admin addresses have applied the file of `lb`.
fn wait(lb: &Lb, targets: &str, timeout: &str) -> Ran {
    run(&["wait", lb.path().to_str().unwrap(), "--targets", targets, "--timeout", timeout])
}

fn spawn(lb: &Lb, targets: &str) -> Child {
    let mut command = command();
    command.arg("wait").arg(lb.path()).args(["--targets", targets, "--timeout", "60s"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ran(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

/// A file whose only server has this weight.
fn file(server: &Server, weight: u32) -> String {
    format!("{PORTS}{NO_CHECKS}{}", servers(&[("a", server.address, weight)]))
}

fn start(text: &str) -> Lb {
    Lb::start_file(text)
}

#[test]
fn a_file_that_is_applied_already_exits_with_0() {
    let server = Server::named("a");
    let lb = start(&file(&server, 1));
    let ran = wait(&lb, &lb.admin.to_string(), "30s");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(ran.out, format!("{}: applied, generation 1\n", lb.admin));
}

#[test]
fn it_waits_until_an_edit_is_applied() {
    let server = Server::named("a");
    let lb = start(&file(&server, 1));
    for weight in 2..6 {
        lb.edit_file(&file(&server, weight));
        assert_eq!(wait(&lb, &lb.admin.to_string(), "30s").code, Some(0));
        assert_eq!(lb.server("a")["weight"], weight);
    }
}

#[test]
fn a_bad_edit_is_printed_with_its_lines_and_exits_with_1() {
    let server = Server::named("a");
    let lb = start(&file(&server, 1));
    lb.edit_file(&(file(&server, 2) + "wieght = 1\n"));
    let ran = wait(&lb, &lb.admin.to_string(), "30s");
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    for part in ["unknown key `wieght`", "| wieght = 1\n", "did you mean `weight`?", "is invalid"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

#[test]
fn problems_that_only_the_balancer_finds_are_printed() {
    let (server, other) = (Server::named("a"), Server::named("b"));
    let lb = start(&(file(&server, 1) + "[reload]\nmax_removed = \"0%\"\n"));
    lb.edit_file(&format!("{PORTS}{NO_CHECKS}[reload]\nmax_removed = \"0%\"\n{}", servers(&[("b", other.address, 1)])));
    let ran = wait(&lb, &lb.admin.to_string(), "30s");
    assert_eq!((ran.code, ran.err.contains("removes or disables 1 of the 1")), (Some(1), true), "{ran:#?}");
}

#[test]
fn the_rejection_of_another_file_does_not_end_it() {
    let server = Server::named("a");
    let (ours, theirs) = (start(&file(&server, 7)), start(&file(&server, 1)));
    let before = theirs.newest_reload();
    theirs.edit_file(&(file(&server, 2) + "wieght = 1\n"));
    assert_eq!(theirs.next_reload(&before)["outcome"], "rejected");
    let child = spawn(&ours, &theirs.admin.to_string());
    // Another one is rejected while it waits.
    let before = theirs.newest_reload();
    theirs.edit_file(&(file(&server, 3) + "wieght = 1\n"));
    theirs.next_reload(&before);
    theirs.edit_file(&file(&server, 7));
    let ran = ran(child);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
}

#[test]
fn an_earlier_rejection_of_the_same_file_does_not_end_it() {
    let (server, other) = (Server::named("a"), Server::named("b"));
    // The guard that rejects the file is removed later.
    let guard = |percent: &str| format!("[reload]\nmax_removed = \"{percent}\"\n");
    let wanted = format!("{PORTS}{NO_CHECKS}{}{}", guard("0%"), servers(&[("b", other.address, 1)]));
    let lb = start(&(file(&server, 1) + &guard("0%")));
    let ours = start(&wanted);
    let before = lb.newest_reload();
    lb.edit_file(&wanted);
    assert_eq!(lb.next_reload(&before)["outcome"], "rejected");
    lb.edit_file(&(file(&server, 1) + &guard("100%")));
    lb.reaches(2);
    let child = spawn(&ours, &lb.admin.to_string());
    lb.edit_file(&wanted);
    let ran = ran(child);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
}

#[test]
fn at_the_timeout_it_prints_what_each_balancer_has_and_exits_with_2() {
    let server = Server::named("a");
    let (ours, theirs, refusing) = (start(&file(&server, 2)), start(&file(&server, 1)), Refusing::new());
    let targets = format!("{},{},{}", ours.admin, theirs.admin, refusing.address);
    let ran = wait(&ours, &targets, "300ms");
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    let hash = theirs.api("/api/config")["hash"].as_str().unwrap().to_owned();
    for line in [
        format!("{}: applied, generation 1", ours.admin),
        format!("{}: generation 1, hash {hash}", theirs.admin),
        format!("{}: cannot reach a balancer at {}: ", refusing.address, refusing.address),
    ] {
        assert!(ran.err.contains(&line), "{line} in {}", ran.err);
    }
    let ran = run(&["wait", "--timeout", "soon"]);
    assert_eq!((ran.code, ran.err.contains("`soon` is not a duration")), (Some(2), true), "{ran:#?}");
}

#[test]
fn an_unreadable_file_exits_with_1() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    let ran = run(&["wait", path.to_str().unwrap(), "--targets", "127.0.0.1:1"]);
    assert_eq!((ran.code, ran.err.contains("there is no such file")), (Some(1), true), "{ran:#?}");
}

#[test]
fn a_bad_file_is_reported_at_once() {
    let server = Server::named("a");
    let lb = start(&file(&server, 1));
    let path = lb.path().with_file_name("bad.toml");
    fs::write(&path, file(&server, 1) + "wieght = 1\n").unwrap();
    let admin = lb.admin.to_string();
    let began = Instant::now();
    let ran = run(&["wait", path.to_str().unwrap(), "--targets", &admin, "--timeout", "1h"]);
    assert_eq!((ran.code, ran.err.contains("unknown key `wieght`")), (Some(1), true), "{ran:#?}");
    assert!(ran.err.contains("bad.toml is invalid") && began.elapsed() < DEADLINE, "{ran:#?}");
    // It asks no balancer.
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let address = target.local_addr().unwrap().to_string();
    for file in [path.to_str().unwrap(), "missing.toml"] {
        let ran = run(&["wait", file, "--targets", &address, "--timeout", "1h"]);
        assert_eq!((ran.code, ran.err.contains(file)), (Some(1), true), "{ran:#?}");
        assert_eq!(target.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn it_waits_for_a_whole_fleet() {
    let server = Server::named("a");
    let fleet = [(); 3].map(|()| start(&file(&server, 1)));
    let all: Vec<String> = fleet.iter().map(|lb| lb.admin.to_string()).collect();
    fleet.iter().for_each(|lb| lb.edit_file(&file(&server, 5)));
    let ran = wait(&fleet[0], &all.join(","), "30s");
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 3), "{ran:#?}");

    fleet.iter().skip(1).for_each(|lb| lb.edit_file(&file(&server, 6)));
    fleet[0].edit_file(&(file(&server, 6) + "wieght = 1\n"));
    let ran = wait(&fleet[0], &all.join(","), "30s");
    assert_eq!(ran.code, Some(1), "one has rejected it: {ran:#?}");
}

#[test]
fn it_waits_for_a_balancer_that_has_not_started() {
    let server = Server::named("a");
    let admin = "address = \"127.0.0.1:0\"\n[health]";
    let anywhere = file(&server, 1).replace(admin, "address = \"${LB_TEST_ADMIN}\"\n[health]");
    let start = |at: String| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("lb.toml");
        fs::write(&path, &anywhere).unwrap();
        let mut command = command();
        command.env("LB_TEST_ADMIN", at);
        Lb::start_as(command, directory, path)
    };
    let first = start("127.0.0.1:0".to_owned());
    let reserved = Refusing::new();
    let late = reserved.address.to_string();
    let child = spawn(&first, &format!("{},{late}", first.admin));
    drop(reserved);
    let last = start(late);
    let ran = ran(child);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains(&format!("{}: applied", last.admin)), "{}", ran.out);
}

#[test]
fn it_waits_while_a_balancer_holds_its_old_servers() {
    let (old, new) = (Server::named("a"), Server::named("b"));
    let rules = format!("{PORTS}[health]\ninterval = \"50ms\"\n[reload]\nhold = \"60s\"\n");
    let lb = start(&(rules.clone() + &servers(&[("a", old.address, 1)])));
    lb.server_is("a", "up");
    new.set_healthy(false);
    lb.edit_file(&(rules + &servers(&[("b", new.address, 1)])));
    eventually("it is holding", || (lb.api("/api/config")["state"] == "holding").then_some(()));
    let admin = lb.admin.to_string();
    let late = wait(&lb, &admin, "200ms");
    assert_eq!((late.code, late.err.contains("no new server has passed a check")), (Some(2), true), "{late:#?}");
    let child = spawn(&lb, &admin);
    new.set_healthy(true);
    assert_eq!(ran(child).code, Some(0));
    assert_eq!(lb.api("/api/config")["state"], Value::from("current"));
}

#[test]
fn it_waits_for_the_first_check_and_names_the_pool_whose_servers_all_fail() {
    let gate = Gate::default();
    let slow = Server::scripted({
        let gate = gate.clone();
        move |mut stream, recorder| {
            while let Some(request) = Request::read(&mut stream) {
                recorder.add(&request);
                gate.pass();
                respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let (good, nobody) = (Server::named("a"), Refusing::new());
    let lb = start(&format!("{PORTS}[health]\ntimeout = \"1m\"\n{}", servers(&[("a", slow.address, 1)])));
    let unchecked = wait(&lb, &lb.admin.to_string(), "200ms");
    assert_eq!((unchecked.code, unchecked.err.contains("has not been checked yet")), (Some(2), true), "{unchecked:#?}");
    let child = spawn(&lb, &lb.admin.to_string());
    gate.open();
    assert_eq!(ran(child).code, Some(0));

    let pool = |name: &str, address| format!("[[pool.{name}.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    let rules = format!("{PORTS}[health]\ninterval = \"50ms\"\n[reload]\nhold = \"500ms\"\n");
    let routed = format!("{rules}{}[[route]]\npath = \"/x\"\npool = \"good\"\n", pool("good", good.address));
    let unrouted = pool("bad", nobody.address);
    lb.edit_file(&format!("{routed}{unrouted}"));
    assert_eq!(wait(&lb, &lb.admin.to_string(), "30s").code, Some(0), "no route leads to the bad one");
    let edits = [
        // A new route has no old servers; the route of a good pool has.
        format!("{routed}{unrouted}[[route]]\npath = \"/y\"\npool = \"bad\"\n"),
        format!("{rules}{unrouted}[[route]]\npath = \"/x\"\npool = \"bad\"\n"),
    ];
    for edit in edits {
        lb.edit_file(&edit);
        let ran = wait(&lb, &lb.admin.to_string(), "1h");
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:#?}");
        assert!(ran.err.contains("no server of a pool is up: pool bad: every server's check fails"), "{ran:#?}");
        lb.edit_file(&routed);
        assert_eq!(wait(&lb, &lb.admin.to_string(), "30s").code, Some(0));
    }
}

#[test]
fn an_edit_that_nobody_survives_exits_with_1_although_the_old_servers_serve() {
    let (old, nobody) = (Server::named("a"), Refusing::new());
    let rules = format!("{PORTS}[health]\ninterval = \"50ms\"\n[reload]\nhold = \"300ms\"\n");
    for then in ["keep", "switch"] {
        let rules = format!("{rules}hold_then = \"{then}\"\n");
        let lb = start(&format!("{rules}{}", servers(&[("a", old.address, 1)])));
        lb.server_is("a", "up");
        lb.edit_file(&format!("{rules}{}", servers(&[("a", nobody.address, 1)])));
        let ran = wait(&lb, &lb.admin.to_string(), "1h");
        assert_eq!(
            (ran.code, ran.err.contains("pool default: every server's check fails")),
            (Some(1), true),
            "{ran:#?}"
        );
        if then == "keep" {
            assert_eq!(get(lb.address(), "/").status, 200);
        }
    }
}

#[test]
fn a_pool_that_may_serve_nobody_exits_with_1() {
    let server = Server::named("a");
    let allow = format!("{PORTS}{NO_CHECKS}[reload]\nallow_empty = true\n");
    let lb = start(&format!("{allow}{}enabled = false\n", servers(&[("a", server.address, 1)])));
    let ran = wait(&lb, &lb.admin.to_string(), "1h");
    assert_eq!(
        (ran.code, ran.err.contains("pool default: no server may get new requests")),
        (Some(1), true),
        "{ran:#?}"
    );
}

#[test]
fn included_files_count() {
    let server = Server::named("a");
    let lb = start(&format!("include = [\"more/*.toml\"]\n{}", file(&server, 1)));
    let more = lb.path().with_file_name("more");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("b.toml"), servers(&[("b", server.address, 1)])).unwrap();
    assert_eq!(wait(&lb, &lb.admin.to_string(), "30s").code, Some(0));
    assert_eq!(lb.server("b")["weight"], 1);
}

#[test]
fn standard_input_stands_for_the_main_file() {
    let server = Server::named("a");
    let lb = start(&format!("include = [\"more/*.toml\"]\n{}", file(&server, 1)));
    let more = lb.path().with_file_name("more");
    fs::create_dir(&more).unwrap();
    for alone in [true, false] {
        if !alone {
            fs::write(more.join("b.toml"), servers(&[("b", server.address, 1)])).unwrap();
        }
        let mut command = command();
        command.current_dir(lb.path().parent().unwrap()).stdin(fs::File::open(lb.path()).unwrap());
        command.args(["wait", "-", "--targets", &lb.admin.to_string(), "--timeout", "30s"]);
        let ran: Ran = command.output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{ran:#?}");
    }
    assert_eq!(lb.server("b")["weight"], 1);
}

#[test]
fn a_balancer_that_is_stopping_does_not_count() {
    let gate = Gate::default();
    let server = Server::gated("a", &gate);
    let mut lb = start(&file(&server, 1));
    let mut slow = Client::connect(lb.address());
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is open", || (lb.server("a")["active_requests"] == 1).then_some(()));
    assert_eq!(wait(&lb, &lb.admin.to_string(), "30s").code, Some(0));
    lb.signal("TERM");
    eventually("it is stopping", || (lb.ask("/health").status == 503).then_some(()));
    let ran = wait(&lb, &lb.admin.to_string(), "200ms");
    assert_eq!((ran.code, ran.err.contains("shutting down")), (Some(2), true), "{ran:#?}");
    gate.open();
    assert_eq!(slow.response().text(), "a");
    assert!(lb.ends().success());
}
