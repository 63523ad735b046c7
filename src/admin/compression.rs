//! Compression of large responses, for clients that accept gzip.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY};
use http::response;
use http_body_util::{BodyExt as _, Full};

use super::{ApiResponse, on_blocking_thread};

/// Smaller bodies fit into a packet or two anyway.
const SMALL: usize = 1 << 10;
/// Larger bodies are compressed off the control plane's thread.
const LARGE: usize = 64 << 10;
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Compresses a response if its request's `accepted` allows that, and it is worth it. In any case says that the response
/// depends on `Accept-Encoding`.
pub(super) async fn compress(response: ApiResponse, accepted: bool) -> ApiResponse {
    let (mut head, body) = response.into_parts();
    // Files of the dashboard have a tag, and are sent once.
    if head.headers.contains_key(ETAG) || !is_text(&head) {
        return ApiResponse::from_parts(head, body);
    }
    head.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    // A body in memory is complete at once, and never fails.
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes);
    if !accepted || body.len() < SMALL {
        return ApiResponse::from_parts(head, Full::new(body));
    }
    if body.len() < LARGE {
        return compressed(head, body);
    }
    on_blocking_thread(move || compressed(head, body)).await
}

/// Whether it is a complete response of a kind that compresses well, and no event stream.
fn is_text(head: &response::Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/json") || kind.starts_with("text/plain")
}

fn compressed(mut head: response::Parts, body: Bytes) -> ApiResponse {
    // Scrapes are frequent and mostly local: the fastest level already saves nine tenths.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    // Writing to memory cannot fail.
    let zipped = encoder.write_all(&body).and_then(|()| encoder.finish());
    let Ok(zipped) = zipped else { return ApiResponse::from_parts(head, Full::new(body)) };
    head.headers.insert(CONTENT_ENCODING, GZIP);
    ApiResponse::from_parts(head, Full::new(zipped.into()))
}

/// Whether `Accept-Encoding` prefers gzip to no encoding.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for coding in values.flat_map(|value| value.split(',')) {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "*" => &mut any,
            "identity" => &mut identity,
            _ => continue,
        };
        *place = Some(weight(parameters));
    }
    let gzip = gzip.or(any).unwrap_or_default();
    gzip > 0 && gzip >= identity.unwrap_or_default()
}

/// The weight of a coding in thousandths, by its parameters. One that is malformed counts as 0.
fn weight(parameters: &str) -> u16 {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return 1000;
    }
    let value = parameters.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    let Some((whole, decimals)) = value.map(|(_, value)| value.trim()).map(|v| v.split_once('.').unwrap_or((v, "")))
    else {
        return 0;
    };
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let thousandths = format!("{decimals:0<3}").parse().unwrap_or(0);
    match whole {
        "0" => thousandths,
        "1" if thousandths == 0 => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_if_it_is_preferred() {
        let cases: [(&[&str], bool); 22] = [
            (&[], false),
            (&[""], false),
            (&["gzip"], true),
            (&["GZIP"], true),
            (&["x-gzip"], true),
            (&["deflate, gzip;q=0.5, br"], true),
            (&["deflate", "gzip"], true),
            (&["br, zstd"], false),
            (&["identity"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.0, *"], false),
            (&["*;q=0, gzip"], true),
            (&["gzip ; Q=0.001"], true),
            (&["gzip;q=0.5, identity"], false),
            (&["gzip;q=0.5, identity;q=0.5"], true),
            (&["gzip;q=1.000"], true),
            (&["gzip;q=1.5"], false),
            (&["gzip;q=high"], false),
            (&["gzip;q="], false),
            (&["gzipped"], false),
        ];
        for (values, expected) in cases {
            let headers = values.iter().map(|value| (ACCEPT_ENCODING, HeaderValue::from_static(value))).collect();
            assert_eq!(accepts_gzip(&headers), expected, "{values:?}");
        }
    }
}
