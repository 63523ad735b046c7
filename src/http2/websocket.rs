//! WebSockets over HTTP/2 (RFC 8441), opened as in HTTP/1.1 (RFC 6455). Pure.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use h2::ext::Protocol;
use http::Method;
use http::request::Parts;

use crate::http1::base64::base64;
use crate::http1::client::OutgoingRequest;
use crate::http1::head::ResponseHead;
use crate::http1::headers::Headers;
use crate::http1::name::HeaderName;

const KEY: &[u8] = b"sec-websocket-key";
const ACCEPT: &[u8] = b"sec-websocket-accept";
/// See RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether the protocol that a client offers to switch to is that of WebSockets.
pub(super) fn is_wanted(upgrade: Option<&[u8]>) -> bool {
    upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Whether a request that asks for a WebSocket does so by the rules (RFC 6455, section 4.1).
pub(super) fn is_handshake(request: OutgoingRequest<'_>) -> bool {
    request.head.method == Method::GET && !request.length.has_body() && header(&request.head.headers, KEY).is_some()
}

/// Whether HTTP/2 has no such header, because nothing there has to be proved.
pub(super) fn is_of_http1(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(KEY) || name.eq_ignore_ascii_case(ACCEPT)
}

/// Whether a request over HTTP/2 asks for a WebSocket.
pub(super) fn is_extended(parts: &Parts) -> bool {
    parts.method == Method::CONNECT && parts.extensions.get() == Some(&Protocol::from_static("websocket"))
}

/// Adds the key that servers of HTTP/1.1 want to the headers of a client's request over HTTP/2, if it asks for a WebSocket.
pub fn add_key(headers: &mut Headers, random: impl FnOnce() -> [u8; 16]) {
    if headers.has(HeaderName::Upgrade) {
        headers.add_named("Sec-WebSocket-Key", base64(&random()).as_bytes());
    }
}

/// Whether a client over HTTP/2 that asks for a WebSocket may get this response: one that does not open it must not look
/// as if it did.
#[must_use]
pub fn may_follow(request: &Headers, response: &ResponseHead) -> bool {
    match response.status {
        101 => {
            let accepted = header(&response.headers, ACCEPT);
            accepted.is_some() && accepted == header(request, KEY).map(accept_of).as_deref().map(str::as_bytes)
        }
        200..=299 => false,
        _ => true,
    }
}

fn header<'h>(headers: &'h Headers, wanted: &[u8]) -> Option<&'h [u8]> {
    headers.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, _, value)| value)
}

fn accept_of(key: &[u8]) -> String {
    base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()).as_ref())
}

/// Returns `Sec-WebSocket-Accept` for a request that asks for a WebSocket; `None` for any other.
pub(super) fn accept(request: OutgoingRequest<'_>) -> Option<String> {
    header(&request.head.headers, KEY).filter(|_| is_wanted(request.upgrade)).map(accept_of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::body::BodyLength;
    use crate::http1::head::RequestHead;

    #[test]
    fn the_key_is_accepted_as_in_the_example_of_the_rfc() {
        let mut head = RequestHead::default();
        head.headers.add_named("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==");
        let length = BodyLength::None;
        let request = |upgrade| OutgoingRequest { head: &head, target: None, upgrade, length, closes: false };
        let expected = Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned());
        assert_eq!(accept(request(Some(b"WebSocket"))), expected);
        assert_eq!((accept(request(Some(b"foo"))), accept(request(None))), (None, None));
    }

    #[test]
    fn a_response_that_opens_no_websocket_must_not_look_as_if_it_did() {
        let mut request = Headers::new();
        request.add(HeaderName::Upgrade, b"websocket");
        add_key(&mut request, || *b"the sample nonce");
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        for (status, accept, expected) in [
            (101, Some(right), true),
            (101, Some("c3BMTE1CaVR4YVE5a1lHenpoWlJiSyt4T289"), false),
            (101, None, false),
            (200, Some(right), false),
            (204, None, false),
            (302, None, true),
            (403, None, true),
            (503, None, true),
        ] {
            let mut response = ResponseHead::of_status(status);
            accept.iter().for_each(|accept| response.headers.add_named("Sec-WebSocket-Accept", accept.as_bytes()));
            assert_eq!(may_follow(&request, &response), expected, "{status} {accept:?}");
        }
        let mut other = Headers::new();
        add_key(&mut other, || *b"the sample nonce");
        assert!(other.is_empty());
    }
}
