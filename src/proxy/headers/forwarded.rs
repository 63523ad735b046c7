//! The client's address for servers and logs: `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239). Pure.
//!
//! `proxy.forwarded` says which of the two families servers get. Values that an untrusted client sends are removed in
//! either case. Values from a trusted proxy are kept, and its lists get one more entry. A family that is not written is
//! removed from its requests too, after it was translated, so that the two can never contradict each other.
//!
//! Servers differ in which element of `Forwarded` they take the scheme from. So ours has scheme and host only if no
//! earlier one has, and then the client's, not those of the last hop.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::ForwardedMode;
use crate::http1::head::Headers;
use crate::http1::name::{HeaderName, HeaderSet};
use crate::transport::ClientAddress;

/// The maximum number of list entries that are examined. No real chain of proxies is longer.
const MAX_HOPS: usize = 32;

/// The forwarding headers for the requests of one connection.
#[derive(Debug, Clone)]
pub struct ClientHeaders {
    /// The other end of the connection: the client, or a proxy in front.
    peer: ClientAddress,
    proto: &'static str,
    cached: RefCell<Generated>,
}

/// The headers generated for the last request from an untrusted peer. They are reused while mode and host stay the
/// same, which they mostly do.
#[derive(Debug, Clone)]
struct Generated {
    mode: ForwardedMode,
    host: Box<[u8]>,
    headers: Headers,
}

impl ClientHeaders {
    /// The headers for requests from `peer` with this scheme, `http` or `https`.
    #[must_use]
    pub fn new(peer: ClientAddress, scheme: &'static str) -> Self {
        let none = Generated { mode: ForwardedMode::None, host: Box::default(), headers: Headers::new() };
        Self { peer, proto: scheme, cached: RefCell::new(none) }
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.proto
    }

    /// Sets the headers of a request and returns the [`client_address`]. `Host` must already have the value
    /// that the server will receive.
    pub fn set(&self, headers: &mut Headers, mode: ForwardedMode, trusted: &[IpNet]) -> ClientAddress {
        if is_trusted(self.peer, trusted) { self.extend(headers, mode, trusted) } else { self.replace(headers, mode) }
    }

    /// Whether the client's own connection uses TLS: this one or, if trusted proxies say more, the one to the first of them.
    #[must_use]
    pub fn is_secure(&self, headers: &Headers, trusted: &[IpNet]) -> bool {
        let said = is_trusted(self.peer, trusted)
            .then(|| farthest(headers, HeaderName::ForwardedProto).or_else(|| farthest_parameter(headers, "proto")));
        let said = said.flatten().filter(|proto| is_scheme(proto)).unwrap_or(self.proto);
        said.eq_ignore_ascii_case("https") || said.eq_ignore_ascii_case("wss")
    }

    fn replace(&self, headers: &mut Headers, mode: ForwardedMode) -> ClientAddress {
        headers.remove_all(FORWARDING);
        if mode != ForwardedMode::None {
            let host = headers.get(HeaderName::Host).unwrap_or_default();
            let mut cached = self.cached.borrow_mut();
            if cached.mode != mode || *cached.host != *host {
                *cached = Generated { mode, host: host.into(), headers: self.generate(host, mode) };
            }
            headers.append(&cached.headers);
        }
        self.peer
    }

    /// Generates the headers for a request from an untrusted peer.
    fn generate(&self, host: &[u8], mode: ForwardedMode) -> Headers {
        let mut headers = Headers::new();
        if writes_x_forwarded(mode) {
            let address = self.peer.to_string();
            headers.add(HeaderName::ForwardedFor, address.as_bytes());
            headers.add(HeaderName::ForwardedProto, self.proto.as_bytes());
            if !host.is_empty() {
                headers.add(HeaderName::ForwardedHost, host);
            }
            headers.add(HeaderName::RealIp, address.as_bytes());
        }
        if writes_forwarded(mode) {
            let element = self.element(Some(self.proto), ascii(host));
            headers.add(HeaderName::Forwarded, element.as_bytes());
        }
        // Kept while the connection is idle.
        headers.shrink();
        headers
    }

