//! The file of the access log: opened before an edit is committed. A file system may take its time, and nothing else waits
//! for it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::start::StartError;
use crate::config::file::locate::problem_of;
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{AccessLogTarget, FilePath, LogConfig};
use crate::telemetry::access_log::{AccessLogWriter, NewOutput};

/// The key that names the file.
const KEY: &[&str] = &["log", "access"];
/// How long an attempt at an edit waits for the file. If that is not enough, the edit is pending until it is open.
const WAIT: Duration = Duration::from_millis(100);
/// How long the start waits.
const START_WAIT: Duration = Duration::from_secs(5);

/// The opening of an edit's file, from one attempt to the next.
#[derive(Debug, Default)]
pub(super) struct OpeningFile(Option<NewOutput>);

impl OpeningFile {
    /// Opens the file that `log` names, unless it is open already. The problem is the reason why it is not open yet.
    pub(super) fn proceed(
        &mut self,
        writer: &AccessLogWriter,
        log: &LogConfig,
        files: &[SourceFile],
    ) -> Result<Option<NewOutput>, Problem> {
        self.open(writer, &log.access, WAIT).map_err(|error| problem(log, files, &error))
    }

    fn open(
        &mut self,
        writer: &AccessLogWriter,
        target: &AccessLogTarget,
        wait: Duration,
    ) -> io::Result<Option<NewOutput>> {
        if self.0.is_none() {
            self.0 = writer.open(target)?;
        }
        let Some(opening) = self.0.take() else { return Ok(None) };
        match opening.wait(wait) {
            Some(Ok(())) => Ok(Some(opening)),
            Some(Err(error)) => Err(error),
            None => {
                self.0 = Some(opening);
                Err(io::Error::new(io::ErrorKind::TimedOut, "the file system does not respond"))
            }
        }
    }
}

/// Opens the file that the first configuration names.
pub(super) fn open_first(
    writer: &mut AccessLogWriter,
    log: &LogConfig,
    files: &[SourceFile],
) -> Result<(), StartError> {
    let opened = not_configuration(log, files).and_then(|()| {
        let opened = OpeningFile::default().open(writer, &log.access, START_WAIT);
        opened.map_err(|error| problem(log, files, &error))
    });
    writer.commit(opened.map_err(|problem| StartError::Config(vec![problem]))?);
    Ok(())
}

/// The reason why the file that `log` names cannot be opened, as far as that shows without creating it.
///
/// # Errors
/// The problem, at its place in the files.
pub fn check(log: &LogConfig, files: &[SourceFile]) -> Result<(), Problem> {
    not_configuration(log, files)?;
    let AccessLogTarget::File(file) = &log.access else { return Ok(()) };
    let path = file.full_path();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let result = match (fs::metadata(&path), fs::metadata(directory)) {
        (Ok(metadata), _) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        (Ok(_), _) => Ok(()),
        (Err(_), Ok(metadata)) if !metadata.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        (Err(_), directory) => directory.map(drop),
    };
    result.map_err(|error| problem(log, files, &error))
}

/// A log that is appended to the configuration would make it invalid.
///
/// # Errors
/// The problem, if `log` names one of the files.
pub(super) fn not_configuration(log: &LogConfig, files: &[SourceFile]) -> Result<(), Problem> {
    let AccessLogTarget::File(file) = &log.access else { return Ok(()) };
    let same = |path: &Path| match (path.canonicalize(), file.full_path().canonicalize()) {
        (Ok(path), Ok(log)) => path == log,
        _ => false,
    };
    match files.iter().find(|file| same(&file.path)) {
        None => Ok(()),
        Some(file) => {
            let reason = Reason::new(format!("the access log cannot be written to {}", file.path.display()));
            Err(problem_of(files, KEY, reason.hint("that is a configuration file; name another one")))
        }
    }
}

fn problem(log: &LogConfig, files: &[SourceFile], error: &io::Error) -> Problem {
    let reason = match &log.access {
        AccessLogTarget::File(file) => reason(file, error),
        AccessLogTarget::Off | AccessLogTarget::Stdout => Reason::new(error.to_string()),
    };
    problem_of(files, KEY, reason)
}

fn reason(file: &FilePath, error: &io::Error) -> Reason {
    let path = file.full_path();
    let reason = Reason::new(format!("cannot write the access log to {}: {error}", path.display()));
    let directory = path.parent().map(|directory| directory.display().to_string()).unwrap_or_default();
    reason.hint(match error.kind() {
        io::ErrorKind::NotFound => format!("create the directory {directory}"),
        io::ErrorKind::PermissionDenied => "let the user that lb runs as write there".to_owned(),
        io::ErrorKind::IsADirectory => "name a file in it".to_owned(),
        // A pipe without a reader, or /dev/stdout if that is a socket.
        _ if error.raw_os_error() == Some(libc::ENXIO) => {
            "if it is a pipe, start its reader; for standard output, write `true`".to_owned()
        }
        _ => "name another file, or write `true` for standard output".to_owned(),
    })
}
