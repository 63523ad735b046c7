//! `lb check`: validates a configuration and reports all of its problems.

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use serde_json::json;

use super::output::{count, print_json, print_problems};
use crate::config::Config;
use crate::config::guard::guards;
use crate::config::problem::Problem;
use crate::control::reload::reader::env;
use crate::control::reload::source::{LoadedConfig, Source};

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

/// Checks the file at `path` (`-` is standard input) and the files that it includes, and writes the result to `out`.
/// Returns whether the configuration is valid.
///
/// # Errors
/// Only if `out` cannot be written to.
pub fn check(path: &Path, format: CheckFormat, colored: bool, out: &mut dyn Write) -> io::Result<bool> {
    let (source, loaded) = load(path);
    let result = loaded.result.and_then(|config| {
        let problems = guards(source.path(), None, &config);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    });
    match &result {
        Ok(config) => match format {
            CheckFormat::Text => writeln!(out, "{}: valid ({})", source.path().display(), summary(config))?,
            CheckFormat::Json => print_check_json(source.path(), &[], out)?,
            CheckFormat::Github => {}
        },
        Err(problems) => print_invalid(source.path(), problems, format, colored, out)?,
    }
    Ok(result.is_ok())
}

/// Reads the configuration at `path`; `-` is standard input.
pub(super) fn load(path: &Path) -> (Source, LoadedConfig) {
    if path == Path::new("-") {
        let source = Source::new("<stdin>");
        let sources = source.read_from(io::stdin().lock(), &env);
        return (source, sources.load(&env));
    }
    let source = Source::new(path);
    let sources = source.read(&env);
    (source, sources.load(&env))
}

/// Writes the problems of the invalid configuration at `path`.
pub(super) fn print_invalid(
    path: &Path,
    problems: &[Problem],
    format: CheckFormat,
    colored: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        CheckFormat::Text => {
            print_problems(problems, colored, out)?;
            writeln!(out, "{}: {}", path.display(), count(problems.len(), "problem"))
        }
        CheckFormat::Json => print_check_json(path, problems, out),
        CheckFormat::Github => problems.iter().try_for_each(|problem| writeln!(out, "{}", problem.to_github())),
    }
}

fn print_check_json(path: &Path, problems: &[Problem], out: &mut dyn Write) -> io::Result<()> {
    let shapes: Vec<_> = problems.iter().map(Problem::to_json).collect();
    print_json(&json!({"file": path, "fine": problems.is_empty(), "problems": shapes}), out)
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
        let is_valid = check(&path, format, false, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        (is_valid, text.replace(&path.display().to_string(), "lb.toml"))
    }

    #[test]
    fn a_valid_file_is_summarized() {
        let (is_valid, text) = checked(GOOD, CheckFormat::Text);
        assert!(is_valid);
        assert_eq!(text, "lb.toml: valid (1 server in 1 pool, 1 route, 1 listener)\n");
        assert_eq!(checked(GOOD, CheckFormat::Github), (true, String::new()));
        let (_, text) = checked(GOOD, CheckFormat::Json);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
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
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
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
