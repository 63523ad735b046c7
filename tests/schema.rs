//! Validates files with the schema: it accepts every valid one, and rejects the invalid ones as far as a schema can.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use lb::config::file::keys::{self, KeySpec, Presence, ValueType};
use lb::config::file::parse;
use lb::config::schema::{FILE, schema};
use lb::config::source::SourceFile;
use serde_json::{Value, json};

fn validator() -> Validator {
    jsonschema::draft202012::options().build(&schema()).expect("a schema")
}

/// A file as JSON, if it is valid TOML.
fn value(text: &str) -> Option<Value> {
    serde_json::to_value(toml::from_str::<toml::Table>(text).ok()?).ok()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All TOML files under a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort();
    files
}

#[test]
fn the_schema_is_valid() {
    jsonschema::draft202012::meta::validate(&schema()).unwrap();
}

#[test]
fn every_example_is_valid_and_refers_to_the_schema() {
    let validator = validator();
    let mut examples = files(&root().join("examples"));
    examples.push(root().join("src/cli/demo.toml"));
    assert!(examples.len() >= 10, "only {examples:?}");
    for file in examples {
        let text = fs::read_to_string(&file).unwrap();
        let value = value(&text).unwrap();
        let problems: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", file.display());

        // `lb demo` writes the schema beside its file.
        let named = text.lines().next().and_then(|line| line.strip_prefix("#:schema ")).unwrap_or_default();
        let directory = if file.ends_with("demo.toml") { root().to_owned() } else { file.parent().unwrap().to_owned() };
        let target = directory.join(named).canonicalize().ok();
        assert_eq!(target, root().join(FILE).canonicalize().ok(), "{}: {named:?}", file.display());
    }
}

#[test]
fn invalid_files_are_rejected_where_a_schema_can_tell() {
    let validator = validator();
    // These are invalid because of several tables together, the environment, other files, or lb's modules.
    let undetectable = [
        "access-log-word.toml",
        "all-disabled.toml",
        "byte-order-mark.toml",
        "conflict.toml",
        "duplicate-listeners.toml",
        "duplicate-routes.toml",
        "duplicate-servers.toml",
        "empty-pool.toml",
        "empty.toml",
        "environment.toml",
        "log-level.toml",
        "log-of-libraries.toml",
        "log-target.toml",
        "nothing-to-do.toml",
        "unknown-pool.toml",
        "weight-zero.toml",
    ];
    let mut rejected = 0;
    for file in files(&root().join("tests/bad")).into_iter().filter(|file| file.parent().unwrap().ends_with("bad")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let Some(value) = fs::read_to_string(&file).ok().and_then(|text| value(&text)) else { continue };
        assert_eq!(validator.is_valid(&value), undetectable.contains(&name), "{name}");
        rejected += usize::from(!undetectable.contains(&name));
    }
    assert!(rejected >= 12, "only {rejected}");
}

