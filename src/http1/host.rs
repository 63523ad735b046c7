//! The host of a request as routes compare it: validated, in lower case, without port or trailing dot. Pure.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::http1::path;
use crate::http1::rejection::Rejection;

/// The longest name, in bytes (RFC 3986, section 3.2.2).
const MAX_NAME: usize = 255;

/// Returns the normalised host of an authority, which is `host` or `host:port`. The host is a name, an
/// IPv4 address, or an IPv6 address in brackets. User information is not accepted.
///
/// A name may have any characters that RFC 3986 allows, escaped ones too (section 3.2.2). Escapes of unreserved
/// characters are decoded (section 6.2.2).
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
    if name.is_empty() || name.len() > MAX_NAME || !is_port(port.strip_prefix(':').unwrap_or(port)) {
        return None;
    }
    let mut has_upper_case = false;
    let mut has_escape = false;
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' => has_upper_case = true,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {}
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {}
            b'%' => has_escape = true,
            _ => return None,
        }
    }
    if has_escape {
        return are_escapes(name).then(|| {
            let decoded = path::decode_unreserved(name).to_ascii_lowercase();
            Cow::Owned(without_final_dot(&decoded).to_owned())
        });
    }
    let name = without_final_dot(name);
    Some(if has_upper_case { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// Removes the dot of a fully qualified name. A name that ends with two dots is none.
fn without_final_dot(name: &str) -> &str {
    name.strip_suffix('.').filter(|name| !name.is_empty() && !name.ends_with('.')).unwrap_or(name)
}

/// Whether each `%` in `text` starts an escape.
fn are_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Returns the canonical text of the address (RFC 5952), so that `[::1]` and `[0:0::1]` match the same routes. A zone
/// (RFC 6874) is left out, because it has a meaning only for the client.
fn ipv6(rest: &str) -> Option<Cow<'_, str>> {
    let (address, port) = rest.split_once(']')?;
    let port = match port.strip_prefix(':') {
        Some(port) => port,
        None if port.is_empty() => port,
        None => return None,
    };
    let address = match address.split_once("%25") {
        Some((address, zone)) if is_zone(zone) => address,
        Some(_) => return None,
        None => address,
    };
    let address: Ipv6Addr = address.parse().ok()?;
    is_port(port).then(|| Cow::Owned(format!("[{address}]")))
}

fn is_zone(zone: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    !zone.is_empty() && zone.bytes().all(is_valid) && are_escapes(zone)
}

/// Whether `port` is empty or a number up to 65535 (RFC 3986, section 3.2.3).
fn is_port(port: &str) -> bool {
    port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised() {
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
            ("[fe80::1%25eth0]:80", "[fe80::1]"),
            ("[fe80::1%25a%2Db]", "[fe80::1]"),
            // Case: host-names
            ("a!b$c:80", "a!b$c"),
            ("%61.example", "a.example"),
            ("%41.Example%2E:80", "a.example"),
            ("caf%C3%A9.example", "caf%c3%a9.example"),
            ("a_b", "a_b"),
            ("a,b;c=(d)*'+&", "a,b;c=(d)*'+&"),
            ("*", "*"),
            ("a%2fb", "a%2fb"),
            ("a..b", "a..b"),
            (".a", ".a"),
            ("a..", "a.."),
            (".", "."),
        ];
        for (authority, host) in cases {
            assert_eq!(normalise(authority).as_deref(), Ok(host), "{authority}");
        }
        assert!(matches!(normalise("example.com:80"), Ok(Cow::Borrowed(_))), "a normalised host is not copied");
    }

    #[test]
    fn invalid_hosts_are_rejected() {
        let long = "a".repeat(256);
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
            "a:65536",
            "a:+80",
            "a:-1",
            "a:80:80",
            ":80",
            "a\\b",
            "a?b",
            "a#b",
            "a\"b",
            "a%",
            "a%2",
            "a%zz.b",
            "%+1",
            "a<b",
            "a|b",
            "a{b",
            "a^b",
            "a`b",
            "é",
            "::1",
            "[]",
            "[::1]a",
            "[::1]:b",
            "[::1%eth0]",
            "[::1%25]",
            "[::1%25a/b]",
            "[::1%25%zz]",
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
    fn random_hosts_are_rejected_or_normalised_for_good() {
        const PIECES: [&str; 16] =
            ["a", "B", "9", "-", "_", ".", "..", ":", "80", "[", "]", "::1", "@", "%2e", " ", "\u{e9}"];
        let mut rng = fastrand::Rng::with_seed(19);
        let mut accepted = 0;
        for _ in 0..10_000 {
            let authority: String = (0..rng.usize(..6)).filter_map(|_| rng.choice(PIECES)).collect();
            let Ok(host) = normalise(&authority) else { continue };
            accepted += 1;
            assert_eq!(normalise(&host).as_deref(), Ok(&*host), "{authority}");
            assert!(!host.is_empty(), "{authority}");
            assert_eq!(host, host.to_lowercase(), "{authority}");
        }
        assert!(accepted > 500, "only {accepted} were accepted");
    }
}
