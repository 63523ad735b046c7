//! Edits without file events: polling finds them, or a warning says what to do.
//!
//! Mounts and limits need namespaces. Where the system does not allow them, a test prints that and ends.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, command, run, servers};
use crate::support::servers::Server;

/// A file whose only server has this weight.
fn file(server: &Server, reload: &str, weight: u32) -> String {
    let server = servers(&[("a", server.address, weight)]);
    format!("{PORTS}[health]\nkind = \"none\"\n[reload]\n{reload}\n{server}")
}

/// A command that runs `lb` in new namespaces, after `prepare`. `None` where that is not allowed.
fn within(prepare: &str, arguments: &[&Path]) -> Option<Command> {
    let wrapped = |program: &std::ffi::OsStr| {
        let mut command = Command::new("unshare");
        let script = format!("{prepare} && shift {} && exec \"$0\" \"$@\"", arguments.len());
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).arg(program).args(arguments);
        command.env_remove("LB_CONFIG").env("NO_COLOR", "1");
        command
    };
    if wrapped("true".as_ref()).output().is_ok_and(|output| output.status.success()) {
        return Some(wrapped(command().get_program()));
    }
    eprintln!("skipped: no namespaces here for `{prepare}`");
    None
}

#[track_caller]
fn weight_becomes(lb: &Lb, weight: u32) {
    eventually(&format!("weight {weight}"), || (lb.server("a")["weight"] == weight).then_some(()));
}

fn warnings(lb: &Lb) -> Vec<String> {
    let warnings = lb.api("/api/config")["warnings"].clone();
    warnings.as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

// Case: mounts
#[test]
fn a_replaced_file_that_is_mounted_by_itself_is_warned_about_with_the_remedy() {
    let server = Server::named("a");
    let (outside, inside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (own, path) = (outside.path().join("lb.toml"), inside.path().join("lb.toml"));
    fs::write(&own, file(&server, "poll = \"50ms\"", 1)).unwrap();
    fs::write(&path, "").unwrap();
    let Some(command) = within("mount --bind \"$1\" \"$2\"", &[&own, &path]) else { return };
    let lb = Lb::start_as(command, inside, path.clone());
    assert_eq!(warnings(&lb), [] as [String; 0]);
    // An edit in place is visible.
    fs::write(&own, file(&server, "poll = \"50ms\"", 2)).unwrap();
    weight_becomes(&lb, 2);

    fs::write(outside.path().join("new"), file(&server, "poll = \"50ms\"", 3)).unwrap();
    fs::rename(outside.path().join("new"), &own).unwrap();
    let warning = eventually("the API warns", || warnings(&lb).pop());
    let start = format!("{} was replaced or deleted where it was mounted from", path.display());
    assert!(warning.starts_with(&start) && warning.contains("mount its directory"), "{warning}");
    let status = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(status.contains("\nwarning: ") && status.contains("mount its directory"), "{status}");
    assert_eq!(lb.stderr().iter().filter(|line| line.contains("mount its directory")).count(), 1);
    assert_eq!((get(lb.address(), "/").text().as_str(), &lb.server("a")["weight"]), ("a", &2.into()));
}

// Case: mounts
#[test]
fn a_mounted_directory_shows_every_edit() {
    let server = Server::named("a");
    let (outside, inside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let rules = "poll = \"0s\"\nquiet = \"30ms\"";
    let own = outside.path().join("lb.toml");
    fs::write(&own, file(&server, rules, 1)).unwrap();
    let Some(command) = within("mount --bind \"$1\" \"$2\"", &[outside.path(), inside.path()]) else { return };
    let path = inside.path().join("lb.toml");
    let lb = Lb::start_as(command, inside, path);
    for weight in [2, 4] {
        fs::write(&own, file(&server, rules, weight)).unwrap();
        weight_becomes(&lb, weight);
        fs::write(outside.path().join("new"), file(&server, rules, weight + 1)).unwrap();
        fs::rename(outside.path().join("new"), &own).unwrap();
        weight_becomes(&lb, weight + 1);
    }
    assert_eq!(warnings(&lb), [] as [String; 0]);
}

// Case: no-watch
#[test]
fn without_file_events_polling_finds_edits_and_a_metric_shows_it() {
    let server = Server::named("a");
    for (limit, problem) in
        [("max_inotify_instances", "file events are not available"), ("max_inotify_watches", "cannot be watched")]
    {
        let Some(command) = within(&format!("echo 0 > /proc/sys/user/{limit}"), &[]) else { return };
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("lb.toml");
        fs::write(&path, file(&server, "poll = \"50ms\"\nquiet = \"20ms\"", 1)).unwrap();
        let lb = Lb::start_as(command, directory, path.clone());
        eventually("the metric shows it", || lb.metric("lb_config_unwatched_paths").filter(|paths| *paths >= 1.0));
        let text = warnings(&lb).join("\n");
        assert!(text.contains(problem) && text.contains("still read every 50ms"), "{limit}: {text}");
        fs::write(&path, file(&server, "poll = \"50ms\"\nquiet = \"20ms\"", 2)).unwrap();
        weight_becomes(&lb, 2);
        lb.edit_file(&file(&server, "poll = \"0s\"", 3));
        weight_becomes(&lb, 3);
        eventually("the warning says that only SIGHUP is left", || {
            warnings(&lb).iter().any(|warning| warning.contains("only after SIGHUP")).then_some(())
        });
        lb.edit_file(&file(&server, "", 4));
        lb.signal("HUP");
        weight_becomes(&lb, 4);
    }
}

#[test]
fn with_file_events_there_is_no_warning() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, "", 1));
    lb.edit_file(&file(&server, "", 2));
    weight_becomes(&lb, 2);
    assert_eq!(warnings(&lb), [] as [String; 0]);
    let metrics = ["lb_config_unwatched_paths", "lb_config_watch_overflows_total"].map(|name| lb.metric(name));
    assert_eq!(metrics, [Some(0.0); 2]);
}
