//! Compares two configurations: the changes that an edit makes.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{
    AcmeConfig, AdminConfig, BalanceConfig, CertificateConfig, CollectorUrl, Config, EnvTexts, HealthConfig,
    LimitsConfig, ListenerConfig, LogConfig, PoolConfig, ProxyConfig, ReloadConfig, RetryConfig, ServerConfig,
    TimeoutsConfig, TracingConfig, UpstreamConfig,
};

pub use change::{Change, Scope};

/// Returns the changes of listeners, of the settings at the top level, of routes, and then, pool by pool, of settings
/// and servers. The order of listeners and of routes has no effect, so it is not compared.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    listeners(old, new, &mut changes);
    certificates(old, new, &mut changes);
    settings(&Scope::Top, &sections(old), &sections(new), &mut changes);
    collectors(old, new, &mut changes);
    routes(old, new, &mut changes);
    pools(old, new, &mut changes);
    changes
}

/// Returns the lengths of the common prefix of two lists, and of the common suffix of what remains. An edit usually
/// changes a few of many servers; those are in between.
#[must_use]
pub fn common_ends<T: PartialEq>(old: &[T], new: &[T]) -> (usize, usize) {
    let equal = |(was, is): &(&T, &T)| was == is;
    let prefix = old.iter().zip(new).take_while(equal).count();
    let suffix = old[prefix..].iter().rev().zip(new[prefix..].iter().rev()).take_while(equal).count();
    (prefix, suffix)
}

/// The parts of a configuration that are compared key by key.
#[derive(Serialize)]
struct Sections<'a> {
    acme: &'a AcmeConfig,
    admin: &'a AdminConfig,
    proxy: &'a ProxyConfig,
    reload: &'a ReloadConfig,
    log: &'a LogConfig,
    tracing: &'a TracingConfig,
    timeouts: &'a TimeoutsConfig,
    limits: &'a LimitsConfig,
}

/// The parts of a pool that are compared key by key.
#[derive(Serialize)]
struct PoolRules<'a> {
    balance: &'a BalanceConfig,
    health: &'a HealthConfig,
    retry: &'a RetryConfig,
    upstream: &'a UpstreamConfig,
}

/// Tables as JSON, with the values in them that may not be shown.
struct Settings<'a> {
    json: Map<String, Value>,
    env: &'a EnvTexts,
}

fn sections(config: &Config) -> Settings<'_> {
    // Every field is named, so that the compiler reports one that is forgotten here.
    let Config {
        listeners: _,
        certificates: _,
        routes: _,
        pools: _,
        acme,
        admin,
        proxy,
        reload,
        log,
        tracing,
        timeouts,
        limits,
        env,
    } = config;
    Settings { json: object(&Sections { acme, admin, proxy, reload, log, tracing, timeouts, limits }), env }
}

fn rules(pool: &PoolConfig) -> Settings<'_> {
    let PoolConfig { name: _, servers: _, balance, health, retry, upstream, env } = pool;
    let mut json = object(&PoolRules { balance, health, retry, upstream });
    // A path that is left out is more than its default.
    if let Some(Value::Object(json)) = json.get_mut("health")
        && json.remove("default_path").is_some()
    {
        json.insert("path".to_owned(), format!("{} by default", health.path).into());
    }
    Settings { json, env }
}

fn listeners(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for sides in pairs(&old.listeners, &new.listeners, |listener| &listener.name).into_values() {
        match sides {
            Sides::Old(was) => changes.push(Change::ListenerRemoved(was.clone())),
            Sides::New(is) => changes.push(Change::ListenerAdded(is.clone())),
            Sides::Both(was, is) => {
                let address = Sided { key: "address", was: (&was.env, &was.address), is: (&is.env, &is.address) };
                let listener = is.env.show("name", &is.name);
                if let Some((from, to)) = address.change() {
                    changes.push(Change::ListenerAddress { listener: listener.clone(), from, to });
                }
                settings(&Scope::Listener(listener), &listener_rules(was), &listener_rules(is), changes);
            }
        }
    }
}

fn listener_rules(listener: &ListenerConfig) -> Settings<'_> {
    let mut json = object(listener);
    // These are compared by themselves.
    json.remove("name");
    json.remove("address");
    Settings { json, env: &listener.env }
}

