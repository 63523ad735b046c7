//! Checks that involve several tables: duplicate names, routes to unknown pools, empty pools.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::report::Report;
use super::tree::Location;
use crate::config::file::tables::{Draft, DraftListener, DraftPool, DraftRoute, DraftServer};
use crate::config::problem::Reason;
use crate::config::{
    Config, DEFAULT_POOL, EnvTexts, HealthKind, HostPattern, ListenerConfig, PoolConfig, PoolRef, RouteConfig,
    ServerConfig, SocketAddress, UpstreamProtocol, overlap, suggest,
};

/// Builds the configuration. It is complete only if no problem was reported.
pub(super) fn resolve(mut draft: Draft, report: &Report<'_>) -> Config {
    check_listeners(&draft, report);
    check_acme(&draft, report);
    check_routes(&draft, report);
    for (name, pool) in &draft.pools {
        check_pool(name, pool, report);
    }
    check_grpc_checks(&draft, report);
    check_empty_pools(&mut draft, report);
    let pools: Vec<_> = draft.pools.into_iter().map(|(name, draft)| Arc::new(pool(name, draft))).collect();
    Config {
        listeners: draft.listeners.into_iter().filter_map(listener).collect(),
        certificates: draft.certificates,
        acme: draft.acme,
        admin: draft.admin,
        proxy: draft.proxy,
        reload: draft.reload,
        log: draft.log,
        tracing: draft.tracing,
        timeouts: draft.timeouts,
        limits: draft.limits,
        routes: routes(draft.routes, &pools),
        pools,
        env: draft.env,
    }
}

fn check_listeners(draft: &Draft, report: &Report<'_>) {
    if draft.listeners.is_empty() {
        report.whole(
            Reason::new("there is no [[listener]], so no client can connect")
                .hint("add `[[listener]]` and `address = \"0.0.0.0:8080\"`"),
        );
    }
    let mut addresses = Duplicates::new(report);
    let mut names = Duplicates::new(report);
    let mut before = Vec::new();
    for listener in &draft.listeners {
        if let Some(location) = listener.proxy_protocol_at.filter(|_| listener.proxy_protocol)
            && draft.proxy.trusted_proxies.is_empty()
        {
            report.at(
                location,
                Reason::new("`proxy_protocol` needs `proxy.trusted_proxies`, whose networks send the header")
                    .hint("add `trusted_proxies = [\"10.0.0.0/8\"]` with your proxies' networks to [proxy]"),
            );
        }
        let Some(address) = &listener.address else {
            continue;
        };
        let shown = listener.env.show("address", &address.value);
        let is_new = addresses.check(address.value.clone(), address.location, |first| {
            Reason::new(format!("another listener already has the address {shown}, {first}"))
                .hint("give this one its own address, or remove it")
        });
        let overlaps = |other: &SocketAddress| *other != address.value && overlap(other, &address.value);
        if let Some((_, other)) = before.iter().find(|(other, _)| overlaps(other)) {
            let reason = Reason::new(format!("{shown} overlaps with the listener at {other}"));
            report.at(
                address.location,
                reason.hint(
                    "only one of them can be bound: keep the one that covers both (`[::]` covers IPv4 too), or use another port",
                ),
            );
        }
        before.push((address.value.clone(), shown));
        if overlap(&draft.admin.address, &address.value) {
            let admin = draft.env.show("admin.address", &draft.admin.address);
            let reason = Reason::new(format!("[admin] already listens on {admin}"));
            let (location, hint) = match draft.admin_location {
                Some(location) => (location, "give [admin] another port"),
                None => (address.location, "use another port, or set `address` in [admin]"),
            };
            report.at(location, reason.hint(hint));
        }
        // The name defaults to the address, so a duplicate address would be reported twice.
        if let Some(name) = listener.name.as_ref().filter(|_| is_new) {
            names.check(name.value.as_str(), name.location, |first| {
                Reason::new(format!(
                    "another listener is already named `{}`, {first}",
                    listener.env.show("name", &name.value)
                ))
                .hint("a listener's name is a metric label: give each its own")
            });
        }
    }
}

