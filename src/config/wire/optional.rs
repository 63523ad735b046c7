//! Modules for serde's `with`: names of files, and values that may be missing.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::FilePath;
use crate::config::problem::Reason;

/// Text, or `null` if there is none.
pub(in crate::config) mod optional_text {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer, T: fmt::Display>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err = Reason>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse()).transpose().map_err(|reason: Reason| D::Error::custom(reason.message))
    }
}

/// The name of a file as typed.
pub(in crate::config) mod path {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(file: &FilePath, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&file.path.display())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FilePath, D::Error> {
        String::deserialize(deserializer).map(file_path)
    }
}

/// The name of a file as typed, or `null` if there is none.
pub(in crate::config) mod optional_path {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        file: &Option<FilePath>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        file.as_ref().map(|file| file.path.to_string_lossy()).serialize(serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<FilePath>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(file_path))
    }
}

/// The names of files as typed.
pub(in crate::config) mod paths {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(files: &[FilePath], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(files.iter().map(|file| file.path.to_string_lossy()))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<FilePath>, D::Error> {
        Ok(Vec::<String>::deserialize(deserializer)?.into_iter().map(file_path).collect())
    }
}

pub(super) fn file_path(path: String) -> FilePath {
    FilePath { path: path.into(), base: PathBuf::new() }
}
