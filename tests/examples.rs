//! Every configuration under `examples/` is fine, and `everything.toml` says what is true.

use std::fs;
use std::path::{Path, PathBuf};

use lb::config::Config;
use lb::config::file::keys;
use lb::config::guard::guards;
use lb::config::problem::Problem;
use lb::config::source;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn config(path: &Path) -> Config {
    let loaded = source::load(path, &|_| None);
    let told = |problem: &Problem| problem.to_text(false);
    let config = loaded.result.unwrap_or_else(|problems| {
        let told: Vec<String> = problems.iter().map(told).collect();
        panic!("{}", told.join("\n\n"))
    });
    assert_eq!(guards(path, None, &config), [], "{}", path.display());
    config
}

#[test]
fn all_of_them_are_fine() {
    let entries = fs::read_dir(examples()).expect("examples/");
    let main = |path: PathBuf| match path.is_dir() {
        true => path.join("lb.toml"),
        false => path,
    };
    let files: Vec<PathBuf> = entries
        .map(|entry| main(entry.expect("an entry").path()))
        .filter(|path| path.extension().is_some_and(|end| end == "toml") && path.is_file())
        .collect();
    assert!(files.len() >= 7, "only {files:?}");
    for file in files {
        config(&file);
    }
}

#[test]
fn what_is_included_adds_up() {
    let config = config(&examples().join("include/lb.toml"));
    let pools: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["default", "orders", "search"]);
    let routes: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(routes, ["rest", "orders", "search"]);
}

#[test]
fn everything_at_its_default_means_the_same_as_nothing() {
    let everything = config(&examples().join("everything.toml"));
    assert_eq!(everything, config(&examples().join("minimal.toml")));
}

#[test]
fn everything_names_every_key() {
    let text = fs::read_to_string(examples().join("everything.toml")).expect("everything.toml");
    // What is shown commented out counts too.
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
        for key in *keys {
            let known = shown.contains(&((*table).to_owned(), (*key).to_owned()));
            let elsewhere = matches!((*table, *key), ("", "pool") | ("balance.sticky", _) | ("listener", "tls"));
            assert!(known || elsewhere, "everything.toml lacks `{key}` in [{table}]");
        }
    }
}
