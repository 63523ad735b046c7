//! Builds what listeners with TLS show to clients.

use std::sync::Arc;

use crate::config::Config;
use crate::control::certificates::files::ReadReference;
use crate::control::certificates::in_force::FilesInForce;
use crate::live::tls::{LiveCertificate, TlsState};
use crate::tls::certificate::Certificate;
use crate::tls::index::CertificateIndex;

/// The TLS state of a generation; `None` if no listener uses TLS.
#[must_use]
pub fn tls_state(config: &Config, files: &FilesInForce) -> Option<Arc<TlsState>> {
    config.listeners.iter().any(|listener| listener.tls.is_some()).then(|| {
        let live = |(read, certificate): (&Arc<ReadReference>, &Arc<Certificate>)| LiveCertificate {
            name: read.reference.shown().into(),
            default: read.reference.default,
            certificate: Arc::clone(certificate),
        };
        let certificates: Vec<LiveCertificate> = files.certificates().map(live).collect();
        let default = certificates.iter().find(|live| live.default).map(|live| &live.certificate);
        let (index, overlaps) = CertificateIndex::new(certificates.iter().map(|live| &live.certificate), default);
        Arc::new(TlsState { certificates, index: Arc::new(index), overlaps })
    })
}
