//! TLS of a generation: the certificates that listeners show.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::units::format_date;
use crate::config::{Config, HostPattern, SocketAddress};
use crate::tls::certificate::{Certificate, Validity};
use crate::tls::index::{CertificateIndex, Overlap};
use crate::tls::server::ListenerTls;

/// The state that connections with TLS need. Immutable; part of a snapshot.
#[derive(Debug)]
pub struct TlsState {
    /// In the order of the configuration.
    pub certificates: Vec<LiveCertificate>,
    /// Finds one by its server name.
    pub index: Arc<CertificateIndex>,
    /// Names that several certificates have.
    pub overlaps: Vec<Overlap>,
    /// The rules of the listeners with TLS.
    pub listeners: Vec<TlsListener>,
}

/// The rules of a listener.
#[derive(Debug, Clone)]
pub struct TlsListener {
    /// As configured.
    pub address: SocketAddress,
    pub tls: Arc<ListenerTls>,
}

/// A certificate that is in force.
#[derive(Debug, Clone)]
pub struct LiveCertificate {
    /// Its file as written in the configuration; the label in metrics.
    pub name: Arc<str>,
    pub default: bool,
    pub certificate: Arc<Certificate>,
}

impl TlsState {
    /// The rules of the listener that is configured with this address, if it uses TLS.
    #[must_use]
    pub fn listener(&self, address: &SocketAddress) -> Option<&Arc<ListenerTls>> {
        self.listeners.iter().find(|one| one.address == *address).map(|one| &one.tls)
    }

    /// The certificate's name, if it is one of these.
    #[must_use]
    pub fn name_of(&self, certificate: &Arc<Certificate>) -> Option<&str> {
        let found = self.certificates.iter().find(|live| Arc::ptr_eq(&live.certificate, certificate));
        found.map(|live| &*live.name)
    }

    /// The warnings about names that several certificates have.
    pub fn overlap_warnings(&self) -> impl Iterator<Item = String> {
        self.overlaps.iter().map(|Overlap { name, used, unused }| {
            let (used, unused) = (self.name_of(used).unwrap_or("?"), self.name_of(unused).unwrap_or("?"));
            format!("certificates {used} and {unused} are both for {name}; {used} is served, because it expires later")
        })
    }
}

/// The warnings about certificates: validity, names that several have, hosts of routes without one.
#[must_use]
pub fn warnings(config: &Config, tls: Option<&TlsState>, now: SystemTime) -> Vec<String> {
    let Some(tls) = tls else {
        let unused = !config.certificates.is_empty();
        let warning = "no listener uses TLS, so the certificates are not used; add `[listener.tls]` to one";
        return unused.then(|| warning.to_owned()).into_iter().collect();
    };
    let mut warnings: Vec<String> =
        tls.certificates.iter().filter_map(|live| validity_warning(&live.name, &live.certificate, now)).collect();
    warnings.extend(tls.overlap_warnings());
    warnings.extend(hosts_without(config, &tls.index));
    warnings
}

/// The warning about a certificate that clients do not accept, or soon will not.
#[must_use]
pub fn validity_warning(name: &str, certificate: &Certificate, now: SystemTime) -> Option<String> {
    let expiry = format_date(certificate.not_after);
    match certificate.validity(now) {
        Validity::Valid => None,
        Validity::Expired => Some(format!("certificate {name} expired on {expiry}; clients do not accept it")),
        Validity::ExpiresSoon => Some(format!("certificate {name} expires on {expiry}; renew it")),
        Validity::NotYetValid => Some(format!(
            "certificate {name} is not valid before {}; clients do not accept it until then",
            format_date(certificate.not_before)
        )),
    }
}

/// A warning for each host of a route that no certificate is for.
fn hosts_without(config: &Config, index: &CertificateIndex) -> Vec<String> {
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    for route in &config.routes {
        match &route.host {
            HostPattern::Exact(host) if host.parse::<IpAddr>().is_err() && !host.starts_with('[') => {
                if index.find(host).is_none() {
                    hosts.insert(host.clone());
                }
            }
            // `*` is a label that no certificate has by itself.
            HostPattern::Wildcard(host) if index.find(&format!("*.{host}")).is_none() => {
                hosts.insert(format!("*.{host}"));
            }
            HostPattern::Any | HostPattern::Exact(_) | HostPattern::Wildcard(_) => {}
        }
    }
    let warning = |host| format!("no certificate is for {host}, which a route has as its host");
    hosts.into_iter().map(warning).collect()
}
