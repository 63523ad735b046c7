//! Every way to change a file leads to one reload, once the file is complete.

use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, servers};
use crate::support::servers::Server;

/// Settings with which only a file that is renamed into place is read: no poll, and never quiet.
const AT_ONCE: &str = "poll = \"0s\"\nquiet = \"1h\"";
/// No poll.
const EVENTS: &str = "poll = \"0s\"\nquiet = \"30ms\"";

/// A file whose only server has this weight.
pub(crate) fn file(server: &Server, reload: &str, weight: u32) -> String {
    let server = servers(&[("a", server.address, weight)]);
    format!("{PORTS}[health]\nkind = \"none\"\n[reload]\n{reload}\n{server}")
}

/// Starts with the file `at` in a directory that `arrange` fills. Its settings are `reload`.
fn start(server: &Server, reload: &str, at: &str, arrange: impl FnOnce(&Path, &str)) -> Lb {
    let directory = TempDir::new().unwrap();
    arrange(directory.path(), &file(server, reload, 1));
    let path = directory.path().join(at);
    Lb::start_in(directory, path)
}

#[track_caller]
pub(crate) fn weight_becomes(lb: &Lb, weight: u32) {
    eventually(&format!("weight {weight}; {:#}", lb.api("/api/reloads")), || {
        (lb.server("a")["weight"] == weight).then_some(())
    });
}

/// The outcomes of all reloads, oldest first.
pub(crate) fn outcomes(lb: &Lb) -> Vec<String> {
    let reloads = lb.api("/api/reloads");
    let outcome = |reload: &Value| reload["outcome"].as_str().unwrap().to_owned();
    reloads["reloads"].as_array().unwrap().iter().rev().map(outcome).collect()
}

#[test]
fn a_file_renamed_into_place_is_read_at_once() {
    let server = Server::named("a");
    // The first edit may precede the watch, so that no event shows its rename; it needs `quiet`.
    let lb = Lb::start_file(&file(&server, EVENTS, 1));
    for weight in 2..8 {
        lb.edit_file(&file(&server, AT_ONCE, weight));
        weight_becomes(&lb, weight);
    }
    assert_eq!(outcomes(&lb), ["applied"; 7]);
    assert!(!lb.stderr().iter().any(|line| line.contains("notify")), "{:#?}", lb.stderr());
    assert_eq!(get(lb.address(), "/").text(), "a");
}

#[test]
fn the_edit_that_corrects_a_rejected_one_is_read_at_once() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, EVENTS, 1));
    lb.edit_file(&file(&server, AT_ONCE, 2));
    weight_becomes(&lb, 2);
    for weight in 3..9 {
        let before = lb.newest_reload();
        lb.edit_file(&file(&server, AT_ONCE, weight).replace("weight", "wieght"));
        assert_eq!(lb.next_reload(&before)["outcome"], "rejected");
        lb.edit_file(&file(&server, AT_ONCE, weight));
        weight_becomes(&lb, weight);
    }
}

// Case: file-in-pieces
#[test]
fn a_file_written_in_pieces_is_read_once_it_is_quiet() {
    let server = Server::named("a");
    let rules = "poll = \"0s\"\nquiet = \"700ms\"";
    let lb = Lb::start_file(&file(&server, rules, 1));
    // Nearly every prefix of it is a bad file; two are good files that nobody meant.
    let text = file(&server, rules, 2) + &servers(&[("b", server.address, 1), ("c", server.address, 1)]);
    let mut target = File::create(lb.path()).unwrap();
    for piece in text.as_bytes().chunks(text.len() / 12) {
        target.write_all(piece).unwrap();
        // A round trip lets `lb` run between the pieces.
        assert_eq!(lb.generation(), 1);
    }
    drop(target);
    weight_becomes(&lb, 2);
    assert_eq!(outcomes(&lb), ["applied"; 2]);
    assert_eq!(lb.api("/api/servers")["servers"].as_array().unwrap().len(), 3);
}

// Cases: edit-storm, file-in-pieces
#[test]
fn the_last_edit_of_a_storm_counts() {
    let server = Server::named("a");
    let rules = "poll = \"0s\"\nquiet = \"500ms\"";
    let lb = Lb::start_file(&file(&server, rules, 1));
    for weight in 2..500 {
        fs::write(lb.path(), file(&server, rules, weight)).unwrap();
    }
    weight_becomes(&lb, 499);
    assert_eq!(outcomes(&lb), ["applied"; 2], "an edit in between: {:#}", lb.api("/api/reloads"));
    for weight in 1..500 {
        lb.edit_file(&file(&server, rules, weight));
    }
    lb.edit_file(&file(&server, rules, 1000));
    weight_becomes(&lb, 1000);
    assert!(outcomes(&lb).iter().all(|outcome| outcome == "applied"));
}