    /// Returns our element for `Forwarded`.
    fn element(&self, proto: Option<&str>, host: Option<&str>) -> String {
        let mut element = format!("for={}", node(Some(self.peer)));
        element.extend(proto.into_iter().flat_map(|proto| [";proto=", proto]));
        element.extend(host_parameter(host.unwrap_or_default()));
        element
    }

    fn extend(&self, headers: &mut Headers, mode: ForwardedMode, trusted: &[IpNet]) -> ClientAddress {
        let client = client_address(headers, mode, self.peer, trusted);
        if mode == ForwardedMode::None {
            return client;
        }
        for name in [HeaderName::ForwardedProto, HeaderName::ForwardedHost, HeaderName::RealIp] {
            keep_last(headers, name);
        }
        match (headers.has(HeaderName::ForwardedFor), headers.has(HeaderName::Forwarded)) {
            (true, false) if writes_forwarded(mode) => add_forwarded(headers),
            (false, true) if writes_x_forwarded(mode) => add_x_forwarded(headers),
            _ => {}
        }
        if writes_forwarded(mode) {
            let element = self.last_element(headers);
            extend_list(headers, HeaderName::Forwarded, element.as_bytes());
        } else {
            headers.remove(HeaderName::Forwarded);
        }
        if writes_x_forwarded(mode) {
            self.extend_x_forwarded(headers, client);
        } else {
            headers.remove_all(X_FORWARDED);
        }
        client
    }

    /// Returns our element for a `Forwarded` that trusted proxies have built.
    fn last_element(&self, headers: &Headers) -> String {
        let proto = match farthest_parameter(headers, "proto") {
            Some(_) => None,
            None => farthest(headers, HeaderName::ForwardedProto).filter(|proto| is_scheme(proto)).or(Some(self.proto)),
        };
        let host = match farthest_parameter(headers, "host") {
            Some(_) => None,
            None => {
                farthest(headers, HeaderName::ForwardedHost).or_else(|| headers.get(HeaderName::Host).and_then(ascii))
            }
        };
        self.element(proto, host)
    }

    fn extend_x_forwarded(&self, headers: &mut Headers, client: ClientAddress) {
        extend_list(headers, HeaderName::ForwardedFor, self.peer.to_string().as_bytes());
        let host = headers.get(HeaderName::Host).unwrap_or_default().to_vec();
        if !host.is_empty() {
            add_missing(headers, HeaderName::ForwardedHost, &host);
        }
        add_missing(headers, HeaderName::ForwardedProto, self.proto.as_bytes());
        add_missing(headers, HeaderName::RealIp, client.to_string().as_bytes());
    }
}

fn writes_x_forwarded(mode: ForwardedMode) -> bool {
    matches!(mode, ForwardedMode::XForwarded | ForwardedMode::Both)
}

fn writes_forwarded(mode: ForwardedMode) -> bool {
    matches!(mode, ForwardedMode::Forwarded | ForwardedMode::Both)
}

/// Returns the client's address: the nearest untrusted address in the list that the trusted proxies in
/// front have built, or the farthest valid one if all are trusted. If there are two lists, the one that is written
/// counts, or else `X-Forwarded-For`.
#[must_use]
pub fn client_address(headers: &Headers, mode: ForwardedMode, peer: ClientAddress, trusted: &[IpNet]) -> ClientAddress {
    let first = if mode == ForwardedMode::Forwarded { HeaderName::Forwarded } else { HeaderName::ForwardedFor };
    let mut client = peer;
    for address in earlier_addresses(headers, first) {
        match address {
            // The entry was added by `client`, so it counts only if `client` is trusted.
            Some(address) if is_trusted(client, trusted) => client = address,
            _ => break,
        }
    }
    client
}

