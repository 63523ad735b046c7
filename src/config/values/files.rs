//! Parses the names of files and directories.

use std::path::{Path, PathBuf};

use crate::config::SocketPath;
use crate::config::problem::Reason;

/// A file to include, or a glob.
pub(crate) fn include(text: &str) -> Result<(), Reason> {
    if text.is_empty() {
        return Err(Reason::new("an included file needs a name").hint("write for example `conf.d/*.toml`"));
    }
    shell_syntax(text)?;
    glob::Pattern::new(text).map(drop).map_err(|error| {
        Reason::new(format!("`{text}` is not a file or a glob: {}", error.msg))
            .hint("write for example `conf.d/*.toml`")
    })
}

/// Names that are hardly meant to be those of a file.
const NO_LOG_FILES: [&str; 7] = ["true", "false", "on", "off", "none", "stdout", "-"];

/// A file to write a log to.
pub(crate) fn log_file(text: &str) -> Result<PathBuf, Reason> {
    if text.trim().is_empty() {
        return Err(Reason::new("a log file needs a name")
            .hint("write for example `logs/access.log`, or `false` to turn the access log off"));
    }
    if text.ends_with('/') {
        return Err(
            Reason::new(format!("`{text}` is a directory")).hint(format!("write for example `{text}access.log`"))
        );
    }
    if NO_LOG_FILES.contains(&text) {
        return Err(Reason::new(format!("`{text}` would be the name of a file")).hint(format!(
            "write `true` for standard output, `false` for no access log, both without quotes, or `./{text}` for the file"
        )));
    }
    if text.contains('\0') {
        return Err(Reason::new("the name of a file cannot have a NUL character"));
    }
    shell_syntax(text)?;
    Ok(PathBuf::from(text))
}

/// The most bytes of the path of a Unix socket (`sockaddr_un`, without the last NUL).
const MAX_SOCKET_PATH: usize = 107;

/// The path in the address `text` of a Unix socket, relative to `base`.
pub(crate) fn socket_path(text: &str, path: &str, base: &Path) -> Result<SocketPath, Reason> {
    let reason = |what: &str| Reason::new(format!("`{text}` is not the address of a Unix socket: {what}"));
    if path.trim().is_empty() {
        return Err(reason("it has no path").hint("write for example `unix:/run/app.sock`"));
    }
    if let Some(rest) = path.strip_prefix("//") {
        let rest = rest.trim_start_matches('/');
        return Err(reason("it is written like a URL").hint(format!("write `unix:/{rest}`")));
    }
    if path.starts_with('@') {
        return Err(reason("abstract sockets are not supported, because they have no permissions")
            .hint("write the path of a file, for example `unix:/run/app.sock`"));
    }
    if path.ends_with('/') {
        return Err(reason("it is a directory").hint(format!("write for example `unix:{path}app.sock`")));
    }
    if path.contains('\0') {
        return Err(reason("a path cannot have a NUL character"));
    }
    shell_syntax(path)?;
    let path = SocketPath::new(&base.join(path));
    let length = path.as_path().as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(reason(&format!("its absolute path has {length} bytes, and {MAX_SOCKET_PATH} are the most"))
            .hint("choose a shorter path, for example in /run"));
    }
    Ok(path)
}

/// A shell replaces these, but `lb` would look for a file of that very name.
pub(crate) fn shell_syntax(path: &str) -> Result<(), Reason> {
    if path == "~" || path.starts_with("~/") {
        return Err(Reason::new(format!("`{path}` begins with `~`, which only a shell replaces"))
            .hint("write the whole path, or `${HOME}` for `~`"));
    }
    match unbraced(path) {
        Some(name) => Err(Reason::new(format!("`${name}` is not replaced")).hint(format!("write `${{{name}}}`"))),
        None => Ok(()),
    }
}

/// The name in `$NAME`, which a shell would replace.
pub(crate) fn unbraced(text: &str) -> Option<&str> {
    let name = |rest: &'_ str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let names = text.split('$').skip(1).map(|rest| &rest[..name(rest)]);
    names.into_iter().find(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}