// Case: file-deleted
#[test]
fn a_deleted_file_changes_nothing_until_it_is_back() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, EVENTS, 1));
    for weight in 2..4 {
        let before = lb.newest_reload();
        fs::remove_file(lb.path()).unwrap();
        let reload = lb.next_reload(&before);
        assert_eq!(reload["outcome"], "rejected");
        assert!(reload["problems"][0]["message"].as_str().unwrap().contains("no such file"), "{reload:#}");
        assert_eq!((get(lb.address(), "/").text().as_str(), lb.ask("/ready").status), ("a", 200));
        fs::write(lb.path(), file(&server, EVENTS, weight)).unwrap();
        weight_becomes(&lb, weight);
    }
}

// Case: file-deleted
#[test]
fn a_deleted_directory_changes_nothing_until_it_is_back() {
    let server = Server::named("a");
    let fill = |root: &Path, text: &str| {
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/lb.toml"), text).unwrap();
    };
    let lb = start(&server, EVENTS, "etc/lb.toml", fill);
    for weight in 2..4 {
        let before = lb.newest_reload();
        fs::remove_dir_all(lb.path().parent().unwrap()).unwrap();
        assert_eq!(lb.next_reload(&before)["outcome"], "rejected");
        assert_eq!(get(lb.address(), "/").text(), "a");
        fill(lb.path().parent().unwrap().parent().unwrap(), &file(&server, EVENTS, weight));
        weight_becomes(&lb, weight);
    }
}

// Case: file-deleted
#[test]
fn a_file_or_directory_that_is_soon_created_again_is_one_reload() {
    let server = Server::named("a");
    let fill = |root: &Path, text: &str| {
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/lb.toml"), text).unwrap();
    };
    let lb = start(&server, EVENTS, "etc/lb.toml", fill);
    let directory = lb.path().parent().unwrap().to_owned();
    let removals: [fn(&Path); 2] = [
        |directory| fs::remove_file(directory.join("lb.toml")).unwrap(),
        |directory| fs::remove_dir_all(directory).unwrap(),
    ];
    for (weight, remove) in (2..).zip(removals) {
        let deleted = Instant::now();
        remove(&directory);
        // Many times `quiet`, as another edit by another balancer shows.
        let other = Lb::start_file(&file(&server, EVENTS, 1));
        fs::write(other.path(), file(&server, EVENTS, weight)).unwrap();
        weight_becomes(&other, weight);
        let soon = deleted.elapsed() < Duration::from_millis(900);
        fill(directory.parent().unwrap(), &file(&server, EVENTS, weight));
        weight_becomes(&lb, weight);
        let rejected = outcomes(&lb).contains(&"rejected".to_owned());
        assert!(!soon || !rejected, "{:#}", lb.api("/api/reloads"));
    }
}

// Case: mounts
#[test]
fn a_symbolic_link_may_change() {
    let server = Server::named("a");
    let lb = start(&server, EVENTS, "current/lb.toml", |root, text| {
        fs::create_dir(root.join("v1")).unwrap();
        fs::write(root.join("v1/first.toml"), text).unwrap();
        symlink("first.toml", root.join("v1/lb.toml")).unwrap();
        symlink("v1", root.join("current")).unwrap();
    });
    let directory = lb.path().parent().unwrap().parent().unwrap().to_owned();
    let place = |name: &str| directory.join(name);
    let text = |weight| file(&server, EVENTS, weight);
    fs::write(place("v1/first.toml"), text(2)).unwrap();
    weight_becomes(&lb, 2);
    fs::write(place("v1/second.toml"), text(3)).unwrap();
    symlink("second.toml", place("v1/new")).unwrap();
    fs::rename(place("v1/new"), place("v1/lb.toml")).unwrap();
    weight_becomes(&lb, 3);
    fs::create_dir(place("v2")).unwrap();
    fs::write(place("v2/lb.toml"), text(4)).unwrap();
    symlink("v2", place("new")).unwrap();
    fs::rename(place("new"), place("current")).unwrap();
    weight_becomes(&lb, 4);
    fs::write(place("v2/lb.toml"), text(5)).unwrap();
    weight_becomes(&lb, 5);
    assert_eq!(outcomes(&lb), ["applied"; 5]);
}