fn certificates(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let names = |config: &Config| -> BTreeMap<String, (bool, Option<String>)> {
        let facts = |certificate: &CertificateConfig| (certificate.default, certificate.acme_names());
        config.certificates.iter().map(|certificate| (certificate.name(), facts(certificate))).collect()
    };
    let (was, is) = (names(old), names(new));
    for name in was.keys().filter(|name| !is.contains_key(*name)) {
        changes.push(Change::CertificateRemoved(name.clone()));
    }
    for (name, (default, acme_names)) in &is {
        let Some((was_default, was_names)) = was.get(name) else {
            changes.push(Change::CertificateAdded(name.clone()));
            continue;
        };
        if was_default != default {
            changes.push(Change::CertificateDefault { certificate: name.clone(), default: *default });
        }
        if was_names != acme_names {
            let [from, to] = [was_names, acme_names].map(|names| names.clone().unwrap_or_else(|| "none".to_owned()));
            changes.push(Change::CertificateNames { certificate: name.clone(), from, to });
        }
    }
}

fn routes(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for sides in pairs(&old.routes, &new.routes, |route| &route.name).into_values() {
        let (was, is) = match sides {
            Sides::Old(was) => {
                changes.push(Change::RouteRemoved(was.clone()));
                continue;
            }
            Sides::New(is) => {
                changes.push(Change::RouteAdded(is.clone()));
                continue;
            }
            Sides::Both(was, is) => (was, is),
        };
        let route = || is.env.show("name", &is.name);
        let host = Sided { key: "host", was: (&was.env, &was.host), is: (&is.env, &is.host) };
        let path = Sided { key: "path", was: (&was.env, &was.path), is: (&is.env, &is.path) };
        let pool = Sided { key: "pool", was: (&was.env, &was.pool), is: (&is.env, &is.pool) };
        for (key, change) in [("host", host.change()), ("path", path.change()), ("pool", pool.change())] {
            changes.extend(change.map(|(from, to)| Change::RouteChanged { route: route(), key, from, to }));
        }
    }
}

fn pools(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for (name, sides) in pairs(&old.pools, &new.pools, |pool| &pool.name) {
        match sides {
            Sides::Both(was, is) if Arc::ptr_eq(was, is) => {}
            Sides::Old(was) => {
                changes.push(Change::PoolRemoved(name.to_owned()));
                servers(name, &was.servers, &[], changes);
            }
            Sides::New(is) => {
                changes.push(Change::PoolAdded(name.to_owned()));
                servers(name, &[], &is.servers, changes);
            }
            Sides::Both(was, is) => {
                settings(&Scope::Pool(name.to_owned()), &rules(was), &rules(is), changes);
                servers(name, &was.servers, &is.servers, changes);
            }
        }
    }
}

fn servers(pool: &str, old: &[ServerConfig], new: &[ServerConfig], changes: &mut Vec<Change>) {
    let (prefix, suffix) = common_ends(old, new);
    let (old, new) = (&old[prefix..old.len() - suffix], &new[prefix..new.len() - suffix]);
    let pool = || pool.to_owned();
    let mut same_names = true;
    for sides in pairs(old, new, |server| &server.name).into_values() {
        let (was, is) = match sides {
            Sides::Old(was) => {
                same_names = false;
                changes.push(Change::ServerRemoved { pool: pool(), server: was.clone() });
                continue;
            }
            Sides::New(is) => {
                same_names = false;
                changes.push(Change::ServerAdded { pool: pool(), server: is.clone() });
                continue;
            }
            Sides::Both(was, is) => (was, is),
        };
        let server = || is.env.show("name", &is.name);
        let address = Sided { key: "address", was: (&was.env, &was.address), is: (&is.env, &is.address) };
        let weight = Sided { key: "weight", was: (&was.env, &was.weight), is: (&is.env, &is.weight) };
        if let Some((from, to)) = address.change() {
            changes.push(Change::ServerAddress { pool: pool(), server: server(), from, to });
        }
        if let Some((from, to)) = weight.change() {
            changes.push(Change::ServerWeight { pool: pool(), server: server(), from, to });
        }
        if was.enabled != is.enabled && !was.env.same(&is.env, "enabled") {
            let enabled = is.enabled;
            changes.push(Change::ServerEnabled { pool: pool(), server: server(), enabled });
        }
    }
    if same_names && old.iter().zip(new).any(|(was, is)| was.name != is.name) {
        changes.push(Change::PoolOrder(pool()));
    }
}

/// A key's value in both configurations, with what of each may not be shown.
struct Sided<'a, T> {
    key: &'a str,
    was: (&'a EnvTexts, &'a T),
    is: (&'a EnvTexts, &'a T),
}

