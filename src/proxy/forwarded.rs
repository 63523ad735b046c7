//! Who the client is, for servers and logs: `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239). Pure.
//!
//! What a client says of itself is replaced. What a trusted proxy says is kept, and its lists are
//! extended by one. Where it has filled in only one of the two lists, the other is made from that:
//! a server that reads the other would else take the proxy for the client.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static HOST_NAMED: HeaderName = HeaderName::from_static("x-forwarded-host");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// RFC 7239's word; instead of a value that could not be made, which does not happen.
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// How many proxies before us are looked at: a longer list is not one of proxies.
const MAX_HOPS: usize = 32;

/// What is told of a client, prepared once for all requests of its connection.
#[derive(Debug, Clone)]
pub struct ClientFields {
    /// The other end of the connection: the client, or a proxy before us.
    peer: IpAddr,
    address: HeaderValue,
    proto: HeaderValue,
    /// `for` and `proto`, as an element of `Forwarded`.
    element: Box<str>,
}

impl ClientFields {
    /// The fields for requests from `peer`, that come by `http` or `https`.
    #[must_use]
    pub fn new(peer: SocketAddr, scheme: &'static str) -> Self {
        let peer = peer.ip().to_canonical();
        Self {
            peer,
            address: value(peer.to_string()),
            proto: HeaderValue::from_static(scheme),
            element: format!("for={};proto={scheme}", node(Some(peer))).into(),
        }
    }

    /// Sets the fields on a request whose `Host` is what the server will see, and returns the
    /// [`client_address`].
    pub fn set(&self, headers: &mut HeaderMap, trusted: &[IpNet]) -> IpAddr {
        if is_trusted(self.peer, trusted) { self.extend(headers, trusted) } else { self.replace(headers) }
    }

    fn replace(&self, headers: &mut HeaderMap) -> IpAddr {
        // Some servers believe in further fields of this family, such as X-Forwarded-Port.
        let others = |name: &&HeaderName| name.as_str().starts_with("x-forwarded-");
        let others: Vec<HeaderName> = headers.keys().filter(others).cloned().collect();
        for name in others {
            headers.remove(name);
        }
        let element = self.element(headers.get(HOST));
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(&HOST_NAMED, host);
        }
        headers.insert(&FOR, self.address.clone());
        headers.insert(&PROTO, self.proto.clone());
        headers.insert(&REAL_IP, self.address.clone());
        headers.insert(FORWARDED, value(element));
        self.peer
    }

    fn extend(&self, headers: &mut HeaderMap, trusted: &[IpNet]) -> IpAddr {
        let client = client_address(headers, self.peer, trusted);
        let element = self.element(headers.get(HOST));
        match (headers.contains_key(&FOR), headers.contains_key(FORWARDED)) {
            (true, false) => add_forwarded(headers),
            (false, true) => add_x_forwarded(headers),
            _ => {}
        }
        extend_list(headers, &FOR, self.address.as_bytes());
        extend_list(headers, &FORWARDED, element.as_bytes());
        if let Some(host) = headers.get(HOST).cloned() {
            headers.entry(&HOST_NAMED).or_insert(host);
        }
        headers.entry(&PROTO).or_insert_with(|| self.proto.clone());
        headers.entry(&REAL_IP).or_insert_with(|| value(client.to_string()));
        client
    }

    /// This connection's element of `Forwarded`, for a request with this `Host`.
    fn element(&self, host: Option<&HeaderValue>) -> String {
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let [name, open, host, close] = host_parameter(host);
        // Made in the size it has, so that it becomes a field's value without another allocation.
        [&self.element, name, open, host, close].concat()
    }
}

/// The client's address: the nearest one that is not trusted, of those that the trusted proxies
/// before us tell of; else the farthest that is known.
#[must_use]
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
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

/// The addresses before our peer's, nearest first; `None` for what is no address.
fn hops(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = if headers.contains_key(&FOR) {
        (&FOR, address)
    } else {
        (&FORWARDED, |element| parameter(element, "for").and_then(address))
    };
    elements(headers, name).take(MAX_HOPS).map(read)
}

/// The elements of a list, last first: so whatever a client wrote, open quotes too, it cannot
/// change how we read what a proxy has put behind it.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().rev().filter_map(|field| field.to_str().ok()).flat_map(|field| {
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
fn add_forwarded(headers: &mut HeaderMap) {
    let mut nodes: Vec<String> = hops(headers).map(|hop| format!("for={}", node(hop))).collect();
    if let Some(first) = nodes.last_mut() {
        let farthest = |name| elements(headers, name).last().unwrap_or_default().trim();
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let proto = farthest(&PROTO);
        if !proto.is_empty() && proto.bytes().all(is_scheme) {
            first.push_str(";proto=");
            first.push_str(proto);
        }
        first.extend(host_parameter(farthest(&HOST_NAMED)));
    }
    nodes.reverse();
    headers.insert(FORWARDED, value(nodes.join(", ")));
}

