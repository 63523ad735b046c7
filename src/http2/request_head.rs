//! The head of a request to a server of HTTP/2, and its trailers. Pure.

use std::fmt::Write as _;

use h2::ext::Protocol;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::http1::client::{OutgoingRequest, Unsendable};
use crate::http1::name::HeaderName;
use crate::http2::fields::{append, is_connection_specific};
use crate::http2::websocket;

/// Returns the head of a request. Its headers have been rewritten for a server, so none belongs to one connection.
///
/// # Errors
/// [`Unsendable`].
pub fn request(
    outgoing: OutgoingRequest<'_>,
    is_secure: bool,
    offers_websocket: bool,
) -> Result<Request<()>, Unsendable> {
    let is_websocket = websocket::is_wanted(outgoing.upgrade);
    if is_websocket && !(offers_websocket && websocket::is_handshake(outgoing)) {
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
    if is_websocket {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    let fields = request.headers_mut();
    fields.reserve(headers.len());
    for (id, name, value) in headers.iter() {
        let is_left_out = matches!(id, HeaderName::Host | HeaderName::Http2Settings)
            || is_connection_specific(id)
            || is_websocket && websocket::is_of_http1(name);
        if !is_left_out {
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
        let request = request(outgoing(&head, Some(b"foo")), false, false).expect("sendable");
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
    fn a_websocket_is_sent_only_if_the_server_offers_that() {
        let text = "GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nOrigin: http://a\r\n\r\n";
        let head = parsed(text);
        let websocket = outgoing(&head, Some(b"WebSocket"));
        assert_eq!(request(websocket, false, false).err(), Some(Unsendable::WebSocket));
        let sent = request(websocket, true, true).expect("sendable");
        assert_eq!((sent.method(), sent.uri().to_string()), (&Method::CONNECT, "https://a/chat".to_owned()));
        assert_eq!(sent.extensions().get(), Some(&Protocol::from_static("websocket")));
        let names: Vec<_> = sent.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["sec-websocket-version", "origin"]);
        for invalid in [text.replace("GET", "POST"), text.replace("Sec-WebSocket-Key", "X-Key")] {
            let head = parsed(&invalid);
            let sent = request(outgoing(&head, Some(b"websocket")), false, true);
            assert_eq!(sent.err(), Some(Unsendable::WebSocket), "{invalid}");
        }
    }

    #[test]
    fn a_host_that_is_none_cannot_be_sent() {
        let head = parsed("GET / HTTP/1.1\r\nHost: \r\n\r\n");
        assert_eq!(request(outgoing(&head, None), false, false).err(), Some(Unsendable::Host));
    }
}
