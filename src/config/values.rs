//! Parses single values: addresses, hosts, paths, names, statuses.
//!
//! Each function is pure, and returns the value or the reason why the text is invalid.

mod addresses;
mod edge;
mod files;
mod requests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;

use crate::config::problem::Reason;
use crate::config::units::parse_duration;
use crate::config::{CollectorUrl, HostPattern, StatusRanges};

pub(crate) use addresses::{listen_address, listen_address_in, server_address, server_address_in};
pub use addresses::{overlap, reachable};
pub(crate) use edge::{acme_directory, acme_name, email, file, https_redirect, protocol, socket_mode};
pub(crate) use files::{include, log_file, shell_syntax, unbraced};
pub(crate) use requests::{authority, check_body, check_header, grpc_service, log_header};

/// A server's or pool's name: letters, digits, `.`, `_`, `-`.
pub(crate) fn name(text: &str) -> Result<String, Reason> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.chars().find(|c| !allowed(*c)) {
        _ if text.is_empty() => Err(Reason::new("a name must not be empty")),
        _ if text.len() > 128 => Err(Reason::new("a name has at most 128 characters")),
        Some(c) => Err(Reason::new(format!("`{text}` is not a name: it has {c:?}"))
            .hint("a name is made of letters, digits, `.`, `_` and `-`")),
        None => Ok(text.to_owned()),
    }
}

/// A listener's or route's name, or the service name in traces: anything printable.
pub(crate) fn label(text: &str) -> Result<String, Reason> {
    if text.trim().is_empty() {
        Err(Reason::new("a name must not be empty"))
    } else if text.len() > 256 {
        Err(Reason::new("a name has at most 256 characters"))
    } else if text.chars().any(char::is_control) {
        Err(Reason::new("a name must not have control characters"))
    } else {
        Ok(text.to_owned())
    }
}

/// A host name, in lower case and without a trailing dot.
pub(crate) fn host_name(text: &str) -> Result<String, Reason> {
    let reason = |what: &str| Reason::new(format!("`{text}` is not a host name: {what}"));
    let host = text.strip_suffix('.').unwrap_or(text);
    if host.is_empty() {
        return Err(reason("it is empty"));
    }
    if !host.is_ascii() {
        return Err(
            reason("it has characters outside ASCII").hint("write it in its ASCII form, which begins with `xn--`")
        );
    }
    if host.len() > 253 || host.split('.').any(|label| label.len() > 63) {
        return Err(reason("it is too long").hint("at most 253 characters, 63 between two dots"));
    }
    if host.split('.').any(str::is_empty) {
        return Err(reason("it has two dots in a row, or begins with one"));
    }
    if let Some((name, port)) = host.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        return Err(reason("it has a port").hint(format!("write `{name}`")));
    }
    if let Some(c) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(reason(&format!("it has {c:?}")).hint("use letters, digits, `.`, `_` and `-`"));
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(reason("it looks like an IPv4 address, but is not one")
            .hint("an IPv4 address is four numbers up to 255, without leading zeros"));
    }
    Ok(host.to_ascii_lowercase())
}

/// The hosts that a route matches: a name, an IP literal, `*.example.com`, or `*`.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, Reason> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if text.is_empty() {
        return Err(Reason::new("a host must not be empty").hint("leave `host` out to match any host"));
    }
    if text == "_" {
        return Err(Reason::new("no request has the host `_`").hint("leave `host` out to match any host"));
    }
    if let Some(domain) = text.strip_prefix("*.") {
        return match domain.contains('*') {
            false => host_name(domain).map(HostPattern::Wildcard),
            true => Err(misplaced_wildcard(text)),
        };
    }
    if text.contains('*') {
        return Err(misplaced_wildcard(text));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
        return Ok(HostPattern::Exact(format!("[{ip}]")));
    }
    if text.parse::<Ipv4Addr>().is_ok() {
        return Ok(HostPattern::Exact(text.to_owned()));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(
            Reason::new(format!("`{text}` is a URL, not a host")).hint(format!("leave out `{scheme}://` and any path"))
        );
    }
    if let Some((host, path)) = text.split_once('/') {
        return Err(Reason::new(format!("`{text}` has a path"))
            .hint(format!("write `{host}` here, and `path = \"/{path}\"` in the same route")));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(Reason::new(format!("`{text}` has a port"))
            .hint(format!("write `{host}`: a route's host matches every port")));
    }
    host_name(text).map(HostPattern::Exact)
}

fn misplaced_wildcard(text: &str) -> Reason {
    Reason::new(format!("`{text}` has a misplaced `*`"))
        .hint("a wildcard must be the whole first label, as in `*.example.com`")
}

