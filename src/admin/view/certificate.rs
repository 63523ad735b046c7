//! The JSON form of a certificate.

use std::time::SystemTime;

use serde::Serialize;

use super::as_time;
use crate::live::snapshot::Snapshot;
use crate::live::tls::LiveCertificate;
use crate::tls::certificate::{KeyType, Validity};

#[derive(Serialize)]
pub(in crate::admin) struct CertificateView<'a> {
    /// As written in the configuration.
    file: &'a str,
    /// Host names and addresses.
    names: Vec<String>,
    #[serde(serialize_with = "as_time")]
    not_before: SystemTime,
    #[serde(serialize_with = "as_time")]
    not_after: SystemTime,
    validity: Validity,
    key_type: KeyType,
    /// The SHA-256 of the leaf.
    fingerprint: &'a str,
    default: bool,
    /// The names of the listeners that show it.
    listeners: Vec<&'a str>,
}

/// The certificates in force, in the order of the configuration.
pub(in crate::admin) fn certificates(snapshot: &Snapshot) -> impl Iterator<Item = CertificateView<'_>> {
    let now = SystemTime::now();
    let listeners = snapshot.config.listeners.iter().filter(|listener| listener.tls.is_some());
    let names: Vec<&str> = listeners.map(|listener| listener.name.as_str()).collect();
    let live = snapshot.tls.iter().flat_map(|tls| &tls.certificates);
    live.map(move |LiveCertificate { name, default, certificate }| CertificateView {
        file: name,
        names: certificate.subjects().collect(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        validity: certificate.validity(now),
        key_type: certificate.key_type,
        fingerprint: &certificate.fingerprint,
        default: *default,
        listeners: names.clone(),
    })
}

/// Those of `certificates` that clients get which ask for `host`, the preferred one first.
pub(in crate::admin) fn certificates_for<'a>(
    mut certificates: Vec<CertificateView<'a>>,
    snapshot: &'a Snapshot,
    host: &str,
) -> Vec<CertificateView<'a>> {
    let found = snapshot.tls.as_ref().and_then(|tls| tls.index.find(host));
    let order: Vec<&str> =
        found.iter().flat_map(|found| found.certificates()).map(|certificate| &*certificate.fingerprint).collect();
    let place = |view: &CertificateView<'_>| order.iter().position(|fingerprint| *fingerprint == view.fingerprint);
    certificates.retain(|view| place(view).is_some());
    certificates.sort_by_key(|view| place(view));
    certificates
}
