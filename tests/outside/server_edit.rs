//! `lb server add|remove|enable|disable|weight`: edits of a file by command, with a running balancer and without one.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::lb::{Lb, NO_CHECKS, command};
use crate::support::servers::Server;
use crate::support::{DEADLINE, eventually};

const FILE: &str = "\
# What is served.\r
[[listener]]\r
address = \"127.0.0.1:8080\"   # for all\r
\r
[[server]]                   # the old one\r
name    = \"a\"\r
address = \"127.0.0.1:1\"\r
weight  = 6                  # it is large\r
\r
# the end";

/// Runs `lb server` in a directory, and returns its exit code, standard output and standard error.
fn server(directory: &Path, arguments: &str) -> (i32, String, String) {
    outcome(&command().arg("server").args(arguments.split(' ')).current_dir(directory).output().expect("lb runs"))
}

fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("an end"), text(&output.stdout), text(&output.stderr))
}

fn directory(file: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("lb.toml"), file).unwrap();
    directory
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn each_command_prints_its_change() {
    let directory = directory(FILE);
    let path = directory.path();
    let text = || fs::read_to_string(path.join("lb.toml")).unwrap();
    let b = "\r\n[[server]]\r\nname    = \"b\"\r\naddress = \"b.example:80\"\r\n";
    let with_b = |more: &str| FILE.replace("large\r\n", &format!("large\r\n{b}{more}"));
    for (arguments, out, expected) in [
        ("weight a 2", "server default/a: weight 6 -> 2\n", FILE.replace("= 6 ", "= 2 ")),
        ("weight a 2", "server default/a: weight is already 2\n", FILE.replace("= 6 ", "= 2 ")),
        ("weight a 6", "server default/a: weight 2 -> 6\n", FILE.to_owned()),
        ("add b b.example:80", "server default/b: added (b.example:80, weight 1)\n", with_b("")),
        ("add b b.example:80", "server default/b: already exists\n", with_b("")),
        ("disable b", "server default/b: disabled\n", with_b("enabled = false\r\n")),
        ("disable b", "server default/b: already disabled\n", with_b("enabled = false\r\n")),
        ("enable b --pool default", "server default/b: enabled\n", with_b("enabled = true\r\n")),
        ("remove b", "server default/b: removed\n", FILE.to_owned()),
    ] {
        assert_eq!(server(path, arguments), (0, out.to_owned(), String::new()), "{arguments}");
        assert_eq!(text(), expected, "{arguments}");
    }
    let (code, out, _) = server(path, "add x 127.0.0.1:9 --pool blue --weight 3 --disabled --config lb.toml");
    // A pool without an enabled server is rejected.
    assert_eq!((code, out.as_str(), text().as_str()), (1, "", FILE));
    let (code, out, _) = server(path, "add x 127.0.0.1:9 --pool blue --weight 3");
    assert_eq!((code, out.as_str()), (0, "pool blue: added\nserver blue/x: added (127.0.0.1:9, weight 3)\n"));
    assert_eq!(
        text(),
        format!("{FILE}\r\n\r\n[[pool.blue.server]]\r\nname = \"x\"\r\naddress = \"127.0.0.1:9\"\r\nweight = 3")
    );
    assert_eq!(server(path, "remove x").0, 0);
    assert_eq!((text().as_str(), names(path)), (FILE, vec!["lb.toml".to_owned()]));
}

