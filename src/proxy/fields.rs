//! What of a message's header fields is for one connection only, and so ends here (RFC 9110, section 7.6). Pure.
//!
//! - `TE` goes whole: a request that is not said to take trailers may still get an answer with some.
//! - `Proxy-Authorization`, `Proxy-Authenticate` and `Proxy-Authentication-Info` go: lb speaks for
//!   the servers, it is no proxy that a client signs in to, nor does it sign in to the servers.
//! - `Transfer-Encoding` goes: whoever writes the message frames it.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::refusal::Refusal;

/// Makes a client's fields a server's: takes out the fields of the client's connection, those that
/// `Connection` names, and those that a server could take for ours; adds `Via`. `version` is the
/// client's.
///
/// The protocol that the client would change to is returned, for [`set_upgrade`] if it is to be
/// asked for. `h2c` is not: it would take requests past the routes.
///
/// # Errors
/// [`Refusal::UpgradeWithBody`].
pub fn prepare_request(headers: &mut HeaderMap, version: Version) -> Result<Option<HeaderValue>, Refusal> {
    let upgrade = if version == Version::HTTP_11 { requested_upgrade(headers) } else { None };
    if upgrade.is_some() && has_body(headers) {
        return Err(Refusal::UpgradeWithBody);
    }
    remove(headers, |name| is_hop_by_hop(name) || is_disguised(name));
    headers.append(VIA, via(version));
    Ok(upgrade)
}

/// Makes a server's fields a client's, likewise. `version` is the server's.
///
/// The protocol that the server changes to is returned, if that is what `status` says.
pub fn prepare_response(headers: &mut HeaderMap, status: StatusCode, version: Version) -> Option<HeaderValue> {
    let upgrade = if status == StatusCode::SWITCHING_PROTOCOLS { headers.get(UPGRADE).cloned() } else { None };
    remove(headers, is_hop_by_hop);
    headers.append(VIA, via(version));
    upgrade
}

