//! Edits one server in the text of the configuration and leaves every other byte as it is.
//!
//! The text is patched at the places that the parser reports. `toml_edit` was tried instead. It reprints the document and
//! so changes parts of the file that have nothing to do with the edit:
//!
//! - Dotted keys such as `timeouts.connect`, `limits.headers`, `timeouts.idle` are regrouped by table, with their comments.
//! - All headers of an array are spelled like the first: `[[ server ]]` becomes `[[server]]`, `[[pool."api".server]]`
//!   becomes `[[pool.api.server]]`.
//! - Carriage returns are dropped, and a missing final newline is added.
//!
//! Uniform line endings could be restored afterwards, but not mixed ones, the order or the spelling. The test
//! `layouts_that_toml_edit_rewrites_are_kept` has an example of each.

mod inline;
mod table;
mod text;

use std::ops::Range;

use crate::config::file::Env;
use crate::config::file::places::{Places, Scalar, ServerPlace, places};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{DEFAULT_POOL, defaults, suggest, values};

/// An edit of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub server: String,
    /// If absent, a new server goes to the default pool, and an existing one is looked up in all pools.
    pub pool: Option<String>,
    pub action: EditAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditAction {
    /// Adds the server after the last one of its pool.
    Add(NewServer),
    /// Removes the server and the comments attached to it.
    Remove,
    SetEnabled(bool),
    SetWeight(u32),
}

/// The keys of a server to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewServer {
    /// As typed.
    pub address: String,
    /// Written only if present.
    pub weight: Option<u32>,
    /// Written only if false.
    pub enabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditOutcome {
    /// The files already match the edit; the message for the user.
    Unchanged(String),
    /// One file gets new contents.
    Changed {
        /// The file's index.
        file: usize,
        bytes: Vec<u8>,
    },
}

/// Why an edit cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// The edit does not fit the files.
    Invalid(Reason),
    /// A file is not TOML.
    Problems(Vec<Problem>),
}

/// Parts of a text and their replacements.
type Patches = Vec<(Range<usize>, String)>;

/// Edits the text of one of `files`, in which the main file comes first.
///
/// # Errors
/// If the server does not exist or is ambiguous, or a file is not TOML. The caller checks whether the result is a valid
/// configuration.
pub fn edit(files: &[SourceFile], env: &Env<'_>, edit: &Edit) -> Result<EditOutcome, EditError> {
    values::name(&edit.server).map_err(EditError::Invalid)?;
    let places = places(files, env).map_err(EditError::Problems)?;
    let patched = match &edit.action {
        EditAction::Add(new) => add(&places, files, edit, new)?,
        EditAction::Remove => {
            let server = find(&places, files, edit)?;
            let text = text_of(files, server.file);
            let patches = match text::is_inline(text, server) {
                true => inline::remove(text, server, &places),
                false => table::remove(text, server, &places.value_ends[server.file]),
            };
            Ok((server.file, patches))
        }
        EditAction::SetEnabled(enabled) => {
            let server = find(&places, files, edit)?;
            let state = if *enabled { "enabled" } else { "disabled" };
            set(files, server, "enabled", Scalar::Boolean(*enabled), Scalar::Boolean(true))
                .ok_or_else(|| format!("server {}/{}: already {state}", server.pool, server.name))
        }
        EditAction::SetWeight(weight) => {
            let server = find(&places, files, edit)?;
            set(files, server, "weight", integer(*weight), integer(defaults::WEIGHT))
                .ok_or_else(|| format!("server {}/{}: weight is already {weight}", server.pool, server.name))
        }
    };
    Ok(match patched {
        Ok((file, patches)) => {
            EditOutcome::Changed { file, bytes: text::apply(text_of(files, file), patches).into_bytes() }
        }
        Err(message) => EditOutcome::Unchanged(message),
    })
}

fn integer(weight: u32) -> Scalar {
    Scalar::Integer(weight.into())
}

