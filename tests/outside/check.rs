//! `lb check`: several files, a copy elsewhere, and notes about what is probably not meant.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, Ran, command};
use crate::support::servers::Server;

const GOOD: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";

fn lb(directory: &Path, arguments: &str) -> Ran {
    command().args(arguments.split_whitespace()).current_dir(directory).output().expect("lb runs").into()
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

#[test]
fn each_of_several_files_is_checked_by_itself() {
    let bad = format!("{GOOD}wieght = 2\n");
    let files = directory(&[("a.toml", GOOD), ("b.toml", &bad), ("c.toml", GOOD)]);
    let ran = lb(files.path(), "check a.toml b.toml c.toml");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    for part in ["a.toml: valid (", "did you mean `weight`?", "b.toml: 1 problem\n", "c.toml: valid ("] {
        assert!(ran.out.contains(part), "{part}: {ran:#?}");
    }
    let ran = lb(files.path(), "check a.toml c.toml");
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 2), "{ran:#?}");
    let json: Value = serde_json::from_str(&lb(files.path(), "check a.toml b.toml --format json").out).unwrap();
    assert_eq!((&json[0]["fine"], &json[1]["fine"], &json[1]["file"]), (&json!(true), &json!(false), &json!("b.toml")));
    let one: Value = serde_json::from_str(&lb(files.path(), "check a.toml --format json").out).unwrap();
    assert_eq!((&one["fine"], &one["files"], &one["notes"]), (&json!(true), &json!(["a.toml"]), &json!([])));
    let github = lb(files.path(), "check a.toml b.toml c.toml missing.toml --format github");
    let lines: Vec<&str> = github.out.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("::error file=b.toml,line=6"), "{github:#?}");
    assert!(lines[1].starts_with("::error file=missing.toml"), "{github:#?}");
}

#[test]
fn a_copy_elsewhere_is_checked_as_if_it_were_in_its_place() {
    let main = format!("include = [\"conf.d/*.toml\"]\n{GOOD}");
    let part = "[[server]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\nwieght = 2\n";
    let place = directory(&[("lb.toml", GOOD), ("conf.d/b.toml", part)]);
    let elsewhere = directory(&[("source", &main), ("other", "include = [\"gone.toml\"]\n")]);
    let target = place.path().join("lb.toml");
    let source = elsewhere.path().join("source");

    let alone = lb(place.path(), &format!("check {}", source.display()));
    assert_eq!(alone.code, Some(0), "{alone:#?}");
    assert!(
        alone.out.contains("; 1 file)\n") && alone.out.contains("include `conf.d/*.toml` names no file"),
        "{alone:#?}"
    );

    for command in ["check", "plan"] {
        let ran = lb(elsewhere.path(), &format!("{command} --as {} source", target.display()));
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        assert!(ran.out.contains("conf.d/b.toml:4:1") && ran.out.contains("did you mean `weight`?"), "{ran:#?}");
    }
    fs::write(place.path().join("conf.d/b.toml"), part.replace("wieght", "weight")).unwrap();
    let ran = lb(elsewhere.path(), &format!("check --as {} source", target.display()));
    let valid = "valid (2 servers in 1 pool, 1 route, 1 listener; 2 files)\n";
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), format!("{}: {valid}", target.display()).as_str()), "{ran:#?}");
    // The main file that is there now, which a glob may match, is not read.
    fs::write(&source, format!("include = [\"*.toml\"]\n{GOOD}")).unwrap();
    let ran = lb(elsewhere.path(), &format!("check --as {} source", target.display()));
    assert!(ran.code == Some(0) && ran.out.contains("; 1 file)"), "{ran:#?}");
    let missing = lb(elsewhere.path(), &format!("check --as {} missing", target.display()));
    assert!(missing.code == Some(1) && missing.out.contains("--> missing"), "{missing:#?}");
    let two = lb(elsewhere.path(), &format!("check --as {} source other", target.display()));
    assert_eq!(two.code, Some(2), "{two:#?}");
}

