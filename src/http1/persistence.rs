//! Whether a connection persists after a message (RFC 9112, section 9.3). Pure.

use http::Version;

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;

/// Whether the sender of these headers will keep the connection open after this message.
#[must_use]
pub fn keeps_alive(headers: &Headers, version: Version) -> bool {
    let has = |wanted: &[u8]| connection_options(headers).any(|option| option.eq_ignore_ascii_case(wanted));
    if version == Version::HTTP_10 { has(b"keep-alive") && !has(b"close") } else { !has(b"close") }
}

/// The options listed in the `Connection` headers.
pub fn connection_options(headers: &Headers) -> impl Iterator<Item = &[u8]> {
    let options = headers.all(HeaderName::Connection).flat_map(|value| value.split(|byte| *byte == b','));
    options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_1_1_persists_by_default_and_http_1_0_only_on_request() {
        let cases = [
            ("", true, false),
            ("close", false, false),
            ("keep-alive", true, true),
            ("Keep-Alive, X-Other", true, true),
            ("keep-alive, CLOSE", false, false),
            ("upgrade", true, false),
        ];
        for (value, http_11, http_10) in cases {
            let headers = Headers::from_pairs([("Connection", value)]);
            assert_eq!(keeps_alive(&headers, Version::HTTP_11), http_11, "{value}");
            assert_eq!(keeps_alive(&headers, Version::HTTP_10), http_10, "{value}");
        }
    }
}
