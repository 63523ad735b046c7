//! Edits of servers in the text of the files: what an edit is not about stays as it is, byte for byte.
//!
//! The text is cut and joined where the parser says that things stand, and never written anew from
//! what was parsed: `toml_edit`, which does that, loses the line ends of Windows.

mod inline;
mod table;
mod text;

use std::ops::Range;

use crate::config::file::Env;
use crate::config::file::places::{Places, Scalar, ServerPlace, places};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{DEFAULT_POOL, defaults, suggest, values};

/// What is wanted of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The server's name.
    pub server: String,
    /// Its pool. Left out, a new server goes to the default pool, and another is looked for in all.
    pub pool: Option<String>,
    /// What is to happen.
    pub what: What,
}

/// What is to happen to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is added, beside the last one of its pool.
    Add(New),
    /// It is removed, with the comments that touch it.
    Remove,
    /// It is enabled or disabled.
    Enable(bool),
    /// It gets another weight.
    Weight(u32),
}

/// A server that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// As typed.
    pub address: String,
    /// Written only if it is given.
    pub weight: Option<u32>,
    /// Written only if it is disabled.
    pub enabled: bool,
}

/// What came of an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditOutcome {
    /// The files say so already, in these words.
    Same(String),
    /// One file is to be another.
    Text {
        /// The file's index.
        file: usize,
        /// All that is to be in it.
        bytes: Vec<u8>,
    },
}

/// Why an edit cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// It makes no sense.
    Fault(Reason),
    /// A file is no TOML.
    Problems(Vec<Problem>),
}

/// Pieces of a text, each with what is to stand there instead.
type Cuts = Vec<(Range<usize>, String)>;

/// Edits the text of one of the files, of which the main one is the first.
///
/// # Errors
/// When there is no such server, or one too many, or a file cannot be read. Whether what comes out
/// is a good configuration is for the caller to see.
pub fn edit(files: &[SourceFile], env: &Env<'_>, edit: &Edit) -> Result<EditOutcome, EditError> {
    values::name(&edit.server).map_err(EditError::Fault)?;
    let places = places(files, env).map_err(EditError::Problems)?;
    let (file, cuts) = match &edit.what {
        What::Add(new) => match add(&places, files, edit, new)? {
            Ok(cut) => cut,
            Err(same) => return Ok(EditOutcome::Same(same)),
        },
        what => {
            let server = find(&places, files, edit)?;
            let text = text_of(files, server.file);
            let cuts = match *what {
                What::Enable(enabled) => set(text, server, "enabled", Scalar::Boolean(enabled), Scalar::Boolean(true)),
                What::Weight(weight) => {
                    let integer = |weight: u32| Scalar::Integer(weight.into());
                    set(text, server, "weight", integer(weight), integer(defaults::WEIGHT))
                }
                What::Remove | What::Add(_) => Some(match text::is_inline(text, server) {
                    true => inline::remove(text, server, &places),
                    false => table::remove(text, server, &places.ends[server.file]),
                }),
            };
            let Some(cuts) = cuts else {
                return Ok(EditOutcome::Same(already(server, what)));
            };
            (server.file, cuts)
        }
    };
    Ok(EditOutcome::Text { file, bytes: text::apply(text_of(files, file), cuts).into_bytes() })
}