#[test]
fn an_include_that_matches_no_file_is_noted() {
    let main = format!("include = [\"cnof.d/*.toml\", \"conf.d/*.yaml\"]\n{GOOD}");
    let files = directory(&[("lb.toml", &main), ("conf.d/b.toml", "")]);
    let ran = lb(files.path(), "check");
    let notes = [
        "note: lb.toml:1: include `cnof.d/*.toml` names no file\n",
        "note: lb.toml:1: include `conf.d/*.yaml` names no file\n",
    ];
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.ends_with(&notes.concat()), "{ran:#?}");
    let ran = lb(files.path(), "check --format github");
    let first = "::warning file=lb.toml,line=1,title=lb check::include `cnof.d/*.toml` names no file\n";
    assert!(ran.code == Some(0) && ran.out.starts_with(first), "{ran:#?}");
    let json: Value = serde_json::from_str(&lb(files.path(), "check --format json").out).unwrap();
    assert_eq!(json["notes"][0], "lb.toml:1: include `cnof.d/*.toml` names no file");
    // A name that is no glob is an error, and so is a link to nothing.
    fs::write(files.path().join("lb.toml"), format!("include = [\"conf.d/c.toml\"]\n{GOOD}")).unwrap();
    assert_eq!(lb(files.path(), "check").code, Some(1));
    symlink("nowhere", files.path().join("conf.d/d.toml")).unwrap();
    fs::write(files.path().join("lb.toml"), format!("include = [\"conf.d/*.toml\"]\n{GOOD}")).unwrap();
    let ran = lb(files.path(), "check");
    assert!(ran.code == Some(1) && ran.out.contains("help: restore that file, or remove the link"), "{ran:#?}");
}

#[test]
fn a_running_balancer_warns_of_an_include_that_matches_no_file() {
    let server = Server::named("a");
    let rest = format!("{PORTS}{NO_CHECKS}{}", server.table("a"));
    let lb = Lb::start_file(&format!("include = [\"one.d/*\"]\n{rest}"));
    let warns = |pattern: &str| {
        let words = format!("include `{pattern}` names no file");
        eventually(&words, || {
            lb.stderr().iter().any(|line| line.contains(&words) && line.contains("WARN")).then_some(())
        });
    };
    warns("one.d/*");
    lb.edit_file(&format!("include = [\"two.d/*\"]\n{rest}"));
    warns("two.d/*");
    let plan = lb_plan(&lb, &format!("include = [\"three.d/*\"]\n{rest}"));
    assert!(plan.out.contains("include `three.d/*` names no file"), "{plan:#?}");
}

fn lb_plan(lb: &Lb, file: &str) -> Ran {
    let new = lb.path().with_file_name("new");
    fs::write(&new, file).unwrap();
    command().arg("plan").arg(&new).arg("--admin").arg(lb.admin.to_string()).output().unwrap().into()
}

#[test]
fn a_pool_that_no_route_leads_to_is_noted_and_not_made_by_accident() {
    let routed = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npool = \"web\"\n[[pool.web.server]]\nname = \"w1\"\naddress = \"127.0.0.1:1\"\n";
    let files = directory(&[("lb.toml", routed)]);
    let text = || fs::read_to_string(files.path().join("lb.toml")).unwrap();
    let ran = lb(files.path(), "server add w2 127.0.0.1:2");
    assert_eq!((ran.code, text().as_str()), (Some(1), routed), "{ran:#?}");
    assert!(ran.err.contains("say which pool: `--pool web`"), "{ran:#?}");
    let ran = lb(files.path(), "server add w2 127.0.0.1:2 --pool web");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");

    // Asked for by name, it is made: its route may follow.
    let note = "no route leads to pool `blue`, so it gets no requests";
    for command in
        ["add b1 127.0.0.1:3 --pool blue", "weight b1 5", "add b2 127.0.0.1:4 --pool blue --disabled", "enable b2"]
    {
        let ran = lb(files.path(), &format!("server {command}"));
        assert_eq!((ran.code, ran.err.contains(note)), (Some(0), true), "{command}: {ran:#?}");
    }
    assert_eq!(lb(files.path(), "server disable b2").err, "");
    let ran = lb(files.path(), "check");
    assert!(ran.code == Some(0) && ran.out.contains(&format!("note: {note}")), "{ran:#?}");
    // The only pool is reached without any route.
    let files = directory(&[("lb.toml", GOOD)]);
    let ran = lb(files.path(), "server add b 127.0.0.1:2");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
}

