//! Whether a connection persists after a message (RFC 9112, section 9.3). Pure.

use http::Version;

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;

/// Whether the sender of these headers keeps the connection open after this message.
#[must_use]
pub fn keeps_alive(headers: &Headers, version: Version) -> bool {
    let has = |wanted: &[u8]| connection_options(headers).any(|option| option.eq_ignore_ascii_case(wanted));
    if version == Version::HTTP_10 { has(b"keep-alive") && !has(b"close") } else { !has(b"close") }
}

/// The options that the `Connection` headers list.
pub fn connection_options(headers: &Headers) -> impl Iterator<Item = &[u8]> {
    let options = headers.all(HeaderName::Connection).flat_map(|field| field.split(|byte| *byte == b','));
    options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_1_1_persists_unless_closed_and_http_1_0_only_if_asked_to() {
        let cases = [
            ("", true, false),
            ("close", false, false),
            ("keep-alive", true, true),
            ("Keep-Alive, X-Other", true, true),
            ("keep-alive, CLOSE", false, false),
            ("upgrade", true, false),
        ];
        for (value, new, old) in cases {
            let headers = Headers::of([("Connection", value)]);
            assert_eq!(keeps_alive(&headers, Version::HTTP_11), new, "{value}");
            assert_eq!(keeps_alive(&headers, Version::HTTP_10), old, "{value}");
        }
    }
}
