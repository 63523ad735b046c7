//! `lb plan`: the changes that a file would make in a running balancer, and the exit codes.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::lb::{Lb, NO_CHECKS, PORTS, Ran, run, servers};
use crate::support::servers::{Refusing, Server};

/// A balancer, and another file in the directory of its own.
struct Scene {
    lb: Lb,
    a: Server,
    b: Server,
    rules: String,
}

impl Scene {
    fn new(rules: &str) -> Self {
        let (a, b) = (Server::named("a"), Server::named("b"));
        let rules = format!("{PORTS}{rules}");
        let lb = Lb::start_file(&(rules.clone() + &servers(&[("a", a.address, 1), ("b", b.address, 3)])));
        Self { lb, a, b, rules }
    }

    fn file(&self, rest: &str) -> PathBuf {
        let path = self.lb.path().with_file_name("new.toml");
        fs::write(&path, format!("{}{rest}", self.rules)).unwrap();
        path
    }

    /// Plans a file of the rules and `rest`.
    fn plan(&self, rest: &str, format: &str) -> Ran {
        let (file, admin) = (self.file(rest), self.lb.admin.to_string());
        let ran = run(&["plan", file.to_str().unwrap(), "--admin", &admin, "--format", format]);
        let place = file.display().to_string();
        Ran { out: ran.out.replace(&place, "new.toml").replace(&admin, "ADMIN"), ..ran }
    }
}

#[test]
fn the_same_content_is_no_change_however_it_is_written() {
    let scene = Scene::new(NO_CHECKS);
    let same = servers(&[("a", scene.a.address, 1), ("b", scene.b.address, 3)]);
    let ran = scene.plan(&same, "text");
    let expected = "new.toml: no changes: already running at ADMIN (generation 1)\n";
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), expected, ""));
    let ran = scene.plan(&(same + "# more\n"), "text");
    assert_eq!(
        (ran.code, ran.out.contains("only the formatting differs from the configuration running at ADMIN")),
        (Some(0), true),
        "{ran:#?}"
    );
}

#[test]
fn changes_have_the_words_of_the_record_and_the_share_of_each_server() {
    let scene = Scene::new(NO_CHECKS);
    let text = servers(&[("a", scene.a.address, 1), ("c", scene.b.address, 1)]);
    let expected = "\
new.toml: 3 changes to the configuration running at ADMIN (generation 1)
  server default/a: disabled
  server default/b: removed
  server default/c: added (ADDRESS, weight 1)

share of new requests, with the current health of the servers:
  SERVER     BEFORE   AFTER
  default/a   25.0%    0.0%  disabled
  default/c       -  100.0%
  default/b   75.0%       -  removed; open requests finish
";
    // Disables the first server.
    let disabled = text.replacen("weight = 1\n", "weight = 1\nenabled = false\n", 1);
    let ran = scene.plan(&disabled, "text");
    assert_eq!((ran.code, ran.out.replace(&scene.b.address.to_string(), "ADDRESS").as_str()), (Some(0), expected));

    let plan = scene.plan(&disabled, "json").json();
    assert_eq!((&plan["fine"], &plan["running"]["generation"]), (&json!(true), &json!(1)));
    let shares: Vec<&Value> = plan["servers"].as_array().unwrap().iter().map(|server| &server["after"]).collect();
    assert_eq!(shares, [&json!(0.0), &json!(1.0), &Value::Null]);

    let before = scene.lb.newest_reload();
    fs::copy(scene.file(&disabled), scene.lb.path()).unwrap();
    assert_eq!(scene.lb.next_reload(&before)["changes"], plan["changes"], "the plan and the record");
}

#[test]
fn shares_depend_on_current_health() {
    let scene = Scene::new("[health]\ninterval = \"50ms\"\nfall = 1\n");
    scene.b.set_healthy(false);
    scene.lb.server_is("b", "down");
    let text = servers(&[("a", scene.a.address, 1), ("b", scene.b.address, 9), ("c", scene.a.address, 1)]);
    let servers = scene.plan(&text, "json").json()["servers"].clone();
    let shares = servers.as_array().unwrap().iter().map(|one| [&one["before"], &one["after"], &one["note"]]);
    let expected = [
        [&json!(1.0), &json!(0.5), &Value::Null],
        [&json!(0.0), &json!(0.0), &json!("down")],
        [&Value::Null, &json!(0.5), &json!("new; gets requests after its first passed check")],
    ];
    assert_eq!(shares.collect::<Vec<_>>(), expected);
}