#[test]
fn an_address_that_two_servers_of_a_pool_have_is_noted_and_warned_of() {
    let server = |name: &str, port: u16, rest: &str| {
        format!("[[server]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n{rest}")
    };
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let pool_of = |name: &str, tables: &str| tables.replace("[[server]]", &format!("[[pool.{name}.server]]"));
    // One that is disabled, or in another pool, is meant.
    let fine = [server("a", 1, ""), server("b", 2, ""), server("c", 1, "enabled = false\n")].concat();
    let routes = "[[route]]\npool = \"default\"\n[[route]]\npath = \"/x\"\npool = \"x\"\n";
    let fine = format!("{listener}{routes}{fine}{}", pool_of("x", &server("a", 1, "")));
    let twice = format!("{listener}{}", [server("a", 1, ""), server("b", 2, ""), server("c", 1, "")].concat());
    let thrice = format!("{twice}{}", server("d", 1, ""));
    let two = "servers a and c of pool default have the same address 127.0.0.1:1";
    let three = "servers a, c and 1 more of pool default have the same address 127.0.0.1:1";
    for (file, note) in [(&fine, None), (&twice, Some(two)), (&thrice, Some(three))] {
        let files = directory(&[("lb.toml", file)]);
        let ran = lb(files.path(), "check");
        assert_eq!((ran.code, ran.out.contains("same address")), (Some(0), note.is_some()), "{ran:#?}");
        assert!(note.is_none_or(|note| ran.out.contains(&format!("note: {note}, which gets"))), "{ran:#?}");
    }
    let file = |text: &str| text.replace(listener, NO_CHECKS);
    let lb = Lb::start(&file(&twice));
    let warnings = |note: &str| lb.stderr().iter().filter(|line| line.contains("WARN") && line.contains(note)).count();
    // The line about a generation comes after its warnings.
    let is_logged = |generation: u32| {
        let words = format!("generation={generation} ");
        eventually(&words, || lb.stderr().iter().any(|line| line.contains(&words)).then_some(()));
    };
    is_logged(1);
    assert_eq!(warnings(two), 1, "{:#?}", lb.stderr());
    let shown = lb.api("/api/config")["warnings"].clone();
    assert!(shown[0].as_str().is_some_and(|shown| shown.starts_with(two)), "{shown}");
    lb.apply(&file(&thrice));
    is_logged(2);
    assert_eq!(warnings(three), 1, "{:#?}", lb.stderr());
    lb.apply(&format!("[log]\nlevel = \"debug\"\n{}", file(&thrice)));
    is_logged(3);
    assert_eq!(warnings(three), 1, "only an edit of the pool repeats it: {:#?}", lb.stderr());
}

#[test]
fn headers_that_the_access_log_leaves_out_are_noted() {
    let note = "note: `log.headers` has no effect on the combined format";
    for (keys, is_noted) in [
        ("access_format = \"combined\"\nheaders = [\"Referer\"]\n", true),
        ("access_format = \"json\"\nheaders = [\"Referer\"]\n", false),
        ("access_format = \"combined\"\n", false),
        ("access = false\naccess_format = \"combined\"\nheaders = [\"Referer\"]\n", false),
    ] {
        let files = directory(&[("lb.toml", &format!("[log]\n{keys}{GOOD}"))]);
        let ran = lb(files.path(), "check");
        assert_eq!((ran.code, ran.out.contains(note)), (Some(0), is_noted), "{keys}: {ran:#?}");
    }
}

