//! A file of the access log, which follows its path: after somebody has renamed or removed the file, as for rotation,
//! the next lines go to a new one.
//!
//! Lines are appended, so that several processes can share a file, and so that a file that is copied and then
//! truncated starts again at its beginning.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The mode of a new file: access logs are not for everybody.
const MODE: u32 = 0o640;

/// An open file.
#[derive(Debug)]
pub(super) struct AccessLogFile {
    path: PathBuf,
    file: File,
    /// Its device and inode.
    identity: (u64, u64),
    /// Whether a write has failed, so that the file is opened again: a new one, or the other end of a pipe, may work.
    failed: bool,
    /// The length that the file had after a write that failed.
    failed_at: Option<u64>,
    /// Whether the log says that the file cannot be opened again.
    warned: bool,
}

/// The file that the next lines go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Followed {
    /// The same, and nobody else has changed its end since a write failed.
    Same,
    /// Another, or one with another end.
    Changed,
}

impl AccessLogFile {
    /// Opens the file at `path`, and creates it if there is none.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path, MODE)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { path, file, identity, failed: false, failed_at: None, warned: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file again if the path leads to another one, or to none; with `requested` in any case.
    ///
    /// # Errors
    /// If that is not possible and the open file has been removed. Otherwise, lines still go to the open one.
    pub(super) fn follow(&mut self, requested: bool) -> io::Result<Followed> {
        let failed = std::mem::take(&mut self.failed);
        let at_path = std::fs::metadata(&self.path).map(|metadata| identity(&metadata));
        if at_path.is_ok_and(|at_path| at_path == self.identity) && !requested && !failed {
            return Ok(Followed::Same);
        }
        let own = self.file.metadata()?;
        let file = match open(&self.path, own.mode() & 0o777) {
            Ok(file) => file,
            Err(error) if own.nlink() == 0 || own.file_type().is_fifo() => return Err(error),
            Err(error) => {
                self.failed = failed;
                if !std::mem::replace(&mut self.warned, true) {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "cannot reopen the access log; lines go to the file that was moved away");
                }
                return Ok(Followed::Same);
            }
        };
        let metadata = file.metadata()?;
        let before = std::mem::replace(&mut self.identity, identity(&metadata));
        self.file = file;
        self.warned = false;
        let same_end = self.failed_at.take().is_none_or(|length| length == metadata.len());
        let is_same = same_end && before == self.identity;
        Ok(if is_same { Followed::Same } else { Followed::Changed })
    }

    /// Notes that a write has failed.
    pub(super) fn note_failure(&mut self) {
        self.failed = true;
        self.failed_at = self.file.metadata().ok().filter(Metadata::is_file).map(|metadata| metadata.len());
    }
}

/// Opens a file for appending. It does not wait, neither for the reader of a pipe.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(mode).custom_flags(flags).open(path)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Write for AccessLogFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.file.write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
