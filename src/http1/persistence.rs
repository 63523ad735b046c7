//! Whether a connection persists after a message (RFC 9112, section 9.3). Pure.

use std::time::Duration;

use http::Version;

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;

/// Whether the sender of these headers will keep the connection open after this message.
#[must_use]
pub fn keeps_alive(headers: &Headers, version: Version) -> bool {
    let has = |wanted: &[u8]| connection_options(headers).any(|option| option.eq_ignore_ascii_case(wanted));
    if version == Version::HTTP_10 { has(b"keep-alive") && !has(b"close") } else { !has(b"close") }
}

/// The time for which the sender keeps a connection without a request, if its `Keep-Alive` header says so (RFC 2068,
/// section 19.7.1): none at all if it serves no more requests (`max=0`).
#[must_use]
pub fn idle_timeout(headers: &Headers) -> Option<Duration> {
    let parameters = headers.all(HeaderName::KeepAlive).flat_map(|value| value.split(|byte| *byte == b','));
    let seconds = parameters.filter_map(|parameter| {
        let (name, value) = str::from_utf8(parameter).ok()?.split_once('=')?;
        let value = value.trim().parse::<u32>().ok()?;
        match name.trim() {
            name if name.eq_ignore_ascii_case("timeout") => Some(value),
            name if name.eq_ignore_ascii_case("max") && value == 0 => Some(0),
            _ => None,
        }
    });
    seconds.min().map(|seconds| Duration::from_secs(seconds.into()))
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
    fn a_server_may_say_how_long_it_keeps_a_connection() {
        let cases = [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100,Timeout = 15", Some(15)),
            ("timeout=5, max=0", Some(0)),
            ("Max=0", Some(0)),
            ("max=1", None),
            ("timeout=0", Some(0)),
            ("300", None),
            ("timeout=-1", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            let headers = Headers::from_pairs([("Keep-Alive", value)]);
            assert_eq!(idle_timeout(&headers), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(idle_timeout(&Headers::new()), None);
    }

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
