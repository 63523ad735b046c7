//! `lb explain`: which route takes a request and why, which pool, and who of it would answer.

use std::io::{self, Write};
use std::path::Path;

use http::{Method, Version};
use serde::Serialize;
use serde_json::json;

use super::plan::portions;
use super::server::algorithm;
use crate::cli::api::{Api, QueryError, Server, Servers};
use crate::cli::check::{CheckFormat, json, load, refused};
use crate::cli::table::{Align, Cell, Table, Tone, percent};
use crate::config::{Config, HostPattern, PoolConfig, RouteConfig};
use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::http1::target::{Asked, target};
use crate::live::pool::Status;
use crate::live::route::RouteTable;
use crate::proxy::retry::{Attempted, Progress, decide};

/// What is asked about.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    /// Whom the client asks; `None`: nobody by name.
    pub(super) host: Option<&'a str>,
    /// The path, or a whole URL.
    pub(super) target: &'a str,
}

/// How it is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) json: bool,
    pub(super) colored: bool,
}

/// What the configuration is, and where that is known from.
struct Known {
    config: Config,
    /// The servers as they are; `None` where no balancer could be asked.
    live: Option<Vec<Server>>,
}

/// Writes to `out` what becomes of a request: by the balancer that `api` asks, or, if none answers
/// there, by the file at `path`. Whether a server would get it.
///
/// # Errors
/// When the balancer answers something else; an `out` that cannot be written to is told as [`Ok`] of
/// an error.
pub(super) fn explain(
    request: &Request<'_>,
    api: &Api,
    path: &Path,
    manner: Manner,
    out: &mut dyn Write,
) -> Result<io::Result<bool>, QueryError> {
    let known = match api.get::<super::plan::Running>("/api/config") {
        Ok(running) => {
            let Servers { servers } = api.get("/api/servers")?;
            Known { config: running.config, live: Some(servers) }
        }
        Err(QueryError::Unreachable(..)) => {
            let (source, loaded) = load(path);
            match loaded.result {
                Ok(config) => Known { config, live: None },
                Err(problems) => {
                    let format = if manner.json { CheckFormat::Json } else { CheckFormat::Text };
                    return Ok(refused(source.path(), &problems, format, manner.colored, out).map(|()| false));
                }
            }
        }
        Err(error) => return Err(error),
    };
    let whence = match &known.live {
        Some(_) => format!("by the balancer at {}, now", api.at()),
        None => format!("by {} alone, as no balancer answers at {}: servers count as up", path.display(), api.at()),
    };
    let answer = answer(request, &known);
    let written = match &answer {
        Ok(found) if manner.json => json(&found.to_json(&whence), out),
        Err(why) if manner.json => json(&json!({ "known": whence, "refused": why }), out),
        Ok(found) => found.write(request, &whence, manner.colored, out),
        Err(why) => writeln!(out, "{why} ({whence})"),
    };
    Ok(written.map(|()| answer.is_ok_and(|found| found.is_served())))
}

/// Where a request goes.
struct Found<'a> {
    host: String,
    path: String,
    route: &'a RouteConfig,
    /// Why this one.
    why: String,
    /// Routes that would take it too, the next best first.
    others: Vec<&'a RouteConfig>,
    pool: &'a PoolConfig,
    servers: Vec<Chance>,
    /// What happens if the server breaks.
    retry: String,
}

/// A server's chance of getting the request.
#[derive(Debug, Serialize)]
struct Chance {
    name: String,
    address: String,
    share: f64,
    /// Why it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The same steps as a request's, see `proxy::forward`.
fn answer<'a>(request: &Request<'_>, known: &'a Known) -> Result<Found<'a>, String> {
    let mut headers = Headers::new();
    if let Some(host) = request.host {
        headers.add(HeaderName::Host, host.as_bytes());
    }
    // Only the old version may leave the host out.
    let version = if request.host.is_some() { Version::HTTP_11 } else { Version::HTTP_10 };
    let (host, path) = match target(request.method, request.target.as_bytes(), version, &headers) {
        Ok(Asked::Resource(target)) => (target.host.into_owned(), target.path.into_owned()),
        Ok(Asked::Balancer) => return Err("answered by the balancer itself".to_owned()),
        Err(refusal) => return Err(format!("refused with {}: {}", refusal.status(), refusal.detail())),
    };
    let config = &known.config;
    let Some(route) = RouteTable::new(&config.routes).find(&host, &path).and_then(|place| config.routes.get(place))
    else {
        return Err(format!("no route takes {}{path}: it is answered 404", shown(&host)));
    };
    let pool = &config.pools[route.pool.index()];
    let others = others(&config.routes, route, &host, &path);
    Ok(Found {
        why: why(route, &others),
        others,
        servers: chances(pool, known),
        retry: retry(request.method, pool),
        host,
        path,
        route,
        pool,
    })
}

impl Found<'_> {
    fn is_served(&self) -> bool {
        self.servers.iter().any(|server| server.share > 0.0)
    }