/// Tells in `X-Forwarded-*` what `Forwarded` does.
fn add_x_forwarded(headers: &mut HeaderMap) {
    let text = |hop: Option<IpAddr>| hop.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let mut addresses: Vec<String> = hops(headers).map(text).collect();
    addresses.reverse();
    let first = elements(headers, &FORWARDED).last().unwrap_or_default();
    let said = |name| parameter(first, name).and_then(|value| HeaderValue::from_str(value).ok());
    let (proto, host) = (said("proto"), said("host"));
    headers.insert(&FOR, value(addresses.join(", ")));
    for (name, value) in [(&PROTO, proto), (&HOST_NAMED, host)] {
        if let Some(value) = value {
            headers.entry(name).or_insert(value);
        }
    }
}

/// Makes a list one field, with `last` at its end.
fn extend_list(headers: &mut HeaderMap, name: &HeaderName, last: &[u8]) {
    let fields = headers.get_all(name).iter().map(HeaderValue::as_bytes).filter(|field| !field.is_empty());
    let list = fields.chain([last]).collect::<Vec<_>>().join(&b", "[..]);
    headers.insert(name, HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or(UNKNOWN));
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

/// The text as a field's value; ours is always one.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: [&str; 5] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"];

    fn networks(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|network| network.parse().expect("a network")).collect()
    }

    /// Fields as in a message, one a line.
    fn fields(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in text.lines() {
            let (name, value) = line.split_once(": ").expect("a colon");
            headers.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        headers
    }

    /// The fields of [`FAMILY`] that a request of `peer` ends up with.
    fn set(peer: &str, sent: &str) -> [String; 5] {
        let mut headers = fields(sent);
        let peer = SocketAddr::new(peer.parse().expect("an address"), 4711);
        ClientFields::new(peer, "http").set(&mut headers, &networks("10.0.0.0/8 fd00::/8"));
        for name in headers.keys().filter(|name| name.as_str().starts_with("x-forwarded")) {
            assert!(FAMILY.contains(&name.as_str()), "{name}");
        }
        FAMILY.map(|name| {
            let values: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect();
            values.join(" | ")
        })
    }

    #[test]
    fn row_26_what_a_client_says_of_itself_is_replaced() {
        let lies = "X-Forwarded-For: 9.9.9.9\nX-Forwarded-For: 8.8.8.8\nX-Forwarded-Proto: https\n\
             X-Forwarded-Host: evil\nX-Forwarded-Port: 1\nX-Forwarded-Prefix: /x\nX-Real-IP: 9.9.9.9\n\
             Forwarded: for=9.9.9.9;proto=https";
        for lies in ["", lies] {
            let cases = [
                ("192.0.2.1", "a", ["192.0.2.1", "http", "a", "192.0.2.1", "for=192.0.2.1;proto=http;host=a"]),
                (
                    "::ffff:192.0.2.1",
                    "a:80",
                    ["192.0.2.1", "http", "a:80", "192.0.2.1", "for=192.0.2.1;proto=http;host=\"a:80\""],
                ),
                (
                    "2001:db8::1",
                    "[::1]",
                    ["2001:db8::1", "http", "[::1]", "2001:db8::1", "for=\"[2001:db8::1]\";proto=http;host=\"[::1]\""],
                ),
            ];
            for (peer, host, expected) in cases {
                assert_eq!(set(peer, &format!("Host: {host}\n{lies}")), expected, "{peer} {host} {lies}");
            }
            // HTTP/1.0 without a host.
            assert_eq!(
                set("192.0.2.1", lies),
                ["192.0.2.1", "http", "", "192.0.2.1", "for=192.0.2.1;proto=http"],
                "{lies}"
            );
        }
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_extended() {
        let cases = [
            // It says nothing.
            ("Host: a", ["10.0.0.1", "http", "a", "10.0.0.1", "for=10.0.0.1;proto=http;host=a"]),
            (
                "Host: a\nX-Forwarded-For: 9.9.9.9, 10.0.0.2\nX-Forwarded-For: 10.0.0.3\nX-Forwarded-Proto: https\n\
                 X-Forwarded-Host: b\nX-Real-IP: 9.9.9.9\nForwarded: for=9.9.9.9;proto=https, for=10.0.0.2",
                [
                    "9.9.9.9, 10.0.0.2, 10.0.0.3, 10.0.0.1",
                    "https",
                    "b",
                    "9.9.9.9",
                    "for=9.9.9.9;proto=https, for=10.0.0.2, for=10.0.0.1;proto=http;host=a",
                ],
            ),
            // One list only.
            (
                "Host: a\nX-Forwarded-For: x, 2001:db8::1\nX-Forwarded-Proto: https\nX-Forwarded-Host: b:443",
                [
                    "x, 2001:db8::1, 10.0.0.1",
                    "https",
                    "b:443",
                    "2001:db8::1",
                    "for=unknown;proto=https;host=\"b:443\", for=\"[2001:db8::1]\", for=10.0.0.1;proto=http;host=a",
                ],
            ),
            (
                "Host: a\nForwarded: for=_x;Proto=https;host=\"b:443\", For=\"[2001:db8::1]:80\"",
                [
                    "unknown, 2001:db8::1, 10.0.0.1",
                    "https",
                    "b:443",
                    "2001:db8::1",
                    "for=_x;Proto=https;host=\"b:443\", For=\"[2001:db8::1]:80\", for=10.0.0.1;proto=http;host=a",
                ],
            ),
            // What could break out of an element is not translated.
            (
                "X-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: https;for=1.1.1.1\nX-Forwarded-Host: b\"",
                ["9.9.9.9, 10.0.0.1", "https;for=1.1.1.1", "b\"", "9.9.9.9", "for=9.9.9.9, for=10.0.0.1;proto=http"],
            ),
        ];
        for (sent, expected) in cases {
            assert_eq!(set("10.0.0.1", sent), expected, "{sent}");
        }
    }

    #[test]
    fn the_client_is_the_nearest_that_is_not_trusted() {
        let many = format!("X-Forwarded-For: 9.9.9.9{}", ", 10.0.0.2".repeat(MAX_HOPS));
        let cases = [
            ("9.9.9.9", "X-Forwarded-For: 1.1.1.1", "9.9.9.9"),
            ("10.0.0.1", "X-Forwarded-For: 1.1.1.1", "1.1.1.1"),
            ("::ffff:10.0.0.1", "X-Forwarded-For: ::ffff:1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "X-Forwarded-For: 2.2.2.2, 1.1.1.1,10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "X-Forwarded-For: 2.2.2.2\nX-Forwarded-For: 1.1.1.1:80", "1.1.1.1"),
            ("10.0.0.1", "X-Forwarded-For: [2001:db8::1]:80", "2001:db8::1"),
            ("10.0.0.1", "X-Forwarded-For: 10.0.0.3, fd00::1", "10.0.0.3"),
            ("10.0.0.1", "X-Forwarded-For: 1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "X-Forwarded-For: 1.1.1.1, ", "10.0.0.1"),
            ("10.0.0.1", "Forwarded: for=2.2.2.2, for=\"[2001:db8::1]\";proto=http", "2001:db8::1"),
            ("10.0.0.1", "Forwarded: host=\", for=1.1.1.1, for=2.2.2.2", "2.2.2.2"),
            ("10.0.0.1", "Forwarded: for=1.1.1.1;host=\"a, for=2.2.2.2\"", "1.1.1.1"),
            ("10.0.0.1", "Forwarded: proto=http", "10.0.0.1"),
            ("10.0.0.1", "Host: a", "10.0.0.1"),
            ("10.0.0.1", &many, "10.0.0.2"),
        ];
        for (peer, sent, client) in cases {
            let peer = peer.parse().expect("an address");
            let found = client_address(&fields(sent), peer, &networks("10.0.0.0/8 fd00::/8"));
            assert_eq!(found.to_string(), client, "{peer} {sent}");
        }
    }

    #[test]
    fn an_address_is_trusted_however_it_is_written() {
        let cases = [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("::ffff:10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "::ffff:10.0.0.0/104", true),
            ("::ffff:10.1.2.3", "fd00::/8 ::ffff:10.0.0.0/104", true),
            ("11.1.2.3", "10.0.0.0/8 ::ffff:10.0.0.0/104", false),
            ("fd00::1", "fd00::/8", true),
            ("::10.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "", false),
        ];
        for (address, trusted, expected) in cases {
            assert_eq!(
                is_trusted(address.parse().expect("an address"), &networks(trusted)),
                expected,
                "{address} {trusted}"
            );
        }
    }
}
