//! The last good copy: the newest valid configuration in `reload.state_dir`, used by a start whose file is invalid
//! or missing.
//!
//! One file holds the content of all, included ones too, so that a copy is complete or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::config::ReloadConfig;
use crate::config::file::Env;
use crate::config::source::SourceFile;
use crate::control::reload::reader::env;

/// The copy's file name.
const NAME: &str = "last_good.json";
/// The environment variable that names the directory if the file is missing or does not.
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
#[must_use]
pub fn directory(config: &ReloadConfig, env: &Env<'_>) -> Option<PathBuf> {
    let configured = config.state_dir.clone();
    configured.or_else(|| env(DIRECTORY_VARIABLE).filter(|directory| !directory.is_empty()).map(PathBuf::from))
}

/// Replaces the copy by one of these files, of which the first is the main file.
///
/// # Errors
/// If the directory cannot be created or written to, or a file is not UTF-8. Then the old copy stays.
pub fn save(directory: &Path, files: &[SourceFile]) -> io::Result<()> {
    let Some(main) = files.first() else { return Ok(()) };
    let text = |file: &SourceFile| String::from_utf8(file.bytes.to_vec()).map_err(io::Error::other);
    let copy = |file: &SourceFile| Ok(ManifestFile { path: file.path.clone(), text: text(file)? });
    let files = files.iter().map(copy).collect::<io::Result<Vec<_>>>()?;
    let manifest = Manifest { main_file: std::path::absolute(&main.path)?, files };
    fs::create_dir_all(directory)?;
    let new = directory.join(format!("{NAME}.new"));
    let mut file = private().create(true).truncate(true).write(true).open(&new)?;
    serde_json::to_writer_pretty(&mut file, &manifest)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(new, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

/// Reads the copy of the main file at `main`, if there is one.
///
/// # Errors
/// If it cannot be read, or is another file's.
pub fn load(directory: &Path, main: &Path) -> io::Result<Option<Vec<SourceFile>>> {
    let text = match fs::read(directory.join(NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Manifest { main_file, files } = serde_json::from_slice(&text)?;
    if main_file != std::path::absolute(main)? {
        let main_file = main_file.display();
        return Err(io::Error::other(format!("it is a copy of {main_file}: give each balancer its own directory")));
    }
    Ok(Some(files.into_iter().map(|file| SourceFile::new(file.path, file.text)).collect()))
}

/// Saves copies in the background, one after the other, because a disk may be slow.
#[derive(Debug, Default)]
pub struct LastGoodCopy {
    /// The newest save, which waits for those before it.
    saving: Option<JoinHandle<()>>,
}

impl LastGoodCopy {
    /// Begins to save a copy of these files, if `config` or the environment names a directory.
    pub fn save(&mut self, config: &ReloadConfig, files: Vec<SourceFile>) {
        let Some(directory) = directory(config, &env) else { return };
        let previous = self.saving.take();
        self.saving = Some(tokio::spawn(async move {
            if let Some(previous) = previous {
                // It has logged its own error.
                let _ = previous.await;
            }
            let place = directory.clone();
            let saved = tokio::task::spawn_blocking(move || save(&place, &files)).await;
            if let Err(error) = saved.map_err(io::Error::other).flatten() {
                let directory = directory.display();
                tracing::error!(%directory, %error, "the last good copy cannot be saved; a start with an invalid file would fail");
            }
        }));
    }

    /// Waits until all copies have been saved, or could not be.
    pub async fn finish(self) {
        if let Some(saving) = self.saving {
            // It has logged its own error.
            let _ = saving.await;
        }
    }
}

/// Options for a file that only its owner may read, because a configuration may contain a secret, such as a
/// password in a URL.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
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
            save(&state, &files).expect("saved");
            assert_eq!(load(&state, main).expect("no error"), Some(files));
        }
        assert!(load(&state, Path::new("other.toml")).expect_err("another file's").to_string().contains("lb.toml"));
        save(&state, &[SourceFile::new(main, b"\xff")]).expect_err("not UTF-8");
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
