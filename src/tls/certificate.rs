//! A certificate with its chain and its key, as read from PEM files.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::config::problem::Reason;

/// Shorter RSA keys are no protection; clients refuse them.
const MIN_RSA_BITS: usize = 2048;
/// A certificate with a long lifetime is soon to expire from here on; the others in the last third.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A certificate that can be used: its key belongs to it.
#[derive(Debug)]
pub struct Certificate {
    /// The host names, in lower case and without a trailing dot, in the order of the certificate.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub key_type: KeyType,
    /// The SHA-256 of the leaf, in hexadecimal.
    pub fingerprint: String,
    /// The chain and the key, for handshakes.
    pub certified: Arc<CertifiedKey>,
}

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    /// With the size of its modulus in bits.
    Rsa(usize),
}

/// The validity of a certificate at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    Valid,
    NotYetValid,
    /// In the last 14 days or, if it lives shorter than six weeks, in the last third of its lifetime.
    ExpiresSoon,
    Expired,
}

/// The file of a pair that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairFile {
    Chain,
    Key,
    /// Each is fine by itself, but they do not belong together.
    Both,
}

/// Why two files are no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateError {
    pub file: PairFile,
    pub reason: Reason,
}

impl Certificate {
    /// Parses a chain, leaf first, and its key.
    ///
    /// # Errors
    /// If one of them is not what it should be, or they do not belong together.
    pub fn parse(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Self::read(chain, key, true)
    }

    /// Parses a chain and its key that are presented to servers, which need not name a host.
    ///
    /// # Errors
    /// As [`Certificate::parse`].
    pub fn parse_for_servers(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Self::read(chain, key, false)
    }

    fn read(chain: &[u8], key: &[u8], needs_name: bool) -> Result<Self, CertificateError> {
        let of = |file| move |reason| CertificateError { file, reason };
        let chain = parse_chain(chain).map_err(of(PairFile::Chain))?;
        let leaf = Leaf::parse(&chain[0], needs_name).map_err(of(PairFile::Chain))?;
        let key = parse_key(key).map_err(of(PairFile::Key))?;
        let key = any_supported_type(&key).map_err(|_| {
            let reason = Reason::new("the key is damaged, or of a kind that TLS does not use");
            of(PairFile::Key)(reason.hint("use an ECDSA (P-256 or P-384), RSA (2048 bits or more) or Ed25519 key"))
        })?;
        let fingerprint = const_hex::encode(Sha256::digest(&chain[0]));
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| {
            let mismatch = matches!(error, rustls::Error::InconsistentKeys(_));
            let reason = match mismatch {
                true => Reason::new("the key does not belong to the certificate")
                    .hint("write the key that the certificate was issued for, and the leaf first in the chain"),
                false => Reason::new(format!("the certificate cannot be used: {error}")),
            };
            of(if mismatch { PairFile::Both } else { PairFile::Chain })(reason)
        })?;
        let Leaf { names, addresses, not_before, not_after, key_type } = leaf;
        let certified = Arc::new(certified);
        Ok(Self { names, addresses, not_before, not_after, key_type, fingerprint, certified })
    }

    /// All names and addresses, as texts.
    pub fn subjects(&self) -> impl Iterator<Item = String> {
        self.names.iter().cloned().chain(self.addresses.iter().map(ToString::to_string))
    }

    #[must_use]
    pub fn validity(&self, now: SystemTime) -> Validity {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        match self.not_after.duration_since(now) {
            Err(_) => Validity::Expired,
            Ok(_) if now < self.not_before => Validity::NotYetValid,
            Ok(left) if left < SOON.min(lifetime / 3) => Validity::ExpiresSoon,
            Ok(_) => Validity::Valid,
        }
    }
}

/// The facts that a leaf states.
struct Leaf {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    not_before: SystemTime,
    not_after: SystemTime,
    key_type: KeyType,
}

