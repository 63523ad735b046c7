//! The client's address for servers and logs: `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239). Pure.
//!
//! Values that an untrusted client sends are replaced. Values from a trusted proxy are kept, and its
//! lists get one more entry. If the proxy sends only one of the two lists, the other is translated from
//! it: a server that reads the other one would otherwise mistake the proxy for the client.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::http1::head::Headers;
use crate::http1::name::{HeaderName, HeaderSet};

/// The maximum number of list entries that are examined. No real chain of proxies is longer.
const MAX_HOPS: usize = 32;

/// The forwarding headers for the requests of one connection.
#[derive(Debug, Clone)]
pub struct ClientHeaders {
    /// The other end of the connection: the client, or a proxy in front.
    peer: IpAddr,
    proto: &'static str,
    /// The headers generated for the last request from an untrusted peer. They are reused while the host
    /// stays the same, which it mostly does.
    cached: RefCell<Headers>,
}

impl ClientHeaders {
    /// The headers for requests from `peer` with this scheme, `http` or `https`.
    #[must_use]
    pub fn new(peer: SocketAddr, scheme: &'static str) -> Self {
        Self { peer: peer.ip().to_canonical(), proto: scheme, cached: RefCell::default() }
    }

    /// Sets the headers of a request and returns the [`client_address`]. `Host` must already have the value
    /// that the server will receive.
    pub fn set(&self, headers: &mut Headers, trusted: &[IpNet]) -> IpAddr {
        if is_trusted(self.peer, trusted) { self.extend(headers, trusted) } else { self.replace(headers) }
    }

    fn replace(&self, headers: &mut Headers) -> IpAddr {
        headers.remove_all(FORWARDING);
        let host = headers.get(HeaderName::Host).unwrap_or_default();
        let mut cached = self.cached.borrow_mut();
        if cached.is_empty() || cached.get(HeaderName::ForwardedHost).unwrap_or_default() != host {
            *cached = self.generate(host);
        }
        headers.append(&cached);
        self.peer
    }

    /// Generates the headers for a request from an untrusted peer.
    fn generate(&self, host: &[u8]) -> Headers {
        let address = self.peer.to_string();
        let mut headers = Headers::new();
        headers.add(HeaderName::ForwardedFor, address.as_bytes());
        headers.add(HeaderName::ForwardedProto, self.proto.as_bytes());
        if !host.is_empty() {
            headers.add(HeaderName::ForwardedHost, host);
        }
        headers.add(HeaderName::RealIp, address.as_bytes());
        headers.add(HeaderName::Forwarded, self.element(host).as_bytes());
        // Kept while the connection is idle.
        headers.shrink();
        headers
    }