/// Whether `address` is in one of the networks, which may be of IPv4-mapped IPv6 addresses. A Unix peer is trusted: who may
/// connect to its socket, the permissions of the file say.
#[must_use]
pub fn is_trusted(address: ClientAddress, networks: &[IpNet]) -> bool {
    let ClientAddress::Ip(address) = address else { return true };
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

/// The headers of the one family.
const X_FORWARDED: HeaderSet = HeaderSet::new(&[
    HeaderName::ForwardedFor,
    HeaderName::ForwardedHost,
    HeaderName::ForwardedProto,
    HeaderName::RealIp,
]);

/// The addresses of the hops before our peer, nearest first; `None` for an entry that is not an address. They are taken
/// from the list `first`, or from the other one if that is missing.
fn earlier_addresses(headers: &Headers, first: HeaderName) -> impl Iterator<Item = Option<ClientAddress>> {
    let both = [first, HeaderName::ForwardedFor, HeaderName::Forwarded];
    let name = both.into_iter().find(|name| headers.has(*name)).unwrap_or(first);
    let parse: fn(&str) -> Option<ClientAddress> = match name {
        HeaderName::ForwardedFor => parse_address,
        _ => |element| parameter(element, "for").and_then(parse_address),
    };
    elements(headers, name).take(MAX_HOPS).map(parse)
}

/// The first value of a list, which is about the client.
fn farthest(headers: &Headers, name: HeaderName) -> Option<&str> {
    elements(headers, name).last().map(str::trim).filter(|value| !value.is_empty())
}

/// The first value of a parameter in the elements of `Forwarded`.
fn farthest_parameter<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    elements(headers, HeaderName::Forwarded).filter_map(|element| parameter(element, name)).last()
}

fn is_scheme(proto: &str) -> bool {
    proto.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
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

/// `Forwarded` names a Unix peer by an identifier, which begins with `_` (RFC 7239, section 6.3).
const UNIX_NODE: &str = "_unix";

/// Parses an address as proxies write it: with or without a port, IPv6 with or without brackets. For a Unix peer, nginx
/// writes `unix:`.
fn parse_address(text: &str) -> Option<ClientAddress> {
    let text = text.trim().trim_matches('"');
    if matches!(text, "unix" | "unix:" | UNIX_NODE) {
        return Some(ClientAddress::Unix);
    }
    let bare = || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>().ok();
    let address = bare().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(ClientAddress::from)
}

/// Translates `X-Forwarded-*` to `Forwarded`. Their host and scheme go to the first element, because they
/// are the ones that the client used.
fn add_forwarded(headers: &mut Headers) {
    let element = |address| format!("for={}", node(address));
    let mut elements_nearest_first: Vec<String> =
        earlier_addresses(headers, HeaderName::ForwardedFor).map(element).collect();
    if let Some(first) = elements_nearest_first.last_mut() {
        let proto = farthest(headers, HeaderName::ForwardedProto).filter(|proto| is_scheme(proto));
        first.extend(proto.into_iter().flat_map(|proto| [";proto=", proto]));
        first.extend(host_parameter(farthest(headers, HeaderName::ForwardedHost).unwrap_or_default()));
    }
    elements_nearest_first.reverse();
    headers.add(HeaderName::Forwarded, elements_nearest_first.join(", ").as_bytes());
}

/// Translates `Forwarded` to `X-Forwarded-*`.
fn add_x_forwarded(headers: &mut Headers) {
    let text =
        |address: Option<ClientAddress>| address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let mut addresses: Vec<String> = earlier_addresses(headers, HeaderName::Forwarded).map(text).collect();
    addresses.reverse();
    let [proto, host] = ["proto", "host"].map(|name| farthest_parameter(headers, name).map(str::to_owned));
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
fn node(address: Option<ClientAddress>) -> String {
    match address {
        Some(ClientAddress::Ip(IpAddr::V4(address))) => address.to_string(),
        Some(ClientAddress::Ip(IpAddr::V6(address))) => format!("\"[{address}]\""),
        Some(ClientAddress::Unix) => UNIX_NODE.to_owned(),
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
