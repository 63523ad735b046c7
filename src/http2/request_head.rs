//! The head of a request to a server of HTTP/2, and its trailers. Pure.

use std::fmt::Write as _;

use http::header::{HeaderName as FieldName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Uri, Version};

use crate::http1::client::{OutgoingRequest, Unsendable};
use crate::http1::name::HeaderName;

/// Returns the head of a request. Its headers have been rewritten for a server, so none belongs to one connection.
///
/// # Errors
/// [`Unsendable`].
pub fn request(outgoing: OutgoingRequest<'_>, is_secure: bool) -> Result<Request<()>, Unsendable> {
    if outgoing.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket")) {
        return Err(Unsendable::WebSocket);
    }
    let headers = &outgoing.head.headers;
    let authority = headers.get(HeaderName::Host).unwrap_or_default();
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(authority).map_err(|_| Unsendable::Host)?);
    parts.path_and_query = Some(path(outgoing.target.unwrap_or(outgoing.head.target())).ok_or(Unsendable::Target)?);
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = outgoing.head.method.clone();
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Unsendable::Target)?;
    let fields = request.headers_mut();
    fields.reserve(headers.len());
    for (id, name, value) in headers.iter() {
        if id != HeaderName::Host && !is_connection_specific(id) {
            append(fields, name, value);
        }
    }
    Ok(request)
}

/// The target as `:path`. Bytes that no URI has, but that clients send, are escaped.
fn path(target: &[u8]) -> Option<PathAndQuery> {
    if let Ok(path) = PathAndQuery::try_from(target) {
        return Some(path);
    }
    let mut escaped = String::with_capacity(target.len() + 16);
    for byte in target {
        match byte {
            b'<' | b'>' | b'`' | b'^' | b'\\' | b'"' | b'{' | b'}' | b'|' | 0x80.. => {
                // Writing to memory cannot fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
            _ => escaped.push(char::from(*byte)),
        }
    }
    PathAndQuery::try_from(escaped).ok()
}

/// Whether a header is about one connection of HTTP/1, and so must not be in a message of HTTP/2 (RFC 9113, section
/// 8.2.2).
pub(super) fn is_connection_specific(name: HeaderName) -> bool {
    matches!(
        name,
        HeaderName::Connection
            | HeaderName::Http2Settings
            | HeaderName::KeepAlive
            | HeaderName::ProxyConnection
            | HeaderName::TransferEncoding
            | HeaderName::Upgrade
    )
}

/// Returns the trailers in these lines.
#[must_use]
pub fn trailers(lines: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            append(&mut fields, &line[..colon], line[colon + 1..].trim_ascii());
        }
    }
    fields
}

fn append(fields: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (FieldName::from_bytes(name), HeaderValue::from_bytes(value)) {
        // It can only fail with more than 32,768 headers; the limit of a head is far below.
        let _ = fields.try_append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::body::BodyLength;
    use crate::http1::head::{HeadLimits, RequestHead};

    fn parsed(text: &str) -> RequestHead {
        let mut head = RequestHead::default();
        let limits = HeadLimits { bytes: 64 * 1024, headers: 100 };
        assert!(matches!(head.parse(text.as_bytes(), limits), Ok(Some(_))), "{text}");
        head
    }

    fn outgoing<'a>(head: &'a RequestHead, upgrade: Option<&'a [u8]>) -> OutgoingRequest<'a> {
        OutgoingRequest { head, target: None, upgrade, length: BodyLength::None, closes: false }
    }

    #[test]
    fn a_request_has_pseudo_headers_and_lower_case_names_and_nothing_about_a_connection() {
        let head = parsed(
            "POST /a%2fb?c=d HTTP/1.1\r\nHost: Example.com:81\r\nX-One: 1\r\nX-ONE: 2\r\nTE: trailers\r\n\
             Connection: x\r\nKeep-Alive: 1\r\nTransfer-Encoding: chunked\r\nUpgrade: foo\r\nProxy-Connection: y\r\n\r\n",
        );
        let request = request(outgoing(&head, Some(b"foo")), false).expect("sendable");
        assert_eq!(request.uri().to_string(), "http://Example.com:81/a%2fb?c=d");
        let fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x-one", &b"1"[..]), ("x-one", b"2"), ("te", b"trailers")]);
    }

    #[test]
    fn every_target_that_is_accepted_has_a_path() {
        let cases = [
            ("/", "/"),
            ("*", "*"),
            ("/?", "/?"),
            ("/a b", ""),
            ("/a\"b", "/a\"b"),
            ("/<a>", "/%3Ca%3E"),
            ("/`^\\|", "/%60%5E%5C%7C"),
        ];
        for (target, expected) in cases {
            let path = path(target.as_bytes()).map(|path| path.to_string()).unwrap_or_default();
            assert!(path == expected || path == target, "{target}: {path}");
        }
        let visible = (b'!'..=b'~').filter(|byte| *byte != b'#');
        for byte in visible {
            assert!(path(&[b'/', byte]).is_some(), "{}", char::from(byte));
        }
    }

    #[test]
    fn a_websocket_and_a_host_that_is_none_cannot_be_sent() {
        let head = parsed("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(request(outgoing(&head, Some(b"WebSocket")), false).err(), Some(Unsendable::WebSocket));
        let head = parsed("GET / HTTP/1.1\r\nHost: \r\n\r\n");
        assert_eq!(request(outgoing(&head, None), false).err(), Some(Unsendable::Host));
    }
}
