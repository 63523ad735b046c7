//! The last good copy: it is saved, and a start with an invalid or missing file falls back to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;
use tempfile::TempDir;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, command, run, servers};
use crate::support::servers::Server;

/// A file and a state directory that outlive processes.
struct Scene {
    root: TempDir,
    server: Server,
}

impl Scene {
    fn new() -> Self {
        Self { root: TempDir::new().unwrap(), server: Server::named("a") }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A good file whose only server has this weight.
    fn good(&self, weight: u32) -> String {
        let rules = format!("[health]\nkind = \"none\"\n[reload]\nstate_dir = \"{}\"\n", self.place("state").display());
        format!("{PORTS}{rules}{}", servers(&[("a", self.server.address, weight)]))
    }

    fn write(&self, text: &str) {
        fs::write(self.place("lb.toml"), text).unwrap();
    }

    fn start(&self, environment: &[(&str, &Path)]) -> Lb {
        let mut command = command();
        command.envs(environment.iter().copied());
        Lb::start_as(command, TempDir::new().unwrap(), self.place("lb.toml"))
    }

    /// Starts, and waits until the copy contains these words and can be found.
    #[track_caller]
    fn start_and_save(&self, words: &str) -> Lb {
        let lb = self.start(&[]);
        self.is_saved(words);
        eventually("the pointer is there", || self.place(".lb.toml.state_dir").exists().then_some(()));
        lb
    }

    /// Starts, and asserts that the start fails.
    fn fails(&self) -> Output {
        let output = command().arg("--config").arg(self.place("lb.toml")).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        output
    }

    #[track_caller]
    fn is_saved(&self, words: &str) {
        eventually("the copy is saved", || {
            fs::read_to_string(self.place("state/last_good.json")).ok().filter(|copy| copy.contains(words))
        });
    }
}

#[track_caller]
fn assert_fell_back(lb: &Lb, weight: u32, problem: &str) {
    assert_eq!((get(lb.address(), "/").text().as_str(), &lb.server("a")["weight"]), ("a", &json!(weight)));
    assert_eq!(lb.api("/ready"), json!({ "generation": 1, "status": "ready", "config": "last_good" }));
    assert_eq!(lb.api("/api/config")["state"], "last_good");
    assert_eq!(lb.metric("lb_config_last_reload_successful"), Some(0.0));
    let reloads = lb.api("/api/reloads");
    let outcomes: Vec<_> = reloads["reloads"].as_array().unwrap().iter().map(|reload| &reload["outcome"]).collect();
    assert_eq!(outcomes, ["rejected", "applied"]);
    let message = reloads["reloads"][0]["problems"][0]["message"].as_str().unwrap();
    assert!(message.contains(problem), "{message}");
    let is_error = |line: &String| line.contains("ERROR") && line.contains("started from the last good copy");
    assert!(lb.stderr().iter().any(is_error), "{:#?}", lb.stderr());
}

#[test]
fn a_start_with_a_bad_file_falls_back_until_it_is_corrected() {
    let scene = Scene::new();
    scene.write(&scene.good(1));
    let lb = scene.start(&[]);
    scene.is_saved("weight = 1");
    scene.write(&scene.good(2));
    scene.is_saved("weight = 2");
    let before = lb.newest_reload();
    scene.write(&(scene.good(3) + "wieght = 1\n"));
    assert_eq!(lb.next_reload(&before)["outcome"], "rejected");
    drop(lb);
    scene.is_saved("weight = 2");

    let lb = scene.start(&[]);
    assert_fell_back(&lb, 2, "wieght");
    let before = lb.newest_reload();
    scene.write(&scene.good(4));
    let corrected = lb.next_reload(&before);
    assert_eq!((&corrected["outcome"], &corrected["generation"]), (&json!("applied"), &json!(2)));
    assert_eq!(corrected["changes"], json!(["server default/a: weight 2 -> 4"]));
    assert_eq!(lb.api("/ready")["config"], "current");
    scene.is_saved("weight = 4");
}

#[test]
fn a_start_without_a_file_falls_back_to_the_copy_in_lb_state_dir() {
    let scene = Scene::new();
    scene.write(&scene.good(1).replace("state_dir", "# state_dir"));
    let state = scene.place("state");
    let environment = [("LB_STATE_DIR", state.as_path())];
    let lb = scene.start(&environment);
    scene.is_saved("weight = 1");
    drop(lb);
    fs::remove_file(scene.place("lb.toml")).unwrap();
    assert!(String::from_utf8_lossy(&scene.fails().stderr).contains("no such file"));
    let lb = scene.start(&environment);
    assert_fell_back(&lb, 1, "no such file");
    let before = lb.newest_reload();
    scene.write(&scene.good(1).replace("state_dir", "# state_dir"));
    assert_eq!(lb.next_reload(&before)["outcome"], "unchanged", "the file is the one that is applied");
    assert_eq!(lb.api("/api/config")["state"], "current");
}

#[test]
fn included_files_are_part_of_the_copy() {
    let scene = Scene::new();
    fs::create_dir(scene.place("conf.d")).unwrap();
    fs::write(scene.place("conf.d/b.toml"), servers(&[("b", scene.server.address, 7)])).unwrap();
    scene.write(&format!("include = [\"conf.d/*.toml\"]\n{}", scene.good(1)));
    let lb = scene.start(&[]);
    scene.is_saved("weight = 7");
    let hash = lb.api("/api/config")["hash"].clone();
    drop(lb);
    fs::write(scene.place("conf.d/b.toml"), "half of").unwrap();
    let lb = scene.start(&[]);
    assert_fell_back(&lb, 1, "");
    assert_eq!((&lb.server("b")["weight"], &lb.api("/api/config")["hash"]), (&json!(7), &hash));
}

#[test]
fn an_unusable_copy_is_reported_and_nothing_starts() {
    let scene = Scene::new();
    scene.write(&(scene.good(1) + "wieght = 1\n"));
    let without_copy = scene.fails();
    assert!(!String::from_utf8_lossy(&without_copy.stderr).contains("last good"));
    fs::create_dir(scene.place("state")).unwrap();
    for copy in ["{", "{\"of\":\"/elsewhere/lb.toml\",\"files\":[]}"] {
        fs::write(scene.place("state/last_good.json"), copy).unwrap();
        let text = String::from_utf8(scene.fails().stderr).unwrap();
        assert!(text.contains("wieght") && text.contains("the last good copy cannot be used"), "{text}");
    }
}

#[test]
fn a_start_finds_the_copy_whatever_is_left_of_the_file() {
    let scene = Scene::new();
    let good = scene.good(1);
    scene.write(&good);
    drop(scene.start_and_save("weight = 1"));
    let pointer = scene.place(".lb.toml.state_dir");
    assert_eq!(fs::read_to_string(&pointer).unwrap(), format!("{}\n", scene.place("state").display()));
    let cut = |end: &str| good[..good.find(end).unwrap()].to_owned();
    for (left, problem) in [
        (Some(String::new()), "listener"),
        (Some(cut("[health]")), "no server"),
        (Some(cut("state_dir")), "no server"),
        (Some(good.replace("/state\"", "/elsewhere\"") + "wieght = 1\n"), "wieght"),
        (Some("\0".repeat(100)), "NUL"),
        (None, "no such file"),
    ] {
        match &left {
            Some(text) => scene.write(text),
            None => fs::remove_file(scene.place("lb.toml")).unwrap(),
        }
        let lb = scene.start(&[]);
        assert_fell_back(&lb, 1, problem);
    }
    // An unreadable pointer is no worse than none.
    scene.write(&(good + "wieght = 1\n"));
    for pointed in ["", "relative", "/nowhere\n", "\0"] {
        fs::write(&pointer, pointed).unwrap();
        assert_fell_back(&scene.start(&[]), 1, "wieght");
    }
}

#[test]
fn the_copy_moves_with_state_dir_and_ends_with_it() {
    let scene = Scene::new();
    scene.write(&scene.good(1));
    let lb = scene.start_and_save("weight = 1");
    scene.write(&scene.good(2).replace("/state\"", "/second\""));
    eventually("the copy is saved in the new directory", || {
        fs::read_to_string(scene.place("second/last_good.json")).ok().filter(|copy| copy.contains("weight = 2"))
    });
    eventually("the pointer follows", || {
        fs::read_to_string(scene.place(".lb.toml.state_dir")).ok().filter(|place| place.contains("/second"))
    });
    drop(lb);
    scene.write("");
    let lb = scene.start(&[]);
    assert_fell_back(&lb, 2, "listener");
    scene.write(&scene.good(3).replace("state_dir", "# state_dir"));
    eventually("the pointer is removed", || (!scene.place(".lb.toml.state_dir").exists()).then_some(()));
    drop(lb);
    scene.write("");
    scene.fails();
    // The environment needs no pointer.
    scene.write(&scene.good(4).replace("state_dir", "# state_dir"));
    let state = scene.place("third");
    let environment = [("LB_STATE_DIR", state.as_path())];
    let lb = scene.start(&environment);
    eventually("it is saved", || fs::read_to_string(scene.place("third/last_good.json")).ok());
    drop(lb);
    assert!(!scene.place(".lb.toml.state_dir").exists());
    scene.write("");
    assert_fell_back(&scene.start(&environment), 4, "listener");
}

#[test]
fn a_copy_that_cannot_be_kept_is_reported_until_it_is() {
    let scene = Scene::new();
    scene.write(&scene.good(1));
    let lb = scene.start_and_save("weight = 1");
    let saved = || lb.metric("lb_config_last_good_saved");
    let warnings = || lb.api("/api/config")["warnings"].to_string();
    assert_eq!((saved(), warnings()), (Some(1.0), "[]".to_owned()));
    let logged = |words: &str| lb.stderr().iter().filter(|line| line.contains(words)).count();

    // A file is in the way of the directory, and so of the copy's temporary file.
    fs::rename(scene.place("state"), scene.place("kept")).unwrap();
    fs::write(scene.place("state"), "in the way").unwrap();
    scene.write(&scene.good(2));
    eventually("the metric shows it", || (saved() == Some(0.0)).then_some(()));
    for words in ["the last good copy cannot be kept", "it is not a directory", "would fail"] {
        assert!(warnings().contains(words), "{}", warnings());
    }
    let error = "a start with an invalid file would fail";
    eventually("the log says so", || (logged(error) == 1).then_some(()));
    assert_eq!(logged("ERROR"), 1, "{:#?}", lb.stderr());
    let status = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(status.contains("warning: the last good copy cannot be kept"), "{status}");
    assert_eq!((get(lb.address(), "/").text().as_str(), lb.generation()), ("a", 2));

    // Tried again without an edit.
    fs::remove_file(scene.place("state")).unwrap();
    fs::rename(scene.place("kept"), scene.place("state")).unwrap();
    scene.is_saved("weight = 2");
    eventually("the warning ends", || (saved() == Some(1.0) && warnings() == "[]").then_some(()));
    assert_eq!((logged("ERROR"), logged("kept again")), (1, 1));

    // A directory where the copy should be: the older copy is still of use, unlike in the first case.
    fs::rename(scene.place("state/last_good.json"), scene.place("copy")).unwrap();
    fs::create_dir_all(scene.place("state/last_good.json/x")).unwrap();
    scene.write(&scene.good(3));
    eventually("it is reported again", || (saved() == Some(0.0)).then_some(()));
    assert_eq!(logged("ERROR"), 2);
    fs::remove_dir_all(scene.place("state/last_good.json")).unwrap();
    scene.is_saved("weight = 3");
}

#[test]
fn a_copy_that_was_deleted_is_saved_again() {
    let scene = Scene::new();
    scene.write(&scene.good(1));
    let lb = scene.start_and_save("weight = 1");
    fs::remove_dir_all(scene.place("state")).unwrap();
    scene.is_saved("weight = 1");
    fs::remove_file(scene.place(".lb.toml.state_dir")).unwrap();
    eventually("the pointer is there again", || scene.place(".lb.toml.state_dir").exists().then_some(()));
    assert_eq!(lb.api("/api/config")["warnings"], json!([]));
}

#[test]
fn two_balancers_do_not_replace_each_others_copy() {
    let scene = Scene::new();
    scene.write(&scene.good(1));
    let _lb = scene.start_and_save("weight = 1");
    let other = scene.place("other.toml");
    fs::write(&other, scene.good(7)).unwrap();
    let second = Lb::start_as(command(), TempDir::new().unwrap(), other);
    let warning =
        eventually("the second warns", || second.api("/api/config")["warnings"][0].as_str().map(str::to_owned));
    assert!(warning.contains("it is a copy of") && warning.contains("its own directory"), "{warning}");
    scene.is_saved("weight = 1");
    // Once the other file is gone, so is its claim.
    fs::remove_file(scene.place("lb.toml")).unwrap();
    scene.is_saved("weight = 7");
}

#[test]
fn a_directory_that_cannot_be_remembered_is_a_warning() {
    let scene = Scene::new();
    scene.write(&scene.good(1));
    // Not even root can replace a directory by a file.
    fs::create_dir_all(scene.place(".lb.toml.state_dir/x")).unwrap();
    let lb = scene.start_and_save("weight = 1");
    let warning = eventually("it warns", || lb.api("/api/config")["warnings"][0].as_str().map(str::to_owned));
    assert!(warning.contains(&format!("set LB_STATE_DIR={}", scene.place("state").display())), "{warning}");
    drop(lb);
    let state = scene.place("state");
    let lb = scene.start(&[("LB_STATE_DIR", &state)]);
    scene.write(&scene.good(2));
    scene.is_saved("weight = 2");
    assert_eq!(lb.api("/api/config")["warnings"], json!([]));
}

#[test]
fn a_copy_in_a_relative_directory_is_named_once_and_in_full() {
    let scene = Scene::new();
    let good = scene.good(1).replace(&format!("{}/", scene.root.path().display()), "");
    let start = || {
        let mut command = command();
        command.current_dir(scene.root.path());
        command
    };
    scene.write(&good);
    fs::create_dir_all(scene.place(".lb.toml.state_dir/x")).unwrap();
    let lb = Lb::start_as(start(), TempDir::new().unwrap(), scene.place("lb.toml"));
    scene.is_saved("weight = 1");
    let warning = eventually("it warns", || lb.api("/api/config")["warnings"][0].as_str().map(str::to_owned));
    let state = scene.place("state").canonicalize().unwrap();
    assert!(warning.contains(&format!("LB_STATE_DIR={}", state.display())), "{warning}");
    drop(lb);

    fs::remove_dir_all(scene.place(".lb.toml.state_dir")).unwrap();
    fs::write(scene.place(".lb.toml.state_dir"), format!("{}\n", state.display())).unwrap();
    scene.write(&(good + "oops"));
    fs::write(scene.place("state/last_good.json"), "{").unwrap();
    let output = start().arg("--config").arg(scene.place("lb.toml")).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("the last good copy cannot be used").count(), 1, "{text}");
}