/// Checks that each name is ordered once, and that a listener can show the certificates.
fn check_acme(draft: &Draft, report: &Report<'_>) {
    let mut names = Duplicates::new(report);
    for certificate in &draft.acme_names {
        for (index, name) in certificate.names.iter().enumerate() {
            let shown = certificate.env.show(&format!("names.{index}"), &name.value);
            names.check(name.value.as_str(), name.location, |first| {
                Reason::new(format!("`{shown}` is already ordered, {first}"))
                    .hint("leave it out here: one certificate per name is enough")
            });
        }
    }
    if let Some(first) = draft.acme_names.first()
        && draft.listeners.iter().all(|listener| listener.tls.is_none())
    {
        let reason = Reason::new("no listener has `tls`, so nobody would be shown this certificate");
        report.at(first.location, reason.hint("add a listener with `address = \"0.0.0.0:443\"` and `tls = {}`"));
    }
}

fn check_routes(draft: &Draft, report: &Report<'_>) {
    let mut matches = Duplicates::new(report);
    let mut names = Duplicates::new(report);
    for route in &draft.routes {
        let mut is_new = true;
        if let (Some(host), Some(path)) = (&route.host, &route.path) {
            is_new = matches.check((host, path), route.location, |first| {
                let (host, path) = (route.env.show("host", host), route.env.show("path", path));
                Reason::new(format!("another route already matches `{host}{path}`, {first}"))
                    .hint("give them different hosts or paths, or remove one")
            });
        }
        if let Some(name) = route.name.as_ref().filter(|_| is_new) {
            names.check(name.value.as_str(), name.location, |first| {
                Reason::new(format!(
                    "another route is already named `{}`, {first}",
                    route.env.show("name", &name.value)
                ))
                .hint("a route's name is a metric label: give each its own")
            });
        }
        if let Some(pool) = &route.pool
            && !pool_exists(&pool.value, draft)
        {
            report.at_with(pool.location, || match &route.unknown_pool {
                Some(reason) => reason.clone(),
                None => unknown_pool(&pool.value, draft),
            });
        }
    }
}

fn unknown_pool(name: &str, draft: &Draft) -> Reason {
    let hint = match suggest::closest(name, draft.pools.keys().map(String::as_str)) {
        Some(closest) => format!("did you mean `{closest}`?"),
        None => format!("add its servers as `[[pool.{name}.server]]`"),
    };
    Reason::new(format!("there is no pool `{name}`")).hint(hint)
}

/// The pool `default` always exists; if it has no server, that is reported instead.
fn pool_exists(pool: &str, draft: &Draft) -> bool {
    draft.pools.contains_key(pool) || pool == DEFAULT_POOL
}

fn check_pool(pool: &str, draft: &DraftPool, report: &Report<'_>) {
    let mut names = Duplicates::new(report);
    for server in &draft.servers {
        let Some(name) = &server.name else { continue };
        names.check(name.value.as_str(), name.location, |first| {
            Reason::new(format!(
                "pool `{pool}` already has a server `{}`, {first}",
                server.env.show("name", &name.value)
            ))
            .hint("a server's name must be unique in its pool")
        });
    }
    let enabled = || draft.servers.iter().filter(|server| server.enabled);
    if enabled().all(|server| server.weight.value == 0)
        && let Some(server) = enabled().next()
    {
        report.at(
            server.weight.location,
            Reason::new(format!("every server of pool `{pool}` has weight 0, so none gets new clients"))
                .hint("give at least one of them a weight above 0"),
        );
    }
}

/// Reports the pools whose checks are gRPC calls although requests are HTTP/1.1, once for each place that says so.
fn check_grpc_checks(draft: &Draft, report: &Report<'_>) {
    let mut reported = Vec::new();
    for (name, DraftPool { rules, .. }) in &draft.pools {
        let protocol = match rules.upstream.protocol {
            UpstreamProtocol::Http2 => continue,
            UpstreamProtocol::Auto if rules.upstream.tls.is_some() => continue,
            UpstreamProtocol::Auto => "`auto` without TLS is HTTP/1.1",
            UpstreamProtocol::Http1 => "`protocol` is \"http/1.1\"",
        };
        if let Some(location) = rules.kind_at.filter(|_| rules.health.kind == HealthKind::Grpc)
            && !reported.contains(&location)
        {
            reported.push(location);
            let reason = Reason::new(format!(
                "checks of kind \"grpc\" need servers of HTTP/2, but in [upstream] of pool `{name}`, {protocol}"
            ));
            report.at(location, reason.hint("set `protocol = \"h2\"` in [upstream], or another `kind` in [health]"));
        }
    }
}