/// Tries values of every type for each key: `lb` rejects every value that the schema rejects, and the schema rejects those
/// that have the wrong type, are out of range, or are not one of the choices.
#[test]
fn it_agrees_with_the_reader() {
    const VALUES: &[&str] = &[
        "true",
        "false",
        "0",
        "1",
        "-1",
        "5",
        "1000",
        "1001",
        "100001",
        "99999999",
        "0.5",
        "1.5",
        "-0.1",
        "nan",
        "\"\"",
        "\" \"",
        "\"x\"",
        "\"X-y_1.2\"",
        "\"/x\"",
        "\"/x?y=1\"",
        "\"x y\"",
        "\"10s\"",
        "\"1h 30m\"",
        "\"0s\"",
        "\"0\"",
        "\"50 ms\"",
        "\"1.5s\"",
        "\"10\"",
        "\"1KiB\"",
        "\"64 b\"",
        "\"20%\"",
        "\" 7 % \"",
        "\"120%\"",
        "\"a:1\"",
        "\"127.0.0.1:80\"",
        "\"[::1]:80\"",
        "\"[::1]\"",
        "\"::1\"",
        "\"10.0.0.0/8\"",
        "\"*\"",
        "\"*.example.com\"",
        "\"a.example.com.\"",
        "\"200\"",
        "\"200-399, 404\"",
        "\"http://a:1/x\"",
        "\"https://a\"",
        "\"info,lb=debug\"",
        "\"json\"",
        "\"tcp\"",
        "\"random\"",
        "\"${X:-10s}\"",
        "\"${X:-a:1}\"",
        "\"a${X:-}\"",
        "[]",
        "[1]",
        "[\"\"]",
        "[\"x\"]",
        "[\"10.0.0.0/8\"]",
        "[{}]",
        "{}",
        "{ x = 1 }",
        "1979-05-27",
    ];
    let validator = validator();
    let mut compared = [0, 0, 0];
    for (table, keys) in keys::TABLES {
        for KeySpec { name, value: kind, .. } in keys.iter() {
            for value in VALUES {
                // The rest of the file is valid.
                let others = keys.iter().filter(|other| other.presence == Presence::Required && other.name != *name);
                let others: String = others.map(|other| format!("{} = {}\n", other.name, valid(other.name))).collect();
                let header = match (table.is_empty(), keys::ARRAYS.contains(table)) {
                    (true, _) => String::new(),
                    (_, true) => format!("[[{}]]\n", table.replace('*', "p")),
                    (_, false) => format!("[{}]\n", table.replace('*', "p")),
                };
                let rest = match *table {
                    "listener" => "",
                    _ if *name == "listener" => "",
                    _ => "[[listener]]\naddress = \"127.0.0.1:1\"\n",
                };
                let text = format!("{header}{others}{name} = {value}\n{rest}[reload]\nallow_empty = true\n");
                let Some(file) = self::value(&text) else { continue };
                let schema = validator.is_valid(&file);
                let reader = parse(&[SourceFile::new("lb.toml", text.as_str())], &|_| None)
                    .map_err(|problems| problems[0].to_string());
                assert!(schema || reader.is_err(), "the schema rejects: {text}");
                // A reference can stand for any text, and a schema does not compare keys with each other.
                let whole = reader.as_ref().is_err_and(|problem| {
                    [
                        "every server of pool",
                        "`proxy_protocol` needs",
                        "[[certificate]] names no file",
                        "has no `names`",
                    ]
                    .iter()
                    .any(|whole| problem.contains(whole))
                });
                let plain = !value.contains("${")
                    && !whole
                    && matches!(
                        kind,
                        ValueType::Integer(_) | ValueType::Number(_) | ValueType::Boolean | ValueType::Choice(_)
                    );
                assert!(!plain || schema == reader.is_ok(), "the reader rejects: {text}{reader:?}");
                compared[usize::from(schema) + usize::from(reader.is_ok())] += 1;
            }
        }
    }
    assert!(compared.iter().all(|count| *count > 100), "{compared:?}");
}

/// A valid value for each required key.
fn valid(name: &str) -> &'static str {
    match name {
        "address" => "\"127.0.0.1:2\"",
        "pool" => "\"default\"",
        _ => "\"a\"",
    }
}

#[test]
fn every_key_has_a_description_and_every_default_is_valid() {
    let mut described = 0;
    let validator = validator();
    let mut pending = vec![("lb.toml".to_owned(), schema())];
    while let Some((name, schema)) = pending.pop() {
        for inner in [&schema["items"], &schema["anyOf"][0], &schema["additionalProperties"]] {
            if inner.is_object() {
                pending.push((name.clone(), inner.clone()));
            }
        }
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let name = format!("{name} {key}");
            assert!(property["description"].as_str().is_some_and(|about| about.len() > 5), "{name}");
            if let Some(default) = property.get("default") {
                assert!(
                    jsonschema::draft202012::options().build(property).unwrap().is_valid(default),
                    "{name}: {default}"
                );
            }
            described += 1;
            pending.push((name, property.clone()));
        }
    }
    assert!(described > 70, "only {described}");
    let expected = json!("50ms");
    assert_eq!(schema()["properties"]["reload"]["properties"]["quiet"]["default"], expected);
    assert!(validator.is_valid(&json!({})));
}
