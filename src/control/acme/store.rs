//! The files in `acme.state_dir`:
//!
//! ```text
//! lock                                   locked by the replica that orders
//! accounts/SERVER.json                   the account's key and URL
//! certificates/FIRST-NAME/fullchain.pem  like those of any user
//! certificates/FIRST-NAME/privkey.pem
//! certificates/FIRST-NAME/issuer.json    the directory that has issued them
//! challenges/http-01/TOKEN               while a challenge is pending
//! challenges/tls-alpn-01/NAME
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::pair::IssuedPair;
use crate::config::acme::{ACME_CHAIN as CHAIN, ACME_KEY as KEY};
use crate::config::{AcmeChallenge, AcmeConfig};

const ISSUER: &str = "issuer.json";

/// Only the owner may read keys.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// The state directory. Its methods block.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
}

/// Held by the replica that orders. It is a kernel lock, so it ends with the process, however that ends.
#[derive(Debug)]
pub(super) struct Leadership {
    _file: File,
}

/// A pending challenge in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChallengeFile {
    pub(super) kind: AcmeChallenge,
    /// The token of an HTTP challenge, the name of a TLS challenge.
    pub(super) name: String,
    pub(super) key_authorization: String,
}

/// An account and the mail address that the server knows.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAccount {
    pub(super) email: Option<String>,
    pub(super) credentials: AccountCredentials,
}

#[derive(Serialize, Deserialize)]
struct Issuer {
    directory: String,
}

impl Store {
    pub(super) fn new(config: &AcmeConfig) -> Self {
        Self { root: config.state_dir.full_path() }
    }

    /// Creates the directory and takes the lock of the replica that orders. `None` if another one has it.
    ///
    /// # Errors
    /// If the directory cannot be created, or its file system has no locks.
    pub(super) fn lead(&self) -> io::Result<Option<Leadership>> {
        create_directory(&self.root)?;
        let path = self.root.join("lock");
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(FILE_MODE).open(&path);
        let file = file.map_err(|error| at(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Leadership { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                let path = path.display();
                Err(io::Error::new(
                    error.kind(),
                    format!("{path} cannot be locked: {error}; use a directory on a file system with locks"),
                ))
            }
        }
    }

    /// The account at the server of this directory, if there is one.
    pub(super) fn account(&self, directory: &str) -> io::Result<Option<StoredAccount>> {
        let path = self.account_path(directory);
        let Some(text) = read(&path)? else { return Ok(None) };
        let damaged = |error| io::Error::other(format!("{} is damaged: {error}", path.display()));
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }

    pub(super) fn save_account(&self, directory: &str, account: &StoredAccount) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(account)?;
        text.push(b'\n');
        write_file(&self.account_path(directory), &text)
    }

    /// Puts an account aside that the server does not know any more.
    pub(super) fn retire_account(&self, directory: &str) -> io::Result<()> {
        let path = self.account_path(directory);
        fs::rename(&path, path.with_extension("json.old")).map_err(|error| at(&path, &error))
    }

    fn account_path(&self, directory: &str) -> PathBuf {
        self.root.join("accounts").join(format!("{}.json", file_name(directory)))
    }

    /// The certificate of this first name, and whether the server of `directory` has issued it. `Ok(None)` if there is none
    /// that can be used.
    pub(super) fn pair(&self, first_name: &str, directory: &str) -> io::Result<Option<(IssuedPair, bool)>> {
        let path = self.certificate_path(first_name);
        let Some(pair) = self.read_pair(&path)? else { return Ok(None) };
        let issuer = read(&path.join(ISSUER))?.and_then(|text| serde_json::from_str::<Issuer>(&text).ok());
        Ok(Some((pair, issuer.is_some_and(|issuer| issuer.directory == directory))))
    }

    fn read_pair(&self, path: &Path) -> io::Result<Option<IssuedPair>> {
        let load = || -> io::Result<Option<IssuedPair>> {
            let (Some(chain), Some(key)) = (read(&path.join(CHAIN))?, read(&path.join(KEY))?) else { return Ok(None) };
            Ok(IssuedPair::parse(&chain, &key).ok())
        };
        let Some(pair) = load()? else {
            // A replacement may have ended midway.
            return if self.finish_replacement(path)? { load() } else { Ok(None) };
        };
        Ok(Some(pair))
    }