/// Reports the pools that have no server although a route uses them, unless `allow_empty` permits that, and adds the
/// pool `default` if it is used but missing.
fn check_empty_pools(draft: &mut Draft, report: &Report<'_>) {
    let mut used: BTreeMap<&str, Option<Location>> = BTreeMap::new();
    for pool in draft.routes.iter().filter_map(|route| route.pool.as_ref()) {
        used.entry(&pool.value).or_insert(Some(pool.location));
    }
    if draft.routes.is_empty() {
        used.insert(DEFAULT_POOL, None);
    }
    let mut default_pool_missing = false;
    for (name, location) in used {
        let empty = match draft.pools.get(name) {
            Some(pool) => pool.servers.is_empty(),
            None => name == DEFAULT_POOL,
        };
        default_pool_missing |= empty && name == DEFAULT_POOL;
        if !empty || draft.reload.allow_empty {
            continue;
        }
        let header = if name == DEFAULT_POOL { "server".to_owned() } else { format!("pool.{name}.server") };
        let reason = Reason::new(format!("pool `{name}` has no server, but requests are sent to it"))
            .hint(format!("add `[[{header}]]` with `name = \"server1\"` and `address = \"127.0.0.1:8081\"`"));
        match location {
            Some(location) => report.at(location, reason),
            None => report.whole(reason),
        }
    }
    if default_pool_missing {
        let rules = draft.rules.clone();
        let empty = DraftPool { rules, servers: Vec::new() };
        draft.pools.entry(DEFAULT_POOL.to_owned()).or_insert(empty);
    }
}

/// Reports keys that occur a second time, with the location of the first.
struct Duplicates<'a, K> {
    seen: HashMap<K, Location>,
    report: &'a Report<'a>,
}

impl<'a, K: Eq + Hash> Duplicates<'a, K> {
    fn new(report: &'a Report<'a>) -> Self {
        Self { seen: HashMap::new(), report }
    }

    /// Returns whether the key is new.
    fn check(&mut self, key: K, location: Location, reason: impl FnOnce(String) -> Reason) -> bool {
        match self.seen.get(&key) {
            Some(first) => {
                self.report.at(location, reason(self.report.describe(location, *first)));
                false
            }
            None => self.seen.insert(key, location).is_none(),
        }
    }
}

fn listener(draft: DraftListener) -> Option<ListenerConfig> {
    Some(ListenerConfig {
        name: draft.name?.value,
        address: draft.address?.value,
        protocols: draft.protocols,
        proxy_protocol: draft.proxy_protocol,
        redirect: draft.redirect,
        mode: draft.mode,
        tls: draft.tls,
        env: draft.env,
    })
}

/// A route whose pool does not exist, which has been reported, is left out.
fn routes(drafts: Vec<DraftRoute>, pools: &[Arc<PoolConfig>]) -> Vec<RouteConfig> {
    if drafts.is_empty() {
        let pool = PoolRef::find(pools, DEFAULT_POOL);
        let catch_all = |pool| RouteConfig {
            name: "default".to_owned(),
            host: HostPattern::Any,
            path: "/".to_owned(),
            pool,
            env: EnvTexts::default(),
        };
        return pool.map(catch_all).into_iter().collect();
    }
    let route = |draft: DraftRoute| {
        let pool = PoolRef::find(pools, &draft.pool?.value)?;
        Some(RouteConfig { name: draft.name?.value, host: draft.host?, path: draft.path?, pool, env: draft.env })
    };
    drafts.into_iter().filter_map(route).collect()
}

fn pool(name: String, draft: DraftPool) -> PoolConfig {
    PoolConfig {
        name,
        balance: draft.rules.balance,
        health: draft.rules.health,
        retry: draft.rules.retry,
        upstream: draft.rules.upstream,
        servers: draft.servers.into_iter().filter_map(server).collect(),
        env: draft.rules.env,
    }
}

/// Returns `None` for a server with an invalid value, which has been reported.
pub(super) fn server(draft: DraftServer) -> Option<ServerConfig> {
    Some(ServerConfig {
        name: draft.name?.value,
        address: draft.address?,
        weight: draft.weight.value,
        enabled: draft.enabled,
        env: draft.env,
    })
}