/// A route's path: a prefix in whole segments, without a trailing slash except for `/` itself.
pub(crate) fn route_path(text: &str) -> Result<String, Reason> {
    let path = absolute_path(text)?;
    if path.contains('?') {
        return Err(Reason::new(format!("`{text}` has a query"))
            .hint("a route matches only the path: leave out `?` and everything after it"));
    }
    if path.contains('*') {
        return Err(Reason::new(format!("`{text}` has a `*`")).hint(format!(
            "a route's path is a prefix: write `{}`",
            path.split("/*").next().filter(|p| !p.is_empty()).unwrap_or("/")
        )));
    }
    let path = path.strip_suffix('/').unwrap_or(&path);
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    for segment in path.split('/').skip(1) {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        if plain == "." || plain == ".." {
            return Err(
                Reason::new(format!("`{text}` has a `{segment}` segment")).hint("write the path without `.` and `..`")
            );
        }
        if segment.is_empty() {
            return Err(
                Reason::new(format!("`{text}` has an empty segment")).hint("write one `/` between two segments")
            );
        }
    }
    check_escapes(path)?;
    Ok(path.to_owned())
}

/// Requests are matched by their normalized path, in which no unreserved character is escaped.
fn check_escapes(path: &str) -> Result<(), Reason> {
    for (at, _) in path.match_indices('%') {
        let digits = path.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return Err(Reason::new(format!("`{path}` has a `%` without two hexadecimal digits"))
                .hint("write `%25` for a percent sign"));
        };
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            let c = char::from(byte);
            return Err(Reason::new(format!(
                "`{path}` matches no request, because `{}` counts as `{c}`",
                &path[at..at + 3]
            ))
            .hint(format!("write `{}`", path.replace(&path[at..at + 3], &c.to_string()))));
        }
    }
    Ok(())
}

/// A path, possibly with a query; it begins with `/`.
pub(crate) fn absolute_path(text: &str) -> Result<String, Reason> {
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        return Err(Reason::new(format!("`{text}` is a URL, not a path")).hint(format!("write `{path}`")));
    }
    if !text.starts_with('/') {
        return Err(
            Reason::new(format!("`{text}` is not a path")).hint(format!("a path begins with `/`: write `/{text}`"))
        );
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '#' | '"' | '<' | '>' | '\\')) {
        return Err(Reason::new(format!("`{text}` is not a path: it has {c:?}"))
            .hint("write such characters percent-encoded, for example `%20` for a space"));
    }
    if text.len() > 4096 {
        return Err(Reason::new("a path has at most 4096 characters"));
    }
    Ok(text.to_owned())
}

/// Statuses: `200-399`, `200, 204`.
pub(crate) fn status_ranges(text: &str) -> Result<StatusRanges, Reason> {
    let reason = |part: &str| {
        Reason::new(format!("`{}` is neither a status nor a range of statuses", part.trim()))
            .hint("statuses are between 100 and 599; write `200-399` or `200, 204`")
    };
    let status = |part: &str| {
        let digits = part.trim();
        let is_number = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|n| (100..=599).contains(n));
        number.filter(|_| is_number)
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(first..=last),
            _ => Err(reason(part)),
        }
    };
    let ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
    // Interim responses never end a check.
    if ranges.iter().all(|range| *range.end() < 200) {
        return Err(Reason::new(format!("`{text}` matches no response, which has a status from 200 to 599"))
            .hint("write `200-399` or `200, 204`"));
    }
    Ok(StatusRanges(ranges))
}

/// A cookie's name: a token (RFC 6265).
pub(crate) fn cookie_name(text: &str) -> Result<String, Reason> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > 256 || !text.bytes().all(token) {
        return Err(Reason::new(format!("`{text}` is not a cookie's name"))
            .hint("write letters, digits, `-` and `_`, without spaces, `=` or `;`"));
    }
    Ok(text.to_owned())
}

/// A trace collector: an `http://` URL with a host. Empty means none.
pub(crate) fn collector(text: &str) -> Result<Option<CollectorUrl>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    let reason = |what: &str| {
        Reason::new(format!("`{text}` {what}"))
            .hint("write for example `http://127.0.0.1:9411/api/v2/spans`, or `\"\"` to turn this off")
    };
    let uri: Uri = text.parse().map_err(|_| reason("is not a URL"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port =
        authority.rsplit('@').next().and_then(|host| host.rsplit_once(':')).filter(|(_, port)| !port.ends_with(']'));
    if port.is_some_and(|(_, port)| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(reason("has an invalid port"));
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if !host.is_empty() => Ok(Some(text.into())),
        (Some("http"), _) => Err(reason("has no host")),
        (Some("https"), _) => Err(reason("needs TLS, which is not supported here")),
        _ => Err(reason("is not an `http://` URL")),
    }
}

/// How long browsers keep a cookie; they count in seconds. Empty means until they are closed.
pub(crate) fn sticky_max_age(text: &str) -> Result<Option<Duration>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    match parse_duration(text)? {
        value if value < Duration::from_secs(1) => {
            Err(Reason::new(format!("browsers drop a cookie with a `max_age` of `{text}` at once"))
                .hint("write at least `1s`, or leave `max_age` out to get a session cookie"))
        }
        value => Ok(Some(value)),
    }
}

/// A network, `10.0.0.0/8`, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, Reason> {
    text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(
        |_| {
            Reason::new(format!("`{text}` is not a network"))
                .hint("write for example `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`")
        },
    )
}

#[cfg(test)]
mod tests;
