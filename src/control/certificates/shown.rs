//! Builds what listeners with TLS show to clients.

use std::sync::Arc;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

use crate::config::references::Role;
use crate::config::{Config, FilePath, ListenerConfig};
use crate::control::certificates::files::ReadReference;
use crate::control::certificates::in_force::FilesInForce;
use crate::live::tls::{LiveCertificate, TlsListener, TlsState};
use crate::tls::certificate::{Certificate, parse_chain};
use crate::tls::index::CertificateIndex;
use crate::tls::server::{ClientRule, ListenerTls, TlsRules};

/// The TLS state of a generation; `None` if no listener uses TLS.
#[must_use]
pub fn tls_state(config: &Config, files: &FilesInForce, before: Option<&TlsState>) -> Option<Arc<TlsState>> {
    config.listeners.iter().any(|listener| listener.tls.is_some()).then(|| {
        let live = |(read, certificate): (&Arc<ReadReference>, &Arc<Certificate>)| LiveCertificate {
            name: read.reference.shown().into(),
            default: read.reference.default,
            certificate: Arc::clone(certificate),
        };
        let certificates: Vec<LiveCertificate> = files.certificates().map(live).collect();
        let default = certificates.iter().find(|live| live.default).map(|live| &live.certificate);
        let (index, overlaps) = CertificateIndex::new(certificates.iter().map(|live| &live.certificate), default);
        let index = Arc::new(index);
        let listeners = config.listeners.iter().filter_map(|listener| {
            let before = before.and_then(|before| before.listeners.iter().find(|one| one.address == listener.address));
            tls_listener(listener, files, &index, before)
        });
        let listeners = listeners.collect();
        Arc::new(TlsState { certificates, index, overlaps, listeners })
    })
}

/// The rules of a listener with the contents of their files; `None` if it does not use TLS. Rules that cannot be applied
/// are logged: the old ones stay or, if there are none, nobody can connect.
fn tls_listener(
    config: &ListenerConfig,
    files: &FilesInForce,
    index: &Arc<CertificateIndex>,
    before: Option<&TlsListener>,
) -> Option<TlsListener> {
    let rules = tls_rules(config, files)?;
    let tls = match ListenerTls::new(rules, index, before.map(|before| &*before.tls)) {
        Ok(tls) => Arc::new(tls),
        Err(error) => {
            tracing::error!(listener = %config.name, %error, "the TLS rules of a listener cannot be applied");
            Arc::clone(&before?.tls)
        }
    };
    Some(TlsListener { address: config.address.clone(), tls })
}

fn tls_rules(listener: &ListenerConfig, files: &FilesInForce) -> Option<TlsRules> {
    let tls = listener.tls.as_ref()?;
    let content = |role, file: &FilePath| files.bytes(role, &file.full_path()).map(|file| &*file.bytes);
    let client = tls.client_ca.as_ref().map(|authorities| {
        let authorities = content(Role::ClientCa, authorities).and_then(|text| parse_chain(text).ok());
        let revoked = tls.client_crl.as_ref().and_then(|file| content(Role::ClientCrl, file));
        let revoked =
            revoked.map(|text| CertificateRevocationListDer::pem_slice_iter(text).filter_map(Result::ok).collect());
        ClientRule {
            authorities: authorities.unwrap_or_default(),
            revoked: revoked.unwrap_or_default(),
            auth: tls.client_auth,
        }
    });
    let ticket_keys = tls.ticket_keys.iter().filter_map(|file| content(Role::TicketKey, file).map(<[u8]>::to_vec));
    Some(TlsRules {
        min_version: tls.min_version,
        protocols: listener.protocols.clone(),
        unknown_host: tls.unknown_host,
        client,
        ticket_keys: ticket_keys.collect(),
    })
}
