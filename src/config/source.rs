//! A configuration file as it was read: its path, its bytes and their SHA-256.

use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// One file of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as given by the user, or as found by a glob.
    pub path: PathBuf,
    /// Cheap to clone.
    pub bytes: Bytes,
    /// The SHA-256 of the bytes, in hexadecimal.
    pub hash: String,
}

impl SourceFile {
    pub fn new(path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { path: path.into(), hash: sha256(&bytes), bytes: bytes.into() }
    }
}

/// The SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    const_hex::encode(Sha256::digest(bytes))
}
