//! `X-Request-Id`: kept if a client or a proxy before us sent a usable one, made otherwise. Pure.

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::proxy::headers::trace_context::write_hex;

/// The longest id that is kept, in bytes: it is in every log line of the request.
const MAX_LEN: usize = 128;

/// Sees to it that there is exactly one, of 1 to 128 visible ASCII characters: one that came in so
/// stays, anything else is replaced by 32 hexadecimal digits.
pub fn ensure(headers: &mut Headers, rng: &mut fastrand::Rng) {
    let mut values = headers.all(HeaderName::RequestId);
    if !matches!((values.next(), values.next()), (Some(id), None) if is_usable(id)) {
        drop(values);
        let mut id = [0; 32];
        write_hex(&mut id, rng.u128(..));
        headers.set(HeaderName::RequestId, &id);
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
        let cases: &[(&[&str], bool)] = &[
            (&["a"], true),
            (&["7f000001-{weird}\"\\;,=~!"], true),
            (&[&longest], true),
            (&[&too_long], false),
            (&[], false),
            (&[""], false),
            (&["two words"], false),
            (&["tab\there"], false),
            (&["ümlaut"], false),
            (&["one", "two"], false),
        ];
        for (values, kept) in cases {
            let mut headers = Headers::of(values.iter().map(|value| ("X-Request-Id", *value)));
            ensure(&mut headers, &mut fastrand::Rng::with_seed(7));
            let ids: Vec<_> = headers.all(HeaderName::RequestId).collect();
            let [id] = ids[..] else { panic!("{ids:?} for {values:?}") };
            if *kept {
                assert_eq!(id, values[0].as_bytes());
            } else {
                assert_eq!(id.len(), 32, "made for {values:?}");
                assert!(id.iter().all(u8::is_ascii_hexdigit), "{id:?}");
            }
        }
    }

    #[test]
    fn made_ids_differ() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut ids = [Headers::new(), Headers::new()];
        ids.iter_mut().for_each(|headers| ensure(headers, &mut rng));
        assert_ne!(ids[0].get(HeaderName::RequestId), ids[1].get(HeaderName::RequestId));
    }
}
