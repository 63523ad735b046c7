//! Certificates and keys: a chain or a key of any bytes, and a valid chain with damaged bytes. What is accepted can be used.
#![no_main]

use std::sync::OnceLock;

use lb::tls::certificate::Certificate;
use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, KeyPair, SanType};

/// A valid certificate as DER, and both parts as PEM.
fn valid() -> &'static (Vec<u8>, String, String) {
    static VALID: OnceLock<(Vec<u8>, String, String)> = OnceLock::new();
    VALID.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let names = ["a.example".to_owned(), "*.w.example".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.der().to_vec(), certificate.pem(), key.serialize_pem())
    })
}

/// A certificate in PEM form.
fn pem(der: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for group in der.chunks(3) {
        let bits = [0, 1, 2].iter().fold(0, |bits, at| bits << 8 | u32::from(*group.get(*at).unwrap_or(&0)));
        for digit in 0..4 {
            text.push(if digit <= group.len() { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] } else { b'=' });
        }
    }
    text.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
    text
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (der, chain, key) = valid();
    let result = match kind % 4 {
        0 => Certificate::parse(bytes, key.as_bytes()),
        1 => Certificate::parse(chain.as_bytes(), bytes),
        2 => Certificate::parse(&pem(bytes), key.as_bytes()),
        _ => {
            // A place and a byte for each change.
            let mut der = der.clone();
            for change in bytes.chunks_exact(3) {
                let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % der.len();
                der[place] = change[2];
            }
            Certificate::parse(&pem(&der), key.as_bytes())
        }
    };
    let Ok(certificate) = result else { return };
    assert!(certificate.certified.keys_match().is_ok());
    assert!(!certificate.names.is_empty() || !certificate.addresses.is_empty());
    for name in &certificate.names {
        assert!(!name.is_empty() && !name.ends_with('.') && *name == name.to_ascii_lowercase(), "{name:?}");
    }
});
