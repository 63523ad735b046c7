//! `lb explain`: the route and pool that a request takes, the reason, and the servers that could get it.

pub(super) mod tls;

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use http::{Method, Version};
use serde::Serialize;
use serde_json::json;

use super::plan::{RunningConfig, share_changes};
use super::server::algorithm;
use crate::cli::api::{Api, QueryError, RouteReply, RoutesReply, ServerReply, ServersReply};
use crate::cli::check::{CheckFormat, load, print_invalid};
use crate::cli::output::{OutputOptions, print_json};
use crate::cli::table::{Align, Cell, TextTable, Tone, percent};
use crate::config::{Config, HostPattern, PathMode, PoolConfig, RouteConfig};
use crate::control::upstream_tls::host;
use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;
use crate::http1::target::{RequestTarget, Resource, target};
use crate::live::pool::Status;
use crate::live::route::RouteTable;
use crate::proxy::retry::{Progress, RetryContext, decide};

/// The request to explain.
#[derive(Debug)]
pub(super) struct RequestSpec<'a> {
    pub(super) method: &'a Method,
    /// `None` for a request without a `Host`.
    pub(super) host: Option<&'a str>,
    /// The path, or a whole URL.
    pub(super) target: &'a str,
}

/// The configuration and the servers that an explanation is based on.
struct Basis {
    config: Config,
    /// The servers of the running balancer; `None` if there is only a file.
    live: Option<Vec<ServerReply>>,
    /// The pools whose old servers serve a route, by the route's name.
    held_by: HashMap<String, String>,
}

/// Writes to `out` how a request would be handled: by the running balancer or, if that is not reachable, by the
/// configuration at `path`. Returns whether a server would get the request.
///
/// # Errors
/// If the balancer rejects a query or stops responding, or if something other than a balancer responds. If `out` cannot
/// be written to, that is the inner error.
pub(super) fn explain(
    request: &RequestSpec<'_>,
    api: &Api,
    path: &Path,
    options: OutputOptions,
    out: &mut dyn Write,
) -> Result<io::Result<bool>, QueryError> {
    let basis = match api.get::<RunningConfig>("/api/config") {
        Ok(RunningConfig { mut config, .. }) => {
            let ServersReply { servers } = api.get("/api/servers")?;
            let RoutesReply { routes } = api.get("/api/routes")?;
            take_live_routes(&mut config, &routes);
            let held_by = routes.into_iter().filter_map(|route| Some((route.name, route.held_by?))).collect();
            Basis { config, live: Some(servers), held_by }
        }
        Err(QueryError::Unreachable(..)) => {
            let (source, loaded) = load(path);
            match loaded.result {
                Ok(config) => Basis { config, live: None, held_by: HashMap::new() },
                Err(problems) => {
                    let format = if options.json { CheckFormat::Json } else { CheckFormat::Text };
                    let read = (source.path(), loaded.sources);
                    return Ok(print_invalid(read, problems, format, options.colored, out).map(|()| false));
                }
            }
        }
        Err(error) => return Err(error),
    };
    let origin = match &basis.live {
        Some(_) => format!("from the balancer at {}", api.at()),
        None => {
            format!("from {} alone: no balancer at {}, every server counts as up", path.display(), api.at())
        }
    };
    let explanation = follow(request, &basis);
    let written = match &explanation {
        Ok(explanation) if options.json => print_json(&explanation.to_json(&origin), out),
        Err(reason) if options.json => print_json(&json!({ "known": origin, "refused": reason }), out),
        Ok(explanation) => explanation.write(request, &origin, options.colored, out),
        Err(reason) => writeln!(out, "{reason} ({origin})"),
    };
    Ok(written.map(|()| explanation.is_ok_and(|explanation| explanation.is_served())))
}