/// Sets a key, unless it says so already.
fn set(text: &str, server: &ServerPlace, name: &str, to: Scalar, default: Scalar) -> Option<Cuts> {
    let is = match server.key(name) {
        None => Some(default),
        Some(key) => key.is.clone(),
    };
    if is.as_ref() == Some(&to) {
        return None;
    }
    let value = match to {
        Scalar::Boolean(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Text(value) => text::quoted(&value),
    };
    Some(match server.key(name) {
        Some(key) => vec![(key.value.clone(), value)],
        None if text::is_inline(text, server) => inline::set(server, name, &value),
        None => table::set(text, server, name, &value),
    })
}

fn already(server: &ServerPlace, what: &What) -> String {
    let state = match what {
        What::Enable(true) => "enabled".to_owned(),
        What::Enable(false) => "disabled".to_owned(),
        What::Weight(weight) => format!("weight {weight}"),
        What::Add(_) | What::Remove => "as wanted".to_owned(),
    };
    format!("server {}/{}: {state} already", server.pool, server.name)
}

/// What to cut, or in which words the server is there already.
type Added = Result<(usize, Cuts), String>;

fn add(places: &Places, files: &[SourceFile], edit: &Edit, new: &New) -> Result<Added, EditError> {
    let pool = edit.pool.as_deref().unwrap_or(DEFAULT_POOL);
    values::name(pool).map_err(EditError::Fault)?;
    let address = values::server_address(&new.address).map_err(EditError::Fault)?;
    if let Some(there) = places.servers.iter().find(|server| server.pool == pool && server.name == edit.server) {
        let is = |name: &str, default: Scalar| there.key(name).map_or(Some(default), |key| key.is.clone());
        let at = match is("address", Scalar::Text(String::new())) {
            Some(Scalar::Text(text)) => values::server_address(&text).ok(),
            _ => None,
        };
        let weight = Scalar::Integer(new.weight.unwrap_or(defaults::WEIGHT).into());
        let same = at == Some(address)
            && is("weight", Scalar::Integer(defaults::WEIGHT.into())) == Some(weight)
            && is("enabled", Scalar::Boolean(true)) == Some(Scalar::Boolean(new.enabled));
        if same {
            return Ok(Err(format!("server {pool}/{}: there already", edit.server)));
        }
        let server = &edit.server;
        return Err(EditError::Fault(
            Reason::new(format!("pool `{pool}` has a server `{server}` already, {}", location(files, there))).hint(
                format!("change it with `lb server weight|enable|disable {server}`, or give this one another name"),
            ),
        ));
    }
    if let Some(last) = places.servers.iter().rev().find(|server| server.pool == pool) {
        let text = text_of(files, last.file);
        let cuts = match text::is_inline(text, last) {
            true => inline::add(text, last, &edit.server, new),
            false => table::add(text, last, &places.ends[last.file], &edit.server, new),
        };
        return Ok(Ok((last.file, cuts)));
    }
    if let Some(empty) = places.empty.iter().find(|empty| empty.pool == pool) {
        let at = empty.span.start + 1;
        return Ok(Ok((empty.file, vec![(at..at, inline::first(&edit.server, new))])));
    }
    // A new pool is welcome, a mistyped one is not.
    let known = places.servers.iter().map(|server| server.pool.as_str());
    if pool != DEFAULT_POOL
        && let Some(meant) = suggest::closest(pool, known)
    {
        return Err(EditError::Fault(
            Reason::new(format!("there is no pool `{pool}`"))
                .hint(format!("did you mean `{meant}`? If not, write its first `[[pool.{pool}.server]]` yourself")),
        ));
    }
    Ok(Ok((0, table::append(text_of(files, 0), pool, &edit.server, new))))
}

/// The one server that an edit is about.
fn find<'a>(places: &'a Places, files: &[SourceFile], edit: &Edit) -> Result<&'a ServerPlace, EditError> {
    let name = edit.server.as_str();
    let in_pool = |server: &&ServerPlace| edit.pool.as_ref().is_none_or(|pool| *pool == server.pool);
    let found: Vec<&ServerPlace> = places.servers.iter().filter(in_pool).filter(|server| server.name == name).collect();
    let fault = match found.as_slice() {
        [server] => return Ok(server),
        [] => {
            let whose = edit.pool.as_ref().map_or_else(String::new, |pool| format!(" in pool `{pool}`"));
            let fault = Reason::new(format!("there is no server `{name}`{whose}"));
            let known: Vec<&str> = places.servers.iter().filter(in_pool).map(|server| server.name.as_str()).collect();
            match known.is_empty() {
                true => fault.hint("`lb server list` tells which there are"),
                false => fault.hint(suggest::hint(name, known)),
            }
        }
        [first, second, ..] if first.pool == second.pool => Reason::new(format!(
            "pool `{}` has two servers `{name}`, {} and {}",
            first.pool,
            location(files, first),
            location(files, second)
        ))
        .hint("give one of them another name"),
        [first, ..] => {
            let pools: Vec<String> = found.iter().map(|server| format!("`{}`", server.pool)).collect();
            Reason::new(format!("pools {} have a server `{name}` each", pools.join(", ")))
                .hint(format!("say which one is meant: `--pool {}`", first.pool))
        }
    };
    Err(EditError::Fault(fault))
}

/// Where a server stands, in words.
fn location(files: &[SourceFile], server: &ServerPlace) -> String {
    let line = text_of(files, server.file)[..server.span.start].matches('\n').count() + 1;
    format!("on line {line} of {}", files[server.file].path.display())
}

/// The text of a file that was parsed, so it is one.
fn text_of(files: &[SourceFile], file: usize) -> &str {
    files.get(file).and_then(|file| str::from_utf8(&file.bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
