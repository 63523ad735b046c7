//! The last good configuration, kept in a directory: what a start falls back to when the file is bad or gone.
//!
//! One file holds the bytes of all, included ones too, so that it is whole or not there at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::ReloadConfig;
use crate::config::file::Env;
use crate::config::source::SourceFile;

/// Its name in the directory.
const NAME: &str = "last_good.json";
/// Names the directory for a file that is gone, or does not say.
const DIRECTORY: &str = "LB_STATE_DIR";

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The main file whose content it is, so that no other balancer starts from it.
    of: PathBuf,
    files: Vec<KeptFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    text: String,
}

/// The directory: the one that the configuration names, else that of the environment.
#[must_use]
pub fn directory(rules: &ReloadConfig, env: &Env<'_>) -> Option<PathBuf> {
    let named = rules.state_dir.clone();
    named.or_else(|| env(DIRECTORY).filter(|directory| !directory.is_empty()).map(PathBuf::from))
}

/// Keeps the files of a configuration, the main one first, in place of what was kept before.
///
/// # Errors
/// When the directory cannot be made or written to, or a path is no text; then what was kept stays.
pub fn keep(directory: &Path, files: &[SourceFile]) -> io::Result<()> {
    let Some(main) = files.first() else { return Ok(()) };
    let text = |file: &SourceFile| String::from_utf8(file.bytes.to_vec()).map_err(io::Error::other);
    let kept = |file: &SourceFile| Ok(KeptFile { path: file.path.clone(), text: text(file)? });
    let kept =
        Kept { of: std::path::absolute(&main.path)?, files: files.iter().map(kept).collect::<io::Result<Vec<_>>>()? };
    fs::create_dir_all(directory)?;
    let new = directory.join(format!("{NAME}.new"));
    let mut file = private().create(true).truncate(true).write(true).open(&new)?;
    serde_json::to_writer_pretty(&mut file, &kept)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(new, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

/// What was kept of the main file at `main`, if anything was.
///
/// # Errors
/// When it cannot be read.
pub fn find(directory: &Path, main: &Path) -> io::Result<Option<Vec<SourceFile>>> {
    let text = match fs::read(directory.join(NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let kept: Kept = serde_json::from_slice(&text)?;
    if kept.of != std::path::absolute(main)? {
        let of = kept.of.display();
        return Err(io::Error::other(format!("it is of {of}: give each balancer a directory of its own")));
    }
    Ok(Some(kept.files.into_iter().map(|file| SourceFile::new(file.path, file.text)).collect()))
}

/// A file may hold what is not for everybody, such as a password in a URL.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    #[test]
    fn what_is_kept_is_found_again_until_something_else_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("a/b");
        let main = Path::new("lb.toml");
        assert!(find(&place, main).expect("nothing yet").is_none());
        for texts in [&["x = 1\n"][..], &["# \"ü\"\r\n", ""], &["y"]] {
            let files: Vec<_> =
                [main, Path::new("conf.d/b.toml")].iter().zip(texts).map(|(p, t)| SourceFile::new(*p, *t)).collect();
            keep(&place, &files).expect("kept");
            assert_eq!(find(&place, main).expect("found"), Some(files));
        }
        assert!(find(&place, Path::new("other.toml")).expect_err("another's").to_string().contains("lb.toml"));
        keep(&place, &[SourceFile::new(main, b"\xff")]).expect_err("no text");
        assert_eq!(find(&place, main).expect("still there").map_or(0, |files| files.len()), 1);
        fs::write(place.join(NAME), "{").expect("write");
        find(&place, main).expect_err("half of it");
    }

    #[test]
    fn the_directory_is_told_by_a_bad_file_or_by_the_environment() {
        let directory =
            |text: &str, env: &Env<'_>| directory(&file::reload(&[SourceFile::new("lb.toml", text)], env), env);
        let unset = |_: &str| None;
        let set = |name: &str| (name == DIRECTORY).then(|| "/env".to_owned());
        let bad = "[reload]\nstate_dir = \"/file\"\nquiet = 1\n[[listner]]\n";
        assert_eq!(directory(bad, &set), Some("/file".into()));
        assert_eq!(directory("", &set), Some("/env".into()));
        assert_eq!(directory("[reload]\nstate_dir = \"\"\n", &unset), None);
        let none = file::reload(&[], &set);
        assert_eq!(crate::control::reload::last_good::directory(&none, &set), Some("/env".into()));
    }
}
