//! Parses parts of requests: the headers of health checks and of the access log.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::host_name;
use crate::config::problem::Reason;

/// Headers that say how a message is framed or what happens to the connection.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers whose values let anyone who reads them act for the client.
const CREDENTIALS: [&str; 9] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-xsrf-token",
];

/// A `Host` header: a name or an IP address, with or without a port.
pub(crate) fn authority(text: &str) -> Result<String, Reason> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        return Err(Reason::new(format!("`{text}` is a URL, not a host"))
            .hint(format!("leave out `{scheme}://` and any path: `{host}`")));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Reason::new(format!("`{text}` needs brackets")).hint(format!("write `[{text}]`")));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if let Some(port) = port
        && !(port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err(Reason::new(format!("`{text}` is not a host: `{port}` is not a port"))
            .hint("a port is a number from 1 to 65535"));
    }
    if let Some(ip) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let ip = ip.parse::<Ipv6Addr>();
        return ip
            .map(|_| text.to_owned())
            .map_err(|_| Reason::new(format!("`{text}` is not a host: the text in brackets is not an IPv6 address")));
    }
    if host.parse::<Ipv4Addr>().is_err() {
        host_name(host)?;
    }
    Ok(text.to_owned())
}

/// The name of a gRPC service, with its package.
pub(crate) fn grpc_service(text: &str) -> Result<String, Reason> {
    if let Some((service, _)) = text.trim_start_matches('/').split_once('/') {
        return Err(Reason::new(format!("`{text}` names a method, not a service")).hint(format!("write `{service}`")));
    }
    if text.starts_with('/') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Reason::new(format!("`{}` is not the name of a service", text.escape_debug()))
            .hint("write it as in the .proto file, with its package: `shop.Orders`"));
    }
    Ok(text.to_owned())
}

/// A header of a health check: its name and value, as typed.
pub(crate) fn check_header(name: &str, value: &str) -> Result<(String, String), Reason> {
    header_name(name)?;
    let lower = name.to_ascii_lowercase();
    if lower == "host" {
        return Err(Reason::new("`headers` cannot set Host").hint(format!("write `host = \"{value}\"` beside it")));
    }
    if FRAMING.contains(&lower.as_str()) {
        return Err(
            Reason::new(format!("`headers` cannot set {name}: it is part of how a check is sent")).hint("leave it out")
        );
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Reason::new(format!("the value of {name} has a control character")).hint("write it in one line"));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// Text that the response to a check must contain.
pub(crate) fn check_body(text: &str) -> Result<String, Reason> {
    match text.len() {
        ..=1024 => Ok(text.to_owned()),
        length => {
            Err(Reason::new(format!("`body` has {length} bytes")).hint("write at most 1024: any part of the response"))
        }
    }
}

/// A request header that may be logged, as typed.
pub(crate) fn log_header(name: &str) -> Result<String, Reason> {
    header_name(name)?;
    if CREDENTIALS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(Reason::new(format!("{name} has credentials, which must not be in a log")).hint("leave it out"));
    }
    Ok(name.to_owned())
}

/// A token (RFC 9110, section 5.6.2).
fn header_name(name: &str) -> Result<(), Reason> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(Reason::new(format!("`{name}` is not the name of a header"))
            .hint("write letters, digits and `-`, without `:`"));
    }
    Ok(())
}
