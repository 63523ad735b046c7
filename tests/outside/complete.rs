//! An edit is read once all of its files are complete, and each file has its own proof of that.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::Value;
use tempfile::TempDir;

use crate::reload::{file, outcomes, weight_becomes};
use crate::support::eventually;
use crate::support::lb::{Lb, servers};
use crate::support::servers::Server;

/// Events only, and much shorter than any pause of a writer here.
const BRIEF: &str = "poll = \"0s\"\nquiet = \"1ms\"";
/// Long enough for a test to change several files in.
const LONG: &str = "poll = \"0s\"\nquiet = \"700ms\"";
/// A poll that finds what the writer has written so far again and again.
const POLLED: &str = "poll = \"20ms\"\nquiet = \"1ms\"";

/// Waits until the log says that a file is still open.
#[track_caller]
fn waits_for_writer(lb: &Lb) {
    logs(lb, "still open for writing");
}

#[track_caller]
fn logs(lb: &Lb, words: &str) {
    eventually(&format!("{words:?} in {:#?}", lb.stderr()), || {
        lb.stderr().iter().any(|line| line.contains(words)).then_some(())
    });
}

/// Starts with a file that includes `conf.d/*.toml`, and one such file with the server `b`.
fn with_includes(server: &Server, reload: &str) -> Lb {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    fs::write(directory.path().join("conf.d/b.toml"), servers(&[("b", server.address, 1)])).unwrap();
    fs::write(&path, included(server, reload, 1)).unwrap();
    Lb::start_in(directory, path)
}

fn included(server: &Server, reload: &str, weight: u32) -> String {
    format!("include = [\"conf.d/*.toml\"]\n{}", file(server, reload, weight))
}

fn beside(lb: &Lb, name: &str) -> PathBuf {
    lb.path().with_file_name(name)
}

