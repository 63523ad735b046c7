//! Replaces a file that other processes read at any time: atomically where possible, and only if it has not changed.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// The longest wait for the lock. An edit takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// How a file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Another file was renamed to its path, atomically.
    Renamed,
    /// The file itself was overwritten, and a reader may have seen a part of it. It is a mount point, or no file with
    /// the same owner can be created in its directory.
    InPlace,
}

/// Why a file was not written.
#[derive(Debug)]
pub enum ReplaceError {
    /// Another process has changed the file since it was read.
    Changed,
    /// Another process holds the lock.
    Locked,
    /// The file is unchanged.
    System(io::Error),
    /// Overwriting failed midway, and so did restoring the old contents.
    Torn(io::Error),
}

/// Held while the files of one configuration are read, edited and written, so that concurrent edits wait for each other.
/// It is a kernel lock, so it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    /// The directory of the main file is locked. A lock file could be left behind, and the main file is another one
    /// after each edit.
    _directory: Option<File>,
}

impl Lock {
    /// Waits for the lock of the configuration at `path`. On a file system without locks there is none; [`replace`] still
    /// detects changes.
    ///
    /// # Errors
    /// If another process holds it for much longer than an edit takes.
    pub fn take(path: &Path) -> Result<Self, ReplaceError> {
        let target = fs::canonicalize(path).map_err(ReplaceError::System)?;
        let Ok(directory) = File::open(directory(&target)) else {
            return Ok(Self { _directory: None });
        };
        let start = Instant::now();
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Self { _directory: Some(directory) }),
                Err(TryLockError::Error(_)) => return Ok(Self { _directory: None }),
                Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_TIMEOUT => return Err(ReplaceError::Locked),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
            }
        }
    }
}

/// Replaces the contents `old` of the file at `path` with `new`. Follows symbolic links and keeps them; keeps mode and
/// owner.
///
/// # Errors
/// If the contents are not `old` any more or the file cannot be written. It is unchanged then, except after
/// [`ReplaceError::Torn`].
pub fn replace(path: &Path, old: &[u8], new: &[u8]) -> Result<Written, ReplaceError> {
    let target = fs::canonicalize(path).map_err(ReplaceError::System)?;
    match new_file(&target, new) {
        Ok(file) => {
            check_unchanged(&target, old)?;
            match file.persist(&target) {
                Ok(_) => {
                    // The file is replaced even if the directory's entry might not survive a power failure.
                    let _ = File::open(directory(&target)).and_then(|directory| directory.sync_all());
                    Ok(Written::Renamed)
                }
                // Dropping the error removes the new file.
                Err(error) if is_mount_point(&error.error) => in_place(&target, old, new),
                Err(error) => Err(ReplaceError::System(error.error)),
            }
        }
        Err(error) if cannot_create(&error) => in_place(&target, old, new),
        Err(error) => Err(ReplaceError::System(error)),
    }
}

/// A complete file in the same directory, whose name no glob and no editor takes for a configuration.
fn new_file(target: &Path, new: &[u8]) -> io::Result<NamedTempFile> {
    let metadata = fs::metadata(target)?;
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".");
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".new").tempfile_in(directory(target))?;
    file.write_all(new)?;
    let created = file.as_file().metadata()?;
    if (created.uid(), created.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    // After the owner, because changing that clears some mode bits.
    file.as_file().set_permissions(metadata.permissions())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Overwrites the old contents and truncates last, so that the file is never empty.
fn in_place(target: &Path, old: &[u8], new: &[u8]) -> Result<Written, ReplaceError> {
    let mut file = OpenOptions::new().write(true).open(target).map_err(ReplaceError::System)?;
    check_unchanged(target, old)?;
    let Err(error) = overwrite(&mut file, new) else {
        return Ok(Written::InPlace);
    };
    // There was space for the old contents.
    match io::Seek::rewind(&mut file).and_then(|()| overwrite(&mut file, old)) {
        Ok(()) => Err(ReplaceError::System(error)),
        Err(_) => Err(ReplaceError::Torn(error)),
    }
}

fn overwrite(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// Fails if the file does not have the contents `old`.
fn check_unchanged(target: &Path, old: &[u8]) -> Result<(), ReplaceError> {
    match fs::read(target) {
        Ok(bytes) if bytes == old => Ok(()),
        Ok(_) => Err(ReplaceError::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReplaceError::Changed),
        Err(error) => Err(ReplaceError::System(error)),
    }
}

fn is_mount_point(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices)
}

/// Whether no file can be created in the directory, or none with the same owner. Renaming would fail too.
fn cannot_create(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn directory(target: &Path) -> PathBuf {
    target.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

impl fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("the file was changed by another process; nothing was written, try again"),
            Self::Locked => f.write_str("another edit is still in progress; nothing was written, try again"),
            Self::System(error) => write!(f, "cannot write the file: {error}; it is unchanged"),
            Self::Torn(error) => write!(f, "writing failed midway: {error}; the file is damaged, restore it by hand"),
        }
    }
}

impl std::error::Error for ReplaceError {}

#[cfg(test)]
mod tests;
