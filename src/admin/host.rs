//! Whom the admin address answers: only requests that name it by an address, `localhost` or a configured name.
//!
//! A page from elsewhere can make a browser send requests here, and by pointing its own host name at
//! this address (DNS rebinding) even read the answers. Such a request names that host.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{StatusCode, Version};

use super::refusal::ApiError;

/// Lets a request pass that is meant for this address. `hosts` are the configured names, in lower case.
pub(super) fn check(request: &Parts, hosts: &[String]) -> Result<(), ApiError> {
    let mut fields = request.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(ApiError::bad("the request has more than one Host field"));
    }
    let authority = match (request.uri.authority(), field) {
        (Some(authority), _) => Some(authority.as_str()),
        // What is not text names no host that is answered.
        (None, Some(field)) => Some(field.to_str().unwrap_or_default()),
        // Browsers speak HTTP/1.1; old probes do not.
        (None, None) if request.version == Version::HTTP_10 => None,
        (None, None) => return Err(ApiError::bad("the request has no Host field")),
    };
    if let Some(authority) = authority
        && !split(authority).is_some_and(|(host, _)| is_answered(host, hosts))
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "`{authority}` is not answered here: use an IP address or localhost, or add the name to `hosts` \
                 under `[admin]` in the configuration"
            ),
        ));
    }
    let own = |origin: &str| authority.is_some_and(|authority| is_same(origin, authority));
    if !request.headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(own)) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "pages from elsewhere are not answered here"));
    }
    Ok(())
}

/// Whether `origin`, such as `https://lb.example.com`, is that of this authority.
fn is_same(origin: &str, authority: &str) -> bool {
    let (Some((scheme, origin)), Some((host, port))) = (origin.split_once("://"), split(authority)) else {
        return false;
    };
    // Which scheme the client used is not known here: something may stand before that ends TLS.
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    split(origin).is_some_and(|(other, other_port)| {
        other.eq_ignore_ascii_case(host) && other_port.unwrap_or(usual) == port.unwrap_or(usual)
    })
}

fn is_answered(host: &str, hosts: &[String]) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    host.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Host (with its brackets, if it has any) and port.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = authority.find(']').map_or(0, |bracket| bracket + 1);
    match authority[end..].find(':') {
        None => Some((authority, None)),
        Some(colon) => {
            let (host, port) = authority.split_at(end + colon);
            Some((host, Some(port[1..].parse().ok()?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(fields: &[(&str, &str)], target: &str, version: Version) -> u16 {
        let mut request = http::Request::builder().uri(target).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (request, ()) = request.body(()).expect("a request").into_parts();
        let hosts = ["lb.example.com".to_owned(), "lb".to_owned()];
        match check(&request, &hosts) {
            Ok(()) => 200,
            Err(refusal) => super::super::Answer::from(refusal).status().as_u16(),
        }
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_answered() {
        let cases = [
            ("127.0.0.1:9900", 200),
            ("127.0.0.1", 200),
            ("192.0.2.7:80", 200),
            ("[::1]:9900", 200),
            ("[::1]", 200),
            ("localhost", 200),
            ("LocalHost:1", 200),
            ("localhost.:9900", 200),
            ("lb:9900", 200),
            ("LB.Example.com", 200),
            ("lb.example.com.", 200),
            ("", 403),
            ("evil.example", 403),
            ("evil.example:9900", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("notlb.example.com", 403),
            ("user@127.0.0.1", 403),
            ("127.0.0.1:port", 403),
            ("127.0.0.1:99999", 403),
            ("2130706433", 403),
            ("0x7f.1", 403),
            ("[::1", 403),
            ("::1", 403),
            ("[::1]x", 403),
            ("[evil.example]", 403),
            ("[fe80::1%25eth0]", 403),
        ];
        for (host, expected) in cases {
            assert_eq!(status(&[("host", host)], "/", Version::HTTP_11), expected, "{host}");
        }
    }

    #[test]
    fn the_target_goes_before_the_field_and_the_field_must_be_one() {
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        let none: &[(&str, &str)] = &[];
        let cases = [
            (none, "/", new, 400),
            (&[], "/", old, 200),
            (&[("host", "evil.example")], "/", old, 403),
            (&[("host", "localhost"), ("host", "localhost")], "/", new, 400),
            (&[("host", "evil.example")], "http://localhost/", new, 200),
            (&[("host", "localhost")], "http://evil.example/", new, 403),
            (&[("host", "localhost\u{fffd}")], "/", new, 403),
        ];
        for (fields, target, version, expected) in cases {
            assert_eq!(status(fields, target, version), expected, "{fields:?} {target}");
        }
    }

    #[test]
    fn pages_from_elsewhere_are_refused() {
        let cases = [
            ("127.0.0.1:9900", "http://127.0.0.1:9900", 200),
            ("localhost", "http://localhost", 200),
            ("localhost:80", "http://localhost", 200),
            ("lb.example.com", "https://LB.example.com", 200),
            ("[::1]:9900", "http://[::1]:9900", 200),
            ("127.0.0.1:9900", "http://127.0.0.1:3000", 403),
            ("127.0.0.1:9900", "http://localhost:9900", 403),
            ("127.0.0.1:9900", "http://evil.example", 403),
            ("127.0.0.1:9900", "null", 403),
            ("localhost", "file://localhost", 403),
            ("localhost", "", 403),
        ];
        for (host, origin, expected) in cases {
            let fields = [("host", host), ("origin", origin)];
            assert_eq!(status(&fields, "/", Version::HTTP_11), expected, "{origin} at {host}");
        }
        assert_eq!(status(&[("origin", "http://localhost")], "/", Version::HTTP_10), 403);
    }
}