/// Takes over what the balancer's routes match. If that came from its environment, this command's may have another value.
fn take_live_routes(config: &mut Config, live: &[RouteReply]) {
    // An edit in between may have changed them.
    let is_same = |(route, live): (&RouteConfig, &RouteReply)| route.pool.name() == live.pool;
    if config.routes.len() == live.len() && config.routes.iter().zip(live).all(is_same) {
        for (route, RouteReply { name, host, path, .. }) in config.routes.iter_mut().zip(live) {
            (route.name, route.host, route.path) = (name.clone(), host.clone(), path.clone());
        }
    }
}

/// The route, pool and servers of a request.
struct Explanation<'a> {
    host: String,
    path: String,
    route: &'a RouteConfig,
    /// Why that route was selected.
    reason: String,
    /// Other routes that match, most specific first.
    less_specific: Vec<&'a RouteConfig>,
    pool: &'a PoolConfig,
    /// The pool whose old servers serve the route.
    held_by: Option<&'a str>,
    servers: Vec<ServerShare>,
    /// When a failed attempt is retried.
    retry: String,
}

/// A server's share of requests like this one.
#[derive(Debug, Serialize)]
struct ServerShare {
    name: String,
    address: String,
    share: f64,
    /// Why the share is zero.
    #[serde(rename = "why", skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Follows a request's steps through the proxy, up to the choice of a server. The error is the reason why the request
/// reaches no pool.
fn follow<'a>(request: &RequestSpec<'_>, basis: &'a Basis) -> Result<Explanation<'a>, String> {
    let mut headers = Headers::new();
    if let Some(host) = request.host {
        headers.add(HeaderName::Host, host.as_bytes());
    }
    // Only HTTP/1.0 allows a request without a Host.
    let version = if request.host.is_some() { Version::HTTP_11 } else { Version::HTTP_10 };
    let config = &basis.config;
    let (host, path) = match target(request.method, request.target.as_bytes(), version, &headers) {
        Ok(RequestTarget::Resource(target)) if is_ambiguous(&target, config) => {
            return Err(rejected(Rejection::AmbiguousPath));
        }
        Ok(RequestTarget::Resource(target)) => (target.host.into_owned(), target.path.into_owned()),
        Ok(RequestTarget::Balancer) => return Err("handled by the balancer itself".to_owned()),
        Err(rejection) => return Err(rejected(rejection)),
    };
    let Some(route) = RouteTable::new(&config.routes).find(&host, &path).and_then(|index| config.routes.get(index))
    else {
        return Err(format!("no route matches {}{path}: the response is 404", host_or_none(&host)));
    };
    let Some(pool) = config.pool(route.pool.name()) else {
        return Err(format!("route {} leads to pool {}, which does not exist", route.name, route.pool.name()));
    };
    let held_by = basis.held_by.get(&route.name).map(String::as_str);
    Ok(Explanation {
        reason: route_reason(route),
        less_specific: less_specific(&config.routes, route, &host, &path),
        servers: server_shares(pool, held_by, basis),
        held_by,
        retry: retry(request.method, pool),
        host,
        path,
        route,
        pool,
    })
}

fn rejected(rejection: Rejection) -> String {
    format!("rejected with {}: {}", rejection.status(), rejection.detail())
}

/// Whether the path would have another route with its dot segments, and they would be forwarded.
fn is_ambiguous(target: &Resource<'_>, config: &Config) -> bool {
    let table = RouteTable::new(&config.routes);
    let found = table.find(&target.host, &target.path);
    config.proxy.path == PathMode::AsSent
        && target
            .with_dot_segments()
            .is_some_and(|paths| paths.iter().any(|path| table.find(&target.host, path) != found))
}

impl Explanation<'_> {
    fn is_served(&self) -> bool {
        self.servers.iter().any(|server| server.share > 0.0)
    }

