//! The client's certificate for servers: `Client-Cert` and `Client-Cert-Chain` (RFC 9440). Pure.

use rustls::pki_types::CertificateDer;

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The headers for these certificates, the client's own first; none without any.
#[must_use]
pub fn headers(certificates: &[CertificateDer<'_>]) -> Headers {
    let mut headers = Headers::new();
    let Some((own, chain)) = certificates.split_first() else { return headers };
    headers.add(HeaderName::ClientCert, item(own).as_bytes());
    if !chain.is_empty() {
        let items: Vec<String> = chain.iter().map(|certificate| item(certificate)).collect();
        headers.add(HeaderName::ClientCertChain, items.join(", ").as_bytes());
    }
    headers.shrink();
    headers
}

/// A byte sequence (RFC 9651, section 3.3.5).
fn item(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4 + 2);
    text.push(':');
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = char::from(ALPHABET[number >> (18 - 6 * place) & 63]);
            text.push(if place <= group.len() { letter } else { '=' });
        }
    }
    text.push(':');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_byte_sequences() {
        for (bytes, expected) in
            [("", "::"), ("f", ":Zg==:"), ("fo", ":Zm8=:"), ("foo", ":Zm9v:"), ("foobar", ":Zm9vYmFy:")]
        {
            assert_eq!(item(bytes.as_bytes()), expected);
        }
        let all = |count: usize| headers(&vec![CertificateDer::from(b"foo".to_vec()); count]);
        assert!(all(0).is_empty());
        assert_eq!(all(1).get(HeaderName::ClientCert), Some(&b":Zm9v:"[..]));
        assert_eq!(all(3).get(HeaderName::ClientCertChain), Some(&b":Zm9v:, :Zm9v:"[..]));
    }
}
