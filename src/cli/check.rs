//! `lb check`: validates a configuration and reports all of its problems.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::fragment;
use super::output::{count, print_json, print_problems};
use crate::config::Config;
use crate::config::guard::guards;
use crate::config::notes::{Note, notes};
use crate::config::problem::Problem;
use crate::control::certificates::in_force::{FilesInForce, Replacement};
use crate::control::certificates::tls_state::tls_state;
use crate::control::gateway::log_file;
use crate::control::reload::reader::env;
use crate::control::reload::source::{LoadedConfig, Source, Sources};
use crate::control::upstream_tls::{self, PoolsTls};
use crate::live::tls::{self, TlsState};

/// The output format of `lb check` and `lb plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people: each problem with its line
    Text,
    /// One JSON object
    Json,
    /// Annotations for GitHub Actions
    Github,
}

/// Checks each of `files` (`-` is standard input) and the files that it includes, by itself, and writes the results to
/// `out`. With `place`, a file is read as if it were at that path. Returns whether all configurations are valid.
///
/// # Errors
/// Only if `out` cannot be written to.
pub fn check(
    files: &[PathBuf],
    place: Option<&Path>,
    format: CheckFormat,
    colored: bool,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let checks: Vec<CheckedConfig> = files.iter().map(|file| CheckedConfig::of(load_as(file, place))).collect();
    match (format, checks.as_slice()) {
        (CheckFormat::Json, [check]) => print_json(&check.json(), out)?,
        (CheckFormat::Json, checks) => print_json(&checks.iter().map(CheckedConfig::json).collect(), out)?,
        (_, checks) => checks.iter().try_for_each(|check| check.write(format, colored, out))?,
    }
    Ok(checks.iter().all(|check| check.result.is_ok()))
}

/// A configuration that was checked.
struct CheckedConfig {
    path: PathBuf,
    /// The files that were read.
    files: Vec<PathBuf>,
    result: Result<Config, Vec<Problem>>,
    notes: Vec<Note>,
}

impl CheckedConfig {
    fn of((source, LoadedConfig { sources, result }): (Source, LoadedConfig)) -> Self {
        let result = result.and_then(|config| {
            let mut problems = guards(&sources.files, None, &config);
            problems.extend(log_file::check(&config.log, &sources.files).err());
            problems.extend(upstream_tls::check(&config, &sources.files));
            let Replacement { files, missing, .. } =
                FilesInForce::default().replace(&sources.referenced, &sources.files);
            problems.extend(missing);
            if problems.is_empty() {
                let loaded = PoolsTls::load(&config, &files, &sources.files, &PoolsTls::default());
                problems.extend(loaded.err().into_iter().flatten());
            }
            if !problems.is_empty() {
                return Err(problems);
            }
            let tls = tls_state(&config, (&files, &sources.files), None)?;
            Ok((config, tls))
        });
        match result {
            Ok((config, tls)) => Self {
                notes: all_notes(&config, tls.as_deref(), &sources),
                path: source.path().to_owned(),
                files: sources.files.into_iter().map(|file| file.path).collect(),
                result: Ok(config),
            },
            Err(problems) => Self::invalid(source.path(), sources, problems),
        }
    }

    fn invalid(path: &Path, sources: Sources, problems: Vec<Problem>) -> Self {
        Self {
            notes: fragment::note(path, &sources).into_iter().collect(),
            path: path.to_owned(),
            files: sources.files.into_iter().map(|file| file.path).collect(),
            result: Err(problems),
        }
    }

    fn write(&self, format: CheckFormat, colored: bool, out: &mut dyn Write) -> io::Result<()> {
        match format {
            CheckFormat::Text => self.text(colored, out),
            CheckFormat::Json => print_json(&self.json(), out),
            CheckFormat::Github => self.github(out),
        }
    }