    /// Whether there was something left to do.
    fn finish_replacement(&self, path: &Path) -> io::Result<bool> {
        let (Some(chain), key) = (read(&new_path(&path.join(CHAIN)))?, path.join(KEY)) else { return Ok(false) };
        let new_key = read(&new_path(&key))?;
        let Some(matching) = new_key.as_ref().map_or_else(|| read(&key), |key| Ok(Some(key.clone())))? else {
            return Ok(false);
        };
        if IssuedPair::parse(&chain, &matching).is_err() {
            return Ok(false);
        }
        if new_key.is_some() {
            fs::rename(new_path(&key), &key)?;
        }
        fs::rename(new_path(&path.join(CHAIN)), path.join(CHAIN))?;
        Ok(true)
    }

    /// Replaces a certificate and its key. Both are complete beside the old ones before either is replaced, and a reader
    /// that sees only one of them replaced sees that they do not belong together.
    pub(super) fn save_pair(&self, first_name: &str, chain: &str, key: &str, directory: &str) -> io::Result<()> {
        let path = self.certificate_path(first_name);
        create_directory(&path)?;
        for (name, text) in [(KEY, key), (CHAIN, chain)] {
            write_synced(&new_path(&path.join(name)), text.as_bytes())?;
        }
        for name in [KEY, CHAIN] {
            let target = path.join(name);
            fs::rename(new_path(&target), &target).map_err(|error| at(&target, &error))?;
        }
        sync_directory(&path)?;
        let issuer = serde_json::to_vec(&Issuer { directory: directory.to_owned() })?;
        write_file(&path.join(ISSUER), &issuer)
    }

    fn certificate_path(&self, first_name: &str) -> PathBuf {
        self.root.join("certificates").join(first_name)
    }

    pub(super) fn publish(&self, challenge: &ChallengeFile) -> io::Result<()> {
        write_file(&self.challenge_path(challenge.kind, &challenge.name), challenge.key_authorization.as_bytes())
    }

    pub(super) fn withdraw(&self, challenge: &ChallengeFile) {
        // If it stays, the next leader removes it.
        let _ = fs::remove_file(self.challenge_path(challenge.kind, &challenge.name));
    }

    /// Removes what an earlier process has left behind.
    pub(super) fn withdraw_all(&self) -> io::Result<()> {
        self.challenges()?.iter().for_each(|challenge| self.withdraw(challenge));
        Ok(())
    }

    /// The pending challenges of all replicas.
    pub(super) fn challenges(&self) -> io::Result<Vec<ChallengeFile>> {
        let mut found = Vec::new();
        for kind in [AcmeChallenge::Http, AcmeChallenge::TlsAlpn] {
            let path = self.challenge_dir(kind);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&path, &error)),
            };
            for entry in entries {
                let name = entry?.file_name().into_string().unwrap_or_default();
                // Neither ours nor complete.
                if name.starts_with('.') {
                    continue;
                }
                if let Some(key_authorization) = read(&path.join(&name))? {
                    found.push(ChallengeFile { kind, name, key_authorization });
                }
            }
        }
        Ok(found)
    }

    fn challenge_dir(&self, kind: AcmeChallenge) -> PathBuf {
        self.root.join("challenges").join(kind.as_str())
    }

    fn challenge_path(&self, kind: AcmeChallenge, name: &str) -> PathBuf {
        self.challenge_dir(kind).join(name)
    }
}

/// The URL of a directory as the name of a file that people recognise.
fn file_name(directory: &str) -> String {
    let address = directory.split_once("://").map_or(directory, |(_, address)| address);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    let name: String = address.chars().map(plain).take(150).collect();
    name.trim_matches(['-', '.']).to_owned()
}

fn new_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// The content of a text file; `None` if it does not exist.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, &error)),
    }
}