/// Asks a server for `protocol`, or tells a client that it has begun.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// The protocols of an `Upgrade` that `Connection` names, unless one of them is `h2c`.
fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut fields = headers.get_all(UPGRADE).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let mut protocols = field.to_str().ok()?.split(',').map(str::trim);
    let named = connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let usable = named && protocols.all(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c"));
    usable.then(|| field.clone())
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Takes out what `Connection` names and what `doomed` says, in lower case. Allocates only where
/// there is more to take out than a `Connection` that names nothing.
fn remove(headers: &mut HeaderMap, doomed: impl Fn(&str) -> bool) {
    let mut names: Vec<HeaderName> = connection_options(headers)
        .filter(|option| !is_about_connection(option))
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        .filter(|name| !is_ours(name.as_str()))
        .collect();
    headers.remove(CONNECTION);
    names.extend(headers.keys().filter(|name| doomed(name.as_str())).cloned());
    for name in names {
        headers.remove(name);
    }
}

/// What the `Connection` fields list.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(CONNECTION).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

/// The options that name no field, or one that goes anyway.
fn is_about_connection(option: &str) -> bool {
    ["keep-alive", "close", "upgrade", "te"].iter().any(|known| option.eq_ignore_ascii_case(known))
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The fields that frame a message, name its host, or are what we tell servers. A client's
/// `Connection` does not take them out, not even where the proxy before us has set them.
fn is_ours(name: &str) -> bool {
    const FIELDS: [&str; 11] = [
        "b3",
        "content-length",
        "content-type",
        "forwarded",
        "host",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "via",
        "x-real-ip",
        "x-request-id",
    ];
    FIELDS.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("x-b3-")
}

/// Names like `X_Forwarded_For`, which servers that hand fields on as variables cannot tell from ours.
fn is_disguised(name: &str) -> bool {
    name.contains('_') && {
        let dashed = name.replace('_', "-");
        is_ours(&dashed) || is_hop_by_hop(&dashed)
    }
}

/// RFC 9110, section 7.6.3: the version received, and a name for who received it.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 lb",
        Version::HTTP_2 => "2 lb",
        Version::HTTP_3 => "3 lb",
        _ => "1.1 lb",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields as in a message, one a line.
    fn fields(text: &str) -> HeaderMap {
        let pair = |line: &str| {
            let (name, value) = line.split_once(':').expect("a colon");
            (name.trim().parse::<HeaderName>().expect("a name"), value.trim().parse::<HeaderValue>().expect("a value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in text.lines().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[track_caller]
    fn assert_forwarded(sent: &str, forwarded: &str) {
        let mut headers = fields(sent);
        prepare_request(&mut headers, Version::HTTP_11).expect("no refusal");
        assert_eq!(headers.remove(VIA).expect("Via"), "1.1 lb");
        assert_eq!(headers, fields(forwarded), "{sent}");
    }

    #[test]
    fn the_fields_of_one_connection_are_not_forwarded() {
        let cases = [
            ("Host: a\nAccept: x\nAccept: y", "Host: a\nAccept: x\nAccept: y"),
            ("Host: a\nConnection: keep-alive", "Host: a"),
            (
                "Connection: X-One, X-Two\nConnection: x-three ,,\nX-One: 1\nx-two: 2\nX-Three: 3\nX-Four: 4",
                "X-Four: 4",
            ),
            // Row 24.
            (
                "Connection: close, X-Forwarded-For, Host, Content-Length, traceparent, X-Real-IP, x-b3-traceid, Via\n\
                 Host: a\nContent-Length: 5\ntraceparent: t\nX-Forwarded-For: f\nX-Real-IP: r\nX-B3-TraceId: b",
                "Host: a\nContent-Length: 5\ntraceparent: t\nX-Forwarded-For: f\nX-Real-IP: r\nX-B3-TraceId: b",
            ),
            // Row 25.
            (
                "Keep-Alive: timeout=5\nProxy-Connection: keep-alive\nTE: trailers, gzip\nConnection: TE\nTrailer: X",
                "Trailer: X",
            ),
            ("Transfer-Encoding: chunked\nExpect: 100-continue", "Expect: 100-continue"),
            ("Proxy-Authorization: Basic x\nAuthorization: Basic y", "Authorization: Basic y"),
            ("HTTP2-Settings: x\nConnection: HTTP2-Settings", ""),
            // Connection options are names of fields, or nothing.
            ("Connection: a b, \"x\", @, x\nX: 1\nA: 2", "A: 2"),
        ];
        for (sent, forwarded) in cases {
            assert_forwarded(sent, forwarded);
        }
    }

    #[test]
    fn rows_8_and_26_underscores_disguise_no_field_of_ours() {
        let disguised = "Transfer_Encoding: chunked\nContent_Length: 5\nHost_: a\nX_Forwarded_For: f\n\
             X-Forwarded_Proto: p\nX_Forwarded_Anything: x\nX_Real_IP: r\nX_B3_TraceId: b\n\
             X_Request_Id: i\nProxy_Connection: c";
        assert_forwarded(disguised, "Host_: a");
        assert_forwarded("My_Field: 1\n_: 2\nX_Forwarded: 3", "My_Field: 1\n_: 2\nX_Forwarded: 3");
    }

    #[test]
    fn via_is_added_to_what_is_there() {
        for (version, last) in [(Version::HTTP_10, "1.0 lb"), (Version::HTTP_11, "1.1 lb"), (Version::HTTP_2, "2 lb")] {
            let mut headers = fields("Via: 1.1 front");
            prepare_request(&mut headers, version).expect("no refusal");
            let via: Vec<_> = headers.get_all(VIA).iter().collect();
            assert_eq!(via, ["1.1 front", last]);
        }
    }

    #[test]
    fn an_upgrade_is_taken_out_and_told() {
        let cases = [
            ("Connection: Upgrade\nUpgrade: websocket", Ok(Some("websocket"))),
            ("Connection: keep-alive, upgrade\nUpgrade: websocket", Ok(Some("websocket"))),
            ("Connection: upgrade\nUpgrade: foo/1, bar\nContent-Length: 0", Ok(Some("foo/1, bar"))),
            ("Upgrade: websocket", Ok(None)),
            ("Connection: upgrade", Ok(None)),
            ("Connection: upgrade\nUpgrade:", Ok(None)),
            ("Connection: upgrade\nUpgrade: foo\nUpgrade: bar", Ok(None)),
            // Row 30.
            ("Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: x", Ok(None)),
            ("Connection: upgrade\nUpgrade: websocket, H2C", Ok(None)),
            ("Connection: upgrade\nUpgrade: h2c\nTransfer-Encoding: chunked", Ok(None)),
            ("Connection: upgrade\nUpgrade: foo\nTransfer-Encoding: chunked", Err(Refusal::UpgradeWithBody)),
            ("Connection: upgrade\nUpgrade: foo\nContent-Length: 5", Err(Refusal::UpgradeWithBody)),
        ];
        for (sent, expected) in cases {
            let mut headers = fields(sent);
            let upgrade = prepare_request(&mut headers, Version::HTTP_11);
            assert_eq!(upgrade, expected.map(|protocol| protocol.map(HeaderValue::from_static)), "{sent}");
            if upgrade.is_ok() {
                assert!(!headers.contains_key(UPGRADE) && !headers.contains_key(CONNECTION), "{sent}");
            }
        }
        let mut old = fields("Connection: upgrade\nUpgrade: foo");
        assert_eq!(prepare_request(&mut old, Version::HTTP_10), Ok(None), "HTTP/1.0 has no upgrades");
    }

    #[test]
    fn a_response_keeps_what_is_the_clients() {
        let sent = "Connection: keep-alive, X-Hop\nKeep-Alive: timeout=5\nTransfer-Encoding: chunked\nX-Hop: 1\n\
             Proxy-Authenticate: Basic\nUpgrade: h2c\nSet-Cookie: a=1\nSet-Cookie: b=2\nContent_Type: x";
        let mut headers = fields(sent);
        assert_eq!(prepare_response(&mut headers, StatusCode::OK, Version::HTTP_11), None);
        assert_eq!(headers, fields("Set-Cookie: a=1\nSet-Cookie: b=2\nContent_Type: x\nVia: 1.1 lb"));
    }

    #[test]
    fn a_response_upgrades_with_101_only() {
        let sent = "Connection: upgrade\nUpgrade: websocket";
        for (status, expected) in [(101, Some("websocket")), (200, None), (426, None)] {
            let mut headers = fields(sent);
            let status = StatusCode::from_u16(status).expect("a status");
            let upgrade = prepare_response(&mut headers, status, Version::HTTP_11);
            assert_eq!(upgrade, expected.map(HeaderValue::from_static), "{status}");
            assert_eq!(headers, fields("Via: 1.1 lb"), "{status}");
            if let Some(protocol) = upgrade {
                set_upgrade(&mut headers, protocol);
                assert_eq!(headers, fields("Connection: upgrade\nUpgrade: websocket\nVia: 1.1 lb"));
            }
        }
    }
}
