//! The last good copy: the newest valid configuration in `reload.state_dir`, used by a start whose file is invalid
//! or missing.
//!
//! One file holds the content of all, included ones too, so that a copy is complete or absent. The directory must be
//! found without the file that names it, because that file may be cut off: see `last_good/pointer.rs`.

mod pointer;
mod saver;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::config::ReloadConfig;
use crate::config::file::{self, Env};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::control::reload::source::Sources;

pub use saver::LastGoodCopy;

/// The copy's file name.
const NAME: &str = "last_good.json";
/// The environment variable that names the directory if the file does not.
const DIRECTORY_VARIABLE: &str = "LB_STATE_DIR";

/// The content of the copy.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The main file that this is a copy of, so that no other balancer starts from it.
    #[serde(rename = "of")]
    main_file: PathBuf,
    /// The main file first.
    files: Vec<ManifestFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ManifestFile {
    path: PathBuf,
    text: String,
}

/// The directory from the configuration, else from the environment.
fn directory(config: &ReloadConfig, env: &Env<'_>) -> Option<PathBuf> {
    config.state_dir.clone().or_else(|| from_environment(env))
}

fn from_environment(env: &Env<'_>) -> Option<PathBuf> {
    env(DIRECTORY_VARIABLE).filter(|directory| !directory.is_empty()).map(PathBuf::from)
}

/// The directories that may have the copy of a main file that is invalid, the most likely first: where the newest copy
/// was saved, what can still be read in the file, and the environment.
fn directories(main: &Path, files: &Sources, env: &Env<'_>) -> Vec<PathBuf> {
    let configured = file::reload(&files.files, env).state_dir;
    let mut directories: Vec<PathBuf> = Vec::new();
    let named = [pointer::read(main), configured, from_environment(env)].into_iter().flatten();
    for directory in named.filter_map(|directory| std::path::absolute(directory).ok()) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// Finds the copy of the main file at `main`, which is invalid or missing, and passes its files to `load`. Returns the
/// first result that is good.
///
/// # Errors
/// Why no copy can be used; nothing if there is none.
pub fn recover<T>(
    main: &Path,
    files: &Sources,
    env: &Env<'_>,
    mut start: impl FnMut(Vec<SourceFile>) -> Result<T, Vec<Problem>>,
) -> Result<T, Vec<Problem>> {
    let mut problems = Vec::new();
    for directory in directories(main, files, env) {
        match load(&directory, main) {
            Ok(None) => {}
            Ok(Some(files)) => match start(files) {
                Ok(started) => return Ok(started),
                Err(more) => problems.extend(more),
            },
            Err(error) => {
                let reason = Reason::new(format!("the last good copy cannot be used: {error}"));
                problems.push(Problem::of_file(directory.join(NAME), reason));
            }
        }
    }
    Err(problems)
}

/// Replaces the copy by one of these files, of which the first is the main file, which is at `main`.
///
/// # Errors
/// If the directory cannot be created or written to, has the copy of another file that still exists, or a file is not
/// UTF-8. Then the old copy stays.
fn save(directory: &Path, main: &Path, files: &[SourceFile]) -> io::Result<()> {
    let main_file = std::path::absolute(main)?;
    if let Ok(Some(Manifest { main_file: other, .. })) = read(directory)
        && other != main_file
        && other.exists()
    {
        return Err(not_ours(&other));
    }
    let text = |file: &SourceFile| String::from_utf8(file.bytes.to_vec()).map_err(io::Error::other);
    let copy = |file: &SourceFile| Ok(ManifestFile { path: file.path.clone(), text: text(file)? });
    let files = files.iter().map(copy).collect::<io::Result<Vec<_>>>()?;
    let mut text = serde_json::to_vec_pretty(&Manifest { main_file, files })?;
    text.push(b'\n');
    fs::create_dir_all(directory).map_err(|error| match directory.exists() {
        true => io::Error::other("it is not a directory"),
        false => error,
    })?;
    write_new(&directory.join(NAME), &text)
}

/// Reads the copy of the main file at `main`, if there is one.
///
/// # Errors
/// If it cannot be read, or is another file's.
fn load(directory: &Path, main: &Path) -> io::Result<Option<Vec<SourceFile>>> {
    let Some(Manifest { main_file, files }) = read(directory)? else { return Ok(None) };
    if main_file != std::path::absolute(main)? {
        return Err(not_ours(&main_file));
    }
    Ok(Some(files.into_iter().map(|file| SourceFile::new(file.path, file.text)).collect()))
}

fn read(directory: &Path) -> io::Result<Option<Manifest>> {
    let text = match fs::read(directory.join(NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = |error: serde_json::Error| io::Error::other(format!("it is damaged: {error}"));
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

fn not_ours(main_file: &Path) -> io::Error {
    let main_file = main_file.display();
    io::Error::other(format!("it is a copy of {main_file}: give each balancer its own directory"))
}

/// Replaces the file at `path` such that it has the old or the new content after a crash at any time. Only its owner
/// may read it, because a configuration may contain a secret, such as a password in a URL.
fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    // Its name is unique, so that two processes that share the directory do not write into one file.
    let mut file = NamedTempFile::with_prefix_in(".lb-", directory)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    #[test]
    fn a_copy_is_complete_and_stays_until_a_newer_one_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("a/b");
        let main = Path::new("lb.toml");
        assert!(load(&state, main).expect("no error").is_none());
        for texts in [&["x = 1\n"][..], &["# \"ü\"\r\n", ""], &["y"]] {
            let files: Vec<_> =
                [main, Path::new("conf.d/b.toml")].iter().zip(texts).map(|(p, t)| SourceFile::new(*p, *t)).collect();
            save(&state, main, &files).expect("saved");
            assert_eq!(load(&state, main).expect("no error"), Some(files));
        }
        assert!(load(&state, Path::new("other.toml")).expect_err("another file's").to_string().contains("lb.toml"));
        save(&state, main, &[SourceFile::new(main, b"\xff")]).expect_err("not UTF-8");
        assert_eq!(load(&state, main).expect("still there").map_or(0, |files| files.len()), 1);
        fs::write(state.join(NAME), "{").expect("write");
        load(&state, main).expect_err("half a copy");
    }

    #[test]
    fn the_directory_is_found_in_an_invalid_file_or_in_the_environment() {
        let directory =
            |text: &str, env: &Env<'_>| directory(&file::reload(&[SourceFile::new("lb.toml", text)], env), env);
        let unset = |_: &str| None;
        let set = |name: &str| (name == DIRECTORY_VARIABLE).then(|| "/env".to_owned());
        let invalid = "[reload]\nstate_dir = \"/file\"\nquiet = 1\n[[listner]]\n";
        assert_eq!(directory(invalid, &set), Some("/file".into()));
        assert_eq!(directory("", &set), Some("/env".into()));
        assert_eq!(directory("[reload]\nstate_dir = \"\"\n", &unset), None);
        let none = file::reload(&[], &set);
        assert_eq!(crate::control::reload::last_good::directory(&none, &set), Some("/env".into()));
    }
}
