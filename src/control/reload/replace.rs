//! Writing a file that others read while it is written: replaced as a whole, or left as it is.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// How long another edit may take: it is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// How a file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Another file stands in its place, at once.
    Renamed,
    /// The same file has other content, and a reader may have seen half of it: it is a mount point,
    /// or no file can be made beside it, or none that belongs to the same user.
    InPlace,
}

/// Why a file was not written. It is as it was.
#[derive(Debug)]
pub enum ReplaceError {
    /// Somebody else has changed it meanwhile.
    Changed,
    /// Somebody else holds the lock and does not let go of it.
    Locked,
    /// The system does not let it be written.
    System(io::Error),
    /// It could not be written to its end, nor put back as it was.
    Torn(io::Error),
}

/// Held while the files of one configuration are read, edited and written, so that two edits come
/// one after the other. It is the kernel's: it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    /// The directory of the main file. A file of its own could be left behind, and the main file
    /// is another one after each edit.
    _directory: Option<File>,
}

impl Lock {
    /// Waits for the lock of the configuration at `path`. Where a file system has no locks there is none:
    /// what is written is compared all the same.
    ///
    /// # Errors
    /// When somebody else has it for longer than an edit takes.
    pub fn take(path: &Path) -> Result<Self, ReplaceError> {
        let target = fs::canonicalize(path).map_err(ReplaceError::System)?;
        let Ok(directory) = File::open(directory(&target)) else {
            return Ok(Self { _directory: None });
        };
        let begin = Instant::now();
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Self { _directory: Some(directory) }),
                Err(TryLockError::Error(_)) => return Ok(Self { _directory: None }),
                Err(TryLockError::WouldBlock) if begin.elapsed() > PATIENCE => return Err(ReplaceError::Locked),
                Err(TryLockError::WouldBlock) => std::thread::sleep(STEP),
            }
        }
    }
}

/// Puts `new` in place of `old` at `path`. A symbolic link stays one, and what it leads to is replaced; mode
/// and owner stay.
///
/// # Errors
/// When the content is not `old` any more, or it cannot be written. Then nothing is changed.
pub fn replace(path: &Path, old: &[u8], new: &[u8]) -> Result<Written, ReplaceError> {
    let target = fs::canonicalize(path).map_err(ReplaceError::System)?;
    match beside(&target, new) {
        Ok(file) => {
            still(&target, old)?;
            match file.persist(&target) {
                Ok(_) => {
                    // It is there, whether or not the directory's entry outlives a power failure.
                    let _ = File::open(directory(&target)).and_then(|directory| directory.sync_all());
                    Ok(Written::Renamed)
                }
                // The new file is removed as the error is dropped.
                Err(error) if is_mount_point(&error.error) => in_place(&target, old, new),
                Err(error) => Err(ReplaceError::System(error.error)),
            }
        }
        Err(error) if has_no_place(&error) => in_place(&target, old, new),
        Err(error) => Err(ReplaceError::System(error)),
    }
}

/// A complete file in the same directory, under a name that no glob and no editor takes for a configuration.
fn beside(target: &Path, new: &[u8]) -> io::Result<NamedTempFile> {
    let metadata = fs::metadata(target)?;
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".");
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".new").tempfile_in(directory(target))?;
    file.write_all(new)?;
    let made = file.as_file().metadata()?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    // After the owner, whose change takes some bits away.
    file.as_file().set_permissions(metadata.permissions())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes over the old content: what is longer first, so that the end is never missing for long.
fn in_place(target: &Path, old: &[u8], new: &[u8]) -> Result<Written, ReplaceError> {
    let mut file = OpenOptions::new().write(true).open(target).map_err(ReplaceError::System)?;
    still(target, old)?;
    let Err(error) = overwrite(&mut file, new) else {
        return Ok(Written::InPlace);
    };
    // The old content had its space already.
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

/// Refuses if the content is another one.
fn still(target: &Path, old: &[u8]) -> Result<(), ReplaceError> {
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

/// Whether no file can be made beside the old one, or none of its owner. Nor may one be renamed then.
fn has_no_place(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn directory(target: &Path) -> PathBuf {
    target.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

impl fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("somebody else has changed it meanwhile; nothing was written: try again"),
            Self::Locked => f.write_str("another edit does not come to its end; nothing was written: try again"),
            Self::System(error) => write!(f, "it cannot be written: {error}; it is as it was"),
            Self::Torn(error) => write!(f, "it could not be written to its end: {error}; mend it by hand"),
        }
    }
}

impl std::error::Error for ReplaceError {}

#[cfg(test)]
mod tests;
