//! `lb server add|remove|enable|disable|weight`: edits of the file, checked before they are written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::check::pictures;
use crate::config::diff::diff;
use crate::config::edit::{self, Edit, EditError, EditOutcome, New, What};
use crate::config::file::{self, Env};
use crate::config::guard::guards;
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::control::reload::reader::env;
use crate::control::reload::replace::{Lock, ReplaceError, Written, replace};
use crate::control::reload::source::{Source, Sources};
use crate::telemetry::logs::in_colour;

/// What is to happen to a server in the file.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum EditCommand {
    /// Add a server, beside the last one of its pool
    Add {
        #[command(flatten)]
        server: Named,
        /// Where it is: host:port.
        address: String,
        /// Its share beside the others', 0 to 1000 [default: 1].
        #[arg(long, value_name = "N")]
        weight: Option<u32>,
        /// It gets no request until it is enabled.
        #[arg(long)]
        disabled: bool,
        #[command(flatten)]
        after: After,
    },
    /// Remove a server: its open requests finish
    Remove {
        #[command(flatten)]
        server: Named,
        #[command(flatten)]
        after: After,
    },
    /// Let a server have requests again
    Enable {
        #[command(flatten)]
        server: Named,
        #[command(flatten)]
        after: After,
    },
    /// Send a server no new requests: open ones finish
    Disable {
        #[command(flatten)]
        server: Named,
        #[command(flatten)]
        after: After,
    },
    /// Give a server another weight
    Weight {
        #[command(flatten)]
        server: Named,
        /// Its share beside the others', 0 to 1000; 0 takes no new client.
        #[arg(allow_negative_numbers = true)]
        weight: u32,
        #[command(flatten)]
        after: After,
    },
}

impl EditCommand {
    /// Whether the command ends only when the balancer serves what was edited.
    pub(super) fn waits(&self) -> bool {
        let (Self::Add { after, .. }
        | Self::Remove { after, .. }
        | Self::Enable { after, .. }
        | Self::Disable { after, .. }
        | Self::Weight { after, .. }) = self;
        after.wait
    }
}

/// A server in the file.
#[derive(Debug, Clone, Args)]
pub(super) struct Named {
    /// The server's name.
    name: String,
    /// Its pool, for a new one or where several have a server of that name.
    #[arg(long)]
    pool: Option<String>,
}