    fn write(&self, request: &RequestSpec<'_>, origin: &str, colored: bool, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} {}{} ({origin})", request.method, host_or_none(&self.host), self.path)?;
        writeln!(out, "route {}: {}", pattern(self.route), self.reason)?;
        for other in &self.less_specific {
            writeln!(out, "  also matches but is less specific: {}, pool {}", pattern(other), other.pool)?;
        }
        let PoolConfig { name, balance, env, .. } = self.pool;
        writeln!(out, "pool {name}: {}", env.show("balance.algorithm", &algorithm(balance.algorithm)))?;
        if let Some(held_by) = self.held_by {
            writeln!(out, "  no server of it is up yet: the old servers of pool {held_by} serve until one is")?;
        }
        if let Some(sticky) = &balance.sticky {
            let cookie = env.show("balance.sticky.cookie", &sticky.cookie);
            writeln!(out, "  sticky: a client with a cookie `{cookie}` goes to the server that it names")?;
        }
        writeln!(out, "  {}", self.retry)?;
        if let Some(tls) = tls(self.pool) {
            writeln!(out, "  {tls}")?;
        }
        let mut table = TextTable::new(&[
            ("SERVER", Align::Left),
            ("ADDRESS", Align::Left),
            ("SHARE", Align::Right),
            ("", Align::Left),
        ]);
        for server in &self.servers {
            let tone = if server.share > 0.0 { Tone::Good } else { Tone::Bad };
            let reason = Cell::from(server.reason.as_deref().unwrap_or_default());
            let share = Cell::from(&percent(server.share)).tone(tone);
            table.row([Cell::from(&server.name), Cell::from(&server.address), share, reason], None);
        }
        out.write_all(table.render("  ", colored).as_bytes())?;
        if self.is_served() { Ok(()) } else { writeln!(out, "no server is available: the response is 503") }
    }

    fn to_json(&self, origin: &str) -> serde_json::Value {
        json!({
            "known": origin,
            "host": self.host,
            "path": self.path,
            "route": self.route,
            "why": self.reason,
            "less_specific": self.less_specific,
            "pool": {"name": self.pool.name, "balance": self.pool.env.table("balance", &self.pool.balance)},
            "held_by": self.held_by,
            "retry": self.retry,
            "tls": tls(self.pool),
            "servers": self.servers,
        })
    }
}

/// So many hosts of a pool's servers are named.
const MOST_HOSTS: usize = 5;

/// The name that is verified of a pool's servers, and with which CAs, if it uses TLS.
fn tls(pool: &PoolConfig) -> Option<String> {
    let tls = pool.upstream.tls.as_ref()?;
    let shown = |key: &str, value: &str| pool.env.show(&format!("upstream.tls.{key}"), &value);
    if !tls.verify {
        return Some("TLS; the servers are not verified: anyone on the way can read and change everything".to_owned());
    }
    let name = match &tls.server_name {
        Some(name) => format!("`{}`", shown("server_name", name)),
        None => {
            let mut hosts: Vec<_> = pool
                .servers
                .iter()
                .map(|server| match server.env.is_empty() {
                    true => format!("`{}`", host(&server.address)),
                    false => format!("the host of `{}`", server.env.show("address", &server.address)),
                })
                .collect();
            hosts.dedup();
            if let Some(more) = hosts.len().checked_sub(MOST_HOSTS).filter(|more| *more > 0) {
                hosts.truncate(MOST_HOSTS);
                hosts.push(format!("{more} more"));
            }
            format!("the host of its address ({})", hosts.join(", "))
        }
    };
    let authorities = match &tls.ca {
        Some(ca) => format!("`{}`", shown("ca", &ca.path.display().to_string())),
        None => "the system's CAs".to_owned(),
    };
    Some(format!("TLS; a server's certificate must be for {name}; verified with {authorities}"))
}

fn host_or_none(host: &str) -> &str {
    if host.is_empty() { "(no host)" } else { host }
}

/// A route's name, with its host and path unless the name consists of them.
fn pattern(route: &RouteConfig) -> String {
    let host_and_path = format!("{}{}", route.host, route.path);
    if route.name == host_and_path { host_and_path } else { format!("{} ({host_and_path})", route.name) }
}

