//! The configuration as JSON in the API: values are written as in the file, and read back by the same parsers. A value
//! from the environment is written as it was typed.

mod optional;

use std::fmt;
use std::mem;
use std::str::FromStr;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::config::file::keys::{self, KeySpec, TextFormat, ValueType};
use crate::config::file::{self, Env};
use crate::config::problem::Reason;
use crate::config::{
    AccessLogTarget, Address, Config, HostPattern, HttpsRedirect, PoolConfig, PoolRef, SocketAddress, SocketMode,
    StatusRanges, UpstreamTlsConfig, values,
};

use optional::file_path;
pub(super) use optional::{optional_path, optional_text, path, paths};

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

pub(super) mod optional_duration {
    use std::time::Duration;

    use super::*;
    use crate::config::units::{format_duration, parse_duration};

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(format_duration).serialize(serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse_duration(&text)).transpose().map_err(|reason| D::Error::custom(reason.message))
    }
}

impl Serialize for AccessLogTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Stdout => serializer.serialize_bool(true),
            Self::File(file) => serializer.collect_str(&file.path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for AccessLogTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::Stdout),
            Value::String(path) => Ok(Self::File(file_path(path))),
            other => Err(D::Error::custom(format!("invalid destination of the access log: {other}"))),
        }
    }
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
    SocketAddress, values::listen_address;
    HostPattern, values::host_pattern;
    StatusRanges, values::status_ranges;
    HttpsRedirect, values::https_redirect;
    SocketMode, values::socket_mode;
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived function, which is not this trait's.
        if !uses_env(self) {
            return Self::serialize(self, serializer);
        }
        let mut value = Self::serialize(self, serde_json::value::Serializer).map_err(S::Error::custom)?;
        cover(self, &mut value);
        value.serialize(serializer)
    }
}

/// Whether any value may not be shown.
fn uses_env(config: &Config) -> bool {
    let of_pool = |pool: &PoolConfig| !pool.env.is_empty() || pool.servers.iter().any(|server| !server.env.is_empty());
    !config.env.is_empty()
        || config.listeners.iter().any(|listener| !listener.env.is_empty())
        || config.certificates.iter().any(|certificate| !certificate.env.is_empty())
        || config.routes.iter().any(|route| !route.env.is_empty())
        || config.pools.iter().any(|pool| of_pool(pool))
}

fn cover(config: &Config, value: &mut Value) {
    config.env.cover(value);
    for (index, listener) in config.listeners.iter().enumerate() {
        listener.env.cover(&mut value["listener"][index]);
    }
    for (index, certificate) in config.certificates.iter().enumerate() {
        certificate.env.cover(&mut value["certificate"][index]);
    }
    for (index, route) in config.routes.iter().enumerate() {
        route.env.cover(&mut value["route"][index]);
    }
    for (index, pool) in config.pools.iter().enumerate() {
        let value = &mut value["pool"][index];
        pool.env.cover(value);
        for (index, server) in pool.servers.iter().enumerate() {
            server.env.cover(&mut value["server"][index]);
        }
    }
}

impl Config {
    /// Reads the JSON of the API. Values from the environment are taken from this process's own; what it does not have is
    /// made up, but still shown and compared as it was typed.
    ///
    /// # Errors
    /// If the JSON is not a configuration.
    pub fn from_json(json: &Value, env: &Env<'_>) -> Result<Self, serde_json::Error> {
        let read = |env: &Env<'_>| {
            let mut json = json.clone();
            uncover(&mut json, keys::ROOT, env);
            serde_json::from_value(json)
        };
        // With another environment, values may be invalid.
        read(env).or_else(|_| read(&|_| None))
    }
}

/// Replaces every text in a table that refers to the environment, and adds these texts to it as `env`.
fn uncover(table: &mut Value, keys: &[KeySpec], env: &Env<'_>) {
    let mut texts = Map::new();
    uncover_table(table, keys, "", env, &mut texts);
    if let (Value::Object(table), false) = (table, texts.is_empty()) {
        table.insert("env".to_owned(), texts.into());
    }
}

