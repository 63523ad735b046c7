//! What only the whole shows: names that are there twice, routes that lead nowhere, empty pools.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::report::Report;
use super::tree::Place;
use crate::config::file::tables::{Draft, DraftListener, DraftPool, DraftRoute, DraftServer};
use crate::config::problem::Fault;
use crate::config::{
    Config, DEFAULT_POOL, HostPattern, ListenerConfig, PoolConfig, RouteConfig, ServerConfig, overlap, suggest,
};

/// The configuration, whole only if nothing was reported.
pub(super) fn resolve(mut draft: Draft, report: &Report<'_>) -> Config {
    check_listeners(&draft, report);
    check_routes(&draft, report);
    for (name, pool) in &draft.pools {
        check_pool(name, pool, report);
    }
    check_emptiness(&mut draft, report);
    Config {
        listeners: draft.listeners.into_iter().filter_map(listener).collect(),
        admin: draft.admin,
        proxy: draft.proxy,
        reload: draft.reload,
        log: draft.log,
        tracing: draft.tracing,
        timeouts: draft.timeouts,
        limits: draft.limits,
        routes: routes(draft.routes),
        pools: draft.pools.into_iter().map(|(name, draft)| Arc::new(pool(name, draft))).collect(),
    }
}

fn check_listeners(draft: &Draft, report: &Report<'_>) {
    if draft.listeners.is_empty() {
        report.whole(
            Fault::new("there is no [[listener]], so no client could connect")
                .hint("add `[[listener]]` and `address = \"0.0.0.0:8080\"`"),
        );
    }
    let mut addresses = Once::new(report);
    let mut names = Once::new(report);
    let mut before = Vec::new();
    for listener in &draft.listeners {
        let Some(address) = &listener.address else {
            continue;
        };
        let fresh = addresses.see(address.value, address.place, |first| {
            Fault::new(format!("another listener has the address {} already, {first}", address.value))
                .hint("give this one an address of its own, or remove it")
        });
        let wider = before.iter().find(|other| **other != address.value && overlap(**other, address.value));
        if let Some(other) = wider {
            let fault = Fault::new(format!("{} overlaps with the listener at {other}", address.value));
            report.at(
                address.place,
                fault.hint("the system gives both to one of them only: keep the wider one, or take another port"),
            );
        }
        before.push(address.value);
        if overlap(draft.admin.address, address.value) {
            let fault = Fault::new(format!("[admin] listens on {} itself", draft.admin.address));
            let (place, hint) = match draft.admin_place {
                Some(place) => (place, "give [admin] another port"),
                None => (address.place, "take another port, or set `address` in [admin]"),
            };
            report.at(place, fault.hint(hint));
        }
        // A name left out is the address, of which enough has been said.
        if let Some(name) = listener.name.as_ref().filter(|_| fresh) {
            names.see(name.value.as_str(), name.place, |first| {
                Fault::new(format!("another listener is named `{}` already, {first}", name.value))
                    .hint("a listener's name is in its metrics: give each its own")
            });
        }
    }
}

fn check_routes(draft: &Draft, report: &Report<'_>) {
    let mut matches = Once::new(report);
    let mut names = Once::new(report);
    for route in &draft.routes {
        let mut fresh = true;
        if let (Some(host), Some(path)) = (&route.host, &route.path) {
            fresh = matches.see((host, path), route.place, |first| {
                Fault::new(format!("another route takes `{host}{path}` already, {first}"))
                    .hint("give the two different hosts or paths, or remove one")
            });
        }
        if let Some(name) = route.name.as_ref().filter(|_| fresh) {
            names.see(name.value.as_str(), name.place, |first| {
                Fault::new(format!("another route is named `{}` already, {first}", name.value))
                    .hint("a route's name is in its metrics: give each its own")
            });
        }
        if let Some(pool) = &route.pool
            && !is_known(&pool.value, draft)
        {
            report.at_with(pool.place, || unknown_pool(&pool.value, draft));
        }
    }
}

fn unknown_pool(name: &str, draft: &Draft) -> Fault {
    let hint = match suggest::closest(name, draft.pools.keys().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("add its servers as `[[pool.{name}.server]]`"),
    };
    Fault::new(format!("there is no pool `{name}`")).hint(hint)
}

