//! The host of a request, as routes know it: checked, in lower case, without port or trailing dot. Pure.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::http1::rejection::Rejection;

/// The longest name, in bytes, with its trailing dot (RFC 1035, section 2.3.4, as text).
const MAX_NAME: usize = 254;

/// The host in an authority without user information: `host` or `host:port`, where the host is a
/// name, an IPv4 address, or an IPv6 address in brackets.
///
/// HeaderSet are held to letters, digits, `-`, `.`, `_` and `~`. RFC 3986 lets a name have more, but
/// no name that is looked up does, and a `,` or `;` reads differently in a forwarding field.
///
/// # Errors
/// [`Rejection::BadHost`].
pub fn normalise(authority: &str) -> Result<Cow<'_, str>, Rejection> {
    match authority.strip_prefix('[') {
        Some(rest) => ipv6(rest),
        None => name(authority),
    }
    .ok_or(Rejection::BadHost)
}

fn name(authority: &str) -> Option<Cow<'_, str>> {
    let end = authority.bytes().position(|byte| byte == b':').unwrap_or(authority.len());
    let (name, port) = authority.split_at(end);
    if name.len() > MAX_NAME || !is_port(port.strip_prefix(':').unwrap_or(port)) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut upper = false;
    let mut before = b'.';
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' => upper = true,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {}
            b'.' if before != b'.' => {}
            _ => return None,
        }
        before = byte;
    }
    // Also where the name is empty: no label may be.
    if before == b'.' {
        return None;
    }
    Some(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// The one text of the address (RFC 5952), so that `[::1]` and `[0:0::1]` take the same route.
fn ipv6(rest: &str) -> Option<Cow<'_, str>> {
    let (address, port) = rest.split_once(']')?;
    let port = match port.strip_prefix(':') {
        Some(port) => port,
        None if port.is_empty() => port,
        None => return None,
    };
    let address: Ipv6Addr = address.parse().ok()?;
    is_port(port).then(|| Cow::Owned(format!("[{address}]")))
}

/// Digits up to 65535, or nothing (RFC 3986, section 3.2.3).
fn is_port(port: &str) -> bool {
    port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_one_text() {
        let cases = [
            ("a", "a"),
            ("a:80", "a"),
            ("a:", "a"),
            ("a:65535", "a"),
            // Case: host-case
            ("API.Example.COM.", "api.example.com"),
            ("api.example.com.:8080", "api.example.com"),
            ("my_app-1.x", "my_app-1.x"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
        ];
        for (authority, host) in cases {
            assert_eq!(normalise(authority).as_deref(), Ok(host), "{authority}");
        }
        assert!(matches!(normalise("example.com:80"), Ok(Cow::Borrowed(_))), "nothing to change, nothing copied");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(255);
        let cases = [
            // Case: bad-host
            "",
            "a/b",
            "u@a",
            "a, b",
            "a:99999",
            "a:b",
            "[::1",
            "a b",
            // And their kin.
            "a,b",
            "a:65536",
            "a:+80",
            "a:-1",
            "a:80:80",
            ":80",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "a\\b",
            "a?b",
            "a#b",
            "a%2eb",
            "a\"b",
            "a;b",
            "é",
            "*",
            "::1",
            "[]",
            "[::1]a",
            "[::1]:b",
            "[::1%25eth0]",
            "[v1.a]",
            "[127.0.0.1]",
            "[[::1]]",
            &long,
        ];
        for authority in cases {
            assert_eq!(normalise(authority), Err(Rejection::BadHost), "{authority}");
        }
    }

    #[test]
    fn random_hosts_are_refused_or_normal() {
        const PIECES: [&str; 16] =
            ["a", "B", "9", "-", "_", ".", "..", ":", "80", "[", "]", "::1", "@", "%2e", " ", "\u{e9}"];
        let mut rng = fastrand::Rng::with_seed(19);
        let mut normal = 0;
        for _ in 0..10_000 {
            let authority: String = (0..rng.usize(..6)).filter_map(|_| rng.choice(PIECES)).collect();
            let Ok(host) = normalise(&authority) else { continue };
            normal += 1;
            assert_eq!(normalise(&host).as_deref(), Ok(&*host), "{authority}");
            assert!(!host.is_empty() && !host.ends_with('.'), "{authority}");
            assert_eq!(host, host.to_lowercase(), "{authority}");
        }
        assert!(normal > 500, "only {normal} were hosts");
    }
}