#[test]
fn an_edit_that_lb_would_reject_is_not_written() {
    let guarded = format!("{FILE}\r\n[reload]\r\nmax_removed = \"30%\"\r\n");
    let three =
        format!("{guarded}[[server]]\nname = \"b\"\naddress = \"b:1\"\n[[server]]\nname = \"c\"\naddress = \"c:1\"\n");
    for (file, arguments, expected, message) in [
        (FILE, "weight a 1001", 1, "`weight` cannot be 1001"),
        (FILE, "weight a 1001", 1, "lb.toml:8:11\n"),
        (FILE, "weight a 1001", 1, "1 problem with this edit; nothing was written"),
        (FILE, "weight a 0", 1, "every server of pool `default` has weight 0"),
        (FILE, "remove a", 1, "pool `default` has no server"),
        (FILE, "disable a", 1, "has no enabled server"),
        (&three, "remove b", 1, "removes or disables 1 of the 3 enabled servers"),
        (FILE, "add a b:1", 1, "pool `default` already has a server `a`, on line 5 of lb.toml"),
        (FILE, "add b b", 1, "`b` is not an address: it has no port"),
        (FILE, "add b! b:1", 1, "`b!` is not a name"),
        (FILE, "remove A", 1, "there is no server `A` (did you mean `a`?)"),
        ("[[listener]\n", "remove a", 1, "lb.toml:1:"),
        ("include = [\"x.toml\"]\n", "remove a", 1, "`x.toml`: there is no such file"),
        (FILE, "weight a -1", 2, "--help"),
        (FILE, "weight a", 2, "--help"),
    ] {
        let directory = directory(file);
        let (code, out, error) = server(directory.path(), arguments);
        assert_eq!((code, out.as_str()), (expected, ""), "{arguments}: {error}");
        assert!(error.contains(message), "{arguments}: {error}");
        assert_eq!(fs::read_to_string(directory.path().join("lb.toml")).unwrap(), file, "{arguments}");
        assert_eq!(names(directory.path()), ["lb.toml"], "{arguments}");
    }
    let empty = TempDir::new().unwrap();
    let (code, _, error) = server(empty.path(), "remove a");
    assert!(code == 1 && error.contains("there is no such file") && names(empty.path()).is_empty(), "{error}");
}

#[test]
fn a_bad_file_can_be_corrected() {
    let directory = directory(&FILE.replace("= 6 ", "= 6000 "));
    assert_eq!(server(directory.path(), "add b b:1").0, 1);
    let (code, out, _) = server(directory.path(), "weight a 6");
    assert_eq!((code, out.as_str()), (0, "lb.toml is valid again\n"));
    assert_eq!(fs::read_to_string(directory.path().join("lb.toml")).unwrap(), FILE);
}

#[test]
fn links_and_modes_are_kept_and_the_file_with_the_server_is_edited() {
    let real = TempDir::new().unwrap();
    let main = real.path().join("real.toml");
    let included = "[[server]]\nname = \"b\"\naddress = \"b:1\"\n";
    fs::write(&main, format!("include = [\"conf.d/*.toml\"]\n{FILE}")).unwrap();
    fs::create_dir(real.path().join("conf.d")).unwrap();
    fs::write(real.path().join("conf.d/b.toml"), included).unwrap();
    for (file, mode) in [("real.toml", 0o640), ("conf.d/b.toml", 0o604)] {
        fs::set_permissions(real.path().join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    // Included paths are relative to the given name of the file.
    let linked = TempDir::new().unwrap();
    symlink(&main, linked.path().join("lb.toml")).unwrap();
    symlink(real.path().join("conf.d"), linked.path().join("conf.d")).unwrap();

    assert_eq!(server(linked.path(), "weight b 5").0, 0);
    assert_eq!(server(linked.path(), "weight a 5").0, 0);
    assert_eq!(server(linked.path(), "add c c:1").0, 0);
    let more = "weight = 5\n\n[[server]]\nname = \"c\"\naddress = \"c:1\"\n";
    assert_eq!(fs::read_to_string(real.path().join("conf.d/b.toml")).unwrap(), format!("{included}{more}"));
    assert!(fs::read_to_string(&main).unwrap().ends_with(&FILE.replace("= 6 ", "= 5 ")));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&main), mode(&real.path().join("conf.d/b.toml"))), (0o640, 0o604));
    assert_eq!(fs::read_link(linked.path().join("lb.toml")).unwrap(), main);
    assert_eq!(
        (names(real.path()), names(linked.path())),
        (vec!["conf.d".into(), "real.toml".into()], vec!["conf.d".into(), "lb.toml".into()])
    );
}

