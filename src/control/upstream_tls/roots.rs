//! The CAs that the system trusts.

use std::sync::Arc;

use crate::config::problem::Reason;
use crate::tls::client::Roots;

/// The CAs that the system trusts, as of the last time that they were read.
#[derive(Debug, Clone)]
pub(super) struct SystemRoots {
    pub(super) roots: Arc<Roots>,
    errors: Vec<String>,
}

impl SystemRoots {
    /// Reads them. Logs what is wrong with them, unless that was so `before`.
    ///
    /// # Errors
    /// If there are some and none of them can be read: those that are built in would trust others.
    pub(super) fn load(before: Option<&Self>) -> Result<Self, Reason> {
        let found = rustls_native_certs::load_native_certs();
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let roots = Arc::new(Roots::new(found.certs));
        if let (0, Some(error)) = (roots.count(), errors.first()) {
            let reason = Reason::new(format!("the system's CA certificates cannot be read: {error}"));
            return Err(
                reason.hint("set `upstream.tls.ca`, or correct `SSL_CERT_FILE` and `SSL_CERT_DIR` if they are set")
            );
        }
        if before.is_none_or(|before| before.errors != errors) {
            for error in &errors {
                tracing::warn!(error, "some of the system's CA certificates cannot be read");
            }
        }
        if roots.count() > 0 {
            if before.is_none_or(|before| before.roots.count() != roots.count()) {
                tracing::debug!(certificates = roots.count(), "servers are verified with the system's CA certificates");
            }
            return Ok(Self { roots, errors });
        }
        let built_in = Arc::new(Roots::built_in(webpki_roots::TLS_SERVER_ROOTS));
        if before.is_none_or(|before| before.roots.count() != built_in.count()) {
            tracing::info!(
                certificates = built_in.count(),
                "the system has no CA certificates; servers are verified with Mozilla's, which are built in"
            );
        }
        Ok(Self { roots: built_in, errors })
    }
}
