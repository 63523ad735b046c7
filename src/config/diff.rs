//! Compares two configurations: the changes that an edit makes.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{
    AdminConfig, BalanceConfig, Config, HealthConfig, LimitsConfig, LogConfig, PoolConfig, ProxyConfig, ReloadConfig,
    RetryConfig, ServerConfig, TimeoutsConfig, TracingConfig,
};

pub use change::Change;

/// Returns the changes of listeners, of the settings at the top level, of routes, and then, pool by pool, of settings
/// and servers. The order of listeners and of routes has no effect, so it is not compared.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    listeners(old, new, &mut changes);
    settings(None, &sections(old), &sections(new), &mut changes);
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
}

fn sections(config: &Config) -> Map<String, Value> {
    // Every field is named, so that the compiler reports one that is forgotten here.
    let Config { listeners: _, routes: _, pools: _, admin, proxy, reload, log, tracing, timeouts, limits } = config;
    object(&Sections { admin, proxy, reload, log, tracing, timeouts, limits })
}

fn rules(pool: &PoolConfig) -> Map<String, Value> {
    let PoolConfig { name: _, servers: _, balance, health, retry } = pool;
    object(&PoolRules { balance, health, retry })
}

fn listeners(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for (name, sides) in pairs(&old.listeners, &new.listeners, |listener| &listener.name) {
        match sides {
            Sides::Old(was) => changes.push(Change::ListenerRemoved(was.clone())),
            Sides::New(is) => changes.push(Change::ListenerAdded(is.clone())),
            Sides::Both(was, is) if was.address != is.address => {
                changes.push(Change::ListenerAddress { listener: name.to_owned(), from: was.address, to: is.address });
            }
            Sides::Both(..) => {}
        }
    }
}

fn routes(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for (name, sides) in pairs(&old.routes, &new.routes, |route| &route.name) {
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
        let values = [
            ("host", was.host.to_string(), is.host.to_string()),
            ("path", was.path.clone(), is.path.clone()),
            ("pool", was.pool.to_string(), is.pool.to_string()),
        ];
        let differ = values.into_iter().filter(|(_, from, to)| from != to);
        changes.extend(differ.map(|(key, from, to)| Change::RouteChanged { route: name.to_owned(), key, from, to }));
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
                settings(Some(name), &rules(was), &rules(is), changes);
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
    for (name, sides) in pairs(old, new, |server| &server.name) {
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
        let server = || name.to_owned();
        if was.address != is.address {
            let (from, to) = (was.address.clone(), is.address.clone());
            changes.push(Change::ServerAddress { pool: pool(), server: server(), from, to });
        }
        if was.weight != is.weight {
            let (from, to) = (was.weight, is.weight);
            changes.push(Change::ServerWeight { pool: pool(), server: server(), from, to });
        }
        if was.enabled != is.enabled {
            let enabled = is.enabled;
            changes.push(Change::ServerEnabled { pool: pool(), server: server(), enabled });
        }
    }
    if same_names && old.iter().zip(new).any(|(was, is)| was.name != is.name) {
        changes.push(Change::PoolOrder(pool()));
    }
}

/// Adds every key whose value differs. The serialized forms are compared, so that a new key needs no code here.
fn settings(pool: Option<&str>, old: &Map<String, Value>, new: &Map<String, Value>, changes: &mut Vec<Change>) {
    let mut pending = vec![(String::new(), old, new)];
    while let Some((prefix, old, new)) = pending.pop() {
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let path = match prefix.as_str() {
                "" => key.clone(),
                prefix => format!("{prefix}.{key}"),
            };
            let (was, is) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
            match (was, is) {
                (Value::Object(was), Value::Object(is)) => pending.push((path, was, is)),
                (was, is) if was != is => changes.push(Change::Setting {
                    pool: pool.map(str::to_owned),
                    key: path,
                    from: in_words(was),
                    to: in_words(is),
                }),
                _ => {}
            }
        }
    }
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    // Plain values under string keys always serialize.
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(in_words).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key} {}", in_words(value))).collect();
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
