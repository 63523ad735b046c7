//! `X-Request-Id`: kept if a client or a proxy before us sent a usable one, made otherwise. Pure.

use super::head::Fields;
use super::name::Name;
use super::trace_context::write_hex;

/// The longest id that is kept, in bytes: it is in every log line of the request.
const MAX_LEN: usize = 128;

/// A request's id, 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Not on the heap: every request has one.
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl RequestId {
    /// As it stands in the field and in the log.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The id that came in, if there is exactly one and it is 1 to 128 visible ASCII characters; else
/// a new one of 32 hexadecimal digits.
#[must_use]
pub fn request_id(fields: &Fields, rng: &mut fastrand::Rng) -> RequestId {
    let mut bytes = [0; MAX_LEN];
    let mut values = fields.all(Name::RequestId);
    let len = match (values.next(), values.next()) {
        (Some(id), None) if is_usable(id) => {
            bytes[..id.len()].copy_from_slice(id);
            id.len()
        }
        _ => {
            write_hex(&mut bytes[..32], rng.u128(..));
            32
        }
    };
    RequestId { bytes, len }
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
            let fields = Fields::of(values.iter().map(|value| ("X-Request-Id", *value)));
            let id = request_id(&fields, &mut fastrand::Rng::with_seed(7));
            if *kept {
                assert_eq!(id.as_bytes(), values[0].as_bytes());
            } else {
                assert_eq!(id.as_bytes().len(), 32, "made for {values:?}");
                assert!(id.as_bytes().iter().all(u8::is_ascii_hexdigit), "{id:?}");
            }
        }
    }

    #[test]
    fn made_ids_differ() {
        let mut rng = fastrand::Rng::with_seed(7);
        let fields = Fields::new();
        assert_ne!(request_id(&fields, &mut rng), request_id(&fields, &mut rng));
    }
}
