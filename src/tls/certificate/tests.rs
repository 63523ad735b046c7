use rcgen::string::Ia5String;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

use super::*;

const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
const TRADITIONAL: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";

fn pair(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

#[test]
fn the_facts_are_those_of_the_leaf() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let mut params = CertificateParams::new(vec!["A.Example.com".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from("*.b.example.com").expect("a name")));
    params.subject_alt_names.push(SanType::IpAddress("::1".parse().expect("an address")));
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 2, 1);
    let leaf = params.self_signed(&key).expect("a certificate");
    let (other, _) = pair(&["issuer.example.com"]);
    let chain = format!("# a comment\n{}\n{other}", leaf.pem());
    let certificate = Certificate::parse(chain.as_bytes(), key.serialize_pem().as_bytes()).expect("valid");
    assert_eq!(certificate.names, ["a.example.com", "*.b.example.com"]);
    assert_eq!(certificate.subjects().skip(2).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    assert_eq!(certificate.key_type.to_string(), "ECDSA P-384");
    let at = |text: &str| humantime::parse_rfc3339_weak(text).expect("a time");
    assert_eq!(certificate.not_before, at("2026-01-01 00:00:00"));
    assert_eq!(certificate.not_after, at("2027-02-01 00:00:00"));
    assert_eq!(certificate.fingerprint, const_hex::encode(Sha256::digest(leaf.der())));
    assert_eq!(certificate.certified.cert.len(), 2);
    for (now, validity) in [
        ("2025-12-31 23:59:59", Validity::NotYetValid),
        ("2026-01-01 00:00:00", Validity::Valid),
        ("2027-01-17 23:59:59", Validity::Valid),
        ("2027-01-18 00:00:01", Validity::ExpiresSoon),
        ("2027-02-01 00:00:01", Validity::Expired),
    ] {
        assert_eq!(certificate.validity(at(now)), validity, "{now}");
    }
}

#[test]
fn a_short_lived_certificate_expires_soon_in_the_last_third() {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let mut params = CertificateParams::new(vec!["a".to_owned()]).expect("names");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 1, 7);
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let certificate = Certificate::parse(pem.as_bytes(), key.serialize_pem().as_bytes()).expect("valid");
    assert_eq!(certificate.key_type, KeyType::Ed25519);
    let at = |text: &str| humantime::parse_rfc3339_weak(text).expect("a time");
    assert_eq!(certificate.validity(at("2026-01-04 23:00:00")), Validity::Valid);
    assert_eq!(certificate.validity(at("2026-01-05 01:00:00")), Validity::ExpiresSoon);
}

#[test]
fn each_wrong_file_has_its_own_error() {
    let (chain, key) = pair(&["a.example.com"]);
    let (other_chain, other_key) = pair(&["b.example.com"]);
    let der =
        pem::PemObject::from_pem_slice(chain.as_bytes()).map(|(_, der): (SectionKind, Vec<u8>)| der).expect("pem");
    let truncated = &chain[..chain.len() - 30];
    let damaged = chain.replacen("MII", "M!!", 1);
    let weak = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let two_keys = format!("{key}{other_key}");
    let (nameless, nameless_key) = pair(&[]);
    let reversed = format!("{other_chain}{chain}");
    let cases: &[(&[u8], &[u8], PairFile, &str)] = &[
        (b"", key.as_bytes(), PairFile::Chain, "the file is empty"),
        (b"\n \n", key.as_bytes(), PairFile::Chain, "the file is empty"),
        (b"hello\n", key.as_bytes(), PairFile::Chain, "there is no certificate in the file"),
        (&der, key.as_bytes(), PairFile::Chain, "the file is in DER form, and lb reads PEM"),
        (truncated.as_bytes(), key.as_bytes(), PairFile::Chain, "the file ends in the middle of a section"),
        (damaged.as_bytes(), key.as_bytes(), PairFile::Chain, "a section of the file is damaged"),
        (
            key.as_bytes(),
            key.as_bytes(),
            PairFile::Chain,
            "this is a private key, and there is no certificate in the file",
        ),
        (
            nameless.as_bytes(),
            nameless_key.as_bytes(),
            PairFile::Chain,
            "the certificate names no host: it has no subject alternative name",
        ),
        (chain.as_bytes(), b"", PairFile::Key, "the file is empty"),
        (chain.as_bytes(), b"hello\n", PairFile::Key, "there is no private key in the file"),
        (
            chain.as_bytes(),
            chain.as_bytes(),
            PairFile::Key,
            "this is a certificate, and there is no private key in the file",
        ),
        (chain.as_bytes(), &der, PairFile::Key, "the file is in DER form, and lb reads PEM"),
        (chain.as_bytes(), two_keys.as_bytes(), PairFile::Key, "there are several private keys in the file"),
        (
            chain.as_bytes(),
            ENCRYPTED.as_bytes(),
            PairFile::Key,
            "the key is encrypted, and lb has no passphrase for it",
        ),
        (
            chain.as_bytes(),
            TRADITIONAL.as_bytes(),
            PairFile::Key,
            "the key is encrypted, and lb has no passphrase for it",
        ),
        (chain.as_bytes(), weak.as_bytes(), PairFile::Key, "the key is damaged, or of a kind that TLS does not use"),
        (chain.as_bytes(), other_key.as_bytes(), PairFile::Both, "the key does not belong to the certificate"),
        (reversed.as_bytes(), key.as_bytes(), PairFile::Both, "the key does not belong to the certificate"),
    ];
    for (chain, key, file, message) in cases {
        let error = Certificate::parse(chain, key).expect_err(message);
        assert_eq!((error.file, error.reason.message.as_str()), (*file, *message));
    }
}

#[test]
fn the_key_may_follow_the_certificates_in_one_file() {
    let (chain, key) = pair(&["a.example.com"]);
    for both in [format!("{chain}{key}"), format!("{key}{chain}")] {
        Certificate::parse(both.as_bytes(), both.as_bytes()).expect("valid");
    }
}

#[test]
fn every_form_of_key_is_read() {
    let (_, pkcs8) = pair(&["a"]);
    assert!(pkcs8.starts_with("-----BEGIN PRIVATE KEY-----"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let params = CertificateParams::new(vec!["a".to_owned()]).expect("names");
    let chain = params.self_signed(&key).expect("a certificate").pem();
    let certificate = Certificate::parse(chain.as_bytes(), key.serialize_pem().as_bytes()).expect("valid");
    assert_eq!(certificate.key_type, KeyType::EcdsaP256);
    for kind in ["RSA", "EC"] {
        let text = format!("-----BEGIN {kind} PRIVATE KEY-----\nMAMCAQE=\n-----END {kind} PRIVATE KEY-----\n");
        let parsed = parse_key(text.as_bytes()).expect("a key");
        assert!(matches!((kind, parsed), ("RSA", PrivateKeyDer::Pkcs1(_)) | ("EC", PrivateKeyDer::Sec1(_))));
    }
}
