//! The documentation is complete and correct: keys with their defaults, metrics, API paths, commands, links.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb::config::file::keys;

/// A file of the repository.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    Some(line.strip_prefix("| ")?.split('|').map(str::trim).collect())
}

/// The rows below the heading that contains `heading`.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut section = page.lines().skip_while(|line| !(line.starts_with("## ") && line.contains(heading)));
    assert!(section.next().is_some(), "no heading {heading}");
    section.take_while(|line| !line.starts_with("## ")).filter_map(cells).collect()
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().collect()
}

/// The heading of a table in `docs/configuration.md`.
fn heading(table: &str) -> String {
    let name = table.replace('*', "NAME");
    if keys::ARRAYS.contains(&table) { format!("`[[{name}]]`") } else { format!("`[{name}]`") }
}

/// The keys of a table in `docs/configuration.md`, with their defaults.
fn documented<'a>(page: &'a str, table: &str) -> BTreeMap<&'a str, &'a str> {
    let rows = rows(page, &if table.is_empty() { "Files".to_owned() } else { heading(table) });
    rows.iter().filter_map(|row| Some((row[0].strip_prefix('`')?.strip_suffix('`')?, row[1]))).collect()
}

#[test]
fn every_key_is_documented_and_no_other() {
    let page = text("docs/configuration.md");
    for (table, keys) in keys::TABLES {
        // The keys of a pool are those at the top level.
        if table.starts_with("pool.*.") {
            continue;
        }
        let mut expected = set(keys::names(keys));
        if table.is_empty() {
            expected.retain(|key| !keys::TABLES.iter().any(|(table, _)| table.trim_end_matches(".*") == *key));
        }
        assert_eq!(set(documented(&page, table).into_keys()), expected, "{}", heading(table));
    }
    let mut tables = page.lines().filter(|line| line.starts_with("## ")).flat_map(quoted);
    let unknown = tables.find(|name| !keys::TABLES.iter().any(|(table, _)| heading(table) == format!("`{name}`")));
    assert_eq!(unknown, None);
}

/// The third column is the description that editors show. `LB_BLESS=1` writes it again.
#[test]
fn descriptions_of_keys_are_those_of_the_schema() {
    let page = text("docs/configuration.md");
    let mut table: &[keys::KeySpec] = &[];
    let mut described = 0;
    let mut expected = String::new();
    for line in page.lines() {
        if line.starts_with("## ") {
            let is_it = |name: &str| match name {
                "" => line == "## Files",
                name => line.contains(&heading(name)),
            };
            table = keys::TABLES.iter().find(|(name, _)| is_it(name)).map_or(&[], |(_, keys)| keys);
        }
        let key = cells(line).and_then(|cells| table.iter().find(|key| cells[0] == format!("`{}`", key.name)));
        expected += &match (key, cells(line)) {
            (Some(key), Some(cells)) => {
                assert!(!key.about.contains('|'), "`{}`: this would end the cell", key.name);
                described += 1;
                let default = if cells[1].is_empty() { String::new() } else { format!("{} ", cells[1]) };
                format!("| {} | {default}| {} |\n", cells[0], key.about)
            }
            _ => format!("{line}\n"),
        };
    }
    assert!(described > 50, "only {described}");
    if std::env::var_os("LB_BLESS").is_some() {
        fs::write(root().join("docs/configuration.md"), &expected).unwrap();
    }
    assert_eq!(text("docs/configuration.md"), expected);
}

/// Compares with `everything.toml`, whose defaults another test checks.
#[test]
fn documented_defaults_are_correct() {
    let page = text("docs/configuration.md");
    let everything = text("examples/everything.toml");
    let mut table = "";
    let mut compared = 0;
    for line in everything.lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_start_matches('[').split(']').next().unwrap();
        } else if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with('#')) {
            let default = documented(&page, table)[key];
            if let Some(default) = quoted(default).next() {
                let value = value.split(" #").next().unwrap().trim();
                assert_eq!(default.trim_matches('"'), value.trim_matches('"'), "`{key}` in [{table}]");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "only {compared}");
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let sources = all_sources();
    let known = metrics(&sources);
    let page = text("docs/metrics.md");
    let rows = rows(&page, "Metrics");
    let documented = set(rows.iter().flat_map(|row| quoted(row[0])).filter(|name| *name != "process_*"));
    assert_eq!(documented, known);
}