// Case: mounts
#[test]
fn a_configmap_is_swapped_as_a_whole() {
    let server = Server::named("a");
    let lb = start(&server, EVENTS, "lb.toml", |root, text| {
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/lb.toml"), text).unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/lb.toml", root.join("lb.toml")).unwrap();
    });
    let place = |name: &str| lb.path().with_file_name(name);
    for weight in 2..6 {
        let (new, old) = (format!("..{weight}"), format!("..{}", weight - 1));
        fs::create_dir(place(&new)).unwrap();
        fs::write(place(&new).join("lb.toml"), file(&server, AT_ONCE, weight)).unwrap();
        symlink(&new, place("..data_tmp")).unwrap();
        fs::rename(place("..data_tmp"), place("..data")).unwrap();
        fs::remove_dir_all(place(&old)).unwrap();
        weight_becomes(&lb, weight);
    }
    assert_eq!(outcomes(&lb), ["applied"; 5]);
}

// Case: editors
#[test]
fn an_editors_way_of_saving_is_one_reload() {
    let server = Server::named("a");
    let rules = "poll = \"0s\"\nquiet = \"500ms\"";
    let lb = Lb::start_file(&file(&server, rules, 1));
    let place = |name: &str| lb.path().with_file_name(name);
    // As vim does: test whether files can be created here, move the old file away, write the new one.
    fs::write(place(".lb.toml.swp"), "swap").unwrap();
    fs::write(place("4913"), "").unwrap();
    fs::remove_file(place("4913")).unwrap();
    fs::rename(lb.path(), place("lb.toml~")).unwrap();
    fs::write(lb.path(), file(&server, rules, 2)).unwrap();
    fs::remove_file(place("lb.toml~")).unwrap();
    fs::remove_file(place(".lb.toml.swp")).unwrap();
    weight_becomes(&lb, 2);
    // As others do: write a file beside it, then rename that over it.
    fs::write(place("lb.toml.tmp"), file(&server, rules, 3)).unwrap();
    fs::rename(place("lb.toml.tmp"), lb.path()).unwrap();
    weight_becomes(&lb, 3);
    assert_eq!(outcomes(&lb), ["applied"; 3]);
}

