//! The scripts of `examples/gitops`, run against a balancer, and the commands that read standard input.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::support::lb::{Lb, NO_CHECKS, PORTS, Ran, command, servers};
use crate::support::servers::Server;

fn file(server: &Server, weight: u32, more: &str) -> String {
    format!("{PORTS}{NO_CHECKS}{}{more}", servers(&[("a", server.address, weight)]))
}

/// A script, with `lb` on its path and, before all others, the programs in `fakes`.
fn script(name: &str, fakes: &Path) -> Command {
    let lb = Path::new(env!("CARGO_BIN_EXE_lb")).parent().unwrap();
    let path = format!("{}:{}:{}", fakes.display(), lb.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gitops").join(name));
    command.env("PATH", path).env("NO_COLOR", "1").env_remove("LB_CONFIG").env_remove("GITHUB_ACTIONS");
    command
}

fn program(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\nset -eu\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(mut command: Command) -> Ran {
    command.output().expect("it runs").into()
}

/// Runs `lb` with `input` as its standard input.
fn run_with_input(arguments: &[&str], input: &str) -> Ran {
    let mut command = command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_change_is_checked_and_planned_for_every_balancer() {
    let server = Server::named("a");
    let (first, second) = (Lb::start_file(&file(&server, 1, "")), Lb::start_file(&file(&server, 2, "")));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    let check = |targets: &str, github: bool| {
        let mut command = script("check.sh", directory.path());
        command.arg(&path).env("LB_TARGETS", targets);
        if github {
            command.env("GITHUB_ACTIONS", "true");
        }
        run(command)
    };
    let both = format!("{} {}", first.admin, second.admin);
    fs::write(&path, file(&server, 2, "")).unwrap();
    let ran = check(&both, false);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for part in ["lb.toml: valid (", "server default/a: weight 1 -> 2", "no changes: already running"] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    assert!(check(&both, true).out.contains("::notice file="));
    assert_eq!(check(&format!("{both} 127.0.0.1:1"), false).code, Some(2), "one balancer is unreachable");
    fs::write(&path, file(&server, 2, "wieght = 1\n")).unwrap();
    let ran = check(&both, true);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(1), 1), "{ran:#?}");
    assert!(ran.out.starts_with("::error file="), "{}", ran.out);
}

#[test]
fn a_rollout_ends_when_all_have_applied_the_file_or_one_has_rejected_it() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let directory = TempDir::new().unwrap();
    program(directory.path(), "scp", "cp \"$2\" \"${3#*:}\"");
    program(directory.path(), "ssh", "shift\nexec \"$@\"");
    let path = directory.path().join("lb.toml");
    let rollout = || {
        let mut command = script("rollout.sh", directory.path());
        command.arg(&path).env("LB_HOSTS", "127.0.0.1").env("LB_ADMIN_PORT", lb.admin.port().to_string());
        command.env("LB_PLACE", lb.path());
        run(command)
    };
    fs::write(&path, file(&server, 5, "")).unwrap();
    let ran = rollout();
    assert_eq!((ran.code, ran.out.contains("applied, generation 2")), (Some(0), true), "{ran:#?}");
    assert_eq!(lb.server("a")["weight"], 5);
    fs::write(&path, file(&server, 6, "wieght = 1\n")).unwrap();
    let ran = rollout();
    assert_eq!((ran.code, ran.err.contains("unknown key `wieght`")), (Some(1), true), "{ran:#?}");
    assert_eq!(lb.server("a")["weight"], 5);
}

#[test]
fn a_rollout_in_kubernetes_asks_every_pod() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    fs::write(&path, file(&server, 5, "")).unwrap();
    // The kubelet updates the mounted file a little later; `exec` runs in the pod.
    let place = lb.path().display().to_string();
    program(
        directory.path(),
        "kubectl",
        &format!(
            "case $1 in\n\
             apply) cp \"$3/lb.toml\" '{place}.new'; (sleep 0.3; mv '{place}.new' '{place}') & ;;\n\
             rollout) ;;\n\
             get) echo pod/lb-1 pod/lb-2 ;;\n\
             exec) echo \"in $3\"; shift 4; exec \"$@\" --targets {} ;;\n\
             esac",
            lb.admin
        ),
    );
    let mut command = script("rollout-kubernetes.sh", directory.path());
    command.arg(directory.path());
    let ran = run(command);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for part in ["in pod/lb-1\n", "in pod/lb-2\n", "applied, generation 2"] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    assert_eq!(lb.server("a")["weight"], 5);
}

#[test]
fn a_file_can_be_read_from_standard_input() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let admin = lb.admin.to_string();
    let ran = run_with_input(&["check", "-"], &file(&server, 1, ""));
    assert_eq!((ran.code, ran.out.starts_with("<stdin>: valid (1 server")), (Some(0), true), "{ran:#?}");
    let ran = run_with_input(&["check", "-", "--format", "json"], &file(&server, 1, "wieght = 1\n"));
    let report = ran.json();
    assert_eq!((ran.code, &report["file"], &report["fine"]), (Some(1), &json!("<stdin>"), &json!(false)));
    assert_eq!(report["problems"][0]["message"], "unknown key `wieght` in [[server]]");
    let ran = run_with_input(&["plan", "-", "--admin", &admin], &file(&server, 3, ""));
    assert_eq!((ran.code, ran.out.contains("weight 1 -> 3")), (Some(0), true), "{ran:#?}");
    let ran = run_with_input(&["wait", "-", "--targets", &admin], &file(&server, 1, ""));
    assert_eq!(ran.code, Some(0), "{ran:#?}");
}

/// `lb check` reports problems in the form of the API's record of a rejected edit.
#[test]
fn problems_have_one_shape_everywhere() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, 1, ""));
    let before = lb.newest_reload();
    lb.edit_file(&file(&server, 1, "wieght = 1\nenabled = 1\n[limits]\nheaders = \"a%b,c:d\"\n"));
    let problems = lb.next_reload(&before)["problems"].clone();
    assert_eq!(problems.as_array().map(Vec::len), Some(3));
    let path = lb.path().display().to_string();
    let check = |format: &str| crate::support::lb::run(&["check", &path, "--format", format]);
    assert_eq!(check("json").json()["problems"], problems);
    let annotations = check("github").out;
    for (line, problem) in annotations.lines().zip(problems.as_array().unwrap()) {
        let place = format!("::error file={path},line={},col={},endColumn=", problem["line"], problem["column"]);
        assert!(line.starts_with(&place), "{line}");
        let text = line.split_once(",title=lb check::").expect("a title").1;
        let words = [problem["message"].as_str(), problem["hint"].as_str()].into_iter().flatten();
        let expected: Vec<String> = words.map(|words| words.replace('%', "%25")).collect();
        assert_eq!(text, expected.join("%0A"));
    }
    assert_eq!(annotations.lines().count(), 3, "one line for each problem: {annotations}");
}
