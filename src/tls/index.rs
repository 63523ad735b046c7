//! Finds the certificate for a server name.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use crate::tls::certificate::{Certificate, KeyType};

/// The longest host name.
const MAX_NAME: usize = 253;

/// The certificates of all listeners, by server name. Immutable; a lookup allocates nothing.
#[derive(Debug, Default)]
pub struct CertificateIndex {
    exact: Names,
    /// `*.example.com` as `example.com`.
    wildcard: Names,
    /// Shown to clients without a server name.
    default: Option<ByKey>,
}

type Names = HashMap<Box<str>, ByKey, FxBuildHasher>;

/// The certificates for one name: at most one per kind of key.
#[derive(Debug, Clone, Default)]
pub struct ByKey {
    /// By [`KeyKind`].
    certificates: [Option<Arc<Certificate>>; 3],
}

/// A kind of key, in the order of preference. Few clients know Ed25519, and those that do prefer ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Ecdsa,
    Ed25519,
    Rsa,
}

/// Two certificates for the same name with the same kind of key, of which only one can be served.
#[derive(Debug, Clone)]
pub struct Overlap {
    pub name: String,
    /// The one that expires later.
    pub used: Arc<Certificate>,
    pub unused: Arc<Certificate>,
}

impl CertificateIndex {
    /// Indexes certificates; `default` is served to clients without a server name. Also returns the names that several of
    /// them have.
    #[must_use]
    pub fn new<'a>(
        certificates: impl IntoIterator<Item = &'a Arc<Certificate>>,
        default: Option<&Arc<Certificate>>,
    ) -> (Self, Vec<Overlap>) {
        let mut index = Self::default();
        let mut overlaps = Vec::new();
        for certificate in certificates {
            for name in &certificate.names {
                let (names, host) = match name.strip_prefix("*.") {
                    Some(host) => (&mut index.wildcard, host),
                    None => (&mut index.exact, name.as_str()),
                };
                let by_key = match names.entry(host.into()) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(ByKey::default()),
                };
                if let Some((used, unused)) = by_key.add(certificate) {
                    overlaps.push(Overlap { name: name.clone(), used, unused });
                }
            }
        }
        index.default = default.map(|default| index.with_twins(default));
        (index, overlaps)
    }

    /// The certificate, and those for the same names with other kinds of keys.
    fn with_twins(&self, certificate: &Arc<Certificate>) -> ByKey {
        let twins = certificate.names.first().and_then(|name| match name.strip_prefix("*.") {
            Some(host) => self.wildcard.get(host),
            None => self.exact.get(name.as_str()),
        });
        let mut by_key = ByKey::default();
        for twin in twins.iter().flat_map(|twins| twins.certificates.iter().flatten()) {
            if twin.names == certificate.names {
                by_key.certificates[KeyKind::of(twin.key_type) as usize] = Some(Arc::clone(twin));
            }
        }
        by_key.certificates[KeyKind::of(certificate.key_type) as usize] = Some(Arc::clone(certificate));
        by_key
    }

    /// The certificates for a server name as a client sends it: the exact name, then a wildcard for exactly one label.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&ByKey> {
        let mut buffer = [0; MAX_NAME];
        let name = name.strip_suffix('.').unwrap_or(name);
        let lower = buffer.get_mut(..name.len())?;
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        let name = std::str::from_utf8(lower).ok()?;
        self.exact.get(name).or_else(|| {
            let (label, host) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(host) }
        })
    }

    /// The certificates for clients without a server name.
    #[must_use]
    pub fn unnamed(&self) -> Option<&ByKey> {
        self.default.as_ref()
    }
}

impl ByKey {
    /// Adds a certificate. Returns the one that is used and the one that is not, if there were two of a kind.
    fn add(&mut self, certificate: &Arc<Certificate>) -> Option<(Arc<Certificate>, Arc<Certificate>)> {
        let slot = &mut self.certificates[KeyKind::of(certificate.key_type) as usize];
        let Some(before) = slot else {
            *slot = Some(Arc::clone(certificate));
            return None;
        };
        if before.fingerprint == certificate.fingerprint {
            return None;
        }
        let unused = match certificate.not_after.cmp(&before.not_after) {
            Ordering::Greater => std::mem::replace(before, Arc::clone(certificate)),
            Ordering::Less | Ordering::Equal => Arc::clone(certificate),
        };
        Some((Arc::clone(before), unused))
    }

    /// The first certificate, in the order of preference, that a client with these signature schemes can verify.
    #[must_use]
    pub fn choose(&self, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let mut certificates = self.certificates.iter().flatten().map(|certificate| &certificate.certified);
        certificates.find(|certified| certified.key.choose_scheme(schemes).is_some())
    }

    /// All of them, in the order of preference.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.iter().flatten()
    }
}

impl KeyKind {
    fn of(key_type: KeyType) -> Self {
        match key_type {
            KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::EcdsaP521 => Self::Ecdsa,
            KeyType::Ed25519 => Self::Ed25519,
            KeyType::Rsa(_) => Self::Rsa,
        }
    }
}

#[cfg(test)]
mod tests;