/// Sets a key; `None` if it already has that value, even if only by default.
fn set(
    files: &[SourceFile],
    server: &ServerPlace,
    name: &str,
    new: Scalar,
    default: Scalar,
) -> Option<(usize, Patches)> {
    let current = match server.key(name) {
        None => Some(default),
        Some(key) => key.scalar.clone(),
    };
    if current.as_ref() == Some(&new) {
        return None;
    }
    let text = text_of(files, server.file);
    let value = match new {
        Scalar::Boolean(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::String(value) | Scalar::FromEnv(value) => text::quoted(&value),
    };
    let patches = match server.key(name) {
        Some(key) => vec![(key.value.clone(), value)],
        None if text::is_inline(text, server) => inline::set(server, name, &value),
        None => table::set(text, server, name, &value),
    };
    Some((server.file, patches))
}

/// A file's index and its patches, or the message that there is nothing to do.
type Patched = Result<(usize, Patches), String>;

fn add(places: &Places, files: &[SourceFile], edit: &Edit, new: &NewServer) -> Result<Patched, EditError> {
    let pool = edit.pool.as_deref().unwrap_or(DEFAULT_POOL);
    values::name(pool).map_err(EditError::Invalid)?;
    values::server_address(&new.address).map_err(EditError::Invalid)?;
    let name = &edit.server;
    if let Some(existing) = places.servers.iter().find(|server| server.pool == pool && server.name == *name) {
        if is_same(existing, new) {
            return Ok(Err(format!("server {pool}/{name}: already exists")));
        }
        return Err(EditError::Invalid(
            Reason::new(format!("pool `{pool}` already has a server `{name}`, {}", location(files, existing)))
                .hint(format!("change it with `lb server weight|enable|disable {name}`, or choose another name")),
        ));
    }
    if let Some(last) = places.servers.iter().rev().find(|server| server.pool == pool) {
        let text = text_of(files, last.file);
        let patches = match text::is_inline(text, last) {
            true => inline::add(text, last, name, new),
            false => table::add(text, last, &places.value_ends[last.file], name, new),
        };
        return Ok(Ok((last.file, patches)));
    }
    if let Some(empty) = places.empty_arrays.iter().find(|empty| empty.pool == pool) {
        let start = empty.span.start + 1;
        return Ok(Ok((empty.file, vec![(start..start, inline::first(name, new))])));
    }
    reject_mistyped_pool(pool, places)?;
    Ok(Ok((0, table::append(text_of(files, 0), pool, name, new))))
}

/// Whether a server already has the keys of the one to be added.
fn is_same(existing: &ServerPlace, new: &NewServer) -> bool {
    let scalar = |name: &str, default: Scalar| existing.key(name).map_or(Some(default), |key| key.scalar.clone());
    let address = match scalar("address", Scalar::String(String::new())) {
        Some(Scalar::String(text) | Scalar::FromEnv(text)) => values::server_address(&text).ok(),
        _ => None,
    };
    address.is_some()
        && address == values::server_address(&new.address).ok()
        && scalar("weight", integer(defaults::WEIGHT)) == Some(integer(new.weight.unwrap_or(defaults::WEIGHT)))
        && scalar("enabled", Scalar::Boolean(true)) == Some(Scalar::Boolean(new.enabled))
}

/// An edit may create a pool, unless its name looks like a misspelling of an existing one.
fn reject_mistyped_pool(pool: &str, places: &Places) -> Result<(), EditError> {
    let existing = places.servers.iter().map(|server| server.pool.as_str());
    match suggest::closest(pool, existing) {
        Some(similar) if pool != DEFAULT_POOL => Err(EditError::Invalid(
            Reason::new(format!("there is no pool `{pool}`"))
                .hint(format!("did you mean `{similar}`? If not, add the first `[[pool.{pool}.server]]` by hand")),
        )),
        _ => Ok(()),
    }
}

/// The one server that an edit is about.
fn find<'a>(places: &'a Places, files: &[SourceFile], edit: &Edit) -> Result<&'a ServerPlace, EditError> {
    let name = edit.server.as_str();
    let in_pool = |server: &&ServerPlace| edit.pool.as_ref().is_none_or(|pool| *pool == server.pool);
    let candidates = places.servers.iter().filter(in_pool);
    let matches: Vec<&ServerPlace> = candidates.clone().filter(|server| server.name == name).collect();
    let reason = match matches.as_slice() {
        [server] => return Ok(server),
        [] => {
            let pool = edit.pool.as_ref().map_or_else(String::new, |pool| format!(" in pool `{pool}`"));
            let reason = Reason::new(format!("there is no server `{name}`{pool}"));
            let names: Vec<&str> = candidates.map(|server| server.name.as_str()).collect();
            match names.is_empty() {
                true => reason.hint("`lb server list` shows all servers"),
                false => reason.hint(suggest::hint(name, names)),
            }
        }
        [first, second, ..] if first.pool == second.pool => Reason::new(format!(
            "pool `{}` has two servers `{name}`, {} and {}",
            first.pool,
            location(files, first),
            location(files, second)
        ))
        .hint("rename one of them"),
        [first, ..] => {
            let pools: Vec<String> = matches.iter().map(|server| format!("`{}`", server.pool)).collect();
            Reason::new(format!("pools {} each have a server `{name}`", pools.join(", ")))
                .hint(format!("name the pool: `--pool {}`", first.pool))
        }
    };
    Err(EditError::Invalid(reason))
}

fn location(files: &[SourceFile], server: &ServerPlace) -> String {
    let line = text_of(files, server.file)[..server.span.start].matches('\n').count() + 1;
    format!("on line {line} of {}", files[server.file].path.display())
}

/// The text of a file that was parsed and is therefore valid UTF-8.
fn text_of(files: &[SourceFile], file: usize) -> &str {
    files.get(file).and_then(|file| str::from_utf8(&file.bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
