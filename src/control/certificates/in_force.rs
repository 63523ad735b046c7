//! The contents of referenced files that are in force, and which of newer ones may replace them.

use std::path::Path;
use std::sync::Arc;

use crate::config::file::subject::locate;
use crate::config::problem::{Problem, Reason};
use crate::config::references::Role;
use crate::config::source::SourceFile;
use crate::config::units::format_date;
use crate::control::certificates::files::{Material, ReadReference, ReferencedFiles};
use crate::live::snapshot::FileVersion;
use crate::tls::certificate::Certificate;

/// The referenced files of the newest generation. All of them can be used.
#[derive(Debug, Clone, Default)]
pub struct FilesInForce(pub Vec<Arc<ReadReference>>);

/// The outcome of putting newer files in force.
#[derive(Debug)]
pub struct Replacement {
    /// The new contents, and the old ones where the new cannot be used.
    pub files: FilesInForce,
    /// Why old contents are kept.
    pub kept: Vec<Problem>,
    /// Files that cannot be used, and of which there are no old contents.
    pub missing: Vec<Problem>,
}

impl FilesInForce {
    /// The contents that are in force if the configuration in `sources` is, which refers to `new`.
    #[must_use]
    pub fn replace(&self, new: &ReferencedFiles, sources: &[SourceFile]) -> Replacement {
        let mut result = Replacement { files: Self::default(), kept: Vec::new(), missing: Vec::new() };
        for read in &new.read {
            let Err((index, reason)) = &read.material else {
                result.files.0.push(Arc::clone(read));
                continue;
            };
            let is_old = |old: &&Arc<ReadReference>| match read.reference.role {
                Role::CertificateDirectory => old.reference.role == Role::Certificate && old.origin == read.origin,
                _ => old.reference.is_same(&read.reference),
            };
            let old: Vec<_> = self.0.iter().filter(is_old).map(|old| old.marked_like(read)).collect();
            let problem = |reason: Reason| locate(sources, read.reference.subject(*index), reason);
            if old.is_empty() && read.reference.may_be_missing {
                continue;
            }
            if old.is_empty() {
                result.missing.push(problem(reason.clone()));
            } else {
                result.kept.push(problem(reason.clone()));
                result.files.0.extend(old);
            }
        }
        for old in self.0.iter().filter(|old| result.is_emptied(old, new)).cloned().collect::<Vec<_>>() {
            let names: Vec<&str> = old.reference.files.iter().map(|file| file.shown.as_str()).collect();
            let reason = Reason::new(format!("{}: the files are gone", names.join(" and ")));
            let reason = reason.hint("write them again, or delete their directory to remove the certificate");
            result.kept.push(locate(sources, old.reference.subject(0), reason));
            result.files.0.push(old);
        }
        result
    }

    /// Whether all of these files are in force, and no others.
    #[must_use]
    pub fn are(&self, new: &ReferencedFiles) -> bool {
        let counts = |read: &&Arc<ReadReference>| read.material.is_ok() || !read.reference.may_be_missing;
        self.same(&new.read.iter().filter(counts).cloned().collect::<Vec<_>>())
    }