#[test]
fn a_file_that_the_balancer_would_reject_exits_with_1() {
    let scene = Scene::new(&format!("{NO_CHECKS}[reload]\nmax_removed = \"50%\"\n"));
    // The guard of the running configuration counts, not that of the file.
    let nobody = Refusing::new();
    let none = servers(&[("c", nobody.address, 1)]);
    let ran = scene.plan(&none, "text");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    for part in ["server default/a: removed", "removes or disables 2 of the 2", "would reject it"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let disabled = servers(&[("a", scene.a.address, 1)]) + "enabled = false\n";
    let ran = scene.plan(&disabled, "json");
    assert_eq!((ran.code, &ran.json()["fine"]), (Some(1), &json!(false)));
    let ran = scene.plan(&disabled, "github");
    assert!(ran.out.contains("::error file=new.toml,line=9,col=1,endColumn=10,title=lb check::"), "{}", ran.out);
}

#[test]
fn a_bad_file_is_reported_as_by_lb_check_without_a_balancer() {
    let scene = Scene::new(NO_CHECKS);
    for format in ["text", "json", "github"] {
        let file = scene.file("wieght = 1\n");
        let check = run(&["check", file.to_str().unwrap(), "--format", format]);
        let plan = run(&["plan", file.to_str().unwrap(), "--admin", "127.0.0.1:1", "--format", format]);
        assert_eq!((plan.code, &plan.out, plan.err.as_str()), (Some(1), &check.out, ""));
    }
}

#[test]
fn an_unreachable_balancer_or_bad_usage_exits_with_2() {
    let scene = Scene::new(NO_CHECKS);
    let file = scene.file(&servers(&[("a", scene.a.address, 1)]));
    let file = file.to_str().unwrap();
    let refusing = Refusing::new();
    let ran = run(&["plan", file, "--admin", &refusing.address.to_string()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.starts_with(&format!("lb: cannot reach a balancer at {}: ", refusing.address)), "{}", ran.err);
    assert!(ran.err.contains("--admin ADDRESS"), "{}", ran.err);
    for bad in ["nowhere", "http://127.0.0.1:9900", "127.0.0.1:0"] {
        let ran = run(&["plan", file, "--admin", bad]);
        assert_eq!((ran.code, ran.err.contains(bad)), (Some(2), true), "{ran:#?}");
    }
    // A server is not a balancer.
    let ran = run(&["plan", file, "--admin", &scene.a.address.to_string()]);
    assert_eq!(
        (ran.code, ran.err.contains("is not the admin address of a balancer of this version")),
        (Some(2), true),
        "{ran:#?}"
    );
}

#[test]
fn github_shows_the_changes_beside_the_file() {
    let scene = Scene::new(NO_CHECKS);
    let ran = scene.plan(&servers(&[("a", scene.a.address, 1), ("b", scene.b.address, 1)]), "github");
    let expected = "::notice file=new.toml,title=lb plan::1 change to the configuration running at ADMIN (generation 1)%0A\
                    server default/b: weight 3 -> 1%0Ashare of default/a: 25.0%25 -> 50.0%25%0A\
                    share of default/b: 75.0%25 -> 50.0%25\n";
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), expected));
}

#[test]
fn effects_beyond_the_changes_are_noted() {
    let scene = Scene::new("[health]\ninterval = \"50ms\"\n[reload]\nallow_empty = true\n");
    scene.lb.server_is("a", "up");
    let all_new = servers(&[("c", scene.a.address, 1)]);
    let out = scene.plan(&all_new, "text").out;
    let note = "all servers of pool default are new: the old ones serve until a new one passes its first check";
    assert!(out.contains(&format!("{note}\n")), "{out}");
    let renamed = all_new.replace("[[server]]", "[[pool.web.server]]") + "[[route]]\npool = \"web\"\n";
    let out = scene.plan(&renamed, "text").out;
    assert!(out.contains("all servers of pool web are new: the servers of pool default serve until"), "{out}");
    let out = scene.plan(&(all_new + "[[listener]]\naddress = \"127.0.0.2:0\"\n"), "text").out;
    assert!(out.contains("whether the new addresses can be bound is known only when"), "{out}");
    let disabled = servers(&[("a", scene.a.address, 1)]) + "enabled = false\n";
    let ran = scene.plan(&disabled, "text");
    assert_eq!((ran.code, ran.out.contains("its requests would get 503")), (Some(0), true), "{ran:#?}");
}

#[test]
fn credentials_that_are_not_shown_may_have_changed() {
    let tracing = |password: &str| format!("[tracing]\notlp = \"http://u:{password}@127.0.0.1:1/\"\nsample = 0.0\n");
    let scene = Scene::new(NO_CHECKS);
    let rest = servers(&[("a", scene.a.address, 1), ("b", scene.b.address, 3)]);
    scene.lb.apply(&format!("{NO_CHECKS}{}{rest}", tracing("one")));
    let note =
        "note: whether the credentials in tracing.otlp change is unknown, because the balancer does not show them";
    let plan = scene.plan(&format!("{}{rest}", tracing("two")), "text");
    assert!(plan.out.contains("no visible changes") && plan.out.contains(note) && plan.code == Some(0), "{plan:#?}");
    let plan = scene.plan(&format!("{}{rest}", tracing("one")), "text");
    assert!(plan.out.contains("no changes: already running") && !plan.out.contains("note"), "{plan:#?}");
    let plan = scene.plan(&format!("{rest}# other\n"), "text");
    assert!(
        plan.out.contains("tracing.otlp: http://***@127.0.0.1:1/ -> none") && !plan.out.contains("unknown"),
        "{plan:#?}"
    );
}
