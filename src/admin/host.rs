//! The guard against DNS rebinding and cross-origin requests.
//!
//! A web page can make a browser send requests here and, by pointing its own host name at this address
//! (DNS rebinding), even read the responses. Such a request carries that host name, so only IP addresses,
//! `localhost` and the names in `admin.hosts` are accepted.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{StatusCode, Version};

use super::error::ApiError;

/// Rejects a request that is not meant for this address. `hosts` are the configured names, in lower case.
pub(super) fn check(request: &Parts, hosts: &[String]) -> Result<(), ApiError> {
    let mut headers = request.headers.get_all(HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return Err(ApiError::bad_request("the request has more than one Host header"));
    }
    let target = match (request.uri.authority(), header) {
        (Some(authority), _) => Some(authority.as_str()),
        // A value that is not text names no accepted host.
        (None, Some(value)) => Some(value.to_str().unwrap_or_default()),
        // Browsers speak HTTP/1.1; old probes do not.
        (None, None) if request.version == Version::HTTP_10 => None,
        (None, None) => return Err(ApiError::bad_request("the request has no Host header")),
    };
    let authority = target.and_then(parse);
    if let Some(target) = target
        && !authority.as_ref().is_some_and(|authority| is_accepted(authority.host(), hosts))
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "host `{target}` is not accepted: use an IP address or localhost, or add the name to `hosts` under \
                 `[admin]` in the configuration"
            ),
        ));
    }
    let is_own = |origin: &str| authority.as_ref().is_some_and(|authority| is_same_origin(origin, authority));
    if !request.headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(is_own)) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "cross-origin requests are not allowed"));
    }
    Ok(())
}

/// Whether an origin such as `https://lb.example.com` has this host and port.
fn is_same_origin(origin: &str, authority: &Authority) -> bool {
    // The scheme that the client used is unknown: TLS may have been terminated in front of this address.
    let (default_port, rest) = match origin.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some(("https", rest)) => (443, rest),
        _ => return false,
    };
    parse(rest).is_some_and(|origin| {
        origin.host().eq_ignore_ascii_case(authority.host())
            && origin.port_u16().unwrap_or(default_port) == authority.port_u16().unwrap_or(default_port)
    })
}

fn is_accepted(host: &str, hosts: &[String]) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    host.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Parses a host with an optional port. [`Authority`] also accepts user information and text in place of a port;
/// both are rejected here.
fn parse(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let port = authority.port().map_or(0, |port| ":".len() + port.as_str().len());
    (authority.host().len() + port == text.len()).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(headers: &[(&str, &str)], target: &str, version: Version) -> u16 {
        let mut request = http::Request::builder().uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (request, ()) = request.body(()).expect("a request").into_parts();
        let hosts = ["lb.example.com".to_owned(), "lb".to_owned()];
        match check(&request, &hosts) {
            Ok(()) => 200,
            Err(error) => super::super::ApiResponse::from(error).status().as_u16(),
        }
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_accepted() {
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
            ("user@127.0.0.1:9900", 403),
            ("127.0.0.1:port", 403),
            ("127.0.0.1:99999", 403),
            ("127.0.0.1:", 403),
            ("127.0.0.1/", 403),
            ("2130706433", 403),
            ("0x7f.1", 403),
            ("[::1", 403),
            ("::1", 403),
            ("[::1]x", 403),
            ("[::1]x:9900", 403),
            ("[evil.example]", 403),
            ("[fe80::1%25eth0]", 403),
        ];
        for (host, expected) in cases {
            assert_eq!(status(&[("host", host)], "/", Version::HTTP_11), expected, "{host}");
        }
    }

    #[test]
    fn the_target_takes_precedence_over_a_single_host_header() {
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
        for (headers, target, version, expected) in cases {
            assert_eq!(status(headers, target, version), expected, "{headers:?} {target}");
        }
    }

    #[test]
    fn cross_origin_requests_are_rejected() {
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
            ("localhost", "http://user@localhost", 403),
            ("localhost", "http://localhost/", 403),
            ("localhost", "", 403),
        ];
        for (host, origin, expected) in cases {
            let headers = [("host", host), ("origin", origin)];
            assert_eq!(status(&headers, "/", Version::HTTP_11), expected, "{origin} at {host}");
        }
        assert_eq!(status(&[("origin", "http://localhost")], "/", Version::HTTP_10), 403);
    }
}
