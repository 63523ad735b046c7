//! `lb check`: whether a configuration could be started with, and if not, everything that is wrong.

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use serde_json::json;

use crate::config::Config;
use crate::config::guard::guards;
use crate::config::problem::Problem;
use crate::control::reload::reader::env;
use crate::control::reload::source::{Loaded, Source};

/// Who reads the answer of `lb check` and `lb plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// People: each problem with its line, in colour if asked for.
    Text,
    /// Programs: one object.
    Json,
    /// GitHub Actions: annotations beside the lines.
    Github,
}

/// Checks the file at `path` (`-` is standard input), with what it includes, and writes the answer to
/// `out`. Whether it is fine.
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
            CheckFormat::Text => writeln!(out, "{}: fine ({})", source.path().display(), summary(config))?,
            CheckFormat::Json => verdict(source.path(), &[], out)?,
            CheckFormat::Github => {}
        },
        Err(problems) => refused(source.path(), problems, format, colored, out)?,
    }
    Ok(result.is_ok())
}

/// Reads the configuration at `path`, which may be `-` for standard input.
pub(super) fn load(path: &Path) -> (Source, Loaded) {
    if path == Path::new("-") {
        let source = Source::new("<stdin>");
        let sources = source.read_from(io::stdin().lock(), &env);
        return (source, sources.load(&env));
    }
    let source = Source::new(path);
    let sources = source.read(&env);
    (source, sources.load(&env))
}

/// Writes what is wrong with the file at `path`.
pub(super) fn refused(
    path: &Path,
    problems: &[Problem],
    format: CheckFormat,
    colored: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        CheckFormat::Text => {
            pictures(problems, colored, out)?;
            writeln!(out, "{}: {}", path.display(), count(problems.len(), "problem"))
        }
        CheckFormat::Json => verdict(path, problems, out),
        CheckFormat::Github => problems.iter().try_for_each(|problem| writeln!(out, "{}", problem.to_github())),
    }
}

fn verdict(path: &Path, problems: &[Problem], out: &mut dyn Write) -> io::Result<()> {
    let told: Vec<_> = problems.iter().map(Problem::json).collect();
    json(&json!({"file": path, "fine": problems.is_empty(), "problems": told}), out)
}

/// Writes a value for programs, and for who looks over their shoulder.
pub(super) fn json(value: &serde_json::Value, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Writes each problem with its line, a blank line after it.
pub(super) fn pictures(problems: &[Problem], colored: bool, out: &mut dyn Write) -> io::Result<()> {
    problems.iter().try_for_each(|problem| writeln!(out, "{}\n", problem.to_text(colored)))
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

/// `3 servers`
pub(super) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
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
        let fine = check(&path, format, false, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        (fine, text.replace(&path.display().to_string(), "lb.toml"))
    }

    #[test]
    fn a_fine_file_is_summed_up() {
        let (fine, text) = checked(GOOD, CheckFormat::Text);
        assert!(fine);
        assert_eq!(text, "lb.toml: fine (1 server in 1 pool, 1 route, 1 listener)\n");
        assert_eq!(checked(GOOD, CheckFormat::Github), (true, String::new()));
        let (_, text) = checked(GOOD, CheckFormat::Json);
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["fine"], true);
    }

    #[test]
    fn a_bad_one_is_told_in_each_form() {
        let bad = format!("{GOOD}wieght = 1\nenabled = 1\n");
        let (fine, text) = checked(&bad, CheckFormat::Text);
        assert!(!fine && text.contains("lb.toml:6:1") && text.ends_with("lb.toml: 2 problems\n"));
        let (_, text) = checked(&bad, CheckFormat::Github);
        assert!(text.starts_with("::error file=lb.toml,line=6,col=1,"), "{text}");
        assert_eq!(text.lines().count(), 2);
        let (_, text) = checked(&bad, CheckFormat::Json);
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["problems"][0]["line"], 6);
        assert_eq!(answer["problems"][0]["hint"], "did you mean `weight`?");
    }

    #[test]
    fn a_start_without_an_enabled_server_is_not_fine() {
        let off = format!("{GOOD}enabled = false\n");
        let (fine, text) = checked(&off, CheckFormat::Text);
        assert!(!fine && text.contains("has no enabled server"), "{text}");
    }
}
