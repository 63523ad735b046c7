//! The place of a key in the files, for problems that are found only when the configuration is put to use.

use std::path::PathBuf;

use super::report::Report;
use super::syntax;
use crate::config::file::tree::{Location, TomlKind, TomlTable};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;

/// A problem with the value of a key, given as its tables and its name. Where no file has the key, the problem is one of
/// the main file as a whole.
#[must_use]
pub fn problem_of(files: &[SourceFile], key: &[&str], reason: Reason) -> Problem {
    let report = Report::new(files);
    let roots = (0..files.len()).filter_map(|file| syntax::parse(&report, file));
    match roots.into_iter().find_map(|root| location(&root, key)) {
        Some(location) => report.problem(location, reason),
        None => Problem::of_file(files.first().map_or_else(PathBuf::new, |file| file.path.clone()), reason),
    }
}

fn location(table: &TomlTable<'_>, key: &[&str]) -> Option<Location> {
    let (first, rest) = key.split_first()?;
    let value = &table.get(first)?.value;
    match &value.kind {
        TomlKind::Table(table) if !rest.is_empty() => location(table, rest),
        _ => rest.is_empty().then_some(value.location),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_whichever_file_and_form_it_is() {
        let file = |path: &str, text: &str| SourceFile::new(path, text.as_bytes().to_vec());
        let files = [
            file("lb.toml", "include = [\"a.toml\"]\nproxy.workers = 1\nlog.level = \"info\"\n"),
            file("a.toml", "[log]\n  access = \"x\"\n"),
        ];
        for (key, place) in [
            (&["log", "access"][..], "a.toml:2:12: m"),
            (&["proxy", "workers"], "lb.toml:2:17: m"),
            (&["log", "access", "x"], "lb.toml: m"),
            (&["log", "absent"], "lb.toml: m"),
            (&["absent"], "lb.toml: m"),
        ] {
            assert_eq!(problem_of(&files, key, Reason::new("m")).to_string(), place);
        }
    }
}