/// Replaces the file at `path`, by renaming.
fn rename_to(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// The names of all servers that the file names.
fn names(lb: &Lb) -> Vec<String> {
    let listed = lb.api("/api/servers");
    let listed = listed["servers"].as_array().unwrap().iter().filter(|server| server["status"] != "draining");
    listed.map(|server| server["name"].as_str().unwrap().to_owned()).collect()
}

/// Where the file is that is written: at its own path, behind a link, or in a directory behind one.
type Place = fn(&Path, &str) -> PathBuf;

const PLACES: [(&str, Place); 4] = [
    ("at its path", |root, text| {
        fs::write(root.join("lb.toml"), text).unwrap();
        root.join("lb.toml")
    }),
    ("behind a link", |root, text| {
        fs::create_dir(root.join("else")).unwrap();
        fs::write(root.join("else/real.toml"), text).unwrap();
        symlink("else/real.toml", root.join("lb.toml")).unwrap();
        root.join("else/real.toml")
    }),
    ("in a directory behind a link", |root, text| {
        fs::create_dir(root.join("v1")).unwrap();
        fs::write(root.join("v1/lb.toml"), text).unwrap();
        symlink("v1", root.join("..data")).unwrap();
        symlink("..data/lb.toml", root.join("lb.toml")).unwrap();
        root.join("v1/lb.toml")
    }),
    ("under another name", |root, text| {
        fs::create_dir(root.join("else")).unwrap();
        fs::write(root.join("else/hard.toml"), text).unwrap();
        fs::hard_link(root.join("else/hard.toml"), root.join("lb.toml")).unwrap();
        root.join("else/hard.toml")
    }),
];

// Case: file-in-pieces
#[test]
fn a_file_that_its_writer_has_open_is_waited_for() {
    let server = Server::named("a");
    for (place, arrange) in PLACES {
        for rules in [BRIEF, POLLED] {
            let directory = TempDir::new().unwrap();
            let written = arrange(directory.path(), &file(&server, rules, 1));
            let path = directory.path().join("lb.toml");
            let lb = Lb::start_in(directory, path);
            // Each half is a good file.
            let text = file(&server, rules, 2);
            let mut writer = File::create(&written).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            waits_for_writer(&lb);
            // Neither a reader nor somebody who only touches the file ends that.
            fs::read(&written).unwrap();
            drop(File::options().append(true).open(&written).unwrap());
            lb.signal("HUP");
            assert_eq!(outcomes(&lb), ["applied"], "{place}, {rules}");
            writer.write_all(servers(&[("b", server.address, 3)]).as_bytes()).unwrap();
            drop(writer);
            weight_becomes(&lb, 2);
            assert_eq!(names(&lb), ["a", "b"], "{place}, {rules}");
            assert!(outcomes(&lb)[1..].iter().filter(|outcome| *outcome != "unchanged").eq(["applied"]), "{place}");
        }
    }
}

// Case: file-in-pieces
#[test]
fn a_rename_does_not_complete_a_file_that_is_still_written() {
    let server = Server::named("a");
    let lb = with_includes(&server, BRIEF);
    for (round, written) in ["lb.toml", "conf.d/b.toml", "conf.d/new.toml"].into_iter().enumerate() {
        let before = outcomes(&lb).len();
        let weight = u32::try_from(round).unwrap() + 2;
        let text = match written {
            "lb.toml" => included(&server, BRIEF, weight),
            "conf.d/b.toml" => servers(&[("b", server.address, weight)]),
            _ => servers(&[("new", server.address, weight)]),
        };
        let mut writer = File::create(beside(&lb, written)).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        // The main file can be replaced as well as an included one.
        let renamed = if written == "lb.toml" { "conf.d/c.toml" } else { "lb.toml" };
        let other = match renamed {
            "lb.toml" => included(&server, BRIEF, 10 + weight),
            _ => servers(&[("c", server.address, weight)]),
        };
        rename_to(&beside(&lb, renamed), &other);
        let warnings = || lb.stderr().iter().filter(|line| line.contains("still open for writing")).count();
        eventually("it waits", || (warnings() > round).then_some(()));
        assert_eq!(outcomes(&lb).len(), before, "{written}: {:#}", lb.api("/api/reloads"));
        writer.write_all(servers(&[(&format!("last{round}"), server.address, 1)]).as_bytes()).unwrap();
        drop(writer);
        eventually("all of it is applied", || names(&lb).contains(&format!("last{round}")).then_some(()));
        assert_eq!(outcomes(&lb)[before..], ["applied"], "{written}: {:#}", lb.api("/api/reloads"));
    }
}

// Case: files-one-by-one
#[test]
fn files_that_are_delivered_one_by_one_are_one_edit() {
    let server = Server::named("a");
    let lb = with_includes(&server, LONG);
    let tables = |names: &[&str]| servers(&names.iter().map(|name| (*name, server.address, 1)).collect::<Vec<_>>());
    // A server moves from one file to the other and back: a state in between is rejected, or loses it.
    let rounds = [(&["b"][..], &["c", "m"][..]), (&["b", "m"], &["c"]), (&["b"], &["c", "m"])];
    for (round, (first, second)) in rounds.into_iter().enumerate() {
        rename_to(&beside(&lb, "conf.d/b.toml"), &tables(first));
        rename_to(&beside(&lb, "conf.d/c.toml"), &tables(second));
        eventually("it is applied", || (outcomes(&lb).len() == round + 2).then_some(()));
        assert_eq!(names(&lb), [&["a"][..], first, second].concat());
    }
    assert_eq!(outcomes(&lb), ["applied"; 4], "{:#}", lb.api("/api/reloads"));
    // Written in place, renamed, deleted: whatever way they come.
    fs::write(beside(&lb, "conf.d/d.toml"), tables(&["d"])).unwrap();
    rename_to(&beside(&lb, "lb.toml"), &included(&server, LONG, 5));
    fs::remove_file(beside(&lb, "conf.d/c.toml")).unwrap();
    weight_becomes(&lb, 5);
    assert_eq!(names(&lb), ["a", "b", "d"]);
    assert_eq!(outcomes(&lb), ["applied"; 5], "{:#}", lb.api("/api/reloads"));
}

// Case: files-one-by-one
#[test]
fn a_directory_that_is_filled_slowly_is_one_edit() {
    let server = Server::named("a");
    let lb = with_includes(&server, BRIEF);
    fs::remove_dir_all(beside(&lb, "conf.d")).unwrap();
    eventually("b is gone", || (outcomes(&lb).len() == 2).then_some(()));
    fs::create_dir(beside(&lb, "conf.d")).unwrap();
    let mut writer = File::create(beside(&lb, "conf.d/b.toml")).unwrap();
    // The directory is watched only after a moment; from then on, each write shows.
    eventually("it waits", || {
        writer.write_all(b"# more\n").unwrap();
        lb.stderr().iter().any(|line| line.contains("still open for writing")).then_some(())
    });
    let before = outcomes(&lb).len();
    writer.write_all(servers(&[("b", server.address, 1), ("c", server.address, 1)]).as_bytes()).unwrap();
    drop(writer);
    eventually("both are there", || (names(&lb) == ["a", "b", "c"]).then_some(()));
    assert_eq!(outcomes(&lb)[before..], ["applied"], "{:#}", lb.api("/api/reloads"));
}

// Case: file-in-pieces
#[test]
fn a_file_that_is_appended_to_again_and_again_is_one_edit() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, LONG, 1));
    fs::write(lb.path(), "").unwrap();
    for line in file(&server, LONG, 2).split_inclusive('\n') {
        File::options().append(true).open(lb.path()).unwrap().write_all(line.as_bytes()).unwrap();
    }
    weight_becomes(&lb, 2);
    assert_eq!(outcomes(&lb), ["applied"; 2], "{:#}", lb.api("/api/reloads"));
}

