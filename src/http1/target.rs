//! The resource that a request targets, from its target and `Host` (RFC 9112, section 3.2). Pure.

use std::borrow::Cow;

use http::{Method, Version};

use super::{host, path};
use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;

/// The target of a valid request.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestTarget<'a> {
    /// `OPTIONS *`: the balancer itself, which responds to it.
    Balancer,
    Resource(Resource<'a>),
}

/// A resource, identified by host and path.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Normalised, see [`host::normalise`]; empty for HTTP/1.0 without `Host`.
    pub host: Cow<'a, str>,
    /// The value of `Host` for the server, see [`Resource::new_host`].
    pub authority: &'a str,
    /// Normalised, see [`path::normalise`].
    pub path: Cow<'a, str>,
    /// As received, without the `?`.
    pub query: Option<&'a str>,
    /// The path as received; `/` if an absolute target has none.
    path_as_sent: &'a str,
    /// Path and query as received; may be empty or start with `?` if the target is absolute.
    as_sent: &'a str,
    /// Whether the target as received has an authority.
    absolute: bool,
    /// Whether the server itself is meant: `OPTIONS` with an absolute target without path and query.
    asterisk: bool,
}

/// Returns the target of a request; `target` is the one in its request line.
///
/// # Errors
/// [`Rejection`], with the reason why the request must not be forwarded.
pub fn target<'a>(
    method: &Method,
    target: &'a [u8],
    version: Version,
    headers: &'a Headers,
) -> Result<RequestTarget<'a>, Rejection> {
    match *method {
        Method::CONNECT => return Err(Rejection::Connect),
        Method::TRACE => return Err(Rejection::Trace),
        _ => {}
    }
    // Even if the target has an authority, a request with an invalid `Host` is invalid.
    let header = host_header(headers)?;
    let (absolute, as_sent) = split(target)?;
    let (authority, host) = match (absolute, header) {
        (_, None) if version == Version::HTTP_11 => return Err(Rejection::NoHost),
        (Some(authority), _) => (authority, host::normalise(authority)?),
        (None, Some(header)) => header,
        (None, None) if version < Version::HTTP_11 => ("", Cow::Borrowed("")),
        (None, None) => return Err(Rejection::NoHost),
    };
    if *method == Method::OPTIONS && as_sent == "*" {
        return Ok(RequestTarget::Balancer);
    }
    let (path, query) = match as_sent.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (as_sent, None),
    };
    let path_as_sent = if absolute.is_some() && path.is_empty() { "/" } else { path };
    let path = path::normalise(path_as_sent)?;
    query.map_or(Ok(()), path::check_query)?;
    let asterisk = *method == Method::OPTIONS && as_sent.is_empty();
    let absolute = absolute.is_some();
    Ok(RequestTarget::Resource(Resource { host, authority, path, query, path_as_sent, as_sent, absolute, asterisk }))
}

impl Resource<'_> {
    /// Returns the target for the server with the normalised path; borrowed if it is the one that the client sent.
    ///
    /// It is in origin form, except that of `OPTIONS` without a path, which is `*` (RFC 9112, section 3.2.4).
    #[must_use]
    pub fn normalised(&self) -> Cow<'_, str> {
        if self.asterisk {
            return Cow::Borrowed("*");
        }
        if matches!(self.path, Cow::Borrowed(_)) && self.as_sent.starts_with('/') {
            return Cow::Borrowed(self.as_sent);
        }
        match self.query {
            Some(query) => Cow::Owned([&*self.path, "?", query].concat()),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// Returns the target for the server with the path as received, in the form of [`Resource::normalised`]; borrowed
    /// unless the client sent no path.
    #[must_use]
    pub fn as_sent(&self) -> Cow<'_, str> {
        if self.asterisk { Cow::Borrowed("*") } else { origin_form(self.as_sent) }
    }

    /// The path as a server reads it that keeps dot segments: one that takes it literally, and one that decodes
    /// escapes. `None` if there are no dot segments.
    #[must_use]
    pub fn with_dot_segments(&self) -> Option<[Cow<'_, str>; 2]> {
        if matches!(self.path, Cow::Borrowed(_)) {
            return None;
        }
        let decoded = path::decode_unreserved(self.path_as_sent);
        if decoded == *self.path { None } else { Some([Cow::Borrowed(self.path_as_sent), Cow::Owned(decoded)]) }
    }

    /// Returns the `Host` that must replace the client's, because an absolute target takes precedence over
    /// `Host` (RFC 9112, section 3.2.2).
    #[must_use]
    pub fn new_host(&self) -> Option<&str> {
        self.absolute.then_some(self.authority)
    }
}