/// The other routes that match, most specific first. The route table finds each once the ones found earlier are
/// removed.
fn less_specific<'a>(
    routes: &'a [RouteConfig],
    selected: &'a RouteConfig,
    host: &str,
    path: &str,
) -> Vec<&'a RouteConfig> {
    let mut remaining: Vec<RouteConfig> = routes.to_vec();
    remaining.retain(|route| route.name != selected.name);
    let mut matching = Vec::new();
    while let Some(index) = RouteTable::new(&remaining).find(host, path) {
        let next = remaining.remove(index);
        matching.extend(routes.iter().find(|route| route.name == next.name));
    }
    matching
}

fn route_reason(route: &RouteConfig) -> String {
    let host = match &route.host {
        HostPattern::Exact(host) => format!("exact match of host {host}"),
        HostPattern::Wildcard(_) => format!("host matches {}; no route with a more specific host matches", route.host),
        HostPattern::Any => "any host".to_owned(),
    };
    match route.path.as_str() {
        "/" => format!("{host}; any path"),
        path => format!("{host}; {path} is the longest matching prefix"),
    }
}

/// The servers of a route's pool; during a hold, the old servers that serve come first.
fn server_shares(pool: &PoolConfig, held_by: Option<&str>, basis: &Basis) -> Vec<ServerShare> {
    let Some(live) = &basis.live else {
        let shares = share_changes(&[], &basis.config).into_iter().filter(|share| share.pool == pool.name);
        return pool
            .servers
            .iter()
            .zip(shares)
            .map(|(server, share)| ServerShare {
                name: server.name.clone(),
                address: server.address.to_string(),
                share: share.after.unwrap_or(0.0),
                reason: match (server.enabled, server.weight) {
                    (false, _) => Some("disabled".to_owned()),
                    (true, 0) => Some("weight 0".to_owned()),
                    _ => None,
                },
            })
            .collect();
    };
    let is_held = |server: &&ServerReply| {
        held_by.is_some_and(|held_by| held_by == server.pool && held_by != pool.name) && server.share > 0.0
    };
    live.iter()
        .filter(is_held)
        .chain(live.iter().filter(|server| server.pool == pool.name))
        .map(|server| ServerShare {
            name: server.name.clone(),
            address: server.address.to_string(),
            share: server.share,
            reason: (server.share <= 0.0).then(|| no_share_reason(server)),
        })
        .collect()
}

/// Why a server gets no requests.
fn no_share_reason(server: &ServerReply) -> String {
    let check = server.last_check.as_ref().map_or_else(String::new, |check| match &check.error {
        Some(error) => {
            let hint = check.hint.as_deref().map_or_else(String::new, |hint| format!("; {hint}"));
            format!(": {error}, {} ago{hint}", check.age())
        }
        None => "; its last check passed, but not yet as many in a row as `health.rise` says".to_owned(),
    });
    match server.status {
        Status::Disabled => "disabled".to_owned(),
        Status::Draining => "disabled or removed; open requests are finishing".to_owned(),
        Status::Down if let Some(ejection) = &server.ejected => {
            format!("ejected {} ago until its checks pass: {}", server.age(), ejection.error)
        }
        Status::Down => format!("down for {}{check}", server.age()),
        Status::Checking => format!("new, no check has passed yet{check}"),
        Status::Up => "weight 0: no new clients".to_owned(),
    }
}

fn retry(method: &Method, pool: &PoolConfig) -> String {
    let attempts = pool.retry.attempts;
    let context = RetryContext { method, has_body: false, attempts: 1, max_retries: attempts };
    let retries = if attempts == 1 { "1 retry".to_owned() } else { format!("up to {attempts} retries") };
    match (decide(Progress::NotConnected, context), decide(Progress::Sent, context)) {
        (None, _) => "no retries".to_owned(),
        (Some(_), None) => format!("{retries}, but not once {method} may have reached a server"),
        (Some(_), Some(_)) => format!("{retries} if a server cannot be reached or fails"),
    }
}

#[cfg(test)]
mod tests;
