//! A certificate with its key, as it was issued: whether they belong together, for which names, and for how long.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

/// A certificate that belongs to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IssuedPair {
    /// The certificate itself, without its chain.
    pub(super) leaf: CertificateDer<'static>,
    pub(super) names: BTreeSet<String>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) serial: Vec<u8>,
}

impl IssuedPair {
    /// Reads a chain, leaf first, and its key, both PEM.
    ///
    /// # Errors
    /// Why it is not a pair.
    pub(super) fn parse(chain: &str, key: &str) -> Result<Self, String> {
        let leaf = CertificateDer::pem_slice_iter(chain.as_bytes())
            .next()
            .ok_or("there is no certificate in the chain")?
            .map_err(|error| format!("the chain is not PEM: {error}"))?;
        let (_, certificate) =
            X509Certificate::from_der(&leaf).map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let key = KeyPair::from_pem(key).map_err(|error| format!("the key cannot be read: {error}"))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err("the certificate belongs to another key".to_owned());
        }
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
        let names = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let (names, serial) = (names.collect(), certificate.raw_serial().to_vec());
        let validity = certificate.validity();
        let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
        Ok(Self { leaf: leaf.into_owned(), names, not_before, not_after, serial })
    }

    /// Whether it is for exactly these names.
    pub(super) fn is_for(&self, names: &[String]) -> bool {
        self.names.iter().eq(&names.iter().cloned().collect::<BTreeSet<_>>())
    }
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(seconds).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_has_names_and_a_lifetime() {
        let (chain, key) = issued(&["b.example", "A.example"]);
        let pair = IssuedPair::parse(&chain, &key).expect("a pair");
        assert!(pair.is_for(&["a.example".to_owned(), "b.example".to_owned()]));
        assert!(!pair.is_for(&["a.example".to_owned()]));
        assert!(pair.not_before < pair.not_after);
    }

    #[test]
    fn what_is_no_pair_is_told() {
        let (chain, key) = issued(&["a.example"]);
        let (_, other) = issued(&["a.example"]);
        for (chain, key, why) in [
            (&*chain, &*other, "another key"),
            (&*chain, "", "the key cannot be read"),
            ("", &*key, "no certificate"),
            (&*key, &*key, "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &*key, "cannot be read"),
        ] {
            let error = IssuedPair::parse(chain, key).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