/// What to do when the file is written.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct After {
    /// Wait until the running balancer serves it.
    #[arg(long)]
    wait: bool,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edited {
    /// The file says so already, in these words.
    Same(String),
    /// The file was written.
    Done {
        /// What changed, in the words of the record.
        changes: Vec<String>,
        /// Which file it was.
        file: PathBuf,
        /// Whether it was written over, where it could not be replaced.
        in_place: bool,
        /// What the files together are called now.
        hash: String,
    },
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum EditCommandError {
    /// The command makes no sense for this file.
    Fault(Reason),
    /// What the edit would make of the files, or what they are already, is no good configuration.
    Problems(Vec<Problem>),
    /// What the files are already is no good configuration, and the edit does not mend that.
    Before(Vec<Problem>),
    /// The file could not be written.
    Replace(PathBuf, ReplaceError),
}

/// Edits the file at `path`, or what it includes, and says what changed, or why nothing did. Whether the file says now
/// what is wanted.
pub(super) fn run(path: &Path, command: &EditCommand) -> bool {
    match apply(path, &wanted(command), &env) {
        Ok(Edited::Same(words)) => {
            super::say(&words);
            true
        }
        Ok(Edited::Done { changes, file, in_place, .. }) => {
            for change in changes {
                super::say(&change);
            }
            if in_place {
                let file = file.display();
                super::note(&format_args!("{file} cannot be replaced where it is, so it was written over"));
            }
            true
        }
        Err(error) => {
            if let EditCommandError::Problems(problems) | EditCommandError::Before(problems) = &error {
                // Nobody reads it if this fails.
                let _ = pictures(problems, in_colour(&io::stderr()), &mut io::stderr().lock());
            }
            super::note(&error);
            false
        }
    }
}

fn wanted(command: &EditCommand) -> Edit {
    let (server, what) = match command {
        EditCommand::Add { server, address, weight, disabled, .. } => {
            (server, What::Add(New { address: address.clone(), weight: *weight, enabled: !disabled }))
        }
        EditCommand::Remove { server, .. } => (server, What::Remove),
        EditCommand::Enable { server, .. } => (server, What::Enable(true)),
        EditCommand::Disable { server, .. } => (server, What::Enable(false)),
        EditCommand::Weight { server, weight, .. } => (server, What::Weight(*weight)),
    };
    Edit { server: server.name.clone(), pool: server.pool.clone(), what }
}

/// Edits the files of the configuration at `path`, one edit at a time.
///
/// # Errors
/// When the edit makes no sense, when a running balancer would refuse what came of it, when the
/// file was changed meanwhile, or when it cannot be written. Then nothing was.
fn apply(path: &Path, wanted: &Edit, env: &Env<'_>) -> Result<Edited, EditCommandError> {
    let source = Source::new(path);
    // Not before it is known to be there: what is wrong with it is said better below.
    let _lock = match path.exists() {
        true => Some(Lock::take(path).map_err(|error| EditCommandError::Replace(path.to_owned(), error))?),
        false => None,
    };
    let sources = source.read(env);
    if !sources.problems.is_empty() {
        return Err(EditCommandError::Problems(sources.problems));
    }
    if sources.unlinked {
        return Err(EditCommandError::Fault(
            Reason::new(format!("{} was replaced or deleted where it is mounted from", path.display()))
                .hint("an edit here would be lost: edit it there, and mount its directory, not the file by itself"),
        ));
    }
    let (file, bytes) = match edit::edit(&sources.files, env, wanted)? {
        EditOutcome::Same(words) => return Ok(Edited::Same(words)),
        EditOutcome::Text { file, bytes } => (file, bytes),
    };
    let SourceFile { path: written, bytes: old, .. } = sources.files[file].clone();
    let mut files = sources.files.clone();
    files[file] = SourceFile::new(written.clone(), bytes);
    let hash = source.of(files.clone()).hash;
    let changes = check(path, wanted, &sources, &files, env)?;
    let how = replace(&written, &old, &files[file].bytes);
    let how = how.map_err(|error| EditCommandError::Replace(written.clone(), error))?;
    Ok(Edited::Done { changes, file: written, in_place: how == Written::InPlace, hash })
}

/// What changes in words, if a balancer that runs from the old files would take the new ones, and if
/// it is what was wanted and no more.
fn check(
    path: &Path,
    wanted: &Edit,
    old: &Sources,
    new: &[SourceFile],
    env: &Env<'_>,
) -> Result<Vec<String>, EditCommandError> {
    let old = file::parse(&old.files, env);
    let new = match (file::parse(new, env), &old) {
        (Ok(new), _) => new,
        // Their places are those in the file that people have.
        (Err(_), Err(before)) => return Err(EditCommandError::Before(before.clone())),
        (Err(problems), Ok(_)) => return Err(EditCommandError::Problems(problems)),
    };
    let old = old.ok();
    let problems = guards(path, old.as_ref(), &new);
    if !problems.is_empty() {
        return Err(EditCommandError::Problems(problems));
    }
    let Some(old) = old else {
        return Ok(vec![format!("{} is a good configuration again", path.display())]);
    };
    let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
    let about = format!("/{}: ", wanted.server);
    let (servers, rest): (Vec<&String>, Vec<&String>) =
        changes.iter().partition(|change| change.starts_with("server ") && change.contains(&about));
    // A server's pool may come or go with it.
    let is_pool = |change: &&String| change.starts_with("pool ");
    if servers.len() == 1 && rest.iter().all(is_pool) {
        return Ok(changes);
    }
    Err(EditCommandError::Fault(
        Reason::new(format!(
            "this file is written in a way that this edit does not understand: {}",
            changes.join("; ")
        ))
        .hint("edit it by hand"),
    ))
}

impl From<EditError> for EditCommandError {
    fn from(refusal: EditError) -> Self {
        match refusal {
            EditError::Fault(fault) => Self::Fault(fault),
            EditError::Problems(problems) => Self::Problems(problems),
        }
    }
}

impl fmt::Display for EditCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(Reason { message, hint: Some(hint) }) => write!(f, "{message} ({hint})"),
            Self::Fault(Reason { message, hint: None }) => f.write_str(message),
            Self::Problems(problems) => {
                let plural = if problems.len() == 1 { "" } else { "s" };
                write!(f, "{} problem{plural} with this edit; nothing was written", problems.len())
            }
            Self::Before(problems) => {
                let plural = if problems.len() == 1 { "" } else { "s" };
                write!(
                    f,
                    "{} problem{plural} in the file as it is: mend that first; nothing was written",
                    problems.len()
                )
            }
            Self::Replace(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for EditCommandError {}
