//! Parses the addresses of servers and listeners.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::files::socket_path;
use super::host_name;
use crate::config::problem::Reason;
use crate::config::socket_address::UNIX;
use crate::config::{Address, SocketAddress};

/// Whether only one of the two addresses can be bound.
#[must_use]
pub fn overlap(a: &SocketAddress, b: &SocketAddress) -> bool {
    let (SocketAddress::Ip(a), SocketAddress::Ip(b)) = (a, b) else { return a == b };
    // `[::]` accepts IPv4 too.
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    let [a, b] = [*a, *b].map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// Where to connect to a listener of `address`: the loopback address, if it listens on all addresses.
#[must_use]
pub fn reachable(address: &SocketAddress) -> SocketAddress {
    let SocketAddress::Ip(address) = address else { return address.clone() };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port()).into()
}

/// An address to listen on: `IP:port`, port 0 for any free one; `localhost` is 127.0.0.1; or `unix:PATH`.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddress, Reason> {
    listen_address_in(text, Path::new(""))
}

/// Like [`listen_address`]; a path is relative to `base`.
pub(crate) fn listen_address_in(text: &str, base: &Path) -> Result<SocketAddress, Reason> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return socket_path(text, path, base).map(SocketAddress::Unix);
    }
    match split_address(text, "0.0.0.0:8080")? {
        (Host::Ip(ip), port) => Ok(SocketAddr::new(ip, port).into()),
        (Host::Name(name), port) if name == "localhost" => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into()),
        (Host::Name(_), port) => {
            Err(Reason::new(format!("`{text}` is not an address to listen on: it needs an IP address")).hint(format!(
                "write `0.0.0.0:{port}` to accept clients from anywhere, or `127.0.0.1:{port}` for this machine only"
            )))
        }
    }
}

/// A server's address: `host:port`, where the host is an IP address or a name, or `unix:PATH`.
pub(crate) fn server_address(text: &str) -> Result<Address, Reason> {
    server_address_in(text, Path::new(""))
}

/// Like [`server_address`]; a path is relative to `base`.
pub(crate) fn server_address_in(text: &str, base: &Path) -> Result<Address, Reason> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return socket_path(text, path, base).map(Address::Unix);
    }
    match split_address(text, "127.0.0.1:8081")? {
        (_, 0) => Err(Reason::new(format!("`{text}` has port 0")).hint("a server's port is between 1 and 65535")),
        (Host::Ip(ip), port) => Ok(Address::Ip(SocketAddr::new(ip, port))),
        (Host::Name(name), port) => Ok(Address::Name(name, port)),
    }
}

enum Host {
    Ip(IpAddr),
    Name(String),
}

fn split_address(text: &str, example: &str) -> Result<(Host, u16), Reason> {
    let reason = |what: &str| {
        Reason::new(format!("`{text}` is not an address: {what}"))
            .hint(format!("write host:port, for example `{example}`"))
    };
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let rest = rest.rsplit('@').next().unwrap_or_default();
        let tls = if scheme == "https" { ", and name a port without TLS" } else { "" };
        return Err(Reason::new(format!("`{text}` is a URL, not an address")).hint(format!(
            "leave out `{scheme}://` and any path{tls}: `{}`",
            if rest.contains(':') { rest.to_owned() } else { format!("{rest}:80") }
        )));
    }
    if text.starts_with('/') || text.starts_with("./") {
        return Err(Reason::new(format!("`{text}` is a path")).hint(format!("write `unix:{text}` for a Unix socket")));
    }
    if text.contains('/') {
        return Err(reason("it has a path"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Reason::new(format!("`{text}` is not an address: IPv6 needs brackets and a port")).hint(
            match text.rsplit_once(':').filter(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok()) {
                Some((ip, port)) if port.parse::<u16>().is_ok() => {
                    format!("write `[{ip}]:{port}` if the port is {port}, or `[{text}]:8080`")
                }
                _ => format!("write `[{text}]:8080`"),
            },
        ));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, port),
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(reason("it is a port without a host"));
        }
        _ => return Err(reason("it has no port")),
    };
    if host.is_empty() {
        return Err(reason("it has no host"));
    }
    let port = match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) => number,
        _ => {
            return Err(Reason::new(format!("`{text}` is not an address: `{port}` is not a port"))
                .hint("a port is a number up to 65535"));
        }
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ip) => {
            Host::Ip(IpAddr::V6(ip.parse().map_err(|_| reason("the text in brackets is not an IPv6 address"))?))
        }
        None => match host.parse::<Ipv4Addr>() {
            Ok(ip) => Host::Ip(ip.into()),
            Err(_) => Host::Name(host_name(host)?),
        },
    };
    Ok((host, port))
}