/// The pool `default` exists for everyone who does not forget its servers.
fn is_known(pool: &str, draft: &Draft) -> bool {
    draft.pools.contains_key(pool) || pool == DEFAULT_POOL
}

fn check_pool(pool: &str, draft: &DraftPool, report: &Report<'_>) {
    let mut names = Once::new(report);
    for server in &draft.servers {
        let Some(name) = &server.name else { continue };
        names.see(name.value.as_str(), name.place, |first| {
            Fault::new(format!("pool `{pool}` has a server `{}` already, {first}", name.value))
                .hint("a server's name is unique in its pool")
        });
    }
    let enabled = || draft.servers.iter().filter(|server| server.enabled);
    if enabled().all(|server| server.weight.value == 0)
        && let Some(server) = enabled().next()
    {
        report.at(
            server.weight.place,
            Fault::new(format!("every server of pool `{pool}` has weight 0, so none takes a client"))
                .hint("give at least one a weight above 0"),
        );
    }
}

/// A pool that requests are sent to has servers, unless the file says that it may have none.
fn check_emptiness(draft: &mut Draft, report: &Report<'_>) {
    let mut used: BTreeMap<&str, Option<Place>> = BTreeMap::new();
    for pool in draft.routes.iter().filter_map(|route| route.pool.as_ref()) {
        used.entry(&pool.value).or_insert(Some(pool.place));
    }
    if draft.routes.is_empty() {
        used.insert(DEFAULT_POOL, None);
    }
    let mut wanted = false;
    for (name, place) in used {
        let empty = match draft.pools.get(name) {
            Some(pool) => pool.servers.is_empty(),
            None => name == DEFAULT_POOL,
        };
        wanted |= empty && name == DEFAULT_POOL;
        if !empty || draft.reload.allow_empty {
            continue;
        }
        let header = if name == DEFAULT_POOL { "server".to_owned() } else { format!("pool.{name}.server") };
        let fault = Fault::new(format!("pool `{name}` has no server, but requests are sent to it"))
            .hint(format!("add `[[{header}]]` with `name = \"server1\"` and `address = \"127.0.0.1:8081\"`"));
        match place {
            Some(place) => report.at(place, fault),
            None => report.whole(fault),
        }
    }
    if wanted {
        let rules = draft.rules.clone();
        let empty = DraftPool { rules, servers: Vec::new() };
        draft.pools.entry(DEFAULT_POOL.to_owned()).or_insert(empty);
    }
}

/// Reports what is there a second time, with where it was first.
struct Once<'a, K> {
    seen: HashMap<K, Place>,
    report: &'a Report<'a>,
}

impl<'a, K: Eq + Hash> Once<'a, K> {
    fn new(report: &'a Report<'a>) -> Self {
        Self { seen: HashMap::new(), report }
    }

    /// Whether this is the first time.
    fn see(&mut self, key: K, place: Place, fault: impl FnOnce(String) -> Fault) -> bool {
        match self.seen.get(&key) {
            Some(first) => {
                self.report.at(place, fault(self.report.location(place, *first)));
                false
            }
            None => self.seen.insert(key, place).is_none(),
        }
    }
}

fn listener(draft: DraftListener) -> Option<ListenerConfig> {
    Some(ListenerConfig { name: draft.name?.value, address: draft.address?.value })
}

fn routes(drafts: Vec<DraftRoute>) -> Vec<RouteConfig> {
    if drafts.is_empty() {
        return vec![RouteConfig {
            name: "default".to_owned(),
            host: HostPattern::Any,
            path: "/".to_owned(),
            pool: DEFAULT_POOL.to_owned(),
        }];
    }
    let route = |draft: DraftRoute| {
        Some(RouteConfig { name: draft.name?.value, host: draft.host?, path: draft.path?, pool: draft.pool?.value })
    };
    drafts.into_iter().filter_map(route).collect()
}

fn pool(name: String, draft: DraftPool) -> PoolConfig {
    PoolConfig {
        name,
        balance: draft.rules.balance,
        health: draft.rules.health,
        retry: draft.rules.retry,
        servers: draft.servers.into_iter().filter_map(server).collect(),
    }
}

/// The server, if all of it could be read.
pub(super) fn server(draft: DraftServer) -> Option<ServerConfig> {
    Some(ServerConfig {
        name: draft.name?.value,
        address: draft.address?,
        weight: draft.weight.value,
        enabled: draft.enabled,
    })
}
