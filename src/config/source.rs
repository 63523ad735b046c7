//! A configuration file as read: its path, bytes and SHA-256.

use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// One file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// As it was named.
    pub path: PathBuf,
    /// What was in it. Cheap to clone.
    pub bytes: Bytes,
    /// The SHA-256 of the bytes, in hexadecimal digits.
    pub hash: String,
}

impl SourceFile {
    /// A file of these bytes.
    pub fn new(path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { path: path.into(), hash: sha256(&bytes), bytes: bytes.into() }
    }
}

/// The SHA-256 of `bytes` in hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    const_hex::encode(Sha256::digest(bytes))
}
