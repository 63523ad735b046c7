//! The configuration as JSON in the API: values are written as in the file, and read back by the same parsers.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::problem::Reason;
use crate::config::{Address, Config, HostPattern, PoolRef, StatusRanges, values};

/// Defines modules for serde's `with`.
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

/// Serializes types as the text that they display as.
macro_rules! texts {
    ($($type:ty, $parse:path;)*) => {$(
        impl FromStr for $type {
            type Err = Reason;

            fn from_str(text: &str) -> Result<Self, Reason> {
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

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived function, which is not this trait's.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut config = Self::deserialize(deserializer)?;
        for route in &mut config.routes {
            let pool = PoolRef::find(&config.pools, &route.pool.name);
            route.pool = pool.ok_or_else(|| D::Error::custom(format!("there is no pool `{}`", route.pool.name)))?;
        }
        Ok(config)
    }
}

impl Serialize for PoolRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// Reads a route's pool. Its index is set once the whole configuration has been read.
pub(super) fn unresolved_pool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PoolRef, D::Error> {
    Ok(PoolRef { name: String::deserialize(deserializer)?, index: usize::MAX })
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
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
    parse: impl Fn(&str) -> Result<T, Reason>,
) -> Result<T, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(|reason| D::Error::custom(reason.message))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    #[test]
    fn a_configuration_survives_the_way_through_json() {
        let mut compared = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).expect("examples") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let file = SourceFile::new(&path, std::fs::read(&path).expect("read"));
            let config = parse(&[file], &|_| None).expect("a good file");
            let json = serde_json::to_string(&config).expect("JSON");
            assert_eq!(serde_json::from_str::<Config>(&json).expect(&json), config, "{}", path.display());
            compared += 1;
        }
        assert!(compared > 4, "only {compared}");
    }

    #[test]
    fn other_json_is_an_error() {
        for (json, why) in [("{}", "missing field `listener`"), ("[]", "invalid length")] {
            let error = serde_json::from_str::<Config>(json).expect_err(json).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_route_to_a_missing_pool_is_an_error() {
        let file = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[server]]\nname = \"a\"\naddress = \"a:1\"\n";
        let config = parse(&[SourceFile::new("lb.toml", file)], &|_| None).expect("a good file");
        let json = serde_json::to_string(&config).expect("JSON").replace("\"pool\":\"default\"", "\"pool\":\"other\"");
        let error = serde_json::from_str::<Config>(&json).expect_err(&json).to_string();
        assert!(error.contains("there is no pool `other`"), "{error}");
    }
}
