//! `X-Request-Id`: kept if a client or a proxy before us sent a usable one, made otherwise. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::trace_context::hex;

/// The field's name.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is kept, in bytes: it is in every log line of the request.
const MAX_LEN: usize = 128;

/// The id that came in, if there is exactly one and it is 1 to 128 visible ASCII characters; else
/// a new one of 32 hexadecimal digits.
#[must_use]
pub fn request_id(headers: &HeaderMap, rng: &mut fastrand::Rng) -> HeaderValue {
    let mut values = headers.get_all(&X_REQUEST_ID).iter();
    match (values.next(), values.next()) {
        (Some(id), None) if is_usable(id.as_bytes()) => id.clone(),
        _ => HeaderValue::from_bytes(&hex(rng.u128(..))).unwrap_or(HeaderValue::from_static("0")),
    }
}

fn is_usable(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_id_is_kept_and_any_other_replaced() {
        let longest = "x".repeat(MAX_LEN);
        let too_long = "x".repeat(MAX_LEN + 1);
        let cases: &[(&[&[u8]], bool)] = &[
            (&[b"a"], true),
            (&[b"7f000001-{weird}\"\\;,=~!"], true),
            (&[longest.as_bytes()], true),
            (&[too_long.as_bytes()], false),
            (&[], false),
            (&[b""], false),
            (&[b"two words"], false),
            (&[b"tab\there"], false),
            (&["ümlaut".as_bytes()], false),
            (&[b"one", b"two"], false),
        ];
        for (values, kept) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(&X_REQUEST_ID, HeaderValue::from_bytes(value).expect("a header value"));
            }
            let id = request_id(&headers, &mut fastrand::Rng::with_seed(7));
            if *kept {
                assert_eq!(id.as_bytes(), values[0]);
            } else {
                assert_eq!(id.len(), 32, "made for {values:?}");
                assert!(id.as_bytes().iter().all(u8::is_ascii_hexdigit), "{id:?}");
            }
        }
    }

    #[test]
    fn made_ids_differ() {
        let mut rng = fastrand::Rng::with_seed(7);
        let headers = HeaderMap::new();
        assert_ne!(request_id(&headers, &mut rng), request_id(&headers, &mut rng));
    }
}
