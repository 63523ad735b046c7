//! Certificates from an ACME server (RFC 8555).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CertificateSource, Config, FilePath, wire};

/// The names of the files of a certificate and its key.
pub const ACME_CHAIN: &str = "fullchain.pem";
pub const ACME_KEY: &str = "privkey.pem";

/// How certificates are ordered. It is used only if a certificate asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeConfig {
    /// The `https` URL of the server's directory.
    pub directory: String,
    /// Where the server may write to.
    pub email: Option<String>,
    /// The account, the certificates and the pending challenges.
    #[serde(with = "wire::path")]
    pub state_dir: FilePath,
    /// The authorities that the server is verified with; `None` means the system's.
    #[serde(with = "wire::optional_path")]
    pub ca: Option<FilePath>,
    pub challenge: AcmeChallenge,
}

/// How the server verifies that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AcmeChallenge {
    /// By a TLS handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
    /// By a request on port 80 (RFC 8555, section 8.3).
    #[serde(rename = "http-01")]
    Http,
}

impl AcmeChallenge {
    /// The challenge's name in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TlsAlpn => "tls-alpn-01",
            Self::Http => "http-01",
        }
    }
}

impl AcmeConfig {
    /// The directory of a certificate, by its first name. A name cannot lead out of it, because it has no slash and no
    /// empty label.
    #[must_use]
    pub fn certificate_dir(&self, first_name: &str) -> PathBuf {
        self.state_dir.full_path().join("certificates").join(first_name)
    }
}

impl Config {
    /// The names of each certificate that ACME obtains.
    pub fn acme_names(&self) -> impl Iterator<Item = &[String]> {
        self.certificates.iter().filter_map(|certificate| match &certificate.source {
            CertificateSource::Acme { names, .. } => Some(&names[..]),
            _ => None,
        })
    }

    /// Whether any certificate comes from ACME.
    #[must_use]
    pub fn uses_acme(&self) -> bool {
        self.acme_names().next().is_some()
    }
}
