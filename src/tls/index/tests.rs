use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};

use super::*;

fn certificate(algorithm: &'static SignatureAlgorithm, names: &[&str], days: u64) -> Arc<Certificate> {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400)).into();
    let chain = params.self_signed(&key).expect("a certificate").pem();
    Arc::new(Certificate::parse(chain.as_bytes(), key.serialize_pem().as_bytes()).expect("valid"))
}

#[test]
fn the_exact_name_comes_before_the_wildcard_of_one_label() {
    let exact = certificate(&PKCS_ECDSA_P256_SHA256, &["a.example.com"], 90);
    let wildcard = certificate(&PKCS_ECDSA_P256_SHA256, &["*.example.com"], 90);
    let (index, overlaps) = CertificateIndex::new([&exact, &wildcard], None);
    assert!(overlaps.is_empty());
    for (name, expected) in [
        ("a.example.com", Some(&exact)),
        ("A.Example.COM", Some(&exact)),
        ("a.example.com.", Some(&exact)),
        ("b.example.com", Some(&wildcard)),
        ("xn--bcher-kva.example.com", Some(&wildcard)),
        ("example.com", None),
        ("b.a.example.com", None),
        (".example.com", None),
        ("*.example.com", Some(&wildcard)),
        ("a.example.com..", None),
        ("", None),
        (".", None),
        ("127.0.0.1", None),
        ("[::1]", None),
    ] {
        let found = index.find(name).and_then(|by_key| by_key.certificates().next());
        assert_eq!(found.map(|found| &found.fingerprint), expected.map(|expected| &expected.fingerprint), "{name}");
    }
    assert!(index.find(&"a".repeat(254)).is_none());
    assert!(index.unnamed().is_none());
}

#[test]
fn the_client_decides_between_kinds_of_keys() {
    let ecdsa = certificate(&PKCS_ECDSA_P256_SHA256, &["a"], 90);
    let rsa = certificate(&PKCS_RSA_SHA256, &["a"], 90);
    let ed25519 = certificate(&PKCS_ED25519, &["a"], 90);
    let (index, overlaps) = CertificateIndex::new([&rsa, &ed25519, &ecdsa], Some(&rsa));
    assert!(overlaps.is_empty());
    for by_key in [index.find("a").expect("the name"), index.unnamed().expect("a default")] {
        for (schemes, expected) in [
            (&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256][..], Some(&ecdsa)),
            (&[SignatureScheme::RSA_PSS_SHA256], Some(&rsa)),
            (&[SignatureScheme::ED25519, SignatureScheme::RSA_PKCS1_SHA256], Some(&ed25519)),
            (&[SignatureScheme::ECDSA_SHA1_Legacy], None),
        ] {
            let chosen = by_key.choose(schemes).map(Arc::as_ptr);
            assert_eq!(chosen, expected.map(|expected| Arc::as_ptr(&expected.certified)), "{schemes:?}");
        }
    }
}

#[test]
fn of_two_for_the_same_name_the_one_that_expires_later_is_used() {
    let short = certificate(&PKCS_ECDSA_P256_SHA256, &["a", "b"], 30);
    let long = certificate(&PKCS_ECDSA_P256_SHA256, &["a"], 90);
    for order in [[&short, &long], [&long, &short]] {
        let (index, overlaps) = CertificateIndex::new(order, Some(&short));
        let used = |name| index.find(name).and_then(|by_key| by_key.certificates().next()).map(|c| &c.fingerprint);
        assert_eq!((used("a"), used("b")), (Some(&long.fingerprint), Some(&short.fingerprint)));
        assert_eq!(overlaps.len(), 1);
        assert_eq!((&*overlaps[0].name, &overlaps[0].unused.fingerprint), ("a", &short.fingerprint));
        let default = index.unnamed().and_then(|by_key| by_key.certificates().next());
        assert_eq!(
            default.map(|default| &default.fingerprint),
            Some(&short.fingerprint),
            "the default is the one marked"
        );
    }
    let (_, overlaps) = CertificateIndex::new([&long, &long], None);
    assert!(overlaps.is_empty(), "the same file twice");
}
