//! `X-Request-Id`: kept if the client or a proxy in front sent a usable one, otherwise generated. Pure.

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::proxy::headers::trace_context::write_hex;

/// The longest id that is kept, in bytes. It appears in every log line of the request.
const MAX_LEN: usize = 128;

/// Ensures that there is exactly one id, of 1 to 128 visible ASCII characters. Anything else is replaced
/// with 32 random hexadecimal digits.
pub fn ensure(headers: &mut Headers, rng: &mut fastrand::Rng) {
    let mut values = headers.all(HeaderName::RequestId);
    if !matches!((values.next(), values.next()), (Some(id), None) if is_usable(id)) {
        drop(values);
        let mut id = [0; 32];
        write_hex(&mut id, &rng.u128(..).to_be_bytes());
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
    fn a_usable_id_is_kept_and_any_other_is_replaced() {
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
            let mut headers = Headers::from_pairs(values.iter().map(|value| ("X-Request-Id", *value)));
            ensure(&mut headers, &mut fastrand::Rng::with_seed(7));
            let ids: Vec<_> = headers.all(HeaderName::RequestId).collect();
            let [id] = ids[..] else { panic!("{ids:?} for {values:?}") };
            if *kept {
                assert_eq!(id, values[0].as_bytes());
            } else {
                assert_eq!(id.len(), 32, "generated for {values:?}");
                assert!(id.iter().all(u8::is_ascii_hexdigit), "{id:?}");
            }
        }
    }

    #[test]
    fn generated_ids_differ() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut ids = [Headers::new(), Headers::new()];
        ids.iter_mut().for_each(|headers| ensure(headers, &mut rng));
        assert_ne!(ids[0].get(HeaderName::RequestId), ids[1].get(HeaderName::RequestId));
    }
}
