//! Reads the files that a configuration refers to, and parses each for its use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::config::problem::Reason;
use crate::config::references::{Reference, ReferenceFile, Role};
use crate::config::source::SourceFile;
use crate::control::reload::source::referenced::{read_referenced, referenced_matches};
use crate::control::reload::trail::Trail;
use crate::tls::certificate::{Certificate, PairFile};
use crate::tls::client::parse_roots;
use crate::tls::server::{parse_authorities, parse_revoked};

/// The limit for all of these files together.
const MAX_BYTES: u64 = 64 << 20;

/// The names of a chain and its key in a directory: those of Kubernetes, and those of certbot.
const PAIRS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("fullchain.pem", "privkey.pem")];

/// The files that a configuration refers to, as they were read. Compared by content.
#[derive(Debug, Clone, Default)]
pub struct ReferencedFiles {
    /// As configured.
    references: Vec<Reference>,
    /// As read, with each pair of a directory by itself.
    pub read: Vec<Arc<ReadReference>>,
    /// The directories that globs match.
    pub directories: BTreeSet<PathBuf>,
}

/// A file or a pair as it was read.
#[derive(Debug)]
pub struct ReadReference {
    pub reference: Reference,
    /// The glob that a pair was found by, or else its first file.
    pub origin: PathBuf,
    /// In the order of the reference's.
    pub files: Vec<Result<SourceFile, Reason>>,
    /// The content of the files, or why they cannot be used, with the index of the file that this is about.
    pub material: Result<Material, (usize, Reason)>,
}

/// The parsed content of a reference.
#[derive(Debug, Clone)]
pub enum Material {
    /// Of [`Role::Certificate`] and [`Role::UpstreamCertificate`].
    Certificate(Arc<Certificate>),
    /// Of every other role: checked, and parsed again by whoever uses it.
    Bytes(SourceFile),
}

impl PartialEq for ReferencedFiles {
    fn eq(&self, other: &Self) -> bool {
        self.references == other.references
            && self.directories == other.directories
            && self.read.len() == other.read.len()
            && self.read.iter().zip(&other.read).all(|(one, other)| Arc::ptr_eq(one, other) || one.same_content(other))
    }
}

impl Eq for ReferencedFiles {}

impl ReferencedFiles {
    /// Reads the files that `config` refers to, unless `self` has them already.
    pub fn follow(&mut self, config: &Config) {
        let references = config.references();
        if references != self.references {
            *self = Self::read(references, self);
        }
    }

    /// The files that were read, as configured.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Reads the files of `references`, unless `self` or `other` has them already.
    #[must_use]
    pub fn of(&self, references: &[Reference], other: &Self) -> Self {
        match references {
            known if *known == *self.references => self.clone(),
            known if *known == *other.references => other.clone(),
            new => Self::read(new.to_vec(), self),
        }
    }

    /// Reads the same files again. `known` has been read just now.
    #[must_use]
    pub fn again_unless(&self, known: &Self) -> Self {
        if self.references == known.references { known.clone() } else { self.again() }
    }

    /// Reads the same files again.
    #[must_use]
    pub fn again(&self) -> Self {
        if self.references.is_empty() { Self::default() } else { Self::read(self.references.clone(), self) }
    }

    /// Files that are as in `last` are not parsed again.
    fn read(references: Vec<Reference>, last: &Self) -> Self {
        let mut budget = MAX_BYTES;
        let mut files = Self { references, ..Self::default() };
        for reference in &files.references {
            if reference.role != Role::CertificateDirectory {
                files.read.push(ReadReference::new(reference.clone(), None, last, &mut budget));
                continue;
            }
            let Some(glob) = reference.files.first() else { continue };
            let directories: Vec<PathBuf> = referenced_matches(&glob.path).filter(|path| path.is_dir()).collect();
            let before = files.read.len();
            for directory in &directories {
                for pair in pairs_in(reference, directory) {
                    // A certificate that several globs find is read once.
                    if !files.read.iter().any(|read| read.reference.is_same(&pair)) {
                        files.read.push(ReadReference::new(pair, Some(&glob.path), last, &mut budget));
                    }
                }
            }
            if files.read.len() == before {
                files.read.push(Arc::new(ReadReference::nothing_found(reference, directories.is_empty())));
            }
            files.directories.extend(directories);
        }
        files
    }

    /// Adds the paths to watch.
    pub fn trail(&self, trail: &mut Trail) {
        for file in self.read.iter().flat_map(|read| &read.reference.files) {
            trail.follow(&file.path);
        }
        for reference in self.references.iter().filter(|reference| reference.role == Role::CertificateDirectory) {
            for parent in reference.files.iter().filter_map(|file| file.path.parent()) {
                referenced_matches(parent).for_each(|directory| trail.follow(&directory));
            }
        }
        for directory in &self.directories {
            // A file that appears in it.
            PAIRS.iter().flat_map(|(chain, key)| [chain, key]).for_each(|name| trail.follow(&directory.join(name)));
        }
    }

