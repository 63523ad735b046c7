//! `lb status` and `lb server`: the output and the exit codes.

use std::process::Stdio;

use serde_json::json;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, Ran, command, lines, run, servers};
use crate::support::servers::{Refusing, Server};

fn ask(lb: &Lb, arguments: &[&str]) -> Ran {
    let admin = lb.admin.to_string();
    run(&[arguments, &["--admin", &admin]].concat())
}

#[test]
fn the_status_fits_a_terminal() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    b.set_healthy(false);
    let text = servers(&[("server1", a.address, 2), ("server2", b.address, 6)]);
    let lb = Lb::start_file(&format!("{PORTS}[health]\ninterval = \"50ms\"\n{text}"));
    lb.server_is("server2", "down");
    assert_eq!(get(lb.address(), "/").status, 200);
    let ran = ask(&lb, &["status"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let hash = lb.api("/api/config")["hash"].as_str().unwrap()[..12].to_owned();
    for part in [
        format!("generation 1 at {}, applied ", lb.admin),
        format!("hash {hash}"),
        format!("listener 127.0.0.1:0 ({}): ", lb.address()),
        "pool default: weighted-round-robin, 1 request, 0 open".to_owned(),
        "last check failed ".to_owned(),
    ] {
        assert!(ran.out.contains(&part), "{part} in\n{}", ran.out);
    }
    let row = |name: &str| ran.out.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
    let cells = |name: &str| row(name).split_whitespace().skip(2).take(3).collect::<Vec<_>>();
    assert_eq!((cells("server1"), cells("server2")), (vec!["up", "2", "100.0%"], vec!["down", "6", "0.0%"]));
    let longest = ran.out.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(80), "{longest:?} columns:\n{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'), "colours without a terminal");

    let status = ask(&lb, &["status", "--json"]).json();
    assert_eq!((&status["config"]["generation"], &status["config"]["config"]), (&json!(1), &json!(null)));
    assert_eq!(status["last_reload"]["outcome"], "applied");
    assert_eq!((&status["servers"][1]["name"], &status["pools"][0]["ready"]), (&json!("server2"), &json!(true)));
}

#[test]
fn each_problem_of_a_rejected_edit_has_a_line() {
    let server = Server::named("a");
    let text = servers(&[("a", server.address, 1)]);
    let lb = Lb::start(&text);
    let before = lb.newest_reload();
    lb.edit(&format!("{text}wieght = 1\nenabled = 1\n"));
    lb.next_reload(&before);
    let out = ask(&lb, &["status"]).out;
    for part in [
        "warning: last_good: the balancer's file was rejected",
        "last reload rejected ",
        "still serving generation 1",
        "/lb.toml:9:1: unknown key `wieght` in [[server]] (did you mean `weight`?)\n",
        "/lb.toml:10:11: ",
    ] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
}

#[test]
fn with_watch_the_status_is_printed_repeatedly() {
    let server = Server::named("a");
    let lb = Lb::start(&servers(&[("a", server.address, 1)]));
    let mut command = command();
    command.args(["status", "--watch", "--admin", &lb.admin.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let output = lines(child.stdout.take().unwrap());
    let count = |what: &str| output.lock().unwrap().iter().filter(|line| line.contains(what)).count();
    eventually("it is printed twice", || (count("generation 1 at") >= 2).then_some(()));
    lb.edit(&servers(&[("a", server.address, 7)]));
    eventually("the edit shows", || (count("generation 2 at") >= 1).then_some(()));
    drop(lb);
    eventually("the end of the balancer shows", || (count("cannot reach a balancer") >= 1).then_some(()));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn with_watch_the_figures_of_a_balancer_that_hangs_are_shown_as_stale() {
    let server = Server::named("a");
    let lb = Lb::start(&servers(&[("a", server.address, 1)]));
    let watch = |terminal: bool| {
        let lb_program = format!("{} status --watch --admin {}", env!("CARGO_BIN_EXE_lb"), lb.admin);
        let mut command = std::process::Command::new("script");
        match terminal {
            true => command.args(["-qfec", &lb_program, "/dev/null"]),
            false => {
                command = std::process::Command::new("sh");
                command.args(["-c", &format!("exec {lb_program}")])
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
    };
    for terminal in [false, true] {
        let Ok(mut child) = watch(terminal) else {
            eprintln!("skipped: no script");
            continue;
        };
        let output = lines(child.stdout.take().unwrap());
        let count = |what: &str| output.lock().unwrap().iter().filter(|line| line.contains(what)).count();
        eventually("it is printed", || (count("generation 1 at") >= 1).then_some(()));
        assert_eq!(count("no news"), 0);
        lb.signal("STOP");
        eventually("the figures are stale", || (count(" ago: no response from ") >= 1).then_some(()));
        assert!(count("lb: no news since ") >= 1, "{:#?}", output.lock().unwrap());
        let shown = || count("weighted-round-robin");
        let before = (shown(), count("no response from"));
        if terminal {
            // The last figures stay below the marker, which counts on.
            eventually("the last figures stay", || (shown() > before.0).then_some(()));
        } else {
            eventually("the attempt fails", || (count("cannot reach a balancer") >= 1).then_some(()));
            assert_eq!(shown(), before.0, "old figures are not printed again as if they were new");
        }
        lb.signal("CONT");
        let at_continue = shown();
        eventually("figures come again", || (shown() > at_continue + 1).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn servers_are_listed_shown_and_picked_at_random() {
    let server = Server::named("a");
    let lb = Lb::start(&format!(
        "[health]\nkind = \"none\"\n[reload]\nallow_empty = true\n{}[[pool.other.server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nweight = 9\n[[pool.idle.server]]\nname = \"c\"\naddress = \"127.0.0.1:1\"\nenabled = false\n",
        servers(&[("a", server.address, 1), ("b", server.address, 3)])
    ));
    let listed = ask(&lb, &["server", "list"]);
    assert_eq!((listed.code, listed.out.lines().count()), (Some(0), 5), "{}", listed.out);
    assert!(listed.out.lines().next().is_some_and(|line| line.starts_with("POOL") && line.ends_with("REQUESTS")));
    assert!(listed.out.contains("75.0%"), "{}", listed.out);
    assert_eq!(ask(&lb, &["server", "list", "--pool", "other"]).out.lines().count(), 2);
    assert_eq!(ask(&lb, &["server", "list", "--json"]).json(), lb.api("/api/servers"));

    let ran = ask(&lb, &["server", "show", "b"]);
    assert_eq!((ran.code, ran.out.contains("75.0%")), (Some(0), true), "{}", ran.out);
    assert_eq!(ask(&lb, &["server", "show", "a", "--pool", "other", "--json"]).json()["weight"], 9);
    for (arguments, message) in [
        (&["server", "show", "a"][..], "choose one with `?pool=`"),
        (&["server", "show", "a/b?c"], "there is no server `a/b?c`"),
        (&["server", "random", "--pool", "idle"], "there is no active server"),
        (&["server", "list", "--pool", "nope"], "nope"),
    ] {
        let ran = ask(&lb, arguments);
        assert_eq!((ran.code, ran.err.contains(message)), (Some(1), true), "{arguments:?}: {ran:#?}");
    }
    let random = ask(&lb, &["server", "random", "--json"]).json();
    assert!(random["share"].as_f64() > Some(0.0), "{random}");
}

#[test]
fn an_unreachable_balancer_or_bad_usage_exits_with_2() {
    let unreachable = Refusing::new().address.to_string();
    for arguments in [&["status"][..], &["server", "list"], &["server", "show", "a"], &["server", "random"]] {
        let ran = run(&[arguments, &["--admin", &unreachable]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ran.err.contains("cannot reach a balancer at"), "{}", ran.err);
    }
    for arguments in [&["status", "--nope"][..], &["server"], &["server", "show"], &["status", "--watch", "--json"]] {
        assert_eq!(run(arguments).code, Some(2), "{arguments:?}");
    }
}
