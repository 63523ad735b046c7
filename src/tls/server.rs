//! TLS of a listener: its rules, and the sessions that follow from them and the certificates.

#[cfg(test)]
mod tests;
mod tickets;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, Der, TrustAnchor};
use rustls::server::{ClientHello as OfferedHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use self::tickets::SharedTicketer;
use crate::config::problem::Reason;
use crate::config::{ClientAuth, HttpProtocol, TlsVersion, UnknownHost};
use crate::tls::certificate::parse_chain;
use crate::tls::hello::ClientHello;
use crate::tls::index::{ByKey, CertificateIndex};
use crate::tls::{alpn, provider};

/// The alert `unrecognized_name` (RFC 6066, section 3), fatal, as a record: there is no session yet.
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// The alert `decode_error`, fatal, as a record.
pub const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

/// The rules of a listener, with the contents of the files that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRules {
    pub min_version: TlsVersion,
    pub protocols: Vec<HttpProtocol>,
    pub unknown_host: UnknownHost,
    pub client: Option<ClientRule>,
    /// The first encrypts session tickets, all decrypt them. If there are none, they are random.
    pub ticket_keys: Vec<Vec<u8>>,
}

/// The clients that a listener admits by their certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRule {
    pub authorities: Vec<CertificateDer<'static>>,
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    pub auth: ClientAuth,
}

/// TLS of a listener in one generation.
pub struct ListenerTls {
    rules: TlsRules,
    index: Arc<CertificateIndex>,
    config: Arc<ServerConfig>,
}

impl ListenerTls {
    /// Applies `rules`. If `before` has the same, its session tickets stay valid.
    ///
    /// # Errors
    /// If the authorities or the list of revoked certificates cannot be used.
    pub fn new(rules: TlsRules, index: &Arc<CertificateIndex>, before: Option<&Self>) -> Result<Self, Error> {
        let (rules, mut config) = match before.filter(|before| before.rules == rules) {
            Some(before) => (rules, ServerConfig::clone(&before.config)),
            None => {
                let config = server_config(&rules)?;
                (rules, config)
            }
        };
        config.cert_resolver =
            Arc::new(CertificateChooser { index: Arc::clone(index), unknown_host: rules.unknown_host });
        Ok(Self { rules, index: Arc::clone(index), config: Arc::new(config) })
    }

    /// The configuration for a client's session. `None` if no certificate is for the name that it asks for, which
    /// [`UNRECOGNIZED_NAME`] tells it.
    #[must_use]
    pub fn accept(&self, hello: &ClientHello) -> Option<&Arc<ServerConfig>> {
        find(&self.index, self.rules.unknown_host, hello.server_name.as_deref()).map(|_| &self.config)
    }

    /// Whether clients that were admitted by `before` would be admitted by these rules in the same way. Other certificates
    /// of ours and other ticket keys change nothing for them.
    #[must_use]
    pub fn admits_like(&self, before: &Self) -> bool {
        let (one, other) = (&self.rules, &before.rules);
        one.min_version == other.min_version && one.client == other.client && one.protocols == other.protocols
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerTls").field("min_version", &self.rules.min_version).finish_non_exhaustive()
    }
}

/// Parses the authorities of client certificates in a PEM file, of which there is at least one.
///
/// # Errors
/// If there is none, or one of them cannot be used.
pub fn parse_authorities(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let authorities = parse_chain(text)?;
    for (index, authority) in authorities.iter().enumerate() {
        RootCertStore::empty().add(authority.clone()).map_err(|_| {
            let number = index + 1;
            Reason::new(format!("certificate {number} of the file is damaged, or cannot be that of an authority"))
                .hint("write the certificates of the authorities that issue those of the clients, as they were issued")
        })?;
    }
    Ok(authorities)
}

