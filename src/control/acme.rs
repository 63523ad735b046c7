//! ACME (RFC 8555): orders the certificates that the configuration names, writes them to files like any user's, and renews
//! them in time.
//!
//! - `store`: the files in `acme.state_dir`.
//! - `pair`: a certificate with its key, as it was issued.
//! - `schedule`: when to renew, and when to try again. Pure.
//! - `client`: requests to the ACME server.
//! - `challenge`: the responses to its challenges.
//! - `order`: one order.
//! - `manager`: the task that does all of it.

mod attempts;
mod challenge;
mod client;
mod failure;
mod manager;
mod order;
mod pair;
mod schedule;
mod store;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::config::references::Role;
use crate::config::{AcmeConfig, Config};
use crate::control::certificates::in_force::FilesInForce;
use crate::live::acme::{AcmeCertificate, AcmeState};

/// The orders of the process. Dropping it ends them.
#[derive(Debug)]
pub struct Acme {
    wanted: watch::Sender<Option<Arc<WantedCertificates>>>,
    again: Arc<Notify>,
    state: Arc<AcmeState>,
    task: JoinHandle<()>,
}

/// The certificates that the configuration asks for.
#[derive(Debug, PartialEq, Eq)]
struct WantedCertificates {
    config: AcmeConfig,
    /// The content of `acme.ca`.
    ca: Option<Bytes>,
    /// The names of each certificate.
    certificates: Vec<Vec<String>>,
}

impl Acme {
    /// Waits for a configuration with certificates from ACME, on the control plane's runtime.
    #[must_use]
    pub fn start() -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (again, state) = (Arc::new(Notify::new()), Arc::<AcmeState>::default());
        let task = tokio::spawn(manager::run(receiver, Arc::clone(&again), Arc::clone(&state)));
        Self { wanted, again, state, task }
    }

    /// The state that requests of `config` need.
    #[must_use]
    pub fn state_for(&self, config: &Config) -> Option<Arc<AcmeState>> {
        config.uses_acme().then(|| Arc::clone(&self.state))
    }

    /// Orders what `config` asks for, which refers to `files`. An edit of it is tried at once.
    pub fn apply(&self, config: &Config, files: &FilesInForce) {
        let certificates: Vec<Vec<String>> = config.acme_names().map(<[String]>::to_vec).collect();
        let ca = config.acme.ca.as_ref().and_then(|ca| files.bytes(Role::AcmeCa, &ca.full_path()));
        let ca = ca.map(|file| file.bytes.clone());
        let wanted = (!certificates.is_empty())
            .then(|| Arc::new(WantedCertificates { config: config.acme.clone(), ca, certificates }));
        self.wanted.send_if_modified(|current| {
            let changes = *current != wanted;
            if changes {
                let known = self.state.certificates();
                let names = wanted.iter().flat_map(|wanted| &wanted.certificates);
                let entry = |names: &Vec<String>| {
                    let known = known.iter().find(|entry| entry.names == *names).cloned();
                    known.unwrap_or_else(|| AcmeCertificate::new(names.clone()))
                };
                self.state.set_certificates(names.map(entry).collect());
                *current = wanted;
            }
            changes
        });
    }

    /// Tries again what has failed, as far as the ACME server allows.
    pub fn try_now(&self) {
        self.again.notify_waiters();
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.task.abort();
    }
}
