//! The CAs that the system trusts.

use std::sync::Arc;

use crate::tls::client::Roots;

/// The CAs that the system trusts, as of the last time that they were read.
#[derive(Debug, Clone)]
pub(super) struct SystemRoots {
    pub(super) roots: Arc<Roots>,
    errors: Vec<String>,
}

impl SystemRoots {
    /// Reads them. Logs what is wrong with them, unless that was so `before`.
    pub(super) fn load(before: Option<&Self>) -> Self {
        let found = rustls_native_certs::load_native_certs();
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        if before.is_none_or(|before| before.errors != errors) {
            for error in &errors {
                tracing::warn!(error, "some of the system's CA certificates cannot be read");
            }
        }
        let roots = Arc::new(Roots::new(found.certs));
        if roots.count() > 0 {
            if before.is_none_or(|before| before.roots.count() != roots.count()) {
                tracing::debug!(certificates = roots.count(), "servers are verified with the system's CA certificates");
            }
            return Self { roots, errors };
        }
        let built_in = Arc::new(Roots::built_in(webpki_roots::TLS_SERVER_ROOTS));
        if before.is_none_or(|before| before.roots.count() != built_in.count()) {
            tracing::info!(
                certificates = built_in.count(),
                "the system has no CA certificates; servers are verified with Mozilla's, which are built in"
            );
        }
        Self { roots: built_in, errors }
    }
}