    /// The paths of the files in which two reads differ.
    pub fn changed(&self, now: &Self) -> Vec<PathBuf> {
        let is_known = |read: &&Arc<ReadReference>| !self.read.iter().any(|last| last.same_content(read));
        let changed = now.read.iter().filter(is_known);
        let gone = self.read.iter().filter(|last| !now.read.iter().any(|read| read.same_content(last)));
        let files = changed.chain(gone).flat_map(|read| &read.reference.files).map(|file| file.path.clone());
        files.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl ReadReference {
    fn new(reference: Reference, glob: Option<&Path>, last: &ReferencedFiles, budget: &mut u64) -> Arc<Self> {
        let before = last.read.iter().find(|before| before.reference.is_same(&reference));
        let read = |(index, file): (usize, &ReferenceFile)| {
            let before = before.and_then(|before| before.files.get(index)?.as_ref().ok());
            read_referenced(&file.path, before, budget)
        };
        let files: Vec<_> = reference.files.iter().enumerate().map(read).collect();
        let first = || reference.files.first().map(|file| file.path.clone()).unwrap_or_default();
        let origin = glob.map_or_else(first, Path::to_owned);
        match before.filter(|before| before.files == files) {
            Some(before) if before.reference == reference && before.origin == origin => Arc::clone(before),
            Some(before) => Arc::new(Self { reference, origin, files, material: before.material.clone() }),
            None => {
                let material = parse(&reference, &files);
                Arc::new(Self { reference, origin, files, material })
            }
        }
    }

    fn nothing_found(glob: &Reference, no_directory: bool) -> Self {
        let reason = match no_directory {
            true => Reason::new(format!("no directory matches `{}`", glob.shown()))
                .hint("create it with tls.crt and tls.key, or fullchain.pem and privkey.pem, in it"),
            false => Reason::new(format!("there is no certificate in `{}`", glob.shown()))
                .hint("each directory needs tls.crt and tls.key, or fullchain.pem and privkey.pem"),
        };
        let origin = glob.files.first().map(|file| file.path.clone()).unwrap_or_default();
        Self { reference: glob.clone(), origin, files: Vec::new(), material: Err((0, reason)) }
    }

    /// Whether it is the same files with the same content.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.reference == other.reference && self.files == other.files
    }

    /// The certificate, if it is one that can be used.
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.material {
            Ok(Material::Certificate(certificate)) => Some(certificate),
            Ok(Material::Bytes(_)) | Err(_) => None,
        }
    }
}

impl Reference {
    /// Its first file, as shown.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.files.first().map_or("", |file| &file.shown)
    }
}

/// The pairs of which at least one file is in the directory.
fn pairs_in(glob: &Reference, directory: &Path) -> Vec<Reference> {
    let file = |name: &str| {
        let path = directory.join(name);
        ReferenceFile { shown: shown_in(glob, directory).join(name).display().to_string(), path, key: "directory" }
    };
    let exists = |file: &ReferenceFile| file.path.symlink_metadata().is_ok();
    let pairs = PAIRS.iter().map(|(chain, key)| [file(chain), file(key)]);
    let found = pairs.filter(|files| files.iter().any(exists));
    found.map(|files| Reference { role: Role::Certificate, files: files.into(), ..glob.clone() }).collect()
}

/// A directory that a glob matches, as a path like the glob was typed.
fn shown_in(glob: &Reference, directory: &Path) -> PathBuf {
    let Some(typed) = glob.files.first() else { return directory.to_owned() };
    // Its base is the rest of the path to open.
    let base = typed.path.to_string_lossy().strip_suffix(&typed.shown).map(PathBuf::from);
    base.and_then(|base| directory.strip_prefix(base).ok().map(Path::to_owned)).unwrap_or_else(|| directory.to_owned())
}

/// Parses the files of a reference for its use.
fn parse(reference: &Reference, files: &[Result<SourceFile, Reason>]) -> Result<Material, (usize, Reason)> {
    let mut read = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let shown = |file: &ReferenceFile| file.shown.clone();
        let name = reference.files.get(index).map(shown).unwrap_or_default();
        match file {
            Ok(file) => read.push(file),
            Err(reason) => return Err((index, about(reason, reference, &name))),
        }
    }
    match (reference.role, read.as_slice()) {
        (Role::Certificate | Role::UpstreamCertificate, [chain, key]) => {
            let parse = match reference.role {
                Role::UpstreamCertificate => Certificate::parse_for_servers,
                _ => Certificate::parse,
            };
            let certificate = parse(&chain.bytes, &key.bytes).map_err(|error| {
                let index = usize::from(error.file == PairFile::Key);
                let name = if error.file == PairFile::Both { "" } else { &reference.files[index].shown };
                (index, about(&error.reason, reference, name))
            })?;
            Ok(Material::Certificate(Arc::new(certificate)))
        }
        (role, [file, ..]) => {
            check(role, file).map_err(|reason| (0, about(&reason, reference, reference.shown())))?;
            Ok(Material::Bytes((*file).clone()))
        }
        (_, []) => Err((0, Reason::new("there is no such file"))),
    }
}

/// Checks the content of a file that is not part of a pair.
fn check(role: Role, file: &SourceFile) -> Result<(), Reason> {
    match role {
        Role::ClientCa => parse_authorities(&file.bytes).map(drop),
        Role::UpstreamCa | Role::AcmeCa => parse_roots(&file.bytes).map(drop),
        Role::ClientCrl => parse_revoked(&file.bytes).map(drop),
        Role::TicketKey if file.bytes.len() < 32 => {
            Err(Reason::new(format!("a ticket key has at least 32 bytes, and this one has {}", file.bytes.len()))
                .hint("create one with `openssl rand -out FILE 48`"))
        }
        _ => Ok(()),
    }
}

/// The reason with the names of the files: of a pair both, because either may be the wrong one.
fn about(reason: &Reason, reference: &Reference, file: &str) -> Reason {
    let message = match reference.files.as_slice() {
        [chain, key] if file.is_empty() => format!("{} and {}: {}", chain.shown, key.shown, reason.message),
        [chain, key] => format!("{} and {}: {file}: {}", chain.shown, key.shown, reason.message),
        _ => format!("{file}: {}", reason.message),
    };
    let about = Reason::new(message);
    match &reason.hint {
        Some(hint) => about.hint(hint),
        None => about,
    }
}
