//! Removal of the headers that belong to one connection (RFC 9110, section 7.6), and `Via`. Pure.
//!
//! - `TE` is removed, and added again as `TE: trailers` if the client accepts trailers. `Connection` does not list it: a
//!   proxy behind `lb` that does not know it may as well forward it.
//! - `Proxy-Authorization`, `Proxy-Authenticate` and `Proxy-Authentication-Info` are removed: `lb` acts for
//!   the servers, so clients do not authenticate to it as a proxy, nor does it authenticate to servers.
//! - `Transfer-Encoding` is removed: the code that writes the message decides its framing.

use http::Version;

use crate::http1::head::Headers;
use crate::http1::name::{HeaderName, HeaderSet};
use crate::http1::persistence::connection_options;

/// Prepares a client's headers for a server: removes hop-by-hop headers, those that `Connection` lists,
/// and those that a server could mistake for ours. `version` is the client's.
///
/// Returns the value of `Upgrade` if the client requests an upgrade. `h2c` is ignored, because its
/// requests would bypass the routes.
pub fn prepare_request(headers: &mut Headers, version: Version) -> Option<Vec<u8>> {
    let upgrade = match version {
        Version::HTTP_11 => requested_upgrade(headers),
        // Only that of a WebSocket (RFC 8441) has it.
        Version::HTTP_2 => headers.get(HeaderName::Upgrade).map(<[u8]>::to_vec),
        _ => None,
    };
    remove(headers, HOP_BY_HOP.with(HeaderName::Disguised));
    upgrade
}

/// Prepares a server's headers for a client: removes hop-by-hop headers, those that `Connection` lists,
/// and `Content-Length` if there cannot be a body.
///
/// Returns the value of `Upgrade` if `status` is 101.
pub fn prepare_response(headers: &mut Headers, status: u16) -> Option<Vec<u8>> {
    let switches = status == 101;
    let upgrade = if switches { headers.get(HeaderName::Upgrade).map(<[u8]>::to_vec) } else { None };
    // A response that cannot have a body must not have a Content-Length (RFC 9110, section 8.6): a client might
    // wait for the body.
    let bodiless = matches!(status, 100..=199 | 204);
    remove(headers, if bodiless { HOP_BY_HOP.with(HeaderName::ContentLength) } else { HOP_BY_HOP });
    upgrade
}

/// Adds our entry to `Via` (RFC 9110, section 7.6.3): the version of the message received, and a pseudonym.
pub fn add_via(headers: &mut Headers, version: Version) {
    let entry: &[u8] = match version {
        Version::HTTP_10 => b"1.0 lb",
        Version::HTTP_2 => b"2 lb",
        Version::HTTP_3 => b"3 lb",
        _ => b"1.1 lb",
    };
    headers.add(HeaderName::Via, entry);
}