#[test]
fn http_2_that_cannot_work_is_noted() {
    let server = "[[server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";
    let auto = "note: the servers of pool `default` get HTTP/1.1";
    let redirect = "note: listener 127.0.0.1:80 redirects to HTTPS and speaks only HTTP/2 without TLS";
    let listener = "[[listener]]\naddress = \"127.0.0.1:80\"\n";
    for (keys, notes) in [
        (format!("{listener}[upstream]\nprotocol = \"auto\"\n"), [true, false]),
        (format!("{listener}[upstream]\nprotocol = \"auto\"\ntls = true\n"), [false; 2]),
        (format!("{listener}[upstream]\nprotocol = \"h2\"\n"), [false; 2]),
        (format!("{listener}protocols = [\"h2\"]\nredirect = \"https\"\n"), [false, true]),
        (format!("{listener}protocols = [\"h2\"]\n"), [false; 2]),
        (format!("{listener}protocols = [\"h2\", \"http/1.1\"]\nredirect = \"https\"\n"), [false; 2]),
    ] {
        let files = directory(&[("lb.toml", &format!("{keys}{server}"))]);
        let ran = lb(files.path(), "check");
        assert_eq!(
            (ran.code, [auto, redirect].map(|note| ran.out.contains(note))),
            (Some(0), notes),
            "{keys}: {ran:#?}"
        );
    }
}

#[test]
fn a_pipe_is_read_from_standard_input() {
    let files = directory(&[("lb.toml", GOOD)]);
    let shell = |script: &str| -> Ran {
        let path = env!("CARGO_BIN_EXE_lb");
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script]).env("LB", path).current_dir(files.path());
        command.output().expect("bash runs").into()
    };
    let ran = shell("$LB check <(cat lb.toml)");
    assert!(ran.code == Some(1) && ran.out.contains("`lb check -`"), "{ran:#?}");
    assert_eq!(shell("cat lb.toml | $LB check -").code, Some(0));
}

#[test]
fn a_file_that_another_one_includes_is_said_to_be_a_part() {
    let main = format!("include = [\"conf.d/*.toml\"]\n{GOOD}");
    let part = "[[route]]\npath = \"/b\"\npool = \"b\"\n[[pool.b.server]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\n";
    let files = directory(&[
        ("lb.toml", &main),
        ("other.toml", GOOD),
        ("conf.d/b.toml", part),
        ("conf.d/c.toml", "# nothing yet\n"),
        ("alone/part.toml", part),
    ]);
    let root = files.path();
    assert_eq!(lb(root, "check lb.toml").code, Some(0));
    for (place, argument, shown) in [
        (root.to_owned(), "conf.d/b.toml".to_owned(), "lb.toml".to_owned()),
        (root.join("conf.d"), "b.toml".to_owned(), "../lb.toml".to_owned()),
        (root.to_owned(), root.join("conf.d/b.toml").display().to_string(), root.join("lb.toml").display().to_string()),
    ] {
        let ran = lb(&place, &format!("check {argument}"));
        let note = format!("{argument} is only a part of a configuration: {shown} includes it; name {shown} instead");
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        assert!(ran.out.ends_with(&format!("note: {note}\n")), "{ran:#?}");
        assert_eq!(lb(&place, &format!("check {shown}")).code, Some(0));
        let json: Value = serde_json::from_str(&lb(&place, &format!("check {argument} --format json")).out).unwrap();
        assert_eq!((&json["notes"], &json["fine"]), (&json!([note]), &json!(false)));
        let github = lb(&place, &format!("check {argument} --format github"));
        assert!(github.out.contains("::warning file=") && github.out.contains(&note), "{github:#?}");
        for command in ["plan FILE", "wait FILE", "run --config FILE", "explain / --config FILE --admin 127.0.0.1:1"] {
            let ran = lb(&place, &command.replace("FILE", &argument));
            assert_eq!(
                (ran.code, (ran.out.clone() + &ran.err).contains(&note)),
                (Some(1), true),
                "{command}: {ran:#?}"
            );
        }
    }
    // Nothing includes it, as far as one can see.
    let ran = lb(root, "check alone/part.toml");
    let note = "note: alone/part.toml has no [[listener]]. If another file includes it, name that one instead\n";
    assert!(ran.code == Some(1) && ran.out.ends_with(note), "{ran:#?}");
    // A configuration with another problem is no part.
    fs::write(root.join("lb.toml"), format!("{main}wieght = 1\n")).unwrap();
    let ran = lb(root, "check lb.toml");
    assert!(ran.code == Some(1) && !ran.out.contains("note:"), "{ran:#?}");
}