/// Replaces a file, so that it has the old or the new content after a crash at any time.
fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    create_directory(directory)?;
    let write = || {
        // Only the owner may read it.
        let mut file = NamedTempFile::with_prefix_in(".lb-", directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_directory(directory)
    };
    write().map_err(|error| at(path, &error))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let write = || {
        // A leftover may have another mode.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| at(path, &error))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn create_directory(path: &Path) -> io::Result<()> {
    let created = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    created.map_err(|error| match path.exists() {
        true => io::Error::other(format!("{} is not a directory", path.display())),
        false => at(path, &error),
    })
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::FilePath;

    const DIRECTORY: &str = "https://acme.example:14000/dir";

    fn store(root: &Path) -> Store {
        let state_dir = FilePath { path: "acme".into(), base: root.to_owned() };
        Store::new(&AcmeConfig { state_dir, ..AcmeConfig::default() })
    }

    fn issued(name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    fn modes(path: &Path) -> Vec<(PathBuf, u32)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            let metadata = fs::metadata(&entry).expect("metadata");
            if metadata.is_dir() {
                found.extend(modes(&entry));
            }
            found.push((entry, metadata.permissions().mode() & 0o777));
        }
        found
    }

    #[test]
    fn one_replica_leads_and_another_one_follows_it() {
        let root = tempfile::tempdir().expect("a directory");
        let (first, second) = (store(root.path()), store(root.path()));
        let leader = first.lead().expect("no error").expect("the lock");
        assert!(second.lead().expect("no error").is_none());
        drop(leader);
        assert!(second.lead().expect("no error").is_some());
    }

    #[test]
    fn nobody_else_can_read_what_is_kept() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store(root.path());
        let _leader = store.lead().expect("no error");
        let (chain, key) = issued("a.example");
        store.save_pair("a.example", &chain, &key, DIRECTORY).expect("saved");
        let challenge = ChallengeFile {
            kind: AcmeChallenge::Http,
            name: "token".to_owned(),
            key_authorization: "token.thumb".to_owned(),
        };
        store.publish(&challenge).expect("published");
        let found = modes(root.path());
        assert!(found.len() > 8, "{found:?}");
        for (path, mode) in found {
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
        assert_eq!(store.challenges().expect("no error"), [challenge]);
        store.withdraw_all().expect("no error");
        assert_eq!(store.challenges().expect("no error"), []);
    }

    #[test]
    fn a_pair_is_replaced_as_a_whole_whenever_the_process_ends() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store(root.path());
        let read = || store.pair("a.example", DIRECTORY).expect("no error");
        assert_eq!(read(), None);
        let old = issued("a.example");
        store.save_pair("a.example", &old.0, &old.1, DIRECTORY).expect("saved");
        let before = read().expect("a pair");
        assert!(before.1);
        assert!(!store.pair("a.example", "https://other.example/").expect("no error").expect("a pair").1);

        let new = issued("a.example");
        let path = store.certificate_path("a.example");
        // Neither, or only one of the new files is complete.
        write_synced(&path.join("privkey.pem.new"), new.1.as_bytes()).expect("written");
        assert_eq!(read(), Some(before.clone()));
        write_synced(&path.join("fullchain.pem.new"), &new.0.as_bytes()[..100]).expect("written");
        assert_eq!(read(), Some(before));
        // Both are, and one is in place.
        write_synced(&path.join("fullchain.pem.new"), new.0.as_bytes()).expect("written");
        fs::rename(path.join("privkey.pem.new"), path.join(KEY)).expect("renamed");
        let after = read().expect("a pair").0;
        assert_eq!(after, IssuedPair::parse(&new.0, &new.1).expect("a pair"));
        assert!(!path.join("fullchain.pem.new").exists());
    }

    #[test]
    fn the_name_of_an_account_is_recognisable_and_stays_in_its_directory() {
        for (directory, name) in [
            ("https://acme-v02.api.letsencrypt.org/directory", "acme-v02.api.letsencrypt.org-directory"),
            ("https://127.0.0.1:14000/dir", "127.0.0.1-14000-dir"),
            ("https://a/../../b", "a-..-..-b"),
            ("https://../x", "x"),
        ] {
            assert_eq!(file_name(directory), name);
        }
    }
}
