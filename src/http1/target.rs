//! Where a request goes: its target and `Host`, checked, and made one by RFC 9112, section 3.2. Pure.

use std::borrow::Cow;

use http::{Method, Version};

use super::{host, path};
use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// `OPTIONS *`: about the balancer itself, and answered by it.
    Balancer,
    /// Something that a route leads to.
    Resource(Target<'a>),
}

/// A resource, named by host and path.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// For routes: lower case, without port or trailing dot, an IPv6 address in brackets; empty for
    /// HTTP/1.0 without a `Host`.
    pub host: Cow<'a, str>,
    /// What `Host` has to say to the server, see [`Target::new_host`].
    pub authority: &'a str,
    /// Normalised, see [`path::normalise`].
    pub path: Cow<'a, str>,
    /// As the client sent it, without the `?`.
    pub query: Option<&'a str>,
    /// Path and query as the client sent them; may begin with `?` in an absolute target.
    as_sent: &'a str,
    /// The client's target has an authority.
    absolute: bool,
}

/// What a request with this head asks for; `target` is the one of its first line.
///
/// # Errors
/// Why the request must not go further.
pub fn target<'a>(
    method: &Method,
    target: &'a [u8],
    version: Version,
    headers: &'a Headers,
) -> Result<Asked<'a>, Rejection> {
    match *method {
        Method::CONNECT => return Err(Rejection::Connect),
        Method::TRACE => return Err(Rejection::Trace),
        _ => {}
    }
    // Whatever the target says: a request with a bad `Host` is a bad request.
    let field = host_field(headers)?;
    let (absolute, as_sent) = split(target)?;
    let (authority, host) = match (absolute, field) {
        (_, None) if version == Version::HTTP_11 => return Err(Rejection::NoHost),
        (Some(authority), _) => (authority, host::normalise(authority)?),
        (None, Some(field)) => field,
        (None, None) if version < Version::HTTP_11 => ("", Cow::Borrowed("")),
        (None, None) => return Err(Rejection::NoHost),
    };
    if *method == Method::OPTIONS && as_sent == "*" {
        return Ok(Asked::Balancer);
    }
    let (path, query) = match as_sent.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (as_sent, None),
    };
    let path = path::normalise(if absolute.is_some() && path.is_empty() { "/" } else { path })?;
    query.map_or(Ok(()), path::check_query)?;
    Ok(Asked::Resource(Target { host, authority, path, query, as_sent, absolute: absolute.is_some() }))
}

impl Target<'_> {
    /// The target for the server, in origin form; copied only where it is not what the client sent.
    #[must_use]
    pub fn path_and_query(&self) -> Cow<'_, str> {
        if matches!(self.path, Cow::Borrowed(_)) && self.as_sent.starts_with('/') {
            return Cow::Borrowed(self.as_sent);
        }
        match self.query {
            Some(query) => Cow::Owned([&*self.path, "?", query].concat()),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// The `Host` to replace the client's with: its target named another authority, or one where it
    /// did not have to, and that counts (RFC 9112, section 3.2.2).
    #[must_use]
    pub fn new_host(&self) -> Option<&str> {
        self.absolute.then_some(self.authority)
    }
}

/// The authority of an absolute target, and what is behind it; else all. Whether that is a path with
/// perhaps a query is not looked at here.
fn split(target: &[u8]) -> Result<(Option<&str>, &str), Rejection> {
    let target = str::from_utf8(target).map_err(|_| Rejection::TargetBytes)?;
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let Some((scheme, rest)) = target.split_once("://") else { return Ok((None, target)) };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(Rejection::Scheme);
    }
    let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok((Some(authority), behind))
}

/// The one `Host` field as it is and as routes know it.
fn host_field(headers: &Headers) -> Result<Option<(&str, Cow<'_, str>)>, Rejection> {
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

    /// `METHOD TARGET VERSION`, and the values of `Host`.
    fn ask(line: &str, hosts: &[&str], check: impl FnOnce(Result<Asked<'_>, Rejection>)) {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words");
        let method: Method = word().parse().expect("a method");
        let asked = word().as_bytes();
        let version = match word() {
            "1.0" => Version::HTTP_10,
            "1.1" => Version::HTTP_11,
            _ => Version::HTTP_2,
        };
        let headers = Headers::of(hosts.iter().map(|host| ("Host", *host)));
        check(target(&method, asked, version, &headers));
    }

    #[test]
    fn a_resource_has_one_host_and_one_path() {
        /// Request and hosts; what routes see; the server's `Host` and target.
        type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, &'a str);
        let cases: [Case<'_>; 19] = [
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
            ("GET hTTps://[::1]:80/a/../x?q=http://c 1.1", &["a"], "[::1]/x", "[::1]:80", "/x?q=http://c"),
            ("OPTIONS http://b 1.1", &["b"], "b/", "b", "/"),
            ("GET http://b/x?q 1.0", &[], "b/x", "b", "/x?q"),
            ("GET https://b/x 2", &[], "b/x", "b", "/x"),
            ("GET /x 2", &["a"], "a/x", "a", "/x"),
            // Case: host-case
            ("GET /x 1.1", &["API.Example.COM."], "api.example.com/x", "API.Example.COM.", "/x"),
            ("GET /x 1.1", &["[::1]:80"], "[::1]/x", "[::1]:80", "/x"),
            ("GET /x 1.0", &[], "/x", "", "/x"),
            // Case: path-normal-form
            ("GET /a/../admin?q 1.1", &["a"], "a/admin", "a", "/admin?q"),
            ("GET //admin 1.1", &["a"], "a//admin", "a", "//admin"),
        ];
        for (line, hosts, route, authority, forwarded) in cases {
            ask(line, hosts, |asked| {
                let Ok(Asked::Resource(target)) = asked else { panic!("{line}: {asked:?}") };
                assert_eq!(format!("{}{}", target.host, target.path), route, "{line}");
                assert_eq!(target.authority, authority, "{line}");
                assert_eq!(target.path_and_query(), forwarded, "{line}");
                let sent = hosts.first().copied().unwrap_or_default();
                let kept = target.new_host().map_or(sent == authority, |new| new == authority);
                assert!(kept, "{line}");
            });
        }
    }

    #[test]
    fn what_names_no_resource_is_refused() {
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
            // And where the target is absolute.
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
        for (line, hosts, refusal) in cases {
            ask(line, hosts, |asked| assert_eq!(asked, Err(refusal), "{line} {hosts:?}"));
        }
    }

    // Case: bad-target
    #[test]
    fn bytes_over_0x7f_are_refused_in_any_encoding() {
        let headers = Headers::of([("Host", "a")]);
        for asked in [&b"/\xe9"[..], b"/?\xff", b"\x80", b"/a\xc3\xa9", b"http://a/\xe9"] {
            let asked = target(&Method::GET, asked, Version::HTTP_11, &headers);
            assert!(matches!(asked, Err(Rejection::TargetBytes)), "{asked:?}");
        }
    }

    // Case: methods-without-server
    #[test]
    fn options_for_everything_asks_the_balancer() {
        ask("OPTIONS * 1.1", &["a"], |asked| assert_eq!(asked, Ok(Asked::Balancer)));
    }
}
