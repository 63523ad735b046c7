//! `lb server add|remove|enable|disable|weight`: edits the file, after checking the result as a running balancer would.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::output::{count, note, print, print_problems};
use crate::config::diff::diff;
use crate::config::edit::{self, Edit, EditAction, EditError, EditOutcome, NewServer};
use crate::config::file::{self, Env};
use crate::config::guard::guards;
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::control::reload::reader::env;
use crate::control::reload::replace::{Lock, ReplaceError, Written, replace};
use crate::control::reload::source::{Source, Sources};
use crate::telemetry::logs::in_colour;

#[derive(Debug, Clone, Subcommand)]
pub(super) enum EditCommand {
    /// Add a server after the last one of its pool
    Add {
        #[command(flatten)]
        server: ServerArgs,
        /// Address of the server: host:port
        address: String,
        /// Weight relative to the other servers, 0 to 1000 [default: 1]
        #[arg(long, value_name = "N")]
        weight: Option<u32>,
        /// Add the server disabled: it gets no requests until it is enabled
        #[arg(long)]
        disabled: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove a server; open requests finish
    Remove {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Enable a server, so that it receives requests again
    Enable {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Disable a server: no new requests; open ones finish
    Disable {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Change the weight of a server
    Weight {
        #[command(flatten)]
        server: ServerArgs,
        /// Weight relative to the other servers, 0 to 1000; with 0, the server gets no new clients
        #[arg(allow_negative_numbers = true)]
        weight: u32,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Clone, Args)]
pub(super) struct ServerArgs {
    /// Name of the server
    name: String,
    /// Pool of the server; required if the name is ambiguous, or to add it to a pool other than `default`
    #[arg(long)]
    pool: Option<String>,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct WaitArgs {
    /// Wait until the running balancer has applied the edit
    #[arg(long)]
    wait: bool,
}

impl EditCommand {
    /// Whether `--wait` was given.
    pub(super) fn waits(&self) -> bool {
        let (Self::Add { wait, .. }
        | Self::Remove { wait, .. }
        | Self::Enable { wait, .. }
        | Self::Disable { wait, .. }
        | Self::Weight { wait, .. }) = self;
        wait.wait
    }

    fn to_edit(&self) -> Edit {
        let (server, action) = match self {
            Self::Add { server, address, weight, disabled, .. } => {
                let new = NewServer { address: address.clone(), weight: *weight, enabled: !disabled };
                (server, EditAction::Add(new))
            }
            Self::Remove { server, .. } => (server, EditAction::Remove),
            Self::Enable { server, .. } => (server, EditAction::SetEnabled(true)),
            Self::Disable { server, .. } => (server, EditAction::SetEnabled(false)),
            Self::Weight { server, weight, .. } => (server, EditAction::SetWeight(*weight)),
        };
        Edit { server: server.name.clone(), pool: server.pool.clone(), action }
    }
}

/// The result of a command that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
enum EditResult {
    /// The files already match the edit. The message tells the user that.
    Unchanged(String),
    Written {
        /// Worded as in the record of reloads.
        changes: Vec<String>,
        file: PathBuf,
        /// Whether the file was overwritten because it could not be replaced.
        in_place: bool,
    },
}

/// Why the command failed. Nothing was written, except after [`ReplaceError::Torn`].
#[derive(Debug)]
enum EditCommandError {
    /// The files cannot be edited as the command asks.
    Invalid(Reason),
    /// The edit would make the files invalid, or a guard would reject the result.
    Problems(Vec<Problem>),
    /// The files cannot be read, or they are already invalid and the edit does not fix that.
    AlreadyInvalid(Vec<Problem>),
    Replace(PathBuf, ReplaceError),
}

/// Edits the file at `path`, or one that it includes, and prints the changes or the error. Returns whether the file now
/// says what the command asked for.
pub(super) fn run(path: &Path, command: &EditCommand) -> bool {
    match edit_files(path, &command.to_edit(), &env) {
        Ok(EditResult::Unchanged(message)) => {
            print(&message);
            true
        }
        Ok(EditResult::Written { changes, file, in_place }) => {
            for change in changes {
                print(&change);
            }
            if in_place {
                note(&format_args!("{} cannot be replaced; it was overwritten in place", file.display()));
            }
            true
        }
        Err(error) => {
            if let EditCommandError::Problems(problems) | EditCommandError::AlreadyInvalid(problems) = &error {
                // If standard error is closed, nobody is reading.
                let _ = print_problems(problems, in_colour(&io::stderr()), &mut io::stderr().lock());
            }
            note(&error);
            false
        }
    }
}

/// Edits the files of the configuration at `path` while holding its lock.
///
/// # Errors
/// If the files cannot be edited as asked, a running balancer would reject the result, or the file cannot be written or
/// has changed in the meantime. Nothing is written then, except after [`ReplaceError::Torn`].
fn edit_files(path: &Path, edit: &Edit, env: &Env<'_>) -> Result<EditResult, EditCommandError> {
    let source = Source::new(path);
    // A missing file cannot be locked; reading it below gives a better error.
    let _lock = match path.exists() {
        true => Some(Lock::take(path).map_err(|error| EditCommandError::Replace(path.to_owned(), error))?),
        false => None,
    };
    let sources = source.read(env);
    if !sources.problems.is_empty() {
        return Err(EditCommandError::AlreadyInvalid(sources.problems));
    }
    if sources.unlinked {
        return Err(EditCommandError::Invalid(
            Reason::new(format!("the file mounted at {} was replaced or deleted at its source", path.display()))
                .hint("an edit here would be lost: edit the original, and mount its directory instead of the file"),
        ));
    }
    let (index, bytes) = match edit::edit(&sources.files, env, edit)? {
        EditOutcome::Unchanged(message) => return Ok(EditResult::Unchanged(message)),
        EditOutcome::Changed { file, bytes } => (file, bytes),
    };
    let mut files = sources.files.clone();
    let old = std::mem::replace(&mut files[index], SourceFile::new(sources.files[index].path.clone(), bytes));
    let changes = check(path, edit, &sources, &files, env)?;
    match replace(&old.path, &old.bytes, &files[index].bytes) {
        Ok(written) => Ok(EditResult::Written { changes, file: old.path, in_place: written == Written::InPlace }),
        Err(error) => Err(EditCommandError::Replace(old.path, error)),
    }
}

/// Checks that a balancer that runs the old configuration would accept the new one, and that nothing but the server
/// changes. Returns the changes in words.
fn check(
    path: &Path,
    edit: &Edit,
    old: &Sources,
    new: &[SourceFile],
    env: &Env<'_>,
) -> Result<Vec<String>, EditCommandError> {
    let old = file::parse(&old.files, env);
    let new = match (file::parse(new, env), &old) {
        (Ok(new), _) => new,
        // The old problems, because their lines are those of the file on disk.
        (Err(_), Err(problems)) => return Err(EditCommandError::AlreadyInvalid(problems.clone())),
        (Err(problems), Ok(_)) => return Err(EditCommandError::Problems(problems)),
    };
    let old = old.ok();
    let problems = guards(path, old.as_ref(), &new);
    if !problems.is_empty() {
        return Err(EditCommandError::Problems(problems));
    }
    let Some(old) = old else {
        return Ok(vec![format!("{} is valid again", path.display())]);
    };
    let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
    let about = format!("/{}: ", edit.server);
    let (servers, others): (Vec<&String>, Vec<&String>) =
        changes.iter().partition(|change| change.starts_with("server ") && change.contains(&about));
    // Changes of the pool itself are accepted, because it may be added or removed with its server.
    let is_pool = |change: &&String| change.starts_with("pool ");
    if servers.len() == 1 && others.iter().all(is_pool) {
        return Ok(changes);
    }
    Err(EditCommandError::Invalid(
        Reason::new(format!("this edit would have unintended effects: {}", changes.join("; ")))
            .hint("edit the file by hand"),
    ))
}

impl From<EditError> for EditCommandError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Invalid(reason) => Self::Invalid(reason),
            EditError::Problems(problems) => Self::AlreadyInvalid(problems),
        }
    }
}

impl fmt::Display for EditCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(Reason { message, hint: Some(hint) }) => write!(f, "{message} ({hint})"),
            Self::Invalid(Reason { message, hint: None }) => f.write_str(message),
            Self::Problems(problems) => {
                write!(f, "{} with this edit; nothing was written", count(problems.len(), "problem"))
            }
            Self::AlreadyInvalid(problems) => {
                write!(f, "the configuration already has {}; nothing was written", count(problems.len(), "problem"))
            }
            Self::Replace(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for EditCommandError {}
