//! The last good copy: it is saved, and a start with an invalid or missing file falls back to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;
use tempfile::TempDir;

use crate::support::client::get;
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, command, servers};
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
fn a_copy_that_cannot_be_saved_is_logged_and_costs_nothing() {
    let scene = Scene::new();
    fs::write(scene.place("state"), "in the way").unwrap();
    scene.write(&scene.good(1));
    let lb = scene.start(&[]);
    let is_logged = |line: &String| line.contains("ERROR") && line.contains("cannot be saved");
    eventually("it is logged", || lb.stderr().iter().any(is_logged).then_some(()));
    assert_eq!(get(lb.address(), "/").text(), "a");
}
