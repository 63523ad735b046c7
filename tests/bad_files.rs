//! Compares the problems of each invalid file under `tests/bad/` with the text file beside it.
//!
//! After an intended change, `LB_BLESS=1 cargo test --test bad_files` rewrites the texts: review the diff.

use std::fs;
use std::path::{Path, PathBuf};

use lb::cli::check::{CheckFormat, check};

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir("tests/bad").expect("tests/bad");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    files.sort();
    files
}

fn run_check(file: &Path, format: CheckFormat) -> (bool, String) {
    let mut out = Vec::new();
    let valid = check(&[file.to_owned()], None, format, false, &mut out).expect("written");
    (valid, String::from_utf8(out).expect("text"))
}

#[test]
fn the_problems_of_each_file_are_as_reviewed() {
    let bless = std::env::var_os("LB_BLESS").is_some();
    let files = files();
    assert!(files.len() >= 25, "only {}", files.len());
    let mut differ = Vec::new();
    for file in files {
        let (valid, text) = run_check(&file, CheckFormat::Text);
        assert!(!valid, "{} is accepted", file.display());
        let expected = file.with_extension("txt");
        if bless {
            fs::write(&expected, &text).expect("write");
        } else if fs::read_to_string(&expected).ok().as_deref() != Some(text.as_str()) {
            differ.push(format!("{}:\n{text}", expected.display()));
        }
    }
    assert!(differ.is_empty(), "these differ:\n{}", differ.join("\n"));
}

#[test]
fn the_output_contains_no_control_characters() {
    for file in files() {
        for format in [CheckFormat::Text, CheckFormat::Json, CheckFormat::Github] {
            let (_, text) = run_check(&file, format);
            let bad = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(bad, None, "{}", file.display());
        }
    }
}

#[test]
fn each_annotation_is_one_line() {
    for file in files() {
        let (_, text) = run_check(&file, CheckFormat::Github);
        assert!(text.starts_with("::error file="), "{}: {text}", file.display());
        for line in text.lines() {
            let is_annotation = ["::error file=", "::warning file="].iter().any(|start| line.starts_with(start));
            assert!(is_annotation, "{}: {line}", file.display());
        }
    }
}