/// Returns the value of `Upgrade` if `Connection` lists it and none of its protocols is `h2c`.
fn requested_upgrade(headers: &Headers) -> Option<Vec<u8>> {
    let mut upgrades = headers.all(HeaderName::Upgrade);
    let (Some(upgrade), None) = (upgrades.next(), upgrades.next()) else { return None };
    let mut protocols = upgrade.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let usable = upgrade.is_ascii()
        && connection_options(headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && protocols.all(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c"));
    usable.then(|| upgrade.to_vec())
}

/// Removes the headers that `Connection` lists, and those in `names`. Allocates only if `Connection` has
/// more than the usual options.
fn remove(headers: &mut Headers, names: HeaderSet) {
    let is_usual =
        |options: &[u8]| [&b"keep-alive"[..], b"close"].iter().any(|usual| usual.eq_ignore_ascii_case(options));
    if !headers.all(HeaderName::Connection).all(is_usual) {
        let listed: Vec<Vec<u8>> =
            connection_options(headers).filter(|option| is_removable(option)).map(<[u8]>::to_vec).collect();
        headers.retain(|_, text| !listed.iter().any(|name| name.eq_ignore_ascii_case(text)));
    }
    headers.remove_all(names);
}

/// Whether an option of `Connection` may name a header that has to be removed. The others are options of
/// the connection itself, hop-by-hop headers, or protected.
fn is_removable(option: &[u8]) -> bool {
    let name = HeaderName::from_bytes(option);
    !HOP_BY_HOP.contains(name) && !PROTECTED.contains(name) && !option.eq_ignore_ascii_case(b"close")
}

const HOP_BY_HOP: HeaderSet = HeaderSet::new(&[
    HeaderName::Connection,
    HeaderName::Http2Settings,
    HeaderName::KeepAlive,
    HeaderName::ProxyAuthenticate,
    HeaderName::ProxyAuthenticationInfo,
    HeaderName::ProxyAuthorization,
    HeaderName::ProxyConnection,
    HeaderName::Te,
    HeaderName::TransferEncoding,
    HeaderName::Upgrade,
]);

/// Headers that frame a message, identify its host, or are set for servers. A client's `Connection` cannot
/// remove them, not even those that a trusted proxy in front has set.
const PROTECTED: HeaderSet = HeaderSet::new(&[
    HeaderName::B3,
    HeaderName::B3Flags,
    HeaderName::B3ParentSpanId,
    HeaderName::B3Sampled,
    HeaderName::B3SpanId,
    HeaderName::B3TraceId,
    HeaderName::ContentLength,
    HeaderName::ContentType,
    HeaderName::Forwarded,
    HeaderName::ForwardedFor,
    HeaderName::ForwardedHost,
    HeaderName::ForwardedOther,
    HeaderName::ForwardedProto,
    HeaderName::Host,
    HeaderName::RealIp,
    HeaderName::RequestId,
    HeaderName::Traceparent,
    HeaderName::Tracestate,
    HeaderName::Via,
]);

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses headers, one per line.
    fn headers(text: &str) -> Headers {
        Headers::from_pairs(text.lines().map(|line| {
            let (name, value) = line.split_once(':').expect("a colon");
            (name.trim(), value.trim())
        }))
    }

    /// Writes headers, one per line.
    fn text(headers: &Headers) -> String {
        let line = |(_, name, value): (_, &[u8], &[u8])| {
            format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
        };
        headers.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn assert_forwarded(sent: &str, forwarded: &str) {
        let mut headers = headers(sent);
        prepare_request(&mut headers, Version::HTTP_11);
        assert_eq!(text(&headers), forwarded, "{sent}");
    }

    #[test]
    fn hop_by_hop_headers_are_not_forwarded() {
        let cases = [
            ("Host: a\nAccept: x\nAccept: y", "Host: a\nAccept: x\nAccept: y"),
            ("Host: a\nConnection: keep-alive", "Host: a"),
            (
                "Connection: X-One, X-Two\nConnection: x-three ,,\nX-One: 1\nx-two: 2\nX-Three: 3\nX-Four: 4",
                "X-Four: 4",
            ),
            // Case: connection-header
            // The client cannot remove protected headers.
            (
                "Connection: close, X-Forwarded-For, Host, Content-Length, traceparent, X-Real-IP, x-b3-traceid, Via\n\
                 Host: a\nContent-Length: 5\ntraceparent: t\nX-Forwarded-For: f\nX-Real-IP: r\nX-B3-TraceId: b",
                "Host: a\nContent-Length: 5\ntraceparent: t\nX-Forwarded-For: f\nX-Real-IP: r\nX-B3-TraceId: b",
            ),
            // Case: hop-by-hop
            (
                "Keep-Alive: timeout=5\nProxy-Connection: keep-alive\nTE: trailers, gzip\nConnection: TE\nTrailer: X",
                "Trailer: X",
            ),
            ("Transfer-Encoding: chunked\nExpect: 100-continue", "Expect: 100-continue"),
            ("Proxy-Authorization: Basic x\nAuthorization: Basic y", "Authorization: Basic y"),
            ("HTTP2-Settings: x\nConnection: HTTP2-Settings", ""),
            // Connection options that are not header names have no effect.
            ("Connection: a b, \"x\", @, x\nX: 1\nA: 2", "A: 2"),
        ];
        for (sent, forwarded) in cases {
            assert_forwarded(sent, forwarded);
        }
    }

    #[test]
    fn underscores_do_not_disguise_headers() {
        // Cases: te-underscore, forwarded-headers
        let disguised = "Transfer_Encoding: chunked\nContent_Length: 5\nHost_: a\nX_Forwarded_For: f\n\
             X-Forwarded_Proto: p\nX_Forwarded_Anything: x\nX_Real_IP: r\nX_B3_TraceId: b\n\
             X_Request_Id: i\nProxy_Connection: c";
        assert_forwarded(disguised, "Host_: a");
        assert_forwarded("My_Field: 1\n_: 2\nX_Forwarded: 3", "My_Field: 1\n_: 2\nX_Forwarded: 3");
    }

    #[test]
    fn via_is_added_to_earlier_ones() {
        for (version, last) in [(Version::HTTP_10, "1.0 lb"), (Version::HTTP_11, "1.1 lb"), (Version::HTTP_2, "2 lb")] {
            let mut headers = headers("Via: 1.1 front");
            add_via(&mut headers, version);
            assert_eq!(text(&headers), format!("Via: 1.1 front\nVia: {last}"));
        }
    }

    #[test]
    fn an_upgrade_is_removed_and_returned() {
        let cases = [
            ("Connection: Upgrade\nUpgrade: websocket", Some("websocket")),
            ("Connection: keep-alive, upgrade\nUpgrade: websocket", Some("websocket")),
            ("Connection: upgrade\nUpgrade: foo/1, bar\nContent-Length: 0", Some("foo/1, bar")),
            ("Upgrade: websocket", None),
            ("Connection: upgrade", None),
            ("Connection: upgrade\nUpgrade:", None),
            ("Connection: upgrade\nUpgrade: foo\nUpgrade: bar", None),
            // Case: upgrade-h2c
            ("Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: x", None),
            ("Connection: upgrade\nUpgrade: websocket, H2C", None),
            ("Connection: upgrade\nUpgrade: h2c\nTransfer-Encoding: chunked", None),
            ("Connection: upgrade\nUpgrade: foo\nTransfer-Encoding: chunked", Some("foo")),
            ("Connection: upgrade\nUpgrade: foo\nContent-Length: 5", Some("foo")),
        ];
        for (sent, expected) in cases {
            let mut headers = headers(sent);
            let upgrade = prepare_request(&mut headers, Version::HTTP_11);
            assert_eq!(upgrade, expected.map(Vec::from), "{sent}");
            assert!(!headers.has(HeaderName::Upgrade) && !headers.has(HeaderName::Connection), "{sent}");
        }
        let mut http_10 = headers("Connection: upgrade\nUpgrade: foo");
        assert_eq!(prepare_request(&mut http_10, Version::HTTP_10), None, "HTTP/1.0 has no upgrades");
    }

    #[test]
    fn a_response_keeps_its_end_to_end_headers() {
        let sent = "Connection: keep-alive, X-Hop\nKeep-Alive: timeout=5\nTransfer-Encoding: chunked\nX-Hop: 1\n\
             Proxy-Authenticate: Basic\nUpgrade: h2c\nSet-Cookie: a=1\nSet-Cookie: b=2\nContent_Type: x";
        let mut headers = headers(sent);
        assert_eq!(prepare_response(&mut headers, 200), None);
        assert_eq!(text(&headers), "Set-Cookie: a=1\nSet-Cookie: b=2\nContent_Type: x");
    }

    #[test]
    fn only_a_101_response_upgrades() {
        let sent = "Connection: upgrade\nUpgrade: websocket";
        for (status, expected) in [(101, Some("websocket")), (200, None), (426, None)] {
            let mut headers = headers(sent);
            let upgrade = prepare_response(&mut headers, status);
            assert_eq!(upgrade.as_deref(), expected.map(str::as_bytes), "{status}");
            assert_eq!(text(&headers), "", "{status}");
        }
    }

    #[test]
    fn a_response_that_cannot_have_a_body_has_no_content_length() {
        for (status, kept) in [(100, false), (103, false), (204, false), (200, true), (304, true)] {
            let mut headers = headers("Content-Length: 5");
            prepare_response(&mut headers, status);
            assert_eq!(headers.has(HeaderName::ContentLength), kept, "{status}");
        }
    }
}