// Case: file-in-pieces
#[test]
fn a_writer_that_never_closes_is_not_waited_for_for_ever() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, BRIEF, 1));
    let mut writer = File::create(lb.path()).unwrap();
    writer.write_all(file(&server, BRIEF, 2).as_bytes()).unwrap();
    waits_for_writer(&lb);
    assert_eq!(outcomes(&lb), ["applied"]);
    weight_becomes(&lb, 2);
    assert_eq!(outcomes(&lb), ["applied"; 2]);
    // A rename beside such a writer is read at once, although that one goes on.
    writer.write_all(b"# more\n").unwrap();
    lb.edit_file(&file(&server, BRIEF, 3));
    weight_becomes(&lb, 3);
}

#[test]
fn a_file_that_is_only_read_by_others_is_not_waited_for() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, BRIEF, 1));
    let _reader = File::open(lb.path()).unwrap();
    for weight in 2..6 {
        let _another = File::open(lb.path()).unwrap();
        fs::write(lb.path(), file(&server, BRIEF, weight)).unwrap();
        weight_becomes(&lb, weight);
    }
    assert!(!lb.stderr().iter().any(|line| line.contains("still open")), "{:#?}", lb.stderr());
}

#[test]
fn another_file_beside_it_is_not_waited_for() {
    let server = Server::named("a");
    // Only a rename is read, and at once.
    let lb = Lb::start_file(&file(&server, BRIEF, 1));
    let mut log = File::create(beside(&lb, "lb.log")).unwrap();
    for weight in 2..6 {
        log.write_all(b"a line\n").unwrap();
        lb.edit_file(&file(&server, "poll = \"0s\"\nquiet = \"1h\"", weight));
        weight_becomes(&lb, weight);
    }
}