    /// Whether `other` has the same contents.
    #[must_use]
    pub fn same(&self, other: &[Arc<ReadReference>]) -> bool {
        self.0.len() == other.len()
            && self.0.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other) || one.same_content(other))
    }

    /// The changes from these files to `new` in words.
    pub fn changes<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = String> + 'a {
        let before = |read: &ReadReference| self.0.iter().find(|old| old.reference.is_same(&read.reference));
        let changed = new.0.iter().filter_map(move |read| {
            let old = before(read);
            let name = read.reference.shown();
            if old.is_some_and(|old| old.files == read.files) {
                return None;
            }
            Some(match &read.material {
                Ok(Material::Certificate(certificate)) => {
                    let is_same = old.and_then(|old| old.certificate()).map(|old| &old.fingerprint)
                        == Some(&certificate.fingerprint);
                    let what = if is_same { "other chain or key file" } else { "new" };
                    format!("certificate {name}: {what}, {}", facts(certificate))
                }
                Ok(Material::Bytes(_)) | Err(_) => {
                    format!("file {name}: {}", if old.is_some() { "new content" } else { "added" })
                }
            })
        });
        let is_gone = |old: &&Arc<ReadReference>| !new.0.iter().any(|read| read.reference.is_same(&old.reference));
        let gone = self.0.iter().filter(is_gone).map(|old| match old.certificate() {
            Some(_) => format!("certificate {}: no longer used", old.reference.shown()),
            None => format!("file {}: no longer used", old.reference.shown()),
        });
        changed.chain(gone)
    }

    /// Each file with its hash.
    pub fn versions(&self) -> impl Iterator<Item = FileVersion> {
        self.0.iter().flat_map(|read| read.files.iter().flatten().zip(&read.reference.files)).map(|(file, named)| {
            // What comes from the environment is shown as it was typed.
            let path = if named.shown.contains("${") { Path::new(&named.shown) } else { &*file.path };
            FileVersion { path: path.to_owned(), hash: file.hash.as_str().into() }
        })
    }

    /// The certificates that listeners show.
    pub fn certificates(&self) -> impl Iterator<Item = (&Arc<ReadReference>, &Arc<Certificate>)> {
        let own = self.0.iter().filter(|read| read.reference.role == Role::Certificate);
        own.filter_map(|read| Some((read, read.certificate()?)))
    }

    /// The content of the file at `path`, for `role`.
    #[must_use]
    pub fn bytes(&self, role: Role, path: &Path) -> Option<&SourceFile> {
        let mut of_role = self.0.iter().filter(|read| read.reference.role == role);
        let read = of_role.find(|read| read.reference.files.first().is_some_and(|file| file.path == path))?;
        match &read.material {
            Ok(Material::Bytes(file)) => Some(file),
            _ => None,
        }
    }

    /// The pair with this chain and this key, for `role`.
    #[must_use]
    pub fn pair(&self, role: Role, chain: &Path, key: &Path) -> Option<&Arc<Certificate>> {
        let mut of_role = self.0.iter().filter(|read| read.reference.role == role);
        let is_it = |read: &&Arc<ReadReference>| match read.reference.files.as_slice() {
            [first, second] => first.path == chain && second.path == key,
            _ => false,
        };
        of_role.find(is_it)?.certificate()
    }
}

impl Replacement {
    /// Whether `old` was found in a directory that still exists but in which its files are gone.
    fn is_emptied(&self, old: &ReadReference, new: &ReferencedFiles) -> bool {
        let directory = old.reference.files.first().and_then(|file| file.path.parent());
        let is_listed = || self.files.0.iter().any(|read| read.reference.is_same(&old.reference));
        let has_other = || {
            let parent = |read: &ReadReference| read.reference.files.first()?.path.parent().map(Path::to_owned);
            self.files.0.iter().any(|read| parent(read).as_deref() == directory)
        };
        directory.is_some_and(|directory| new.directories.contains(directory)) && !is_listed() && !has_other()
    }
}

impl ReadReference {
    /// These contents, as the table refers to them that refers to `new`.
    fn marked_like(self: &Arc<Self>, new: &Self) -> Arc<Self> {
        if self.reference.default == new.reference.default && self.reference.owner == new.reference.owner {
            return Arc::clone(self);
        }
        let mut reference = self.reference.clone();
        (reference.default, reference.owner) = (new.reference.default, new.reference.owner.clone());
        let (origin, files, material) = (self.origin.clone(), self.files.clone(), self.material.clone());
        Arc::new(Self { reference, origin, files, material })
    }
}

/// The names of a certificate and when it expires, in words.
#[must_use]
pub fn facts(certificate: &Certificate) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = certificate.subjects().collect();
    if names.len() > SHOWN {
        let more = names.len() - SHOWN;
        names.truncate(SHOWN);
        names.push(format!("{more} more"));
    }
    let of = if names.is_empty() { String::new() } else { format!("for {}, ", names.join(", ")) };
    format!("{of}expires {}", format_date(certificate.not_after))
}
