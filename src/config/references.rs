//! The files that a configuration refers to, besides those that it consists of: certificates, keys, authorities.

use std::path::PathBuf;

use glob::Pattern;

use crate::config::acme::{ACME_CHAIN, ACME_KEY};
use crate::config::file::subject::Subject;
use crate::config::{CertificateSource, Config, FilePath};

/// The use of a file. The control plane parses it accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A chain and its key, for listeners.
    Certificate,
    /// A glob of directories, each with a chain and its key.
    CertificateDirectory,
    /// The authorities of client certificates.
    ClientCa,
    /// Revoked client certificates.
    ClientCrl,
    /// A key of session tickets.
    TicketKey,
    /// The authorities of servers.
    UpstreamCa,
    /// A chain and its key, for servers.
    UpstreamCertificate,
    /// The authorities of the ACME server.
    AcmeCa,
}

/// A file or, for a certificate, a chain and its key, which only count together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub role: Role,
    pub owner: ReferenceOwner,
    pub files: Vec<ReferenceFile>,
    /// Whether the certificate is the default one.
    pub default: bool,
    /// Whether it is no problem that its files do not exist yet, because `lb` itself is about to write them.
    pub may_be_missing: bool,
}

/// One file of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceFile {
    /// The path to open.
    pub path: PathBuf,
    /// As typed or, if it came from the environment, as it is shown.
    pub shown: String,
    /// The key that names it.
    pub key: &'static str,
}

/// The table that refers to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceOwner {
    /// A `[[certificate]]`, by its index.
    Certificate(usize),
    /// `tls` of a listener, by its index.
    Listener(usize),
    /// `upstream.tls` of a pool, by its name.
    Pool(String),
    /// `[acme]`.
    Acme,
}

impl Reference {
    /// The place in the configuration of its file at `index`.
    #[must_use]
    pub fn subject(&self, index: usize) -> Subject<'_> {
        let key = self.files.get(index).or(self.files.first()).map_or("", |file| file.key);
        match &self.owner {
            ReferenceOwner::Certificate(index) => Subject::Certificate(*index, key),
            ReferenceOwner::Listener(index) => Subject::ListenerTls(*index, key),
            ReferenceOwner::Pool(name) => Subject::UpstreamTls(name, key),
            ReferenceOwner::Acme => Subject::Acme(key),
        }
    }

    /// Whether it is the same files for the same use, wherever they are referred to.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let paths = |reference: &'_ Self| reference.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        self.role == other.role && paths(self) == paths(other)
    }
}

impl Config {
    /// The files that it refers to, in the order of the file; those that several tables refer to are named once.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        let mut references: Vec<Reference> = Vec::new();
        let mut add = |reference: Reference| {
            if !references.iter().any(|other| other.is_same(&reference)) {
                references.push(reference);
            }
        };
        for (index, certificate) in self.certificates.iter().enumerate() {
            let file = |file: &FilePath, key: &'static str| ReferenceFile {
                path: file.full_path(),
                shown: certificate.env.show(key, &file.path.display()),
                key,
            };
            let (role, files) = match &certificate.source {
                CertificateSource::Pair { file: chain, key } => {
                    (Role::Certificate, vec![file(chain, "file"), file(key, "key")])
                }
                CertificateSource::Directory { directory } => {
                    // Only what was typed is a glob.
                    let base = Pattern::escape(&directory.base.to_string_lossy());
                    let path = PathBuf::from(base).join(&directory.path);
                    (Role::CertificateDirectory, vec![ReferenceFile { path, ..file(directory, "directory") }])
                }
                CertificateSource::Acme { names, .. } => {
                    let directory = self.acme.certificate_dir(names.first().map_or("", String::as_str));
                    let file = |name, shown| ReferenceFile { path: directory.join(name), shown, key: "names" };
                    let key = directory.join(ACME_KEY).display().to_string();
                    (Role::Certificate, vec![file(ACME_CHAIN, certificate.name()), file(ACME_KEY, key)])
                }
            };
            let may_be_missing = matches!(certificate.source, CertificateSource::Acme { .. });
            let owner = ReferenceOwner::Certificate(index);
            add(Reference { role, owner, files, default: certificate.default, may_be_missing });
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else { continue };
            let mut add = |role, file: &FilePath, key: &'static str, path: &str| {
                let file =
                    ReferenceFile { path: file.full_path(), shown: listener.env.show(path, &file.path.display()), key };
                let owner = ReferenceOwner::Listener(index);
                add(Reference { role, owner, files: vec![file], default: false, may_be_missing: false });
            };
            if let Some(file) = &tls.client_ca {
                add(Role::ClientCa, file, "client_ca", "tls.client_ca");
            }
            if let Some(file) = &tls.client_crl {
                add(Role::ClientCrl, file, "client_crl", "tls.client_crl");
            }
            for (number, file) in tls.ticket_keys.iter().enumerate() {
                add(Role::TicketKey, file, "ticket_keys", &format!("tls.ticket_keys.{number}"));
            }
        }
        if let Some(ca) = self.acme.ca.as_ref().filter(|_| self.uses_acme()) {
            let shown = self.env.show("acme.ca", &ca.path.display());
            let files = vec![ReferenceFile { path: ca.full_path(), shown, key: "ca" }];
            let owner = ReferenceOwner::Acme;
            add(Reference { role: Role::AcmeCa, owner, files, default: false, may_be_missing: false });
        }
        for pool in &self.pools {
            let Some(tls) = &pool.upstream.tls else { continue };
            let file = |file: &FilePath, key: &'static str| ReferenceFile {
                path: file.full_path(),
                shown: pool.env.show(&format!("upstream.tls.{key}"), &file.path.display()),
                key,
            };
            let mut add = |role, files| {
                let owner = ReferenceOwner::Pool(pool.name.clone());
                add(Reference { role, owner, files, default: false, may_be_missing: false });
            };
            if let Some(ca) = &tls.ca {
                add(Role::UpstreamCa, vec![file(ca, "ca")]);
            }
            if let (Some(chain), Some(key)) = (&tls.certificate, &tls.key) {
                add(Role::UpstreamCertificate, vec![file(chain, "certificate"), file(key, "key")]);
            }
        }
        references
    }
}
