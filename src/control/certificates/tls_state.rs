//! Builds what listeners with TLS present to clients.

use std::sync::Arc;

use crate::config::file::subject::{Subject, locate};
use crate::config::problem::{Problem, Reason};
use crate::config::references::Role;
use crate::config::source::SourceFile;
use crate::config::{Config, FilePath, ListenerConfig, ListenerTlsConfig};
use crate::control::certificates::files::ReadReference;
use crate::control::certificates::in_force::FilesInForce;
use crate::live::tls::{LiveCertificate, TlsListener, TlsState};
use crate::tls::certificate::Certificate;
use crate::tls::index::CertificateIndex;
use crate::tls::server::{ClientRule, ListenerTls, TlsRules, parse_authorities, parse_revoked};

/// The TLS state of a generation; `None` if no listener uses TLS. `sources` are the configuration's own files.
///
/// # Errors
/// A problem for each listener whose rules cannot be applied.
pub fn tls_state(
    config: &Config,
    (files, sources): (&FilesInForce, &[SourceFile]),
    before: Option<&TlsState>,
) -> Result<Option<Arc<TlsState>>, Vec<Problem>> {
    if config.listeners.iter().all(|listener| listener.tls.is_none()) {
        return Ok(None);
    }
    let live = |(read, certificate): (&Arc<ReadReference>, &Arc<Certificate>)| LiveCertificate {
        name: read.reference.shown().into(),
        default: read.reference.default,
        certificate: Arc::clone(certificate),
    };
    let certificates: Vec<LiveCertificate> = files.certificates().map(live).collect();
    let default = certificates.iter().find(|live| live.default).map(|live| &live.certificate);
    let (index, overlaps) = CertificateIndex::new(certificates.iter().map(|live| &live.certificate), default);
    let index = Arc::new(index);
    let (mut listeners, mut problems) = (Vec::new(), Vec::new());
    for (number, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let before = before.and_then(|before| before.listener(&listener.address)).map(|tls| &**tls);
        let rules = tls_rules(listener, tls, files).and_then(|rules| {
            let why =
                |error: rustls::Error| ("tls", Reason::new(format!("these rules for TLS cannot be applied: {error}")));
            ListenerTls::new(rules, &index, before).map_err(why)
        });
        match rules {
            Ok(rules) => listeners.push(TlsListener { address: listener.address.clone(), tls: Arc::new(rules) }),
            Err((key, reason)) => problems.push(locate(sources, Subject::ListenerTls(number, key), reason)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Some(Arc::new(TlsState { certificates, index, overlaps, listeners })))
}

/// The rules of a listener with the contents of their files. The error is the key whose file cannot be used, although it
/// could when it was read.
fn tls_rules(
    listener: &ListenerConfig,
    tls: &ListenerTlsConfig,
    files: &FilesInForce,
) -> Result<TlsRules, (&'static str, Reason)> {
    let content = |role, key, file: &FilePath| {
        let found = files.bytes(role, &file.full_path()).map(|file| &*file.bytes);
        found.ok_or_else(|| (key, Reason::new("there is no such file")))
    };
    let client = match &tls.client_ca {
        None => None,
        Some(authorities) => {
            let text = content(Role::ClientCa, "client_ca", authorities)?;
            let authorities = parse_authorities(text).map_err(|reason| ("client_ca", reason))?;
            let revoked = match &tls.client_crl {
                None => Vec::new(),
                Some(file) => {
                    let text = content(Role::ClientCrl, "client_crl", file)?;
                    parse_revoked(text).map_err(|reason| ("client_crl", reason))?
                }
            };
            Some(ClientRule { authorities, revoked, auth: tls.client_auth })
        }
    };
    let key = |file| content(Role::TicketKey, "ticket_keys", file).map(<[u8]>::to_vec);
    Ok(TlsRules {
        min_version: tls.min_version,
        protocols: listener.protocols.clone(),
        unknown_host: tls.unknown_host,
        client,
        ticket_keys: tls.ticket_keys.iter().map(key).collect::<Result<_, _>>()?,
    })
}
