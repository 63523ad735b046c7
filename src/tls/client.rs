//! TLS to servers: the rules of a pool, and the name that a server's certificate must have.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::config::HttpProtocol;
use crate::config::problem::Reason;
use crate::tls::certificate::parse_chain;
use crate::tls::failure::TlsError;
use crate::tls::{alpn, provider};

/// The sessions that a worker keeps for a server: TLS 1.3 tickets are used once, and this many of them fit.
const SESSIONS: usize = 8;

/// The rules of a pool for TLS to its servers.
pub struct PoolTls {
    /// Without resumption, so that each health check verifies the server's certificate.
    config: Arc<ClientConfig>,
    /// The name to verify, if it is not each server's own.
    server_name: Option<ServerName<'static>>,
    is_verified: bool,
    /// Of everything that the rules consist of, the contents of files included.
    digest: [u8; 32],
}

/// The way to speak TLS with one server, under one set of rules.
#[derive(Debug)]
pub struct UpstreamTls {
    pool: Arc<PoolTls>,
    name: ServerName<'static>,
    /// Each worker has its own sessions, because their store is a mutex.
    workers: Box<[OnceLock<Arc<ClientConfig>>]>,
}

/// The parts of a pool's rules.
#[derive(Debug)]
pub struct PoolTlsParts<'a> {
    /// The CAs that may have issued servers' certificates; `None` if nothing is verified.
    pub roots: Option<Arc<Roots>>,
    /// The client certificate and its key.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The name to verify, if it is not each server's own.
    pub server_name: Option<ServerName<'static>>,
    /// The protocols to offer by ALPN, the preferred one first.
    pub protocols: &'a [HttpProtocol],
    /// Of everything that the rules consist of, the contents of files included.
    pub digest: [u8; 32],
}

/// Trusted CAs.
#[derive(Debug)]
pub struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
}

impl Roots {
    /// The CAs with these certificates. Those that are not valid here, as some of a system's may be, are left out.
    #[must_use]
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates.iter().cloned());
        Self { certificates, store: Arc::new(store) }
    }

    /// CAs that are built in.
    #[must_use]
    pub fn built_in(anchors: &[TrustAnchor<'static>]) -> Self {
        Self { certificates: Vec::new(), store: Arc::new(RootCertStore { roots: anchors.to_vec() }) }
    }

    /// The number of those that are valid.
    #[must_use]
    pub fn count(&self) -> usize {
        self.store.len()
    }

    /// Those that are valid, for rustls.
    #[must_use]
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// The certificates, valid or not.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

/// Parses the CAs of a PEM file, of which at least one is valid.
///
/// # Errors
/// If none is, or something in the file cannot be read.
pub fn parse_roots(text: &[u8]) -> Result<Roots, Reason> {
    let roots = Roots::new(parse_chain(text)?);
    if roots.count() == 0 {
        let reason = Reason::new("no certificate in the file can be that of a CA");
        return Err(reason.hint("name a PEM file with the certificate of the CA that issued the server's"));
    }
    Ok(roots)
}

impl PoolTls {
    /// Builds the rules.
    ///
    /// # Errors
    /// If no root is valid.
    pub fn new(parts: PoolTlsParts<'_>) -> Result<Self, Error> {
        let PoolTlsParts { roots, identity, server_name, protocols, digest } = parts;
        let provider = provider();
        let is_verified = roots.is_some();
        let verifier = Arc::new(CertificateVerifier::new(roots, &provider)?);
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocols.iter().map(|protocol| alpn(*protocol).to_vec()).collect();
        Ok(Self { config: Arc::new(config), server_name, is_verified, digest })
    }

    /// Whether servers' certificates are verified.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// Whether these are the same rules, the contents of files included.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// The name that is verified of a server at `host`: a host name or an IP address.
    ///
    /// # Errors
    /// If no certificate can have such a name.
    pub fn name_for(&self, host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
        self.server_name.clone().map_or_else(|| server_name(host), Ok)
    }
}

impl fmt::Debug for PoolTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_name, is_verified, .. } = self;
        f.debug_struct("PoolTls").field("server_name", server_name).field("is_verified", is_verified).finish()
    }
}

