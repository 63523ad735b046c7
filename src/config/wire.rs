//! Values as the API tells them: units and patterns as people write them, read back by what reads the file.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::problem::Fault;
use crate::config::{Address, HostPattern, StatusRanges, values};

/// Each a module for serde's `with`.
macro_rules! units {
    ($($name:ident, $type:ty, $format:path, $parse:path;)*) => {$(
        pub(super) mod $name {
            use super::*;

            pub(in crate::config) fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&$format(*value))
            }

            pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                text(deserializer, $parse)
            }
        }
    )*};
}

units! {
    duration, std::time::Duration, crate::config::units::format_duration, crate::config::units::parse_duration;
    size, u64, crate::config::units::format_size, crate::config::units::parse_size;
    percent, f64, crate::config::units::format_percent, crate::config::units::parse_percent;
}

/// Each the text that it displays as.
macro_rules! texts {
    ($($type:ty, $parse:path;)*) => {$(
        impl FromStr for $type {
            type Err = Fault;

            fn from_str(text: &str) -> Result<Self, Fault> {
                $parse(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text(deserializer, $parse)
            }
        }
    )*};
}

texts! {
    Address, values::server_address;
    HostPattern, values::host_pattern;
    StatusRanges, values::status_ranges;
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(domain) => write!(f, "*.{domain}"),
        }
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            if range.start() == range.end() {
                write!(f, "{separator}{}", range.start())?;
            } else {
                write!(f, "{separator}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, Fault>,
) -> Result<T, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(|fault| D::Error::custom(fault.message))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    #[test]
    fn what_the_api_tells_of_a_configuration_is_all_of_it() {
        let mut compared = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).expect("examples") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let file = SourceFile::new(&path, std::fs::read(&path).expect("read"));
            let config = parse(&[file], &|_| None).expect("a good file");
            let told = serde_json::to_string(&config).expect("JSON");
            assert_eq!(serde_json::from_str::<Config>(&told).expect(&told), config, "{}", path.display());
            compared += 1;
        }
        assert!(compared > 4, "only {compared}");
    }

    #[test]
    fn what_is_no_configuration_is_an_error() {
        for (told, why) in [("{}", "missing field `listener`"), ("[]", "invalid length")] {
            let error = serde_json::from_str::<Config>(told).expect_err(told).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
