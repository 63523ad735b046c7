//! WebSockets over HTTP/2 (RFC 8441), opened as in HTTP/1.1 (RFC 6455). Pure.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use http::Method;

use crate::http1::base64::base64;
use crate::http1::client::OutgoingRequest;
use crate::http1::headers::Headers;

const KEY: &[u8] = b"sec-websocket-key";
/// See RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether the protocol that a client offers to switch to is that of WebSockets.
pub(super) fn is_wanted(upgrade: Option<&[u8]>) -> bool {
    upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Whether a request that asks for a WebSocket does so by the rules (RFC 6455, section 4.1).
pub(super) fn is_handshake(request: OutgoingRequest<'_>) -> bool {
    request.head.method == Method::GET && !request.length.has_body() && key(&request.head.headers).is_some()
}

/// Whether HTTP/2 has no such header, because nothing there has to be proved.
pub(super) fn is_of_http1(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(KEY)
}

fn key(headers: &Headers) -> Option<&[u8]> {
    headers.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(KEY)).map(|(_, _, value)| value)
}

/// Returns `Sec-WebSocket-Accept` for a request that asks for a WebSocket; `None` for any other.
pub(super) fn accept(request: OutgoingRequest<'_>) -> Option<String> {
    let key = key(&request.head.headers).filter(|_| is_wanted(request.upgrade))?;
    Some(base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()).as_ref()))
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
}