fn uncover_table(table: &mut Value, keys: &[KeySpec], prefix: &str, env: &Env<'_>, texts: &mut Map<String, Value>) {
    for KeySpec { name, value: kind, .. } in keys {
        let Some(value) = table.get_mut(*name) else { continue };
        let path = format!("{prefix}{name}");
        match (kind, value) {
            (ValueType::TableArray(keys) | ValueType::NamedTables(keys), Value::Array(tables)) => {
                tables.iter_mut().for_each(|table| uncover(table, keys, env));
            }
            (
                ValueType::Table(keys) | ValueType::TableOrFalse(keys) | ValueType::TableOrBoolean(keys),
                value @ Value::Object(_),
            ) => {
                uncover_table(value, keys, &format!("{path}."), env, texts);
            }
            (kind @ ValueType::TextTable, Value::Object(texts_by_name)) => {
                for (name, value) in texts_by_name {
                    uncover_value(value, kind, format!("{path}.{name}"), env, texts);
                }
            }
            (kind, Value::Array(values)) => {
                for (index, value) in values.iter_mut().enumerate() {
                    uncover_value(value, kind, format!("{path}.{index}"), env, texts);
                }
            }
            (kind, value) => uncover_value(value, kind, path, env, texts),
        }
    }
}

fn uncover_value(value: &mut Value, kind: &ValueType, path: String, env: &Env<'_>, texts: &mut Map<String, Value>) {
    let Value::String(typed) = &*value else { return };
    if !typed.contains("${") {
        return;
    }
    let real = file::expand(typed, env).and_then(|text| from_text(kind, &text));
    let real = real.unwrap_or_else(|| stand_in(kind, typed));
    texts.insert(path, mem::replace(value, real));
}

/// The JSON of a text from the environment.
fn from_text(kind: &ValueType, text: &str) -> Option<Value> {
    match kind {
        ValueType::Integer(_) => text.trim().parse::<i64>().ok().map(Value::from),
        ValueType::Number(_) => text.trim().parse::<f64>().ok().map(Value::from),
        ValueType::Boolean => text.trim().parse::<bool>().ok().map(Value::from),
        ValueType::BooleanOrText(_) => Some(text.trim().parse::<bool>().map_or_else(|_| text.into(), Value::from)),
        // It can only be `false`.
        ValueType::TableOrFalse(_) => Some(Value::Null),
        ValueType::TableOrBoolean(_) => Some(match text.trim() {
            "true" => serde_json::to_value(UpstreamTlsConfig::default()).unwrap_or_default(),
            _ => Value::Null,
        }),
        ValueType::Text(format) if text.is_empty() && format.may_be_empty() => Some(Value::Null),
        _ => Some(text.into()),
    }
}

/// A valid value in place of one that is not known.
fn stand_in(kind: &ValueType, typed: &str) -> Value {
    match kind {
        ValueType::Text(format) | ValueType::TextList(format) => match format {
            format if format.may_be_empty() => Value::Null,
            TextFormat::Address => "0.0.0.0:1".into(),
            TextFormat::HostPattern => "unknown.invalid".into(),
            TextFormat::Statuses => "200".into(),
            TextFormat::Network => "0.0.0.0/32".into(),
            TextFormat::Protocol => "http/1.1".into(),
            TextFormat::Mode => "0660".into(),
            TextFormat::HttpsUrl => "https://unknown.invalid/".into(),
            // Not parsed any further.
            _ => typed.into(),
        },
        ValueType::Duration { .. } => "1s".into(),
        ValueType::Size(_) => "0".into(),
        ValueType::Percent => "0%".into(),
        ValueType::Integer(range) => (*range.start()).into(),
        ValueType::Number(range) => (*range.start()).into(),
        ValueType::Boolean | ValueType::BooleanOrText(_) => true.into(),
        ValueType::TextTable => typed.into(),
        ValueType::Choice(words) => words.first().copied().into(),
        _ => Value::Null,
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
            Self::Unix(path) => path.fmt(f),
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
            // Without its directory, which JSON does not have.
            let name = path.file_name().expect("a name");
            let file = SourceFile::new(name, std::fs::read(&path).expect("read"));
            let config = parse(&[file], &|_| None).expect("a good file");
            let json = serde_json::to_string(&config).expect("JSON");
            let mut read: Config = serde_json::from_str(&json).expect(&json);
            // The directory of the file is not part of it.
            read.acme.state_dir.base.clone_from(&config.acme.state_dir.base);
            assert_eq!(read, config, "{}", path.display());
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
