//! Who the client is, for servers and logs: `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239). Pure.
//!
//! What a client says of itself is replaced. What a trusted proxy says is kept, and its lists are
//! extended by one. Where it has filled in only one of the two lists, the other is made from that:
//! a server that reads the other would else take the proxy for the client.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::http1::head::Headers;
use crate::http1::name::{HeaderName, HeaderSet};

/// How many proxies before us are looked at: a longer list is not one of proxies.
const MAX_HOPS: usize = 32;

/// What is told of a client.
#[derive(Debug, Clone)]
pub struct ClientHeaders {
    /// The other end of the connection: the client, or a proxy before us.
    peer: IpAddr,
    proto: &'static str,
    /// What was told with the last request, if that was said by us alone: the next one's host is
    /// most often the same.
    told: RefCell<Headers>,
}

impl ClientHeaders {
    /// The headers for requests from `peer`, that come by `http` or `https`.
    #[must_use]
    pub fn new(peer: SocketAddr, scheme: &'static str) -> Self {
        Self { peer: peer.ip().to_canonical(), proto: scheme, told: RefCell::default() }
    }

    /// Sets the headers on a request whose `Host` is what the server will see, and returns the
    /// [`client_address`].
    pub fn set(&self, headers: &mut Headers, trusted: &[IpNet]) -> IpAddr {
        if is_trusted(self.peer, trusted) { self.extend(headers, trusted) } else { self.replace(headers) }
    }

    fn replace(&self, headers: &mut Headers) -> IpAddr {
        headers.remove_all(TOLD);
        let host = headers.get(HeaderName::Host).unwrap_or_default();
        let mut told = self.told.borrow_mut();
        if told.is_empty() || told.get(HeaderName::ForwardedHost).unwrap_or_default() != host {
            *told = self.tell(host);
        }
        headers.append(&told);
        self.peer
    }

    /// What is told of a client that nobody speaks for.
    fn tell(&self, host: &[u8]) -> Headers {
        let address = self.peer.to_string();
        let mut headers = Headers::new();
        headers.add(HeaderName::ForwardedFor, address.as_bytes());
        headers.add(HeaderName::ForwardedProto, self.proto.as_bytes());
        if !host.is_empty() {
            headers.add(HeaderName::ForwardedHost, host);
        }
        headers.add(HeaderName::RealIp, address.as_bytes());
        headers.add(HeaderName::Forwarded, self.element(host).as_bytes());
        // It is kept while the connection is idle.
        headers.shrink();
        headers
    }

    /// The element of `Forwarded` that we add.
    fn element(&self, host: &[u8]) -> String {
        let host = host_parameter(ascii(host).unwrap_or_default()).concat();
        format!("for={};proto={}{host}", node(Some(self.peer)), self.proto)
    }

    fn extend(&self, headers: &mut Headers, trusted: &[IpNet]) -> IpAddr {
        for name in [HeaderName::ForwardedProto, HeaderName::ForwardedHost, HeaderName::RealIp] {
            keep_last(headers, name);
        }
        let host = headers.get(HeaderName::Host).unwrap_or_default().to_vec();
        let client = client_address(headers, self.peer, trusted);
        match (headers.has(HeaderName::ForwardedFor), headers.has(HeaderName::Forwarded)) {
            (true, false) => add_forwarded(headers),
            (false, true) => add_x_forwarded(headers),
            _ => {}
        }
        extend_list(headers, HeaderName::ForwardedFor, self.peer.to_string().as_bytes());
        extend_list(headers, HeaderName::Forwarded, self.element(&host).as_bytes());
        if !host.is_empty() {
            add_missing(headers, HeaderName::ForwardedHost, &host);
        }
        add_missing(headers, HeaderName::ForwardedProto, self.proto.as_bytes());
        add_missing(headers, HeaderName::RealIp, client.to_string().as_bytes());
        client
    }
}

/// The client's address: the nearest one that is not trusted, of those that the trusted proxies
/// before us tell of; else the farthest that is known.
#[must_use]
pub fn client_address(headers: &Headers, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    for hop in hops(headers) {
        match hop {
            // Only who is trusted is asked who came before.
            Some(hop) if is_trusted(client, trusted) => client = hop,
            _ => break,
        }
    }
    client
}

/// Whether `address` is in one of the networks, where both may have an IPv4 address written as IPv6.
#[must_use]
pub fn is_trusted(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    let is_in = |network: &IpNet| match (network, address) {
        (IpNet::V6(network), IpAddr::V4(address)) => network.contains(&address.to_ipv6_mapped()),
        _ => network.contains(&address),
    };
    networks.iter().any(is_in)
}