impl Leaf {
    fn parse(der: &[u8], needs_name: bool) -> Result<Self, Reason> {
        let damaged = || Reason::new("the first certificate is damaged").hint("copy the file again, as it was issued");
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| damaged())?;
        let alternative = certificate.subject_alternative_name().map_err(|_| damaged())?;
        let general = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        for name in general {
            match name {
                GeneralName::DNSName(name) => names.push(name.trim_end_matches('.').to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        names.retain(|name| !name.is_empty());
        if needs_name && names.is_empty() && addresses.is_empty() {
            let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|basic| basic.value.ca);
            return Err(match is_ca {
                true => Reason::new("the first certificate is that of an authority, not of a host")
                    .hint("write the leaf first, then the intermediate certificates"),
                false => Reason::new("the certificate names no host: it has no subject alternative name")
                    .hint("clients ignore its common name; have it issued with `subjectAltName`"),
            });
        }
        let validity = certificate.validity();
        let time = |seconds: i64| match u64::try_from(seconds) {
            Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
            Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
        };
        let (not_before, not_after) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
        Ok(Self { names, addresses, not_before, not_after, key_type: key_type(certificate.public_key())? })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

fn key_type(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyType, Reason> {
    if key.algorithm.algorithm.to_id_string() == "1.3.101.112" {
        return Ok(KeyType::Ed25519);
    }
    match key.parsed() {
        // The point, without the byte in front of it, has two coordinates.
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => Ok(KeyType::EcdsaP256),
            384 => Ok(KeyType::EcdsaP384),
            // 521 bits take 66 bytes.
            521..=528 => Ok(KeyType::EcdsaP521),
            _ => Err(unsupported()),
        },
        Ok(PublicKey::RSA(key)) if key.key_size() < MIN_RSA_BITS => {
            Err(Reason::new(format!("the certificate's RSA key has only {} bits", key.key_size()))
                .hint("have it issued for a key with 2048 bits or more, or an ECDSA key"))
        }
        Ok(PublicKey::RSA(key)) => Ok(KeyType::Rsa(key.key_size())),
        _ => Err(unsupported()),
    }
}

fn unsupported() -> Reason {
    Reason::new("the certificate's key is of a kind that TLS does not use")
        .hint("use an ECDSA (P-256 or P-384), RSA (2048 bits or more) or Ed25519 key")
}

/// Parses the certificates of a PEM file, of which there is at least one.
///
/// # Errors
/// If there is none, or something else cannot be read.
pub fn parse_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let mut chain = Vec::new();
    let mut kinds = Vec::new();
    for section in sections(text, "certificate")? {
        match section {
            (SectionKind::Certificate, der) => chain.push(CertificateDer::from(der)),
            (kind, _) => kinds.push(kind),
        }
    }
    if chain.is_empty() {
        let is_key = kinds.iter().any(|kind| is_key(*kind)) || is_encrypted(text);
        return Err(match is_key {
            true => Reason::new("this is a private key, and there is no certificate in the file")
                .hint("`file` names the certificates, and `key` the private key"),
            false => Reason::new("there is no certificate in the file")
                .hint("it has a section `-----BEGIN CERTIFICATE-----` for each certificate, the leaf first"),
        });
    }
    Ok(chain)
}

fn parse_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Reason> {
    if is_encrypted(text) {
        return Err(Reason::new("the key is encrypted, and lb has no passphrase for it")
            .hint("decrypt it with `openssl pkey -in KEY -out NEWKEY`, and let only lb's user read it"));
    }
    let sections = sections(text, "private key")?;
    let is_chain = sections.iter().any(|(kind, _)| *kind == SectionKind::Certificate);
    let mut keys = sections.into_iter().filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => {
            Err(Reason::new("there are several private keys in the file").hint("leave only the certificate's own"))
        }
        (None, _) if is_chain => Err(Reason::new("this is a certificate, and there is no private key in the file")
            .hint("`key` names the private key, and `file` the certificates")),
        (None, _) => Err(Reason::new("there is no private key in the file")
            .hint("it has a section `-----BEGIN PRIVATE KEY-----`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`")),
    }
}

/// The sections of a PEM file that are of a known kind.
fn sections(text: &[u8], wanted: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, Reason> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Reason::new("the file is empty").hint(format!("write the {wanted} to it, in PEM form")));
    }
    // Each is a sequence of at least 128 bytes.
    if text.starts_with(&[0x30, 0x81]) || text.starts_with(&[0x30, 0x82]) {
        let convert = if wanted == "certificate" { "x509" } else { "pkey" };
        return Err(Reason::new("the file is in DER form, and lb reads PEM")
            .hint(format!("convert it with `openssl {convert} -inform der -in FILE -out NEWFILE`")));
    }
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    sections.map_err(|error| match error {
        pem::Error::MissingSectionEnd { .. } => Reason::new("the file ends in the middle of a section")
            .hint("copy it again; the last line is `-----END …-----`"),
        pem::Error::Base64Decode(_) => {
            Reason::new("a section of the file is damaged").hint("copy the file again, as it was issued")
        }
        pem::Error::IllegalSectionStart { .. } => Reason::new("a line that begins a section is damaged")
            .hint("it is of the form `-----BEGIN CERTIFICATE-----`"),
        _ => Reason::new("the file is not in PEM form"),
    })
}

fn is_key(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
}

fn is_encrypted(text: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"\nProc-Type: 4,ENCRYPTED")
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::EcdsaP521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

impl Serialize for KeyType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
