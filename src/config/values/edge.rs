//! Parses the values of listeners and of TLS.

use std::num::NonZeroU16;
use std::path::PathBuf;

use super::files::shell_syntax;
use crate::config::problem::Reason;
use crate::config::{HttpProtocol, HttpsRedirect, SocketMode};

/// A protocol that clients may speak.
pub(crate) fn protocol(text: &str) -> Result<HttpProtocol, Reason> {
    match text {
        "h2" => Ok(HttpProtocol::Http2),
        "http/1.1" => Ok(HttpProtocol::Http1),
        _ => Err(Reason::new(format!("`{text}` is not a protocol")).hint("write `h2` or `http/1.1`")),
    }
}

/// `https` or `https:PORT`.
pub(crate) fn https_redirect(text: &str) -> Result<HttpsRedirect, Reason> {
    let port = match text.strip_prefix("https") {
        Some("") => Some("443"),
        Some(rest) => rest.strip_prefix(':'),
        None => None,
    };
    let port = port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    match port.and_then(|port| port.parse().ok()).and_then(NonZeroU16::new) {
        Some(port) => Ok(HttpsRedirect { port }),
        None => {
            Err(Reason::new(format!("`{text}` is not a redirect")).hint("write `https`, or `https:8443` with a port"))
        }
    }
}

/// The permissions of a Unix socket, in octal.
pub(crate) fn socket_mode(text: &str) -> Result<SocketMode, Reason> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777) {
        Some(mode) => Ok(SocketMode(mode)),
        None => {
            Err(Reason::new(format!("`{text}` is not a mode")).hint("write permissions in octal, for example `0660`"))
        }
    }
}

/// A file to read.
pub(crate) fn file(text: &str) -> Result<PathBuf, Reason> {
    if text.trim().is_empty() {
        return Err(Reason::new("a file needs a name"));
    }
    if text.contains('\0') {
        return Err(Reason::new("the name of a file cannot have a NUL character"));
    }
    if text.starts_with("-----BEGIN") {
        return Err(Reason::new("this is a PEM text, and the key needs the name of a file")
            .hint("write the text to a file, and its name here"));
    }
    shell_syntax(text)?;
    Ok(PathBuf::from(text))
}
