//! The files that a pool's rules for TLS refer to.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::problem::Reason;
use crate::config::{FilePath, PoolConfig, UpstreamTlsConfig};
use crate::tls::client::Roots;

/// Larger files are not read: nobody has that many CAs.
const MAX_BYTES: u64 = 16 << 20;

/// The contents of the files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) ca: Option<Arc<Roots>>,
    pub(super) identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The files of the identity as read.
    pub(super) identity_texts: Vec<Vec<u8>>,
    /// The names of the files as they are shown: of the CA, the certificate and its key.
    pub(super) names: [String; 3],
}

/// The keys with files.
const KEYS: [&str; 3] = ["ca", "certificate", "key"];

impl Files {
    /// Reads the files that `tls`, the rules of `pool`, refer to.
    ///
    /// # Errors
    /// The keys whose files cannot be used, and why.
    pub(super) fn read(pool: &PoolConfig, tls: &UpstreamTlsConfig) -> Result<Self, Vec<(&'static str, Reason)>> {
        let paths = [&tls.ca, &tls.certificate, &tls.key];
        let shown = |(key, path): (&str, &Option<FilePath>)| {
            let path = path.as_ref().map(|path| path.path.display().to_string()).unwrap_or_default();
            format!("`{}`", pool.env.show(&format!("upstream.tls.{key}"), &path))
        };
        let [ca, certificate, key] = [0, 1, 2].map(|index| shown((KEYS[index], paths[index])));
        let names = [ca, certificate, key];
        let mut failed = Vec::new();
        let mut read = |index: usize| {
            let bytes = bytes(paths[index].as_ref()?, &names[index]);
            bytes.map_err(|reason| failed.push((KEYS[index], reason))).ok()
        };
        let [ca, chain, key] = [0, 1, 2].map(&mut read);
        let texts: Vec<_> = chain.iter().chain(&key).cloned().collect();
        let mut parsed = |index: usize, result: Result<Vec<CertificateDer<'static>>, Reason>| {
            result.map_err(|reason| failed.push((KEYS[index], reason))).ok()
        };
        let ca = ca.and_then(|bytes| parsed(0, certificates(&bytes, &names[0])));
        let chain = chain.and_then(|bytes| parsed(1, certificates(&bytes, &names[1])));
        let ca = ca.map(|certificates| Arc::new(Roots::new(certificates)));
        if ca.as_ref().is_some_and(|roots| roots.count() == 0) {
            failed.push((KEYS[0], Reason::new(format!("{} has no valid certificate", names[0]))));
        }
        let key =
            key.and_then(|bytes| private_key(&bytes, &names[2]).map_err(|reason| failed.push((KEYS[2], reason))).ok());
        if failed.is_empty() {
            Ok(Self { ca, identity: chain.zip(key), identity_texts: texts, names })
        } else {
            Err(failed)
        }
    }
}

/// Reads a file. The one place to replace where other files of a configuration are read.
fn bytes(path: &FilePath, name: &str) -> Result<Vec<u8>, Reason> {
    let path = path.full_path();
    let unreadable = |error: std::io::Error| {
        Reason::new(format!("cannot read {name}: {error}")).hint("correct the name, or make the file readable")
    };
    let metadata = fs::metadata(&path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Reason::new(format!("{name} is a directory")).hint("name a file in it"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(Reason::new(format!("{name} is too large")).hint("name a PEM file"));
    }
    fs::read(&path).map_err(unreadable)
}

fn certificates(bytes: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let parsed: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => {
            Err(Reason::new(format!("{name} has no certificate"))
                .hint("write it in PEM: `-----BEGIN CERTIFICATE-----`"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Reason::new(format!("{name} is not valid PEM: {error}"))),
    }
}

fn private_key(bytes: &[u8], name: &str) -> Result<PrivateKeyDer<'static>, Reason> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let is_encrypted = String::from_utf8_lossy(bytes).contains("ENCRYPTED");
        match error {
            _ if is_encrypted => Reason::new(format!("the key {name} is encrypted"))
                .hint("decrypt it, for example with `openssl pkey`, and protect the file by its permissions"),
            pem::Error::NoItemsFound => {
                Reason::new(format!("{name} has no private key")).hint("write it in PEM: `-----BEGIN PRIVATE KEY-----`")
            }
            error => Reason::new(format!("{name} is not valid PEM: {error}")),
        }
    })
}