#[test]
fn concurrent_commands_wait_for_one_another() {
    let directory = directory(FILE);
    let path = directory.path();
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let (code, _, error) = server(path, &format!("add s{number} 127.0.0.1:{}", 1000 + number));
                assert_eq!(code, 0, "{error}");
            });
        }
    });
    let text = fs::read_to_string(path.join("lb.toml")).unwrap();
    for number in 0..8 {
        assert_eq!(text.matches(&format!("\"s{number}\"")).count(), 1, "{text}");
    }
    assert_eq!(names(path), ["lb.toml"]);
    for number in (0..8).rev() {
        assert_eq!(server(path, &format!("remove s{number}")).0, 0);
    }
    assert_eq!(fs::read_to_string(path.join("lb.toml")).unwrap(), FILE);
}

/// A file that is mounted by itself, as in containers, cannot be replaced, and its directory may be read-only.
#[test]
fn a_mount_point_is_written_in_place() {
    let [inside, outside] = [directory(""), directory(FILE)];
    let file = outside.path().join("lb.toml");
    let mounted = |script: &str| {
        let mount = "mount --bind \"$1\" \"$1\" && mount --bind \"$2\" \"$1/lb.toml\" && cd \"$1\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--map-root-user", "sh", "-c", &format!("{mount} && {script}")]);
        unshare.arg(env!("CARGO_BIN_EXE_lb")).arg(inside.path()).arg(&file);
        unshare.env_remove("LB_CONFIG").env("NO_COLOR", "1").output()
    };
    match mounted("true") {
        Ok(output) if output.status.success() => {}
        other => return eprintln!("skipped, nothing can be mounted here: {other:?}"),
    }
    for (script, expected, weight) in [
        ("\"$0\" server weight a 12", "server default/a: weight 6 -> 12\n", 12),
        ("mount -o remount,bind,ro \"$1\" && \"$0\" server weight a 7", "server default/a: weight 12 -> 7\n", 7),
    ] {
        let (code, out, error) = outcome(&mounted(script).unwrap());
        assert_eq!((code, out.as_str()), (0, expected), "{error}");
        assert!(error.contains("cannot be replaced; it was overwritten in place"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), FILE.replace("= 6 ", &format!("= {weight} ")));
        assert_eq!((names(inside.path()), names(outside.path())), (vec!["lb.toml".into()], vec!["lb.toml".into()]));
    }
    // A file that was replaced outside is out of reach.
    let (code, _, error) =
        outcome(&mounted("cp \"$2\" \"$2.new\" && mv \"$2.new\" \"$2\" && \"$0\" server weight a 8").unwrap());
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("was replaced or deleted at its source"), "{error}");
}

