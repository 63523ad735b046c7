//! Parses the values of listeners and of TLS.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use http::Uri;

use super::files::shell_syntax;
use super::host_name;
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

/// The URL of an ACME server's directory.
pub(crate) fn acme_directory(text: &str) -> Result<String, Reason> {
    let reason = |what: &str| {
        Reason::new(format!("`{text}` {what}"))
            .hint("write for example `https://acme-v02.api.letsencrypt.org/directory`")
    };
    let uri: Uri = text.parse().map_err(|_| reason("is not a URL"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(reason("has a user name, which ACME does not use"));
    }
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    if port.is_some_and(|(_, port)| port.parse::<NonZeroU16>().is_err()) {
        return Err(reason("has an invalid port"));
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if !host.is_empty() => Ok(text.to_owned()),
        (Some("https"), _) => Err(reason("has no host")),
        (Some("http"), _) => Err(reason("is not encrypted, and ACME requires `https`")),
        _ => Err(reason("is not an `https://` URL")),
    }
}

/// A mail address; only what is certainly none is rejected.
pub(crate) fn email(text: &str) -> Result<String, Reason> {
    let reason = |what: &str| Reason::new(format!("`{text}` is not a mail address: {what}"));
    if let Some(address) = text.strip_prefix("mailto:") {
        return Err(reason("it is a URL").hint(format!("write `{address}`")));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, ',' | ';' | '<' | '>' | '?' | '"')) {
        return Err(reason(&format!("it has {c:?}")).hint("write one address, for example `ops@example.com`"));
    }
    let parts = text.split_once('@').filter(|(user, host)| !user.is_empty() && !host.contains('@'));
    let (_, host) = parts.ok_or_else(|| reason("it needs one `@`").hint("write for example `ops@example.com`"))?;
    host_name(host).map(|_| text.to_owned()).map_err(|error| reason(&error.message))
}

/// A name that a certificate from ACME can have.
pub(crate) fn acme_name(text: &str) -> Result<String, Reason> {
    if text.starts_with("*.") {
        return Err(Reason::new(format!("`{text}` needs the challenge `dns-01`, which is not supported"))
            .hint("list each name, or get this certificate with another client and write its `file` and `key`"));
    }
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(Reason::new(format!("`{text}` is an IP address, and certificates from ACME are for host names"))
            .hint("write a name that leads there, or a `file` and its `key`"));
    }
    let name = host_name(text)?;
    match name.split('.').find(|label| label.starts_with('-') || label.ends_with('-') || label.contains('_')) {
        Some(label) => Err(Reason::new(format!("no certificate can have the name `{text}`, because of `{label}`"))
            .hint("each part of a host name begins and ends with a letter or digit, and has no `_`")),
        None => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_acme_are_host_names() {
        for (text, name) in
            [("Example.COM.", "example.com"), ("a.b-c.example", "a.b-c.example"), ("localhost", "localhost")]
        {
            assert_eq!(acme_name(text).as_deref(), Ok(name));
        }
        for (text, why) in [
            ("*.example.com", "dns-01"),
            ("192.0.2.1", "IP address"),
            ("[::1]", "IP address"),
            ("::1", "IP address"),
            ("a_b.example.com", "`a_b`"),
            ("-a.example.com", "`-a`"),
            ("../etc", "not a host name"),
            ("..", "not a host name"),
            ("a..b", "two dots"),
            ("", "empty"),
        ] {
            let reason = acme_name(text).expect_err(text);
            assert!(reason.message.contains(why), "{text}: {reason:?}");
        }
    }

    #[test]
    fn a_mail_address_has_one_at_sign() {
        for text in ["ops@example.com", "a+b@x.example", "a@localhost"] {
            assert_eq!(email(text).as_deref(), Ok(text));
        }
        for text in ["ops", "@example.com", "a@", "a@b@c", "a@b,c@d", "mailto:a@b.c", "A <a@b.c>", "a b@c.d", "a@b:1"] {
            assert!(email(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_is_an_https_url() {
        for text in ["https://a.example/directory", "https://127.0.0.1:14000/dir", "https://[::1]:14000/dir"] {
            assert_eq!(acme_directory(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "a.example",
            "http://a.example/dir",
            "https://",
            "https:///x",
            "https://a:0/",
            "https://u@a/",
            "ftp://a/",
        ] {
            assert!(acme_directory(text).is_err(), "{text}");
        }
    }
}
