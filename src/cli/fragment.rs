//! Finds out whether a file is only a part of a configuration, and which file includes it: for commands that find it invalid.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::notes::Note;
use crate::control::reload::reader::env;
use crate::control::reload::source::{Source, Sources};

/// How many files are looked at for an `include`.
const CANDIDATES: usize = 100;
/// Larger files are not looked at.
const MAX_BYTES: u64 = 1 << 20;

/// The note that the file at `path`, of which `sources` were read, has no listener and so may be a part.
pub(super) fn note(path: &Path, sources: &Sources) -> Option<Note> {
    let keys = |bytes: &[u8]| toml::from_str::<toml::Table>(std::str::from_utf8(bytes).ok()?).ok();
    let mut tables = sources.files.iter().map(|file| keys(&file.bytes));
    // A file that cannot be read or parsed may have one.
    let has_listener = tables.any(|table| table.is_none_or(|table| table.is_empty() || table.contains_key("listener")));
    if has_listener || sources.files.is_empty() {
        return None;
    }
    let shown = path.display();
    Some(Note::new(match including(path) {
        Some(main) => {
            let main = main.display();
            format!("{shown} is only a part of a configuration: {main} includes it; name {main} instead")
        }
        None => format!("{shown} has no [[listener]]. If another file includes it, name that one instead"),
    }))
}

/// The file in the same directory or the one above that includes the file at `path`.
fn including(path: &Path) -> Option<PathBuf> {
    let own = fs::canonicalize(path).ok()?;
    let same = path.parent()?.to_owned();
    // `.` has no parent, and `..` is not above `conf.d/..`.
    let above = if same.as_os_str().is_empty() { PathBuf::from("..") } else { same.parent()?.to_owned() };
    let mut candidates: Vec<PathBuf> = [same, above].iter().flat_map(|directory| candidates(directory)).collect();
    // The usual name first.
    candidates.sort_by_key(|candidate| !candidate.ends_with("lb.toml"));
    candidates.truncate(CANDIDATES);
    let is_own = |file: &Path| fs::canonicalize(file).is_ok_and(|file| file == own);
    candidates.into_iter().find(|candidate| {
        let included = Source::new(candidate).read(&env).files;
        !is_own(candidate) && included.iter().skip(1).any(|file| is_own(&file.path))
    })
}

/// The configurations in a directory, by name.
fn candidates(directory: &Path) -> Vec<PathBuf> {
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let is_small = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|data| data.is_file() && data.len() <= MAX_BYTES);
    let entries = fs::read_dir(listed).into_iter().flatten().filter_map(Result::ok).filter(is_small);
    let mut paths: Vec<PathBuf> = entries.map(|entry| directory.join(entry.file_name())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}
