//! Single values as people write them: addresses, hosts, paths, names, statuses.
//!
//! Each is a pure function from the text to the value, or to what is wrong and what to write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use crate::config::problem::Fault;
use crate::config::{Address, HostPattern, StatusRanges, suggest};

/// A server's or pool's name: letters, digits, `.`, `_`, `-`.
pub(crate) fn name(text: &str) -> Result<String, Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.chars().find(|c| !allowed(*c)) {
        _ if text.is_empty() => Err(Fault::new("a name must not be empty")),
        _ if text.len() > 128 => Err(Fault::new("a name has at most 128 characters")),
        Some(c) => Err(Fault::new(format!("`{text}` is not a name: it has {c:?}"))
            .hint("a name is made of letters, digits, `.`, `_` and `-`")),
        None => Ok(text.to_owned()),
    }
}

/// A listener's or route's name, or the service name in traces: anything visible.
pub(crate) fn label(text: &str) -> Result<String, Fault> {
    if text.trim().is_empty() {
        Err(Fault::new("a name must not be empty"))
    } else if text.len() > 256 {
        Err(Fault::new("a name has at most 256 characters"))
    } else if text.chars().any(char::is_control) {
        Err(Fault::new("a name must not have control characters"))
    } else {
        Ok(text.to_owned())
    }
}

/// Whether the system lets only one of them be listened on.
#[must_use]
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // All addresses of version 6 are all of version 4 too.
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// An address to listen on: `IP:port`, port 0 for any free one; `localhost` is 127.0.0.1.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, Fault> {
    match split_address(text, "0.0.0.0:8080")? {
        (Host::Ip(ip), port) => Ok(SocketAddr::new(ip, port)),
        (Host::Name(name), port) if name == "localhost" => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        (Host::Name(_), port) => {
            Err(Fault::new(format!("`{text}` is not an address to listen on: it needs an IP address")).hint(format!(
                "write `0.0.0.0:{port}` for every address of this machine, or `127.0.0.1:{port}` for this machine only"
            )))
        }
    }
}

/// Where a server is: `host:port`, the host an IP address or a name.
pub(crate) fn server_address(text: &str) -> Result<Address, Fault> {
    match split_address(text, "127.0.0.1:8081")? {
        (_, 0) => Err(Fault::new(format!("`{text}` has port 0")).hint("a server's port is within 1 and 65535")),
        (Host::Ip(ip), port) => Ok(Address::Ip(SocketAddr::new(ip, port))),
        (Host::Name(name), port) => Ok(Address::Name(name, port)),
    }
}

enum Host {
    Ip(IpAddr),
    Name(String),
}

fn split_address(text: &str, example: &str) -> Result<(Host, u16), Fault> {
    let fault = |what: &str| {
        Fault::new(format!("`{text}` is not an address: {what}"))
            .hint(format!("write host:port, for example `{example}`"))
    };
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        return Err(Fault::new(format!("`{text}` is a URL, not an address")).hint(format!(
            "leave out `{scheme}://` and any path: `{}`",
            if rest.contains(':') { rest.to_owned() } else { format!("{rest}:80") }
        )));
    }
    if text.contains('/') {
        return Err(fault("it has a path"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Fault::new(format!("`{text}` is not an address: IPv6 needs brackets and a port"))
            .hint(format!("write `[{text}]:8080`")));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, port),
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(fault("it is a port without a host"));
        }
        _ => return Err(fault("it has no port")),
    };
    if host.is_empty() {
        return Err(fault("it has no host"));
    }
    let port = match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) => number,
        _ => {
            return Err(Fault::new(format!("`{text}` is not an address: `{port}` is not a port"))
                .hint("a port is a number up to 65535"));
        }
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ip) => Host::Ip(IpAddr::V6(ip.parse().map_err(|_| fault("what is in the brackets is not IPv6"))?)),
        None => match host.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Ip(ip.into()),
            Err(_) => Host::Name(host_name(host)?),
        },
    };
    Ok((host, port))
}

/// A host name, in lower case and without a trailing dot.
pub(crate) fn host_name(text: &str) -> Result<String, Fault> {
    let fault = |what: &str| Fault::new(format!("`{text}` is not a host name: {what}"));
    let host = text.strip_suffix('.').unwrap_or(text);
    if host.is_empty() {
        return Err(fault("it is empty"));
    }
    if !host.is_ascii() {
        return Err(fault("it has letters beyond ASCII")
            .hint("write the form that goes over the wire, which begins with `xn--`"));
    }
    if host.len() > 253 || host.split('.').any(|label| label.len() > 63) {
        return Err(fault("it is too long").hint("at most 253 characters, 63 between two dots"));
    }
    if host.split('.').any(str::is_empty) {
        return Err(fault("nothing stands between two dots"));
    }
    if let Some(c) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(fault(&format!("it has {c:?}")).hint("letters, digits, `.`, `_` and `-` may stand here"));
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault("it looks like an IPv4 address, but is none")
            .hint("an IPv4 address is four numbers up to 255, without leading zeros"));
    }
    Ok(host.to_ascii_lowercase())
}