/// Returns path and query of a target as received, for logs: without the authority of an absolute one, which may have
/// user information.
#[must_use]
pub fn path_and_query(target: &[u8]) -> Cow<'_, str> {
    match split(target) {
        Ok((Some(_), rest)) => origin_form(rest),
        Ok((None, target)) => Cow::Borrowed(target),
        Err(_) => String::from_utf8_lossy(target),
    }
}

/// Completes the path and query of an absolute target, whose path may be empty.
fn origin_form(rest: &str) -> Cow<'_, str> {
    match rest {
        "" => Cow::Borrowed("/"),
        query if query.starts_with('?') => Cow::Owned(["/", query].concat()),
        path => Cow::Borrowed(path),
    }
}

/// Splits an absolute target into its authority and the rest. Any other target is returned as a whole,
/// even if it is not a path.
fn split(target: &[u8]) -> Result<(Option<&str>, &str), Rejection> {
    let target = str::from_utf8(target).map_err(|_| Rejection::TargetBytes)?;
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let Some((scheme, rest)) = target.split_once("://") else { return Ok((None, target)) };
    if !["http", "https"].iter().any(|http| scheme.eq_ignore_ascii_case(http)) {
        return Err(Rejection::Scheme);
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok((Some(authority), rest))
}

/// Returns the single `Host` as received and normalised.
fn host_header(headers: &Headers) -> Result<Option<(&str, Cow<'_, str>)>, Rejection> {
    let mut hosts = headers.all(HeaderName::Host);
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Rejection::ManyHosts),
        (Some(host), None) => {
            let host = str::from_utf8(host).map_err(|_| Rejection::BadHost)?;
            Ok(Some((host, host::normalise(host)?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses the target of a request with this line, `METHOD TARGET VERSION`, and these values of `Host`.
    fn check_target(line: &str, hosts: &[&str], check: impl FnOnce(Result<RequestTarget<'_>, Rejection>)) {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words");
        let method: Method = word().parse().expect("a method");
        let as_sent = word().as_bytes();
        let version = match word() {
            "1.0" => Version::HTTP_10,
            "1.1" => Version::HTTP_11,
            _ => Version::HTTP_2,
        };
        let headers = Headers::from_pairs(hosts.iter().map(|host| ("Host", *host)));
        check(target(&method, as_sent, version, &headers));
    }

    #[test]
    fn a_resource_has_a_host_and_a_path() {
        /// Request line and hosts; host and path for routing; `Host` and target for the server.
        type ResourceCase<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, &'a str);
        let cases: [ResourceCase<'_>; 23] = [
            ("GET / 1.1", &["a"], "a/", "a", "/"),
            ("GET /x?y=/../%00 1.1", &["a:80"], "a/x", "a:80", "/x?y=/../%00"),
            ("OPTIONS /x 1.1", &["a"], "a/x", "a", "/x"),
            ("GET /x? 1.1", &["a"], "a/x", "a", "/x?"),
            ("GET /x?http://b/?y 1.1", &["a"], "a/x", "a", "/x?http://b/?y"),
            ("GET /http://b/ 1.1", &["a"], "a/http://b/", "a", "/http://b/"),
            // Case: absolute-target
            ("GET http://b/x 1.1", &["a"], "b/x", "b", "/x"),
            ("GET https://B:8080?q 1.1", &["a"], "b/", "B:8080", "/?q"),
            ("GET HTTP://b 1.1", &["a"], "b/", "b", "/"),
            ("GET hTTps://[::1]:80/a/../x?q=http://c 1.1", &["a"], "[::1]/x", "[::1]:80", "/a/../x?q=http://c"),
            // Case: methods-without-server
            ("OPTIONS http://b 1.1", &["b"], "b/", "b", "*"),
            ("OPTIONS http://b/ 1.1", &["b"], "b/", "b", "/"),
            ("OPTIONS http://b? 1.1", &["b"], "b/", "b", "/?"),
            ("OPTIONS http://b/* 1.1", &["b"], "b/*", "b", "/*"),
            ("GET http://b/x?q 1.0", &[], "b/x", "b", "/x?q"),
            ("GET https://b/x 2", &[], "b/x", "b", "/x"),
            ("GET /x 2", &["a"], "a/x", "a", "/x"),
            // Case: host-case
            // The host is normalised for routing only.
            ("GET /x 1.1", &["API.Example.COM."], "api.example.com/x", "API.Example.COM.", "/x"),
            ("GET /x 1.1", &["[::1]:80"], "[::1]/x", "[::1]:80", "/x"),
            ("GET /x 1.0", &[], "/x", "", "/x"),
            // Case: path-normal-form
            // The path is normalised for routing.
            ("GET /a/../admin?q 1.1", &["a"], "a/admin", "a", "/a/../admin?q"),
            ("GET http://a/%61/./x 1.1", &["a"], "a/a/x", "a", "/%61/./x"),
            ("GET //admin 1.1", &["a"], "a//admin", "a", "//admin"),
        ];
        for (line, hosts, route, authority, forwarded) in cases {
            check_target(line, hosts, |target| {
                let Ok(RequestTarget::Resource(resource)) = target else { panic!("{line}: {target:?}") };
                assert_eq!(format!("{}{}", resource.host, resource.path), route, "{line}");
                assert_eq!(resource.authority, authority, "{line}");
                assert_eq!(resource.as_sent(), forwarded, "{line}");
                let normalised = match resource.query {
                    _ if forwarded == "*" => "*".to_owned(),
                    Some(query) => format!("{}?{query}", resource.path),
                    None => resource.path.to_string(),
                };
                assert_eq!(resource.normalised(), normalised, "{line}");
                let sent = hosts.first().copied().unwrap_or_default();
                assert_eq!(resource.new_host().unwrap_or(sent), authority, "{line}");
            });
        }
    }

    #[test]
    fn invalid_targets_and_hosts_are_rejected() {
        use Rejection::{BadHost, Connect, ManyHosts, NoHost, Scheme, TargetBytes, TargetForm, Trace};
        let cases: [(&str, &[&str], Rejection); 44] = [
            // Case: bad-target
            ("GET /\u{e9} 1.1", &["a"], TargetBytes),
            ("GET /?\u{e9} 1.1", &["a"], TargetBytes),
            ("GET /\u{7f} 1.1", &["a"], TargetBytes),
            ("GET /a#b 1.1", &["a"], TargetBytes),
            ("GET /?a#b 1.1", &["a"], TargetBytes),
            ("GET /a\tb 1.1", &["a"], TargetBytes),
            ("GET * 1.1", &["a"], TargetForm),
            ("OPTIONS *? 1.1", &["a"], TargetForm),
            ("OPTIONS ** 1.1", &["a"], TargetForm),
            ("GET  1.1", &["a"], TargetForm),
            ("GET a/b 1.1", &["a"], TargetForm),
            ("GET ?q 1.1", &["a"], TargetForm),
            // Case: methods-without-server
            ("CONNECT a:443 1.1", &["a"], Connect),
            ("CONNECT / 1.1", &[], Connect),
            ("TRACE / 1.1", &["a"], Trace),
            // Case: bad-host
            ("GET / 1.1", &[], NoHost),
            ("GET / 1.1", &["a", "b"], ManyHosts),
            ("GET / 1.1", &["a", "a"], ManyHosts),
            ("GET / 1.0", &["a", "b"], ManyHosts),
            ("GET / 1.1", &[""], BadHost),
            ("GET / 1.0", &[""], BadHost),
            ("GET / 1.1", &["a/b"], BadHost),
            ("GET / 1.1", &["u@a"], BadHost),
            ("GET / 1.1", &["a, b"], BadHost),
            ("GET / 1.1", &["a:99999"], BadHost),
            ("GET / 1.1", &["a:b"], BadHost),
            ("GET / 1.1", &["[::1"], BadHost),
            ("GET / 1.1", &["a b"], BadHost),
            ("GET / 1.1", &["\u{e9}"], BadHost),
            ("OPTIONS * 1.1", &[], NoHost),
            // Case: bad-host
            // With absolute targets.
            ("GET http://b/ 1.1", &[], NoHost),
            ("GET http://b/ 1.1", &["a b"], BadHost),
            ("GET http://u@b/ 1.1", &["b"], BadHost),
            ("GET ftp://b/ 1.1", &["b"], Scheme),
            ("GET ://b/ 1.1", &["b"], Scheme),
            ("GET b:80 1.1", &["b"], TargetForm),
            ("GET http:/b/ 1.1", &["b"], TargetForm),
            ("GET http:///x 1.1", &["b"], BadHost),
            ("GET http://u:p@b 1.1", &["b"], BadHost),
            ("GET http://b#x 1.1", &["b"], BadHost),
            ("GET http://b\\c/ 1.1", &["b"], BadHost),
            ("GET http://\u{e9}/ 1.1", &["b"], BadHost),
            ("GET http://b/a#b 1.1", &["b"], TargetBytes),
            ("GET / 2", &[], NoHost),
        ];
        for (line, hosts, rejection) in cases {
            check_target(line, hosts, |target| assert_eq!(target, Err(rejection), "{line} {hosts:?}"));
        }
    }

    #[test]
    fn target_bytes_over_0x7f_are_rejected_in_any_encoding() {
        // Case: bad-target
        let headers = Headers::from_pairs([("Host", "a")]);
        for as_sent in [&b"/\xe9"[..], b"/?\xff", b"\x80", b"/a\xc3\xa9", b"http://a/\xe9"] {
            let target = target(&Method::GET, as_sent, Version::HTTP_11, &headers);
            assert!(matches!(target, Err(Rejection::TargetBytes)), "{target:?}");
        }
    }

    #[test]
    fn a_path_with_dot_segments_has_two_other_readings() {
        // Case: path-normal-form
        let cases = [
            ("/a/../b", Some(["/a/../b", "/a/../b"])),
            ("/%61/%2e%2e/b", Some(["/%61/%2e%2e/b", "/a/../b"])),
            ("/a/.", Some(["/a/.", "/a/."])),
            ("/%61/b%2Dc", None),
            ("/a/b", None),
            ("/..%2fa//b", None),
        ];
        for (path, readings) in cases {
            check_target(&format!("GET {path} 1.1"), &["a"], |target| {
                let Ok(RequestTarget::Resource(resource)) = target else { panic!("{path}: {target:?}") };
                let found = resource.with_dot_segments();
                assert_eq!(found, readings.map(|readings| readings.map(Cow::Borrowed)), "{path}");
            });
        }
    }

    #[test]
    fn the_authority_of_an_absolute_target_is_not_logged() {
        // Case: absolute-target
        let cases = [
            ("/a?b", "/a?b"),
            ("http://b/x/../y?z", "/x/../y?z"),
            ("HTTPS://u:p@b", "/"),
            ("http://b?q", "/?q"),
            ("/http://b/", "/http://b/"),
            ("ftp://b/x", "ftp://b/x"),
            ("*", "*"),
        ];
        for (target, logged) in cases {
            assert_eq!(path_and_query(target.as_bytes()), logged, "{target}");
        }
        assert_eq!(path_and_query(b"/\xff"), "/\u{fffd}");
    }

    #[test]
    fn options_asterisk_targets_the_balancer() {
        // Case: methods-without-server
        check_target("OPTIONS * 1.1", &["a"], |target| assert_eq!(target, Ok(RequestTarget::Balancer)));
    }
}