impl<T: Display> Sided<'_, T> {
    /// Both values as shown, if they differ.
    fn change(&self) -> Option<(String, String)> {
        let &Self { key, was: (old, was), is: (new, is) } = self;
        let (from, to) = (old.show(key, was), new.show(key, is));
        (from != to && !old.same(new, key)).then_some((from, to))
    }
}

/// Adds every key whose value differs. The serialized forms are compared, so that a new key needs no code here.
fn settings(scope: &Scope, old: &Settings<'_>, new: &Settings<'_>, changes: &mut Vec<Change>) {
    let mut pending = vec![(String::new(), &old.json, &new.json)];
    while let Some((prefix, was, is)) = pending.pop() {
        let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for key in keys {
            let path = match prefix.as_str() {
                "" => key.clone(),
                prefix => format!("{prefix}.{key}"),
            };
            let (was, is) = (was.get(key).unwrap_or(&Value::Null), is.get(key).unwrap_or(&Value::Null));
            if let (Value::Object(was), Value::Object(is)) = (was, is) {
                pending.push((path, was, is));
                continue;
            }
            if old.env.same(new.env, &path) {
                continue;
            }
            let (from, to) = (in_words(&path, was, old.env), in_words(&path, is, new.env));
            if from != to {
                changes.push(Change::Setting { scope: scope.clone(), key: path, from, to });
            }
        }
    }
}

/// Adds the collectors of which only what is not shown differs.
fn collectors(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let differ = collector_pairs(old, new).filter(|(_, was, is)| was.differs_unseen(is));
    changes.extend(differ.map(|(key, _, is)| Change::Credentials { key, shown: is.to_string() }));
}

/// The keys of the collectors whose credentials cannot be compared, if `old` was read in the form that is shown.
pub fn hidden_credentials<'a>(old: &'a Config, new: &'a Config) -> impl Iterator<Item = &'static str> {
    collector_pairs(old, new).filter(|(_, was, is)| was.alike_but_hidden(is)).map(|(key, ..)| key)
}

/// The collectors that both have, with their keys.
fn collector_pairs<'a>(
    old: &'a Config,
    new: &'a Config,
) -> impl Iterator<Item = (&'static str, &'a CollectorUrl, &'a CollectorUrl)> {
    let (was, is) = (&old.tracing, &new.tracing);
    let both = [("tracing.zipkin", &was.zipkin, &is.zipkin), ("tracing.otlp", &was.otlp, &is.otlp)];
    both.into_iter().filter_map(|(key, was, is)| Some((key, was.as_ref()?, is.as_ref()?)))
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    // Plain values under string keys always serialize.
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The value at `path` as shown.
fn in_words(path: &str, value: &Value, env: &EnvTexts) -> String {
    if let Some(typed) = env.typed(path) {
        return typed.to_owned();
    }
    match value {
        Value::Null if path.ends_with("tls") => "off".to_owned(),
        Value::Null => "none".to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let element = |(index, value)| in_words(&format!("{path}.{index}"), value, env);
            let values: Vec<String> = values.iter().enumerate().map(element).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(map) => {
            let pair =
                |(key, value): (&String, &Value)| format!("{key} {}", in_words(&format!("{path}.{key}"), value, env));
            // Of a table that turns TLS on, only the keys that are set matter.
            let matters = |(_, value): &(&String, &Value)| !path.ends_with("tls") || !value.is_null();
            let pairs: Vec<String> = map.iter().filter(matters).map(pair).collect();
            pairs.join(", ")
        }
        other => other.to_string(),
    }
}

/// The elements with the same name: from the old list, from the new one, or from both.
enum Sides<'a, T> {
    Old(&'a T),
    New(&'a T),
    Both(&'a T, &'a T),
}

/// Pairs the elements of two lists by name, in alphabetical order.
fn pairs<'a, T>(old: &'a [T], new: &'a [T], name: impl Fn(&'a T) -> &'a str) -> BTreeMap<&'a str, Sides<'a, T>> {
    let mut pairs: BTreeMap<&str, Sides<'_, T>> = BTreeMap::new();
    for was in old {
        pairs.insert(name(was), Sides::Old(was));
    }
    for is in new {
        let sides = match pairs.remove(name(is)) {
            Some(Sides::Old(was)) => Sides::Both(was, is),
            _ => Sides::New(is),
        };
        pairs.insert(name(is), sides);
    }
    pairs
}

#[cfg(test)]
mod tests;