/// Which hosts a route takes: a name, an IP literal, `*.example.com`, or `*`.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, Fault> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if text.is_empty() {
        return Err(Fault::new("a host must not be empty").hint("leave `host` out to take any host"));
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
            Fault::new(format!("`{text}` is a URL, not a host")).hint(format!("leave out `{scheme}://` and any path"))
        );
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(Fault::new(format!("`{text}` has a port"))
            .hint(format!("a route's host has none: write `{host}`; it takes every port")));
    }
    host_name(text).map(HostPattern::Exact)
}

fn misplaced_wildcard(text: &str) -> Fault {
    Fault::new(format!("`{text}` has a `*` where none may stand"))
        .hint("a wildcard is the whole first label, as in `*.example.com`")
}

/// A route's path: a prefix in whole segments, without a trailing slash but for `/` itself.
pub(crate) fn route_path(text: &str) -> Result<String, Fault> {
    let path = absolute_path(text)?;
    if path.contains('?') {
        return Err(Fault::new(format!("`{text}` has a query"))
            .hint("routes look at the path only: leave out `?` and what follows"));
    }
    if path.contains('*') {
        return Err(Fault::new(format!("`{text}` has a `*`")).hint(format!(
            "a path is a prefix already: write `{}`",
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
            return Err(Fault::new(format!("`{text}` has a `{segment}` segment"))
                .hint("write the path that is meant, without `.` and `..`"));
        }
        if segment.is_empty() {
            return Err(Fault::new(format!("`{text}` has an empty segment")).hint("write one `/` between two segments"));
        }
    }
    Ok(path.to_owned())
}

/// A path and perhaps a query to ask for: begins with `/`.
pub(crate) fn absolute_path(text: &str) -> Result<String, Fault> {
    if !text.starts_with('/') {
        return Err(
            Fault::new(format!("`{text}` is not a path")).hint(format!("a path begins with `/`: write `/{text}`"))
        );
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '#' | '"' | '<' | '>' | '\\')) {
        return Err(Fault::new(format!("`{text}` is not a path: it has {c:?}"))
            .hint("write such characters percent-encoded, for example `%20` for a space"));
    }
    if text.len() > 4096 {
        return Err(Fault::new("a path has at most 4096 characters"));
    }
    Ok(text.to_owned())
}

/// Statuses: `200-399`, `200, 204`.
pub(crate) fn status_ranges(text: &str) -> Result<StatusRanges, Fault> {
    let fault = |part: &str| {
        Fault::new(format!("`{}` is no status and no range of them", part.trim()))
            .hint("statuses are within 100 and 599; write `200-399` or `200, 204`")
    };
    let status = |part: &str| {
        let digits = part.trim();
        let known = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|n| (100..=599).contains(n));
        number.filter(|_| known)
    };
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (status(first), status(last)) {
                (Some(first), Some(last)) if first <= last => Ok(first..=last),
                _ => Err(fault(part)),
            }
        })
        .collect::<Result<_, _>>()
        .map(StatusRanges)
}

/// A cookie's name: a token of RFC 6265.
pub(crate) fn cookie_name(text: &str) -> Result<String, Fault> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > 256 || !text.bytes().all(token) {
        return Err(Fault::new(format!("`{text}` is not a cookie's name"))
            .hint("write letters, digits, `-` and `_`, without spaces, `=` and `;`"));
    }
    Ok(text.to_owned())
}

/// Where spans are sent: an `http://` URL with a host. Empty means nowhere.
pub(crate) fn collector(text: &str) -> Result<Option<String>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let fault = |what: &str| {
        Fault::new(format!("`{text}` {what}"))
            .hint("write for example `http://127.0.0.1:9411/api/v2/spans`, or `\"\"` for off")
    };
    let uri: Uri = text.parse().map_err(|_| fault("is not a URL"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if !host.is_empty() => Ok(Some(text.to_owned())),
        (Some("http"), _) => Err(fault("has no host")),
        (Some("https"), _) => Err(fault("needs TLS, which is not supported here")),
        _ => Err(fault("is not an `http://` URL")),
    }
}

/// A filter in `tracing`'s syntax, checked strictly.
pub(crate) fn log_filter(text: &str) -> Result<String, Fault> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fault = |hint: String| Fault::new(format!("`{text}` is not a log level")).hint(hint);
    let usual = "write `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,lb=debug`";
    if text.trim().is_empty() {
        return Err(fault(usual.to_owned()));
    }
    // A bare word that is no level would be a target, and mistyped levels would silence the log.
    for word in text.split(',').map(str::trim) {
        let level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        if let Some(meant) = suggest::closest(word, LEVELS).filter(|_| !level) {
            return Err(fault(format!("did you mean `{meant}`?")));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(fault(usual.to_owned())),
    }
}

/// A network, `10.0.0.0/8`, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, Fault> {
    text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(
        |_| {
            Fault::new(format!("`{text}` is not a network"))
                .hint("write for example `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`")
        },
    )
}

#[cfg(test)]
mod tests;
