//! The files in `examples/` are valid, and `everything.toml` shows the real keys and defaults.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lb::config::Config;
use lb::config::file::keys;
use lb::config::guard::guards;
use lb::config::problem::Problem;
use lb::control::reload::source;
use serde_json::Value;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn config(path: &Path) -> Config {
    let loaded = source::load(path, &|_| None);
    let text = |problem: &Problem| problem.to_text(false);
    let files = loaded.sources.files;
    let config = loaded.result.unwrap_or_else(|problems| {
        let texts: Vec<String> = problems.iter().map(text).collect();
        panic!("{}", texts.join("\n\n"))
    });
    assert_eq!(guards(&files, None, &config), [], "{}", path.display());
    config
}

/// All files in a directory and below.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_configuration_is_valid() {
    // The others are included by one of these.
    let is_main = |path: &PathBuf| {
        path.ends_with("lb.toml")
            || path.parent() == Some(&examples()) && path.extension().is_some_and(|end| end == "toml")
    };
    let main_files: Vec<PathBuf> = files(&examples()).into_iter().filter(is_main).collect();
    assert!(main_files.len() >= 8, "only {main_files:?}");
    assert!(main_files.contains(&examples().join("compose/lb/lb.toml")), "{main_files:?}");
    for file in main_files {
        config(&file);
    }
}

#[test]
fn promtool_accepts_the_configuration_and_the_alerts_pass_their_tests() {
    for (command, file) in [
        (["check", "config"], "prometheus.yml"),
        (["check", "rules"], "alerts.yml"),
        (["test", "rules"], "alerts_test.yml"),
    ] {
        let file = examples().join("prometheus").join(file);
        if let Some(output) = output_of(Command::new("promtool").args(command).arg(file)) {
            assert!(output.status.success(), "{output:#?}");
        }
    }
}

#[test]
fn every_alert_has_a_test() {
    let text = |file: &str| fs::read_to_string(examples().join("prometheus").join(file)).expect(file);
    let (alerts, tests) = (text("alerts.yml"), text("alerts_test.yml"));
    let alerts: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 5, "only {alerts:?}");
    for alert in alerts {
        // A test in which it fires, not only one in which it is silent.
        assert!(tests.contains(&format!("- alertname: {alert}\n")), "{alert}");
    }
}

/// Checks without Grafana that the dashboard is where it looks for it, and that no panels overlap.
#[test]
fn the_grafana_dashboard_is_valid() {
    let text = |file: &str| fs::read_to_string(examples().join(file)).expect(file);
    let compose = text("../docker-compose.yml");
    let provider = text("grafana/provisioning/dashboards/lb.yml");
    let path = provider.lines().find_map(|line| line.trim().strip_prefix("path: ")).expect("a path");
    assert!(compose.contains(&format!("- ./examples/grafana/dashboards:{path}:ro\n")), "{path}");
    assert!(compose.contains(&format!("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: {path}/lb.json\n")), "{path}");
    for url in
        text("grafana/provisioning/datasources/lb.yml").lines().filter_map(|line| line.trim().strip_prefix("url: "))
    {
        let (service, port) = url.trim_start_matches("http://").split_once(':').expect("a port");
        assert!(
            compose.contains(&format!("\n  {service}:\n")) && compose.contains(&format!(":{port}:{port}\"")),
            "{url}"
        );
    }

    let dashboard: Value = serde_json::from_str(&text("grafana/dashboards/lb.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a place"));
        assert!(x + w <= 24, "{}", panel["title"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{} overlaps another at {place:?}", panel["title"]);
        }
    }
}

#[test]
fn systemd_accepts_the_service() {
    // With a program that exists on this machine.
    let unit = fs::read_to_string(examples().join("systemd/lb.service")).expect("lb.service");
    let unit = unit.replace("/usr/local/bin/lb ", concat!(env!("CARGO_BIN_EXE_lb"), " "));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lb.service");
    fs::write(&file, &unit).expect("written");
    if let Some(output) = output_of(Command::new("systemd-analyze").arg("verify").arg(&file)) {
        // For an unknown key it only prints a warning. It may complain about units that are not ours.
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(!warnings.contains("lb.service"), "{warnings}");
    }

    // systemd waits longer than `lb` drains.
    let wait = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s'));
    let wait = Duration::from_secs(wait.and_then(|seconds| seconds.parse().ok()).expect("seconds"));
    let drain = config(&examples().join("minimal.toml")).timeouts.drain;
    assert!(wait > drain, "{wait:?} is not longer than {drain:?}");
}

/// The output of a tool, if it is installed.
#[allow(clippy::print_stderr)]
fn output_of(command: &mut Command) -> Option<Output> {
    command.output().inspect_err(|error| eprintln!("skipped: {command:?}: {error}")).ok()
}

#[test]
fn included_files_are_combined() {
    let config = config(&examples().join("include/lb.toml"));
    let pools: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["default", "orders", "search"]);
    let routes: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(routes, ["rest", "orders", "search"]);
}

#[test]
fn all_keys_with_their_defaults_equal_the_minimal_file() {
    let everything = config(&examples().join("everything.toml"));
    assert_eq!(everything, config(&examples().join("minimal.toml")));
}

#[test]
fn everything_names_every_key() {
    let text = fs::read_to_string(examples().join("everything.toml")).expect("everything.toml");
    // Keys in comments count too.
    let mut shown: Vec<(String, String)> = Vec::new();
    let mut table = String::new();
    for line in text.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_start_matches('[').split(']').next().unwrap_or_default().to_owned();
            shown.push((String::new(), table.clone()));
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.push((table.clone(), key.to_owned()));
        }
    }
    for (table, keys) in keys::TABLES.iter().filter(|(table, _)| !table.contains('*')) {
        for key in keys::names(keys) {
            let is_shown = shown.contains(&((*table).to_owned(), key.to_owned()));
            let elsewhere = matches!(
                (*table, key),
                ("", "pool") | ("balance.sticky" | "health.eject" | "upstream.tls", _) | ("listener", "tls")
            );
            assert!(is_shown || elsewhere, "everything.toml lacks `{key}` in [{table}]");
        }
    }
}
