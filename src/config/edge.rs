//! The edge: how clients connect to a listener, which certificates they are shown, and how servers are connected to.

use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{EnvTexts, SocketAddress, wire};

/// A file or a directory that the configuration refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilePath {
    /// As typed.
    pub path: PathBuf,
    /// The directory of the configuration file that names it; empty if unknown.
    pub base: PathBuf,
}

impl FilePath {
    /// The path to open: relative to the configuration file that names it.
    #[must_use]
    pub fn full_path(&self) -> PathBuf {
        self.base.join(&self.path)
    }
}

/// An address on which `lb` accepts clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerConfig {
    /// The label in metrics and logs; defaults to the address as typed.
    pub name: String,
    /// Bound once, and kept for as long as it is configured.
    pub address: SocketAddress,
    /// The protocols that clients may speak, the preferred one first; never empty.
    pub protocols: Vec<HttpProtocol>,
    /// Whether trusted proxies have to send a PROXY header.
    pub proxy_protocol: bool,
    #[serde(with = "wire::optional_text")]
    pub redirect: Option<HttpsRedirect>,
    /// Of a Unix socket.
    pub mode: SocketMode,
    /// `None` if clients do not use TLS.
    pub tls: Option<ListenerTlsConfig>,
    #[serde(default, skip_serializing)]
    pub env: EnvTexts,
}

/// A protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpProtocol {
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2: by ALPN over TLS, otherwise by prior knowledge.
    #[serde(rename = "h2")]
    Http2,
}

/// A redirect of everything to HTTPS; serialized as `https` or `https:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpsRedirect {
    pub port: NonZeroU16,
}

impl fmt::Display for HttpsRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port.get() {
            443 => f.write_str("https"),
            port => write!(f, "https:{port}"),
        }
    }
}

/// The permissions of a Unix socket; serialized in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTlsConfig {
    pub min_version: TlsVersion,
    /// The authorities whose certificates clients may present. Without any, clients are not asked for one.
    #[serde(with = "wire::optional_path")]
    pub client_ca: Option<FilePath>,
    /// Revoked client certificates.
    #[serde(with = "wire::optional_path")]
    pub client_crl: Option<FilePath>,
    pub client_auth: ClientAuth,
    /// Whether servers get the client's certificate in `Client-Cert` and `Client-Cert-Chain` (RFC 9440).
    pub forward_client_certificate: bool,
    pub unknown_host: UnknownHost,
    /// The keys of session tickets: the first encrypts, all decrypt. If there are none, they are random.
    #[serde(with = "wire::paths")]
    pub ticket_keys: Vec<FilePath>,
}

/// The oldest TLS version that clients may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    Required,
    Optional,
}

/// The response to a server name that no certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownHost {
    /// The alert `unrecognized_name` (RFC 6066, section 3).
    Refuse,
    /// The default certificate.
    Default,
}

/// Certificates for the listeners with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateConfig {
    #[serde(flatten)]
    pub source: CertificateSource,
    /// Whether it is shown to clients that send no server name and, if a listener allows that, an unknown one.
    pub default: bool,
    #[serde(default, skip_serializing)]
    pub env: EnvTexts,
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CertificateSource {
    /// A chain, leaf first, and its key.
    Pair {
        #[serde(with = "wire::path")]
        file: FilePath,
        #[serde(with = "wire::path")]
        key: FilePath,
    },
    /// Every pair in the directories that a glob matches.
    Directory {
        #[serde(with = "wire::path")]
        directory: FilePath,
    },
    /// A certificate that is ordered from the server of `[acme]`.
    Acme {
        /// In lower case; never empty. No other certificate has one of them.
        names: Vec<String>,
        /// Always true: it is how the file asks for it.
        acme: bool,
    },
}

impl CertificateConfig {
    /// Its file, its directory or its first name, as typed or, if that may not be shown, as it is shown.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.source {
            CertificateSource::Pair { file, .. } => self.env.show("file", &file.path.display()),
            CertificateSource::Directory { directory } => self.env.show("directory", &directory.path.display()),
            CertificateSource::Acme { names, .. } => {
                names.first().map(|name| self.env.show("names.0", name)).unwrap_or_default()
            }
        }
    }
}

impl CertificateConfig {
    /// The names that ACME orders, as they are shown; `None` for a certificate from files.
    #[must_use]
    pub fn acme_names(&self) -> Option<String> {
        let CertificateSource::Acme { names, .. } = &self.source else { return None };
        let shown: Vec<String> =
            names.iter().enumerate().map(|(index, name)| self.env.show(&format!("names.{index}"), name)).collect();
        Some(format!("[{}]", shown.join(", ")))
    }
}

/// The protocol of the connections to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamProtocol {
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2, without asking.
    #[serde(rename = "h2")]
    Http2,
    /// The one that the server chooses by ALPN; HTTP/1.1 without TLS.
    #[serde(rename = "auto")]
    Auto,
}

/// TLS to servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTlsConfig {
    /// The authorities that servers are verified with; `None` means the system's.
    #[serde(with = "wire::optional_path")]
    pub ca: Option<FilePath>,
    /// The name that is verified; `None` means the host of the server's address.
    pub server_name: Option<String>,
    /// Our own certificate.
    #[serde(with = "wire::optional_path")]
    pub certificate: Option<FilePath>,
    /// Its key.
    #[serde(with = "wire::optional_path")]
    pub key: Option<FilePath>,
    /// Whether servers are verified at all.
    pub verify: bool,
}

/// The version of the PROXY header that servers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyHeaderVersion {
    V1,
    V2,
}