#[test]
fn alerts_and_dashboard_use_existing_metrics() {
    let sources = all_sources();
    let known = metrics(&sources);
    for file in ["prometheus/alerts.yml", "prometheus/alerts_test.yml", "grafana/dashboards/lb.json"] {
        let text = text(&format!("examples/{file}"));
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        let named = set(words.filter(|word| word.starts_with("lb_")));
        assert!(named.len() >= 8, "{file}: only {named:?}");
        for name in named {
            // The series of a histogram.
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            assert!(known.contains(name) || family.is_some_and(|family| known.contains(family)), "{file}: {name}");
        }
    }
}

#[test]
fn every_alert_is_documented_and_no_other() {
    let (alerts, page) = (text("examples/prometheus/alerts.yml"), text("docs/dashboards.md"));
    let known = set(alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")));
    assert!(known.len() >= 5, "only {known:?}");
    let rows = rows(&page, "Alerts");
    assert_eq!(set(rows.iter().flat_map(|row| quoted(row[0]))), known);
}

/// The names of metrics: all string literals of this form in the sources.
fn metrics(sources: &[String]) -> BTreeSet<&str> {
    let literals = sources.iter().flat_map(|source| source.split('"'));
    let of_metric = |text: &&str| {
        text.strip_prefix("lb_").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let known = set(literals.filter(of_metric));
    assert!(known.len() > 20, "only {known:?}");
    known
}

fn all_sources() -> Vec<String> {
    ["src", "backends/src"].iter().flat_map(|under| sources(&root().join(under))).collect()
}

/// All Rust files in a directory and below.
fn sources(directory: &Path) -> Vec<String> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let is_source = path.extension().is_some_and(|end| end == "rs");
        if path.is_dir() {
            sources(&path)
        } else {
            fs::read_to_string(path).ok().filter(|_| is_source).into_iter().collect()
        }
    };
    paths.flat_map(read).collect()
}

#[test]
fn every_path_of_the_api_is_documented_and_no_other() {
    let openapi: serde_json::Value = serde_json::from_str(&text("src/admin/openapi.json")).unwrap();
    let known = set(openapi["paths"].as_object().unwrap().keys().map(String::as_str));
    let page = text("docs/api.md");
    let rows = rows(&page, "The API");
    assert_eq!(set(rows.iter().flat_map(|row| quoted(row[0]))), known);
}

#[test]
fn every_command_is_documented_and_no_other() {
    let help = Command::new(env!("CARGO_BIN_EXE_lb")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let known = set(commands.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help"));
    assert!(!known.is_empty(), "{help}");
    let page = text("docs/commands.md");
    let rows = rows(&page, "Commands");
    let named = rows.iter().flat_map(|row| quoted(row[0])).filter_map(|command| command.split(' ').nth(1));
    assert_eq!(set(named), known);
}

#[test]
fn links_have_a_target() {
    let mut followed = 0;
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "bench/README.md",
        "docs/SUMMARY.md",
        "docs/acme.md",
        "docs/api.md",
        "docs/commands.md",
        "docs/configuration.md",
        "docs/dashboards.md",
        "docs/getting-started.md",
        "docs/gitops.md",
        "docs/http-cases.md",
        "docs/http2.md",
        "docs/life.md",
        "docs/metrics.md",
        "docs/operation.md",
        "docs/tls.md",
        "docs/reload.md",
        "docs/tls.md",
        "docs/troubleshooting.md",
    ] {
        let directory = root().join(page).parent().unwrap().to_owned();
        for link in text(page).split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            assert!(link.contains("://") || directory.join(link).exists(), "{page}: {link}");
            followed += 1;
        }
    }
    assert!(followed > 10, "only {followed}");
}

/// A path starts with `src/`, or in `docs/life.md` below it.
#[test]
fn source_files_that_pages_name_exist() {
    let mut found = 0;
    for page in ["CONTRIBUTING.md", "docs/life.md"] {
        let text = text(page);
        for file in quoted(&text).filter(|name| name.ends_with(".rs") && !name.contains(['*', ' '])) {
            assert!(root().join(file).exists() || root().join("src").join(file).exists(), "{page}: {file}");
            found += 1;
        }
    }
    assert!(found > 20, "only {found}");
}
