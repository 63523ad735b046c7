//! Headers and trailers as `h2` and as HTTP/1 have them. Pure.

use http::{HeaderMap, HeaderName as FieldName, HeaderValue};

use crate::http1::name::HeaderName;

/// Whether a header is about one connection of HTTP/1, and so must not be in a message of HTTP/2 (RFC 9113, section
/// 8.2.2).
pub(super) fn is_connection_specific(name: HeaderName) -> bool {
    matches!(
        name,
        HeaderName::Connection
            | HeaderName::KeepAlive
            | HeaderName::ProxyConnection
            | HeaderName::TransferEncoding
            | HeaderName::Upgrade
    )
}

/// Adds a header, unless HTTP/2 cannot have it.
pub(super) fn append(fields: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (FieldName::from_bytes(name), HeaderValue::from_bytes(value)) {
        // More than 32,768 headers cannot be; the limit of a head is far below.
        let _ = fields.try_append(name, value);
    }
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

/// Returns a trailer section as lines, each with its CRLF, of the trailers that are valid.
#[must_use]
pub(super) fn lines(trailers: &HeaderMap, is_valid: impl Fn(&FieldName, &[u8]) -> bool) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        if is_valid(name, value.as_bytes()) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
    }
    lines
}