#[test]
fn edits_by_command_take_effect_under_load() {
    let [a, b] = [Server::named("a"), Server::named("b")];
    let lb = Lb::start(&format!("{NO_CHECKS}# of a\n{}", a.table("a")));
    let path = lb.path();
    let run = |arguments: &str| server(path.parent().unwrap(), arguments);
    let before = fs::read_to_string(&path).unwrap();
    let (stop, address) = (AtomicBool::new(false), lb.address());
    std::thread::scope(|scope| {
        // No request fails.
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(address);
                    let mut served = 0;
                    while !stop.load(SeqCst) {
                        assert_eq!(client.get("/").status, 200);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let mut generation = lb.generation();
        for (arguments, change) in [
            (format!("add b {}", b.address), format!("server default/b: added ({}, weight 1)", b.address)),
            ("weight b 3".to_owned(), "server default/b: weight 1 -> 3".to_owned()),
            ("disable a".to_owned(), "server default/a: disabled".to_owned()),
            ("enable a".to_owned(), "server default/a: enabled".to_owned()),
            ("remove b".to_owned(), "server default/b: removed".to_owned()),
        ] {
            assert_eq!(run(&arguments), (0, format!("{change}\n"), String::new()), "{arguments}");
            generation += 1;
            lb.reaches(generation);
            // Each edit is one generation, recorded in the same words.
            let record = lb.newest_reload();
            assert_eq!(
                (&record["generation"], &record["changes"][0]),
                (&generation.into(), &change.into()),
                "{record}"
            );
            assert_eq!(record["outcome"], "applied");
        }
        stop.store(true, SeqCst);
        for client in clients {
            assert!(client.join().expect("a client") > 0);
        }
    });
    // Each edit was one reload: the file was never seen half-written, and no temporary file is left.
    assert_eq!(lb.api("/api/reloads")["reloads"].as_array().map(Vec::len), Some(6));
    assert!(!b.requests().is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{before}enabled = true\n"));
    eventually("only its file is left", || (names(path.parent().unwrap()) == ["lb.toml"]).then_some(()));
}

#[test]
fn waiting_for_an_edit_takes_a_timeout() {
    let a = Server::named("a");
    let lb = Lb::start(&format!("{NO_CHECKS}{}", a.table("a")));
    // Nobody serves this file.
    let directory = directory(FILE);
    let started = Instant::now();
    let (code, out, error) =
        server(directory.path(), &format!("weight a 7 --wait --timeout 200ms --admin {}", lb.admin));
    assert_eq!((code, out.as_str()), (2, "server default/a: weight 6 -> 7\n"), "{error}");
    assert!(error.contains("timed out") && started.elapsed() < DEADLINE, "{error}");
    for arguments in ["weight a 8 --timeout 1s", "weight a 8 --wait --timeout soon", "remove a --timeout 1s"] {
        let (code, out, error) = server(directory.path(), arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments}: {error}");
    }
    assert!(fs::read_to_string(directory.path().join("lb.toml")).unwrap().contains("weight  = 7"), "written once");
    let path = lb.path();
    let arguments = format!("weight a 5 --wait --timeout 1m --admin {}", lb.admin);
    let (code, _, error) = server(path.parent().unwrap(), &arguments);
    assert_eq!((code, lb.server("a")["weight"].as_u64()), (0, Some(5)), "{error}");
}

#[test]
fn an_edit_can_be_waited_for() {
    let a = Server::named("a");
    let lb = Lb::start(&format!("{NO_CHECKS}{}", a.table("a")));
    let path = lb.path();
    let admin = format!("--wait --admin {}", lb.admin);
    let (code, out, error) = server(path.parent().unwrap(), &format!("weight a 7 {admin}"));
    assert_eq!((code, lb.generation(), &lb.server("a")["weight"]), (0, 2, &7.into()), "{error}");
    assert!(out.starts_with("server default/a: weight 1 -> 7\n") && out.contains("generation 2"), "{out}");
    // A value that the file has already may not be applied yet, so the command waits too.
    let (code, out, _) = server(path.parent().unwrap(), &format!("weight a 7 {admin}"));
    assert!(
        code == 0 && out.starts_with("server default/a: weight is already 7\n") && out.contains("generation 2"),
        "{out}"
    );
    // Without an edit there is no wait.
    assert_eq!(server(path.parent().unwrap(), &format!("remove a {admin}")).0, 1);
}

#[test]
fn completions_and_the_schema_are_printed_without_any_file() {
    let directory = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, error) =
            outcome(&command().args(["completions", shell]).current_dir(directory.path()).output().unwrap());
        assert_eq!((code, error.as_str()), (0, ""));
        assert!(out.contains("healthcheck") && out.contains("disabled"), "{shell}: {out}");
    }
    let (code, _, error) = outcome(&command().args(["completions", "tcsh"]).output().unwrap());
    assert!(code == 2 && error.contains("possible values"), "{error}");
    // The shell accepts the script.
    let (_, script, _) = outcome(&command().args(["completions", "bash"]).output().unwrap());
    let script = format!(
        "{script}\ndeclare -F _lb && COMP_WORDS=(lb server dis) COMP_CWORD=2 && _lb lb dis server && echo \"${{COMPREPLY[@]}}\""
    );
    match Command::new("bash").args(["-c", &script]).output() {
        Ok(output) => assert_eq!(outcome(&output), (0, "_lb\ndisable\n".to_owned(), String::new())),
        Err(error) => eprintln!("skipped: bash: {error}"),
    }
    let (code, out, _) = outcome(&command().arg("schema").current_dir(directory.path()).output().unwrap());
    let schema: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &schema["$schema"]), (0, &"https://json-schema.org/draft/2020-12/schema".into()));
}
