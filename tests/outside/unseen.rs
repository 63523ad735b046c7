//! Where edits cannot be seen as they are made: found all the same, or said with what to do.
//!
//! Mounts and limits are made in namespaces of their own; where the system does not let a test have those, it says
//! so and ends.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, command, run, servers};
use crate::support::servers::Server;

/// A file whose only server has that weight.
fn file(server: &Server, reload: &str, weight: u32) -> String {
    let server = servers(&[("a", server.address, weight)]);
    format!("{PORTS}[health]\nkind = \"none\"\n[reload]\n{reload}\n{server}")
}

/// `lb`, in namespaces of its own in which `prepare` has run; none where that is not allowed.
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
    let told = lb.api("/api/config")["warnings"].clone();
    told.as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_file_mounted_by_itself_and_replaced_outside_is_said_everywhere_with_what_to_mount() {
    let server = Server::named("a");
    let (outside, inside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (own, path) = (outside.path().join("lb.toml"), inside.path().join("lb.toml"));
    fs::write(&own, file(&server, "poll = \"50ms\"", 1)).unwrap();
    fs::write(&path, "").unwrap();
    let Some(command) = within("mount --bind \"$1\" \"$2\"", &[&own, &path]) else { return };
    let lb = Lb::start_as(command, inside, path.clone());
    assert_eq!(warnings(&lb), [] as [String; 0]);
    // In place it is seen.
    fs::write(&own, file(&server, "poll = \"50ms\"", 2)).unwrap();
    weight_becomes(&lb, 2);

    fs::write(outside.path().join("new"), file(&server, "poll = \"50ms\"", 3)).unwrap();
    fs::rename(outside.path().join("new"), &own).unwrap();
    let told = eventually("the API warns", || warnings(&lb).pop());
    let begin = format!("{} was replaced or deleted where it was mounted from", path.display());
    assert!(told.starts_with(&begin) && told.contains("mount its directory"), "{told}");
    let told = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(told.contains("\nwarning: ") && told.contains("mount its directory"), "{told}");
    assert_eq!(lb.stderr().iter().filter(|line| line.contains("mount its directory")).count(), 1);
    assert_eq!((get(lb.address(), "/").text().as_str(), &lb.server("a")["weight"]), ("a", &2.into()));
}

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

#[test]
fn without_file_events_the_poll_finds_edits_and_a_metric_says_so() {
    let server = Server::named("a");
    for (limit, complaint) in
        [("max_inotify_instances", "file events are not available"), ("max_inotify_watches", "cannot be watched")]
    {
        let Some(command) = within(&format!("echo 0 > /proc/sys/user/{limit}"), &[]) else { return };
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("lb.toml");
        fs::write(&path, file(&server, "poll = \"50ms\"\nquiet = \"20ms\"", 1)).unwrap();
        let lb = Lb::start_as(command, directory, path.clone());
        eventually("the metric says so", || lb.metric("lb_config_unwatched_paths").filter(|paths| *paths >= 1.0));
        let told = warnings(&lb).join("\n");
        assert!(told.contains(complaint) && told.contains("still read every 50ms"), "{limit}: {told}");
        fs::write(&path, file(&server, "poll = \"50ms\"\nquiet = \"20ms\"", 2)).unwrap();
        weight_becomes(&lb, 2);
        lb.edit_file(&file(&server, "poll = \"0s\"", 3));
        weight_becomes(&lb, 3);
        eventually("what is left is said", || {
            warnings(&lb).iter().any(|told| told.contains("only after SIGHUP")).then_some(())
        });
        lb.edit_file(&file(&server, "", 4));
        lb.signal("HUP");
        weight_becomes(&lb, 4);
    }
}

#[test]
fn where_events_come_nothing_is_said() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, "", 1));
    lb.edit_file(&file(&server, "", 2));
    weight_becomes(&lb, 2);
    assert_eq!(warnings(&lb), [] as [String; 0]);
    let metrics = ["lb_config_unwatched_paths", "lb_config_watch_overflows_total"].map(|name| lb.metric(name));
    assert_eq!(metrics, [Some(0.0); 2]);
}