#[test]
fn included_files_are_watched() {
    let server = Server::named("a");
    let more = |name: &str, weight| servers(&[(name, server.address, weight)]);
    let lb = Lb::start_file(&format!("include = [\"conf.d/*.toml\"]\n{}", file(&server, EVENTS, 1)));
    let place = |name: &str| lb.path().with_file_name("conf.d").join(name);
    let names = || {
        let listed = lb.api("/api/servers");
        listed["servers"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let names_become = |expected: &[&str]| eventually(&format!("{expected:?}"), || (names() == expected).then_some(()));

    fs::create_dir(place("")).unwrap();
    fs::write(place("b.toml"), more("b", 1)).unwrap();
    names_become(&["a", "b"]);
    fs::write(place("new"), more("c", 1)).unwrap();
    fs::rename(place("new"), place("c.toml")).unwrap();
    names_become(&["a", "b", "c"]);
    let config = lb.api("/api/config");
    assert_eq!(config["files"].as_array().unwrap().len(), 3);
    assert_ne!(config["hash"], config["files"][0]["hash"]);
    fs::write(place("b.toml"), more("b", 9)).unwrap();
    eventually("b has its new weight", || (lb.server("b")["weight"] == 9).then_some(()));
    fs::remove_file(place("b.toml")).unwrap();
    names_become(&["a", "c"]);

    let before = lb.newest_reload();
    fs::write(place("c.toml"), "weihgt = 1").unwrap();
    let reload = lb.next_reload(&before);
    assert_eq!((&reload["outcome"], &reload["problems"][0]["line"]), (&"rejected".into(), &1.into()), "{reload:#}");
    assert_eq!(reload["problems"][0]["file"], place("c.toml").display().to_string());
    assert_eq!(names(), ["a", "c"]);
    fs::remove_dir_all(place("")).unwrap();
    names_become(&["a"]);
}

#[test]
fn the_same_content_is_no_reload() {
    let server = Server::named("a");
    let text = file(&server, EVENTS, 1);
    let lb = Lb::start_file(&text);
    lb.edit_file(&text);
    // Written over the old content, because a truncated file would be another file until this thread goes on.
    File::options().write(true).open(lb.path()).unwrap().write_all(text.as_bytes()).unwrap();
    File::open(lb.path()).unwrap().set_times(FileTimes::new().set_modified(SystemTime::now())).unwrap();
    lb.edit_file(&file(&server, EVENTS, 2));
    weight_becomes(&lb, 2);
    assert_eq!(outcomes(&lb), ["applied"; 2]);
}

#[test]
fn polling_finds_an_edit_without_an_event() {
    let server = Server::named("a");
    let rules = "poll = \"100ms\"\nquiet = \"30ms\"";
    let fill = |directory: &Path, text: &str| {
        fs::create_dir_all(directory.join("etc/lb")).unwrap();
        fs::write(directory.join("etc/lb/lb.toml"), text).unwrap();
    };
    let lb = start(&server, rules, "root/etc/lb/lb.toml", |root, text| fill(&root.join("root"), text));
    let root = lb.path().ancestors().nth(4).unwrap().to_owned();
    for weight in 2..4 {
        // A directory above is replaced, and the file has the same size and times.
        let new = root.join(format!("new{weight}"));
        fill(&new, &file(&server, rules, weight));
        let modified = fs::metadata(lb.path()).unwrap().modified().unwrap();
        let file = File::options().write(true).open(new.join("etc/lb/lb.toml")).unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        fs::rename(root.join("root"), root.join(format!("old{weight}"))).unwrap();
        fs::rename(new, root.join("root")).unwrap();
        weight_becomes(&lb, weight);
    }
}

/// A file that is mounted by itself and replaced outside has no name inside. So has a deleted file that is held open.
// Case: mounts
#[test]
fn a_file_whose_edits_are_invisible_is_warned_about_once() {
    let server = Server::named("a");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    let text = file(&server, "poll = \"50ms\"", 1);
    fs::write(&path, &text).unwrap();
    let open_file = File::open(&path).unwrap();
    let inside = format!("/proc/{}/fd/{}", std::process::id(), open_file.as_raw_fd());
    let lb = Lb::start_in(directory, inside.into());
    let warnings =
        || lb.stderr().iter().filter(|line| line.contains("WARN") && line.contains("mount its directory")).count();
    assert_eq!(warnings(), 0);
    fs::remove_file(&path).unwrap();
    eventually("the warning is logged", || (warnings() == 1).then_some(()));
    let before = lb.newest_reload();
    lb.signal("HUP");
    lb.next_reload(&before);
    assert_eq!((warnings(), get(lb.address(), "/").text().as_str()), (1, "a"));
}

#[test]
fn the_record_the_log_and_the_metrics_agree() {
    let server = Server::named("a");
    let lb = Lb::start_file(&file(&server, EVENTS, 1));
    lb.edit_file(&file(&server, EVENTS, 6));
    weight_becomes(&lb, 6);
    lb.edit_file(&(file(&server, EVENTS, 7) + "wieght = 1\n"));
    eventually("it is rejected", || (outcomes(&lb).len() == 3).then_some(()));
    lb.signal("HUP");
    eventually("it is rejected again", || (outcomes(&lb).len() == 4).then_some(()));
    lb.edit_file(&file(&server, EVENTS, 6));
    eventually("it is corrected", || (outcomes(&lb).len() == 5).then_some(()));
    assert_eq!(outcomes(&lb), ["applied", "applied", "rejected", "rejected", "unchanged"]);

    let applied = lb.api("/api/reloads")["reloads"][3].clone();
    assert_eq!(applied["changes"], serde_json::json!(["server default/a: weight 1 -> 6"]));
    assert!(applied["seconds"].as_f64().unwrap() > 0.0);
    let hash = applied["hash"].as_str().unwrap().to_owned();
    assert_eq!(lb.api("/api/config")["hash"], hash);
    let counts = || {
        let log = lb.stderr();
        ["configuration applied", "configuration rejected", "configuration unchanged"]
            .map(|words| log.iter().filter(|line| line.contains(words)).count())
    };
    eventually("each is logged", || (counts() == [2, 2, 1]).then_some(()));
    let log = lb.stderr();
    let line = log.iter().find(|line| line.contains("weight 1 -> 6")).expect("a line");
    assert!(line.contains("generation=2") && line.contains(&hash), "{line}");
    let metric = |name: &str| lb.metric(name).unwrap_or(f64::NAN).to_string();
    let totals =
        ["applied", "rejected", "unchanged"].map(|result| metric(&format!("lb_reloads_total{{result=\"{result}\"}}")));
    assert_eq!(totals, ["2", "2", "1"]);
    assert_eq!(metric("lb_config_generation"), "2");
    assert_eq!(metric("lb_config_last_reload_successful"), "1");
    assert_eq!(metric("lb_reload_duration_seconds_count"), "5");
    assert_eq!(metric(&format!("lb_config_info{{hash=\"{hash}\"}}")), "1");
}