/// The name in a server's certificate, as written in the file or in an address.
///
/// # Errors
/// If no certificate can have such a name.
pub fn server_name(host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(host).map(|name| name.to_owned())
}

impl UpstreamTls {
    /// The way to speak TLS with a server at `host`, a host name or an IP address.
    ///
    /// # Errors
    /// If no certificate can have such a name.
    pub fn new(pool: &Arc<PoolTls>, host: &str, workers: usize) -> Result<Self, InvalidDnsNameError> {
        let name = pool.name_for(host)?;
        Ok(Self { pool: Arc::clone(pool), name, workers: (0..workers).map(|_| OnceLock::new()).collect() })
    }

    /// The name that is verified, and sent as SNI if it is a host name.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    #[must_use]
    pub fn pool(&self) -> &Arc<PoolTls> {
        &self.pool
    }

    /// The protocol to speak on a connection on which the server has chosen this one by ALPN.
    ///
    /// # Errors
    /// If only HTTP/2 was offered, and the server has not chosen it.
    pub fn protocol(&self, chosen: Option<&[u8]>) -> Result<HttpProtocol, TlsError> {
        if chosen == Some(alpn(HttpProtocol::Http2)) {
            return Ok(HttpProtocol::Http2);
        }
        // A server that does not negotiate speaks HTTP/1.1.
        let offered = &self.pool.config.alpn_protocols;
        let is_offered = offered.is_empty() || offered.iter().any(|name| name == alpn(HttpProtocol::Http1));
        if is_offered { Ok(HttpProtocol::Http1) } else { Err(TlsError::not_chosen(chosen)) }
    }

    /// The configuration for a connection of a worker, which resumes the sessions of that worker's earlier ones.
    #[must_use]
    pub fn for_worker(&self, worker: usize) -> &Arc<ClientConfig> {
        let with_sessions = || {
            let mut config = ClientConfig::clone(&self.pool.config);
            config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
            Arc::new(config)
        };
        self.workers.get(worker).map_or(&self.pool.config, |config| config.get_or_init(with_sessions))
    }

    /// The configuration for a health check, which verifies the server's certificate each time.
    #[must_use]
    pub fn for_check(&self) -> &Arc<ClientConfig> {
        &self.pool.config
    }
}

/// Verifies a server's certificate by the pool's rule, and its signatures in any case.
#[derive(Debug)]
struct CertificateVerifier {
    /// `None` accepts any certificate, for `verify = false`: whoever is at the other end has its key, and nothing else is
    /// certain.
    authorities: Option<Authorities>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Accepts certificates that one of the roots has issued, and a server's certificate that is itself among the roots,
/// even if it is marked as a CA: so are the self-signed ones that tools make.
#[derive(Debug)]
struct Authorities {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<Roots>,
}

impl CertificateVerifier {
    fn new(roots: Option<Arc<Roots>>, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let authorities = match roots {
            None => None,
            Some(roots) => {
                let inner =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots.store), Arc::clone(provider)).build();
                Some(Authorities { inner: inner.map_err(|error| Error::General(error.to_string()))?, roots })
            }
        };
        Ok(Self { authorities, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Authorities { inner, roots }) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if roots.certificates.contains(end_entity) => {
                verify_dates(end_entity, now)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let time = |time: ASN1Time| {
        UnixTime::since_unix_epoch(
            SystemTime::from(time.to_datetime()).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        )
    };
    let (not_before, not_after) = (time(parsed.validity().not_before), time(parsed.validity().not_after));
    if now < not_before {
        Err(CertificateError::NotValidYetContext { time: now, not_before })
    } else if now > not_after {
        Err(CertificateError::ExpiredContext { time: now, not_after })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
