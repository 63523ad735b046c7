//! The certificates that a configuration changes in the running balancer.

use crate::cli::api::CertificateReply;
use crate::config::Config;
use crate::config::references::Role;
use crate::control::certificates::in_force::{FilesInForce, Replacement, facts};
use crate::control::reload::source::Sources;

/// The certificates that differ from the running ones, in words, and notes about those that cannot be used.
pub(super) fn changes(config: &Config, sources: &Sources, running: &[CertificateReply]) -> (Vec<String>, Vec<String>) {
    if running.is_empty() && !config.listeners.iter().any(|listener| listener.tls.is_some()) {
        return (Vec::new(), Vec::new());
    }
    let Replacement { files, missing, .. } = FilesInForce::default().replace(&sources.referenced, &sources.files);
    let is_running = |name: &str, fingerprint: &str| {
        running.iter().any(|certificate| certificate.file == name && certificate.fingerprint == fingerprint)
    };
    let shown = |name: &str| files.certificates().any(|(read, _)| read.reference.shown() == name);
    let new = files.certificates().filter(|(read, new)| !is_running(read.reference.shown(), &new.fingerprint));
    let new = new.map(|(read, new)| format!("certificate {}: new, {}", read.reference.shown(), facts(new)));
    let gone = running.iter().filter(|certificate| !shown(&certificate.file));
    let gone = gone.map(|certificate| format!("certificate {}: no longer used", certificate.file));
    // One that cannot be used is kept if it is running.
    let lacks_none = !sources.referenced.read.iter().any(|read| {
        read.material.is_err() && matches!(read.reference.role, Role::Certificate | Role::CertificateDirectory)
    });
    let changes = new.chain(gone.filter(|_| lacks_none)).collect();
    let missing = missing.iter().map(|problem| format!("{problem}; until that is corrected, the edit is pending"));
    (changes, missing.collect())
}
