//! What people are told about each bad file under `tests/bad/`, compared with the text beside it.
//!
//! After a wanted change, `LB_BLESS=1 cargo test --test bad_files` writes the texts anew: read them
//! in the diff.

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

fn told(file: &Path, format: CheckFormat) -> (bool, String) {
    let mut out = Vec::new();
    let fine = check(file, format, false, &mut out).expect("written");
    (fine, String::from_utf8(out).expect("text"))
}

#[test]
fn each_bad_file_is_told_as_it_was_reviewed() {
    let bless = std::env::var_os("LB_BLESS").is_some();
    let files = files();
    assert!(files.len() >= 25, "only {}", files.len());
    let mut differ = Vec::new();
    for file in files {
        let (fine, text) = told(&file, CheckFormat::Text);
        assert!(!fine, "{} is accepted", file.display());
        let expected = file.with_extension("txt");
        if bless {
            fs::write(&expected, &text).expect("write");
        } else if fs::read_to_string(&expected).ok().as_deref() != Some(text.as_str()) {
            differ.push(format!("{}:\n{text}", expected.display()));
        }
    }
    assert!(differ.is_empty(), "told otherwise:\n{}", differ.join("\n"));
}

#[test]
fn nothing_told_can_move_the_cursor() {
    for file in files() {
        for format in [CheckFormat::Text, CheckFormat::Json, CheckFormat::Github] {
            let (_, text) = told(&file, format);
            let bad = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(bad, None, "{}", file.display());
        }
    }
}

#[test]
fn annotations_are_one_line_each() {
    for file in files() {
        let (_, text) = told(&file, CheckFormat::Github);
        assert!(!text.is_empty());
        for line in text.lines() {
            assert!(line.starts_with("::error file="), "{}: {line}", file.display());
        }
    }
}
