//! ACME as all threads see it: the pending challenges, and the state of each certificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

/// Lives as long as the process. The control plane writes it; workers look into it only when a request or a handshake may be
/// a challenge.
#[derive(Debug, Default)]
pub struct AcmeState {
    challenges: ArcSwap<Challenges>,
    certificates: ArcSwap<Vec<AcmeCertificate>>,
    issued: AtomicU64,
    failed: AtomicU64,
}

/// The responses to the pending challenges.
#[derive(Debug, Default)]
pub struct Challenges {
    /// The key authorization by token.
    pub http: HashMap<String, Arc<str>>,
    /// The handshake by server name, in lower case.
    pub tls: HashMap<String, TlsChallenge>,
}

/// A handshake that proves control of a name (RFC 8737).
#[derive(Debug, Clone)]
pub struct TlsChallenge {
    /// The proof in it.
    pub key_authorization: Arc<str>,
    /// It has only the challenge's certificate, and offers only `acme-tls/1`.
    pub config: Arc<ServerConfig>,
}

/// A certificate that ACME obtains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// Never empty.
    pub names: Vec<String>,
    /// The end of its validity; `None` until it has been issued.
    pub not_after: Option<SystemTime>,
    /// Why the last order failed; `None` once one has succeeded.
    pub error: Option<String>,
    /// The time of the next order, as far as it is known. Another replica may place it.
    pub next_order: Option<SystemTime>,
}

/// The beginning of the path of a challenge (RFC 8555, section 8.3).
const HTTP_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// The protocol of a challenge, in ALPN.
pub const TLS_CHALLENGE: &[u8] = b"acme-tls/1";

impl AcmeState {
    /// The response to a request with this path, if it is that of a pending challenge.
    #[must_use]
    pub fn http_response(&self, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(HTTP_CHALLENGE)?;
        self.challenges.load().http.get(token).cloned()
    }

    /// The handshake for a server name, in lower case, if it is that of a pending challenge.
    #[must_use]
    pub fn tls_response(&self, server_name: &str) -> Option<Arc<ServerConfig>> {
        self.challenges.load().tls.get(server_name).map(|challenge| Arc::clone(&challenge.config))
    }

    #[must_use]
    pub fn challenges(&self) -> Arc<Challenges> {
        self.challenges.load_full()
    }

    pub fn set_challenges(&self, challenges: Challenges) {
        self.challenges.store(Arc::new(challenges));
    }

    /// Every certificate, in the order of the configuration.
    #[must_use]
    pub fn certificates(&self) -> Arc<Vec<AcmeCertificate>> {
        self.certificates.load_full()
    }

    pub fn set_certificates(&self, certificates: Vec<AcmeCertificate>) {
        self.certificates.store(Arc::new(certificates));
    }

    /// Replaces the entry of one certificate. Only the control plane's thread writes.
    pub fn set_certificate(&self, certificate: AcmeCertificate) {
        let mut all = Vec::clone(&self.certificates.load());
        if let Some(entry) = all.iter_mut().find(|entry| entry.names == certificate.names) {
            *entry = certificate;
            self.set_certificates(all);
        }
    }

    /// The number of orders that succeeded and that failed.
    #[must_use]
    pub fn orders(&self) -> (u64, u64) {
        (self.issued.load(Relaxed), self.failed.load(Relaxed))
    }

    /// Counts an order.
    pub fn count_order(&self, issued: bool) {
        if issued { &self.issued } else { &self.failed }.fetch_add(1, Relaxed);
    }
}

impl AcmeCertificate {
    /// A certificate that has not been issued.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self { names, not_after: None, error: None, next_order: None }
    }

    /// Its first name, by which it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_a_pending_token_has_a_response() {
        let state = AcmeState::default();
        assert_eq!(state.http_response("/.well-known/acme-challenge/token"), None);
        let http = HashMap::from([("token".to_owned(), Arc::from("token.thumbprint"))]);
        state.set_challenges(Challenges { http, tls: HashMap::new() });
        for (path, response) in [
            ("/.well-known/acme-challenge/token", Some("token.thumbprint")),
            ("/.well-known/acme-challenge/token/", None),
            ("/.well-known/acme-challenge/other", None),
            ("/.well-known/acme-challenge/", None),
            ("/.well-known/acme-challenge", None),
            ("/token", None),
        ] {
            assert_eq!(state.http_response(path).as_deref(), response, "{path}");
        }
        state.set_challenges(Challenges::default());
        assert_eq!(state.http_response("/.well-known/acme-challenge/token"), None);
    }
}