// Case: file-in-pieces
#[test]
fn a_file_deleted_half_written_is_only_missing() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, BRIEF, 1));
    let mut writer = File::create(lb.path()).unwrap();
    writer.write_all(file(&server, BRIEF, 2).as_bytes()).unwrap();
    waits_for_writer(&lb);
    let before = lb.newest_reload();
    fs::remove_file(lb.path()).unwrap();
    let reload = lb.next_reload(&before);
    assert!(reload["problems"][0]["message"].as_str().unwrap().contains("no such file"), "{reload:#}");
    // The old writer goes on in a file without a name.
    fs::write(lb.path(), file(&server, BRIEF, 3)).unwrap();
    writer.write_all(b"[[listener]\n").unwrap();
    drop(writer);
    weight_becomes(&lb, 3);
    assert_eq!(outcomes(&lb), ["applied", "rejected", "applied"]);
}

// Case: file-in-pieces
#[test]
fn an_empty_file_is_waited_for_and_never_applied() {
    let server = Server::named("a");
    let lb = with_includes(&server, BRIEF);
    for (written, text) in
        [("lb.toml", included(&server, BRIEF, 2)), ("conf.d/b.toml", servers(&[("b", server.address, 5)]))]
    {
        // Emptied by one process, filled by another.
        let before = outcomes(&lb).len();
        let warnings = || lb.stderr().iter().filter(|line| line.contains("is empty; waiting")).count();
        let warned = warnings();
        fs::write(beside(&lb, written), "").unwrap();
        eventually("it waits", || (warnings() > warned).then_some(()));
        assert_eq!(outcomes(&lb).len(), before, "{written}: {:#}", lb.api("/api/reloads"));
        fs::write(beside(&lb, written), &text).unwrap();
        eventually("it is applied", || (outcomes(&lb).len() == before + 1).then_some(()));
        assert_eq!(outcomes(&lb)[before], "applied", "{written}");

        // Nobody fills it, so it is rejected, and so is an empty file that is renamed into place.
        for renamed in [false, true] {
            let before = lb.newest_reload();
            match renamed {
                false => fs::write(beside(&lb, written), "").unwrap(),
                true => rename_to(&beside(&lb, written), ""),
            }
            let reload = lb.next_reload(&before);
            assert_eq!(reload["outcome"], "rejected", "{written}: {reload:#}");
            assert_eq!(names(&lb), ["a", "b"]);
            rename_to(&beside(&lb, written), &text);
            assert_eq!(lb.next_reload(&reload)["outcome"], "unchanged", "{written}");
        }
    }
    assert_eq!((&lb.server("a")["weight"], &lb.server("b")["weight"]), (&2.into(), &5.into()));
}

/// Sets the flag when dropped, so that the threads that look at it end even if the test fails.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

// Cases: edit-storm, file-in-pieces
#[test]
fn two_writers_at_the_same_time_never_lose_a_server() {
    let server = Server::named("a");
    let lb = with_includes(&server, BRIEF);
    let done = Arc::new(AtomicBool::new(false));
    let place = beside(&lb, "conf.d/b.toml");
    let (address, stop) = (server.address, Arc::clone(&done));
    let renamer = std::thread::spawn(move || {
        for weight in (1..1000).cycle().take_while(|_| !stop.load(SeqCst)) {
            rename_to(&place, &servers(&[("b", address, weight)]));
            std::thread::yield_now();
        }
    });
    let guard = Done(done);
    for weight in 2..60 {
        // Line by line, as a script does.
        let mut writer = File::create(lb.path()).unwrap();
        for line in included(&server, BRIEF, weight).split_inclusive('\n') {
            writer.write_all(line.as_bytes()).unwrap();
        }
    }
    drop(guard);
    renamer.join().unwrap();
    lb.edit_file(&included(&server, BRIEF, 1000));
    weight_becomes(&lb, 1000);
    let reloads = lb.api("/api/reloads?limit=500");
    for reload in reloads["reloads"].as_array().unwrap() {
        let is_torn = |change: &Value| ["added", "removed"].iter().any(|word| change.as_str().unwrap().contains(word));
        assert_eq!(reload["outcome"], "applied", "{reload:#}");
        assert!(!reload["changes"].as_array().unwrap().iter().any(is_torn), "{reload:#}");
    }
}