    fn text(&self, colored: bool, out: &mut dyn Write) -> io::Result<()> {
        let path = self.path.display();
        match &self.result {
            Ok(config) => {
                let files = count(self.files.len(), "file");
                writeln!(out, "{path}: valid ({}; {files})", summary(config))?;
            }
            Err(problems) => {
                print_problems(problems, colored, out)?;
                writeln!(out, "{path}: {}", count(problems.len(), "problem"))?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }

    fn json(&self) -> Value {
        let problems = self.result.as_ref().err().into_iter().flatten();
        json!({
            "file": self.path,
            "fine": self.result.is_ok(),
            "problems": problems.map(Problem::to_json).collect::<Vec<_>>(),
            "files": self.files,
            "notes": self.notes.iter().map(Note::to_string).collect::<Vec<_>>(),
        })
    }

    fn github(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut problems = self.result.as_ref().err().into_iter().flatten();
        problems.try_for_each(|problem| writeln!(out, "{}", problem.to_github()))?;
        self.notes.iter().try_for_each(|note| writeln!(out, "{}", note.to_github(&self.path, "lb check")))
    }
}

/// Reads the configuration at `path`; `-` is standard input.
pub(super) fn load(path: &Path) -> (Source, LoadedConfig) {
    load_as(path, None)
}

/// Reads the configuration at `path`; with `place`, as if it were at that path, where it may include other files.
pub(super) fn load_as(path: &Path, place: Option<&Path>) -> (Source, LoadedConfig) {
    let is_stdin = path == Path::new("-");
    let source = Source::new(place.unwrap_or(if is_stdin { Path::new("<stdin>") } else { path }));
    let sources = match (is_stdin, place) {
        (true, _) => source.read_from(io::stdin().lock(), &env),
        (false, None) => source.read(&env),
        (false, Some(_)) => {
            let copy = Source::new(path).read(&env);
            match copy.files.first() {
                Some(main) => source.read_from(&*main.bytes, &env),
                // It cannot be read.
                None => copy,
            }
        }
    };
    (source, sources.load(&env))
}

/// Writes the problems of the invalid configuration at `path`, as `lb check` does.
pub(super) fn print_invalid(
    (path, sources): (&Path, Sources),
    problems: Vec<Problem>,
    format: CheckFormat,
    colored: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    CheckedConfig::invalid(path, sources, problems).write(format, colored, out)
}

/// The notes about the configuration and the certificates that it refers to.
fn all_notes(config: &Config, tls: Option<&TlsState>, sources: &Sources) -> Vec<Note> {
    let certificates = tls::warnings(config, tls, SystemTime::now());
    notes(config, &sources.unmatched).into_iter().chain(certificates.into_iter().map(Note::new)).collect()
}

fn summary(config: &Config) -> String {
    let servers = config.pools.iter().map(|pool| pool.servers.len()).sum();
    format!(
        "{} in {}, {}, {}",
        count(servers, "server"),
        count(config.pools.len(), "pool"),
        count(config.routes.len(), "route"),
        count(config.listeners.len(), "listener")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\naddress = \"a:1\"\n";

    fn checked(text: &str, format: CheckFormat) -> (bool, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lb.toml");
        std::fs::write(&path, text).expect("write");
        let mut out = Vec::new();
        let is_valid = check(std::slice::from_ref(&path), None, format, false, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        (is_valid, text.replace(&path.display().to_string(), "lb.toml"))
    }

    #[test]
    fn a_valid_file_is_summarized() {
        let (is_valid, text) = checked(GOOD, CheckFormat::Text);
        assert!(is_valid);
        assert_eq!(text, "lb.toml: valid (1 server in 1 pool, 1 route, 1 listener; 1 file)\n");
        assert_eq!(checked(GOOD, CheckFormat::Github), (true, String::new()));
        let (_, text) = checked(GOOD, CheckFormat::Json);
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["fine"], true);
    }

    #[test]
    fn an_invalid_file_is_reported_in_each_format() {
        let bad = format!("{GOOD}wieght = 1\nenabled = 1\n");
        let (is_valid, text) = checked(&bad, CheckFormat::Text);
        assert!(!is_valid && text.contains("lb.toml:6:1") && text.ends_with("lb.toml: 2 problems\n"));
        let (_, text) = checked(&bad, CheckFormat::Github);
        assert!(text.starts_with("::error file=lb.toml,line=6,col=1,"), "{text}");
        assert_eq!(text.lines().count(), 2);
        let (_, text) = checked(&bad, CheckFormat::Json);
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["problems"][0]["line"], 6);
        assert_eq!(json["problems"][0]["hint"], "did you mean `weight`?");
    }

    #[test]
    fn a_file_without_an_enabled_server_is_invalid() {
        let off = format!("{GOOD}enabled = false\n");
        let (is_valid, text) = checked(&off, CheckFormat::Text);
        assert!(!is_valid && text.contains("has no enabled server"), "{text}");
    }
}