    fn write(&self, request: &Request<'_>, whence: &str, colored: bool, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} {}{} ({whence})", request.method, shown(&self.host), self.path)?;
        writeln!(out, "route {}: {}", pattern(self.route), self.why)?;
        for other in &self.others {
            writeln!(out, "  before {}, which leads to pool {}", pattern(other), other.pool)?;
        }
        writeln!(out, "pool {}: {}", self.pool.name, algorithm(self.pool.balance.algorithm))?;
        if let Some(sticky) = &self.pool.balance.sticky {
            writeln!(out, "  a client whose cookie `{}` names a server goes there", sticky.cookie)?;
        }
        writeln!(out, "  {}", self.retry)?;
        let mut table = Table::new(&[
            ("SERVER", Align::Left),
            ("ADDRESS", Align::Left),
            ("SHARE", Align::Right),
            ("", Align::Left),
        ]);
        for server in &self.servers {
            let tone = if server.share > 0.0 { Tone::Good } else { Tone::Bad };
            let why = Cell::from(server.why.as_deref().unwrap_or_default());
            let share = Cell::from(&percent(server.share)).tone(tone);
            table.row([Cell::from(&server.name), Cell::from(&server.address), share, why], None);
        }
        out.write_all(table.draw("  ", colored).as_bytes())?;
        if self.is_served() { Ok(()) } else { writeln!(out, "no server takes it: it is answered 503") }
    }

    fn to_json(&self, whence: &str) -> serde_json::Value {
        json!({
            "known": whence,
            "host": self.host,
            "path": self.path,
            "route": self.route,
            "why": self.why,
            "less_specific": self.others,
            "pool": {"name": self.pool.name, "balance": self.pool.balance},
            "retry": self.retry,
            "servers": self.servers,
        })
    }
}

fn shown(host: &str) -> &str {
    if host.is_empty() { "(no host)" } else { host }
}

/// A route's name and, where that does not say it, what it takes.
fn pattern(route: &RouteConfig) -> String {
    let takes = format!("{}{}", route.host, route.path);
    if route.name == takes { takes } else { format!("{} ({takes})", route.name) }
}

/// The routes that would take the request if the better ones were not there.
fn others<'a>(routes: &'a [RouteConfig], taken: &'a RouteConfig, host: &str, path: &str) -> Vec<&'a RouteConfig> {
    let mut left: Vec<RouteConfig> = routes.to_vec();
    left.retain(|route| route.name != taken.name);
    let mut others = Vec::new();
    while let Some(place) = RouteTable::new(&left).find(host, path) {
        let next = left.remove(place);
        others.extend(routes.iter().find(|route| route.name == next.name));
    }
    others
}

fn why(route: &RouteConfig, others: &[&RouteConfig]) -> String {
    let host = match &route.host {
        HostPattern::Exact(host) => format!("it names the host {host}"),
        HostPattern::Wildcard(domain) => format!("the host is below {domain}, and no route names it"),
        HostPattern::Any if others.iter().any(|other| other.host != HostPattern::Any) => "it takes any host".to_owned(),
        HostPattern::Any => "it takes any host, and no route that names one fits".to_owned(),
    };
    match route.path.as_str() {
        "/" if others.is_empty() => format!("{host}, and every path"),
        "/" => format!("{host}; it takes every path that no longer prefix does"),
        path => format!("{host}; {path} is the longest prefix of the path"),
    }
}