/// The headers that a client could lie with. Some servers believe in further ones of the
/// `X-Forwarded-` family, such as `X-Forwarded-Port`.
const TOLD: HeaderSet = HeaderSet::new(&[
    HeaderName::Forwarded,
    HeaderName::ForwardedFor,
    HeaderName::ForwardedHost,
    HeaderName::ForwardedOther,
    HeaderName::ForwardedProto,
    HeaderName::RealIp,
]);

/// The addresses before our peer's, nearest first; `None` for what is no address.
fn hops(headers: &Headers) -> impl Iterator<Item = Option<IpAddr>> {
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = if headers.has(HeaderName::ForwardedFor) {
        (HeaderName::ForwardedFor, address)
    } else {
        (HeaderName::Forwarded, |element| parameter(element, "for").and_then(address))
    };
    elements(headers, name).take(MAX_HOPS).map(read)
}

/// The elements of a list, last first: so whatever a client wrote, open quotes too, it cannot
/// change how we read what a proxy has put behind it.
fn elements(headers: &Headers, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.all(name).rev().filter_map(ascii).flat_map(|field| {
        let mut quoted = false;
        field.rsplit(move |c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
    })
}

/// A parameter of an element of `Forwarded`, without quotes.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// An address as proxies write it: with or without a port, an IPv6 address with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>().ok();
    let address = bare().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// Tells in `Forwarded` what `X-Forwarded-*` do. Their host and scheme are what the client used.
fn add_forwarded(headers: &mut Headers) {
    let mut nodes: Vec<String> = hops(headers).map(|hop| format!("for={}", node(hop))).collect();
    if let Some(first) = nodes.last_mut() {
        let farthest = |name| elements(headers, name).last().unwrap_or_default().trim();
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let proto = farthest(HeaderName::ForwardedProto);
        if !proto.is_empty() && proto.bytes().all(is_scheme) {
            first.push_str(";proto=");
            first.push_str(proto);
        }
        first.extend(host_parameter(farthest(HeaderName::ForwardedHost)));
    }
    nodes.reverse();
    headers.add(HeaderName::Forwarded, nodes.join(", ").as_bytes());
}

/// Tells in `X-Forwarded-*` what `Forwarded` does.
fn add_x_forwarded(headers: &mut Headers) {
    let text = |hop: Option<IpAddr>| hop.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let mut addresses: Vec<String> = hops(headers).map(text).collect();
    addresses.reverse();
    let first = elements(headers, HeaderName::Forwarded).last().unwrap_or_default();
    let said = |name| parameter(first, name).map(str::to_owned);
    let (proto, host) = (said("proto"), said("host"));
    headers.add(HeaderName::ForwardedFor, addresses.join(", ").as_bytes());
    for (name, value) in [(HeaderName::ForwardedProto, proto), (HeaderName::ForwardedHost, host)] {
        if let Some(value) = value {
            add_missing(headers, name, value.as_bytes());
        }
    }
}

/// Of a field that says one thing, keeps the last: what the proxy before us has put behind what it
/// was sent, and what not all servers would read.
fn keep_last(headers: &mut Headers, name: HeaderName) {
    if headers.all(name).nth(1).is_some() {
        let last = headers.all(name).next_back().map(<[u8]>::to_vec);
        headers.set(name, &last.unwrap_or_default());
    }
}

/// Adds a field, unless there is one of this name.
fn add_missing(headers: &mut Headers, name: HeaderName, value: &[u8]) {
    if !headers.has(name) {
        headers.add(name, value);
    }
}

/// Makes a list one field, with `last` at its end.
fn extend_list(headers: &mut Headers, name: HeaderName, last: &[u8]) {
    let list = headers.all(name).filter(|field| !field.is_empty());
    let list = list.chain([last]).collect::<Vec<_>>().join(&b", "[..]);
    headers.set(name, &list);
}

/// A node of `Forwarded` (RFC 7239, section 6).
fn node(address: Option<IpAddr>) -> String {
    match address {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    }
}

/// The parameter `host` of an element of `Forwarded`, in parts; empty without a host, or with one
/// that cannot stand in quotes as it is.
fn host_parameter(host: &str) -> [&str; 4] {
    if host.is_empty() || host.contains(['"', '\\']) {
        return [""; 4];
    }
    let is_token = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let quote = if is_token { "" } else { "\"" };
    [";host=", quote, host, quote]
}

/// The value as text, unless a byte is over 0x7F: then it can mean nothing here.
fn ascii(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|value| value.is_ascii())
}

#[cfg(test)]
mod tests;