/// Parses the lists of revoked client certificates in a PEM file, of which there is at least one.
///
/// # Errors
/// If there is none, or one of them cannot be used.
pub fn parse_revoked(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Reason> {
    let damaged = || Reason::new("a section of the file is damaged").hint("copy the file again, as it was issued");
    let lists = CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|_| damaged())?;
    if lists.is_empty() {
        return Err(Reason::new("there is no revocation list in the file")
            .hint("it has a section `-----BEGIN X509 CRL-----` for each; convert DER with `openssl crl -inform der`"));
    }
    // Lists are parsed only for a verifier, which needs some authority.
    let anchor = TrustAnchor {
        subject: Der::from_slice(&[]),
        subject_public_key_info: Der::from_slice(&[]),
        name_constraints: None,
    };
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(RootCertStore { roots: vec![anchor] }), provider());
    verifier.with_crls(lists.iter().cloned()).build().map_err(|error| {
        Reason::new(format!("a revocation list cannot be used: {error}"))
            .hint("it must be of version 2, for all reasons, with a number (`crlnumber` of openssl)")
    })?;
    Ok(lists)
}

impl ClientRule {
    /// A hash of everything in it.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let parts = self.authorities.iter().map(AsRef::as_ref).chain(self.revoked.iter().map(AsRef::as_ref));
        for part in parts {
            let part: &[u8] = part;
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update([u8::from(self.auth == ClientAuth::Required), u8::from(self.revoked.is_empty())]);
        hash.finalize().into()
    }
}

/// The certificates to choose from for a client that asks for `name`.
fn find<'i>(index: &'i CertificateIndex, unknown_host: UnknownHost, name: Option<&str>) -> Option<&'i ByKey> {
    match (name, unknown_host) {
        (None, _) => index.unnamed(),
        (Some(name), UnknownHost::Refuse) => index.find(name),
        (Some(name), UnknownHost::Default) => index.find(name).or_else(|| index.unnamed()),
    }
}

fn server_config(rules: &TlsRules) -> Result<ServerConfig, Error> {
    let provider = provider();
    let versions = match rules.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let builder = match &rules.client {
        None => builder.with_no_client_auth(),
        Some(rule) => {
            let mut roots = RootCertStore::empty();
            rule.authorities.iter().try_for_each(|authority| roots.add(authority.clone()))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.with_crls(rule.revoked.iter().cloned());
            let verifier = match rule.auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            // A list covers the authority that has issued it; certificates of others have no status.
            let verifier = verifier.allow_unknown_revocation_status();
            builder.with_client_cert_verifier(verifier.build().map_err(|error| Error::General(error.to_string()))?)
        }
    };
    let resolver = CertificateChooser { index: Arc::default(), unknown_host: rules.unknown_host };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = rules.protocols.iter().map(|protocol| alpn(*protocol).to_vec()).collect();
    config.send_tls13_tickets = 1;
    config.ticketer = ticketer(rules)?;
    // Sessions are resumed by tickets, so that nothing is kept for a client that has left.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

fn ticketer(rules: &TlsRules) -> Result<Arc<dyn ProducesTickets>, Error> {
    if rules.ticket_keys.is_empty() {
        return Ticketer::new();
    }
    // A ticket stands for a client that has been admitted: another rule may not admit it.
    let rule = rules.client.as_ref().map(ClientRule::hash).unwrap_or_default();
    let ticketer = SharedTicketer::new(&rules.ticket_keys, &rule);
    Ok(Arc::new(ticketer.ok_or_else(|| Error::General("the ticket keys cannot be used".into()))?))
}

/// Chooses a certificate by the client's name, and among its kinds of keys by what the client can verify.
#[derive(Debug)]
struct CertificateChooser {
    index: Arc<CertificateIndex>,
    unknown_host: UnknownHost,
}

impl ResolvesServerCert for CertificateChooser {
    fn resolve(&self, hello: OfferedHello<'_>) -> Option<Arc<CertifiedKey>> {
        find(&self.index, self.unknown_host, hello.server_name())?.choose(hello.signature_schemes()).cloned()
    }
}