fn chances(pool: &PoolConfig, known: &Known) -> Vec<Chance> {
    let Some(live) = &known.live else {
        let of_pool = portions(&[], &known.config).into_iter().filter(|portion| portion.pool == pool.name);
        return pool
            .servers
            .iter()
            .zip(of_pool)
            .map(|(server, portion)| Chance {
                name: server.name.clone(),
                address: server.address.to_string(),
                share: portion.after.unwrap_or(0.0),
                why: match (server.enabled, server.weight) {
                    (false, _) => Some("disabled".to_owned()),
                    (true, 0) => Some("weight 0".to_owned()),
                    _ => None,
                },
            })
            .collect();
    };
    let of_pool = live.iter().filter(|server| server.pool == pool.name);
    of_pool
        .map(|server| Chance {
            name: server.name.clone(),
            address: server.address.to_string(),
            share: server.share,
            why: (server.share <= 0.0).then(|| without(server)),
        })
        .collect()
}

/// Why a server gets nothing.
fn without(server: &Server) -> String {
    let check = server.last_check.as_ref().and_then(|check| Some((check.error.as_deref()?, check.age())));
    let check = check.map_or_else(String::new, |(error, age)| format!(": {error}, {age} ago"));
    match server.status {
        Status::Disabled => "disabled".to_owned(),
        Status::Draining if server.enabled => "removed; its open requests finish".to_owned(),
        Status::Draining => "disabled or removed; its open requests finish".to_owned(),
        Status::Down if let Some(ejection) = &server.ejected => {
            format!("ejected {} ago, until its checks have passed: {}", server.age(), ejection.error)
        }
        Status::Down => format!("down for {}{check}", server.age()),
        Status::Checking => format!("new, and no check has passed yet{check}"),
        Status::Up => "weight 0: no new client".to_owned(),
    }
}

fn retry(method: &Method, pool: &PoolConfig) -> String {
    let attempts = pool.retry.attempts;
    let attempted = Attempted { method, has_body: false, tries: 1, attempts };
    match (decide(Progress::Refused, attempted), decide(Progress::Sent, attempted)) {
        (None, _) => "no second try at another server".to_owned(),
        (Some(_), None) => format!("up to {attempts} more tries, unless {method} may have reached a server"),
        (Some(_), Some(_)) => format!("up to {attempts} more tries if a server refuses or breaks"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    const FILE: &str = r#"
        [[listener]]
        address = "127.0.0.1:1"
        [[route]]
        name = "api"
        host = "api.example.com"
        path = "/v1"
        pool = "api"
        [[route]]
        name = "wild"
        host = "*.example.com"
        pool = "web"
        [[route]]
        name = "any"
        path = "/v1"
        pool = "web"
        [[pool.api.server]]
        name = "a"
        address = "127.0.0.1:9001"
        [[pool.api.server]]
        name = "b"
        address = "127.0.0.1:9002"
        enabled = false
        [[pool.web.server]]
        name = "w"
        address = "127.0.0.1:9003"
    "#;

    #[test]
    fn the_route_is_that_of_a_request_and_the_next_best_are_told() {
        let config = parse(&[SourceFile::new("lb.toml", FILE)], &|_| None).expect("a good file");
        let known = Known { config, live: None };
        let cases = [
            (Some("api.example.com"), "/v1/users", "api, then wild any"),
            (Some("API.example.com.:8080"), "/a/../v1", "api, then wild any"),
            (None, "http://api.example.com/v1?q", "api, then wild any"),
            (Some("www.example.com"), "/", "wild, then "),
            (None, "/v1", "any, then "),
            (None, "/", "no route takes (no host)/: it is answered 404"),
            (
                Some("a b"),
                "/",
                "refused with 400 Bad Request: The host is not a name or an IP address, with or without a port.",
            ),
            (None, "/../x", "refused with 400 Bad Request: The path leads above the root."),
        ];
        for (host, target, expected) in cases {
            let told = match answer(&Request { method: &Method::GET, host, target }, &known) {
                Ok(found) => {
                    let others: Vec<&str> = found.others.iter().map(|route| route.name.as_str()).collect();
                    format!("{}, then {}", found.route.name, others.join(" "))
                }
                Err(why) => why,
            };
            assert_eq!(told, expected, "{host:?} {target}");
        }
    }

    #[test]
    fn tries_are_told_as_they_are_made() {
        let config = parse(&[SourceFile::new("lb.toml", FILE)], &|_| None).expect("a good file");
        let pool = &config.pools[0];
        assert_eq!(retry(&Method::GET, pool), "up to 2 more tries if a server refuses or breaks");
        assert_eq!(retry(&Method::POST, pool), "up to 2 more tries, unless POST may have reached a server");
    }
}
