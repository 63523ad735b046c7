//! `lb server add|remove|enable|disable|weight`: edits the file, after checking the result as a running balancer would.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::{count, note, print, print_problems};
use crate::config::diff::diff;
use crate::config::edit::{self, Edit, EditAction, EditError, EditOutcome, NewServer};
use crate::config::file::{self, Env};
use crate::config::guard::guards;
use crate::config::notes::{unrouted, unrouted_pools};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{Config, DEFAULT_POOL, PoolConfig};
use crate::control::reload::reader::env;
use crate::control::reload::replace::{Lock, ReplaceError, Written, replace};
use crate::control::reload::source::{Source, Sources};
use crate::telemetry::logs::in_colour;

/// The timeout of `--wait` unless `--timeout` sets another.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Subcommand)]
pub(super) enum EditCommand {
    /// Add a server after the last one of its pool
    Add {
        #[command(flatten)]
        server: ServerArgs,
        /// Address of the server: host:port or unix:PATH
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
    /// Disable a server: no new requests, from sticky clients neither; open ones finish
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
    /// Longest time that --wait waits [default: 30s]
    #[arg(long, requires = "wait", value_name = "DURATION", value_parser = super::duration)]
    timeout: Option<Duration>,
}

impl EditCommand {
    /// How long to wait for the edit to be applied, if `--wait` was given.
    pub(super) fn wait(&self) -> Option<Duration> {
        let (Self::Add { wait, .. }
        | Self::Remove { wait, .. }
        | Self::Enable { wait, .. }
        | Self::Disable { wait, .. }
        | Self::Weight { wait, .. }) = self;
        wait.wait.then(|| wait.timeout.unwrap_or(WAIT_TIMEOUT))
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
        checked: CheckedEdit,
        file: PathBuf,
        /// Whether the file was overwritten because it could not be replaced.
        in_place: bool,
    },
}

/// An edit that a balancer would accept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CheckedEdit {
    /// Worded as in the record of reloads.
    changes: Vec<String>,
    /// A warning for the user.
    note: Option<String>,
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
        Ok(EditResult::Written { checked: CheckedEdit { changes, note: remark }, file, in_place }) => {
            for change in changes {
                print(&change);
            }
            if let Some(remark) = remark {
                note(&format_args!("note: {remark}"));
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
    let checked = check(path, edit, &sources, &files, env)?;
    match replace(&old.path, &old.bytes, &files[index].bytes) {
        Ok(written) => Ok(EditResult::Written { checked, file: old.path, in_place: written == Written::InPlace }),
        Err(error) => Err(EditCommandError::Replace(old.path, error)),
    }
}

/// Checks that a balancer that runs the old configuration would accept the new one, and that nothing but the server
/// changes.
fn check(
    path: &Path,
    edit: &Edit,
    old: &Sources,
    new: &[SourceFile],
    env: &Env<'_>,
) -> Result<CheckedEdit, EditCommandError> {
    let old = file::parse(&old.files, env);
    let files = new;
    let new = match (file::parse(files, env), &old) {
        (Ok(new), _) => new,
        // The old problems, because their lines are those of the file on disk.
        (Err(_), Err(problems)) => return Err(EditCommandError::AlreadyInvalid(problems.clone())),
        (Err(problems), Ok(_)) => return Err(EditCommandError::Problems(problems)),
    };
    let old = old.ok();
    let problems = guards(files, old.as_ref(), &new);
    if !problems.is_empty() {
        return Err(EditCommandError::Problems(problems));
    }
    let note = unrouted_note(edit, old.as_ref(), &new)?;
    let Some(old) = old else {
        return Ok(CheckedEdit { changes: vec![format!("{} is valid again", path.display())], note });
    };
    let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
    let name = shown_name(edit, &old).or_else(|| shown_name(edit, &new));
    let about = format!("/{}: ", name.as_ref().unwrap_or(&edit.server));
    let (servers, others): (Vec<&String>, Vec<&String>) =
        changes.iter().partition(|change| change.starts_with("server ") && change.contains(&about));
    // Changes of the pool itself are accepted, because it may be added or removed with its server.
    let is_pool = |change: &&String| change.starts_with("pool ");
    if changes.is_empty() {
        let change = format!("server {}: the value is as before, but no longer from the environment", edit.server);
        return Ok(CheckedEdit { changes: vec![change], note });
    }
    if servers.len() == 1 && others.iter().all(is_pool) {
        return Ok(CheckedEdit { changes, note });
    }
    Err(EditCommandError::Invalid(
        Reason::new(format!("this edit would have unintended effects: {}", changes.join("; ")))
            .hint("edit the file by hand"),
    ))
}

/// The name of the edited server as changes show it.
fn shown_name(edit: &Edit, config: &Config) -> Option<String> {
    let in_pool = |pool: &&Arc<PoolConfig>| edit.pool.as_ref().is_none_or(|name| *name == pool.name);
    let mut servers = config.pools.iter().filter(in_pool).flat_map(|pool| &pool.servers);
    servers.find(|server| server.name == edit.server).map(|server| server.env.show("name", &server.name))
}

/// The note if no route leads to the pool of a server that is to get requests.
///
/// # Errors
/// If the edit does not name a pool, and would create one that no route leads to.
fn unrouted_note(edit: &Edit, old: Option<&Config>, new: &Config) -> Result<Option<String>, EditCommandError> {
    let (is_new, gets_requests) = match edit.action {
        EditAction::Add(_) => (true, true),
        EditAction::SetEnabled(enabled) => (false, enabled),
        EditAction::SetWeight(weight) => (false, weight > 0),
        EditAction::Remove => (false, false),
    };
    let has_server = |pool: &str| {
        let servers = new.pool(pool).map_or(&[][..], |pool| &pool.servers);
        servers.iter().any(|server| server.name == edit.server)
    };
    let pool = match &edit.pool {
        Some(pool) => Some(pool.as_str()),
        None if is_new => Some(DEFAULT_POOL),
        None => new.pools.iter().map(|pool| pool.name.as_str()).find(|pool| has_server(pool)),
    };
    let Some(pool) = pool.filter(|pool| gets_requests && unrouted_pools(new).any(|unrouted| unrouted == *pool)) else {
        return Ok(None);
    };
    if is_new && edit.pool.is_none() && old.is_some_and(|old| old.pool(pool).is_none()) {
        let others = new.pools.iter().filter(|other| other.name != pool);
        let others: Vec<String> = others.map(|other| format!("`--pool {}`", other.name)).collect();
        return Err(EditCommandError::Invalid(
            Reason::new(format!("there is no pool `{pool}`, and no route leads to it"))
                .hint(format!("say which pool: {}", others.join(" or "))),
        ));
    }
    Ok(Some(unrouted(pool)))
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