    /// Returns our element for `Forwarded`.
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

/// Returns the client's address: the nearest untrusted address in the list that the trusted proxies in
/// front have built, or the farthest valid one if all are trusted.
#[must_use]
pub fn client_address(headers: &Headers, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    for address in earlier_addresses(headers) {
        match address {
            // The entry was added by `client`, so it counts only if `client` is trusted.
            Some(address) if is_trusted(client, trusted) => client = address,
            _ => break,
        }
    }
    client
}

/// Whether `address` is in one of the networks. Either may be an IPv4-mapped IPv6 address.
#[must_use]
pub fn is_trusted(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    let contains = |network: &IpNet| match (network, address) {
        (IpNet::V6(network), IpAddr::V4(address)) => network.contains(&address.to_ipv6_mapped()),
        _ => network.contains(&address),
    };
    networks.iter().any(contains)
}

/// The headers that an untrusted client could forge. All of the `X-Forwarded-` family are included,
/// because some servers also trust others, such as `X-Forwarded-Port`.
const FORWARDING: HeaderSet = HeaderSet::new(&[
    HeaderName::Forwarded,
    HeaderName::ForwardedFor,
    HeaderName::ForwardedHost,
    HeaderName::ForwardedOther,
    HeaderName::ForwardedProto,
    HeaderName::RealIp,
]);

/// The addresses of the hops before our peer, nearest first; `None` for an entry that is not an address.
fn earlier_addresses(headers: &Headers) -> impl Iterator<Item = Option<IpAddr>> {
    let (name, parse): (_, fn(&str) -> Option<IpAddr>) = if headers.has(HeaderName::ForwardedFor) {
        (HeaderName::ForwardedFor, parse_address)
    } else {
        (HeaderName::Forwarded, |element| parameter(element, "for").and_then(parse_address))
    };
    elements(headers, name).take(MAX_HOPS).map(parse)
}

/// The elements of a list, last first, so that nothing that a client wrote, such as an open quote, can
/// change how the elements that a proxy appended are parsed.
fn elements(headers: &Headers, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.all(name).rev().filter_map(ascii).flat_map(|list| {
        let mut quoted = false;
        list.rsplit(move |c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
    })
}

/// Returns a parameter of an element of `Forwarded`, without quotes.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// Parses an address as proxies write it: with or without a port, IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>().ok();
    let address = bare().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// Translates `X-Forwarded-*` to `Forwarded`. Their host and scheme go to the first element, because they
/// are the ones that the client used.
fn add_forwarded(headers: &mut Headers) {
    let element = |address| format!("for={}", node(address));
    let mut elements_nearest_first: Vec<String> = earlier_addresses(headers).map(element).collect();
    if let Some(first) = elements_nearest_first.last_mut() {
        let farthest = |name| elements(headers, name).last().unwrap_or_default().trim();
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let proto = farthest(HeaderName::ForwardedProto);
        if !proto.is_empty() && proto.bytes().all(is_scheme) {
            first.push_str(";proto=");
            first.push_str(proto);
        }
        first.extend(host_parameter(farthest(HeaderName::ForwardedHost)));
    }
    elements_nearest_first.reverse();
    headers.add(HeaderName::Forwarded, elements_nearest_first.join(", ").as_bytes());
}

/// Translates `Forwarded` to `X-Forwarded-*`.
fn add_x_forwarded(headers: &mut Headers) {
    let text = |address: Option<IpAddr>| address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let mut addresses: Vec<String> = earlier_addresses(headers).map(text).collect();
    addresses.reverse();
    let first = elements(headers, HeaderName::Forwarded).last().unwrap_or_default();
    let proto = parameter(first, "proto").map(str::to_owned);
    let host = parameter(first, "host").map(str::to_owned);
    headers.add(HeaderName::ForwardedFor, addresses.join(", ").as_bytes());
    for (name, value) in [(HeaderName::ForwardedProto, proto), (HeaderName::ForwardedHost, host)] {
        if let Some(value) = value {
            add_missing(headers, name, value.as_bytes());
        }
    }
}

/// Keeps only the last of several headers of this name, which should occur only once: the proxy in front
/// added the last and received the others, and servers differ in which one they use.
fn keep_last(headers: &mut Headers, name: HeaderName) {
    if headers.all(name).nth(1).is_some() {
        let last = headers.all(name).next_back().map(<[u8]>::to_vec);
        headers.set(name, &last.unwrap_or_default());
    }
}

/// Adds a header unless there is one of this name.
fn add_missing(headers: &mut Headers, name: HeaderName, value: &[u8]) {
    if !headers.has(name) {
        headers.add(name, value);
    }
}

/// Joins the headers of a list into one and appends an element.
fn extend_list(headers: &mut Headers, name: HeaderName, last: &[u8]) {
    let list = headers.all(name).filter(|value| !value.is_empty());
    let list = list.chain([last]).collect::<Vec<_>>().join(&b", "[..]);
    headers.set(name, &list);
}

/// Formats a node of `Forwarded` (RFC 7239, section 6).
fn node(address: Option<IpAddr>) -> String {
    match address {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    }
}

/// Returns the `host` parameter of an element of `Forwarded`, in parts. It is empty without a host, or if
/// the host would need escapes within quotes.
fn host_parameter(host: &str) -> [&str; 4] {
    // Not every recipient knows that a delimiter within quotes is none.
    if host.is_empty() || host.contains(['"', '\\', ',', ';']) {
        return [""; 4];
    }
    let is_token = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let quote = if is_token { "" } else { "\"" };
    [";host=", quote, host, quote]
}

/// Returns an ASCII value as text. Any other has no meaning in these headers.
fn ascii(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|value| value.is_ascii())
}

#[cfg(test)]
mod tests;
