//! Notes on a valid configuration: parts of it that are probably a mistake. Unlike a problem, a note is no reason to reject an edit.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::file::Include;
use crate::config::problem::annotation_at;
use crate::config::{
    AccessFormat, AccessLogTarget, AcmeChallenge, Address, Config, HealthConfig, HealthKind, HttpProtocol,
    ListenerConfig, LogConfig, PoolConfig, ServerConfig, UpstreamProtocol,
};

/// A warning about a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file and the line, from 1, that it is about, if it is about one.
    place: Option<(PathBuf, usize)>,
    message: String,
}

/// The notes about a configuration; `unmatched` are the includes that no file matches.
pub fn notes(config: &Config, unmatched: &[Include]) -> Vec<Note> {
    let unrouted = unrouted_pools(config).map(|pool| Note::new(unrouted(pool)));
    let shared = config.pools.iter().flat_map(|pool| shared_addresses(pool));
    let shared = shared.map(Note::new);
    let unverified = unverified_pools(config).map(|pool| Note::new(unverified(pool)));
    let others = secure_cookies(config).chain(unused_checks(config)).chain(shared).chain(unused_headers(&config.log));
    let others = others.chain(challenge_port(config).map(Note::new)).chain(vain_http2(config));
    unmatched.iter().map(Note::unmatched).chain(unrouted).chain(unverified).chain(others).collect()
}

/// A message for each address that several enabled servers of a pool have.
pub fn shared_addresses(pool: &PoolConfig) -> impl Iterator<Item = String> {
    let mut by_address: HashMap<&Address, Vec<&ServerConfig>> = HashMap::with_capacity(pool.servers.len());
    for server in pool.servers.iter().filter(|server| server.enabled) {
        by_address.entry(&server.address).or_default().push(server);
    }
    let mut shared: Vec<_> = by_address.into_iter().filter(|(_, servers)| servers.len() > 1).collect();
    shared.sort_unstable_by_key(|(address, _)| *address);
    shared.into_iter().map(|(address, servers)| {
        let name = |place: usize| servers[place].env.show("name", &servers[place].name);
        let names = match servers.len() - 2 {
            0 => format!("{} and {}", name(0), name(1)),
            more => format!("{}, {} and {more} more", name(0), name(1)),
        };
        let (pool, address) = (&pool.name, servers[0].env.show("address", address));
        format!("servers {names} of pool {pool} have the same address {address}, which gets the shares of all of them")
    })
}

/// The keys of checks that pools set whose checks are of another kind, unless another pool makes use of the same value: then
/// they were probably set for both.
fn unused_checks(config: &Config) -> impl Iterator<Item = Note> {
    let keys = |(mine, theirs): (&HealthConfig, &HealthConfig)| {
        [
            ("path", mine.path != theirs.path),
            ("method", mine.method != theirs.method),
            ("host", mine.host != theirs.host),
            ("headers", mine.headers != theirs.headers),
            ("body", mine.body != theirs.body),
            ("expect", mine.expect != theirs.expect),
            ("service", mine.service != theirs.service),
        ]
    };
    config.pools.iter().filter_map(move |pool| {
        let kind = kind_of_check(pool.health.kind)?;
        let default = HealthConfig::default();
        let mut set = keys((&pool.health, &default)).map(|(key, set)| (key, set && !has_effect(pool.health.kind, key)));
        for other in &config.pools {
            for (own, (key, differs)) in set.iter_mut().zip(keys((&pool.health, &other.health))) {
                own.1 &= differs || !has_effect(other.health.kind, key);
            }
        }
        let set: Vec<_> = set.iter().filter(|(_, set)| *set).map(|(key, _)| format!("`health.{key}`")).collect();
        let verb = if set.len() == 1 { "has" } else { "have" };
        let message =
            format!("{} {verb} no effect on the checks of pool {}, which are `{kind}`", set.join(", "), pool.name);
        (!set.is_empty()).then_some(Note::new(message))
    })
}

fn kind_of_check(kind: HealthKind) -> Option<&'static str> {
    match kind {
        HealthKind::Http => Some("http"),
        HealthKind::Tcp => Some("tcp"),
        HealthKind::Grpc => Some("grpc"),
        HealthKind::None => None,
    }
}

/// Whether checks of this kind use this key.
fn has_effect(kind: HealthKind, key: &str) -> bool {
    match kind {
        HealthKind::Http => key != "service",
        HealthKind::Grpc => matches!(key, "host" | "headers" | "service"),
        HealthKind::Tcp | HealthKind::None => false,
    }
}

/// The headers that the access log leaves out.
fn unused_headers(log: &LogConfig) -> Option<Note> {
    let is_combined = log.access_format == Some(AccessFormat::Combined);
    let message = "`log.headers` has no effect on the combined format, which always has `Referer` and `User-Agent`";
    (is_combined && log.access != AccessLogTarget::Off && !log.headers.is_empty()).then(|| Note::new(message))
}

/// A message if the ACME server cannot reach a listener that responds to its challenges, unless another port leads there.
#[must_use]
pub fn challenge_port(config: &Config) -> Option<String> {
    let (port, tls) = match config.acme.challenge {
        AcmeChallenge::TlsAlpn => (443, true),
        AcmeChallenge::Http => (80, false),
    };
    let responds = |listener: &ListenerConfig| {
        listener.tls.is_some() == tls
            && (tls || speaks_http1(listener))
            && listener.address.ip().is_some_and(|ip| ip.port() == port)
    };
    if !config.uses_acme() || config.listeners.iter().any(responds) {
        return None;
    }
    let challenge = config.acme.challenge.as_str();
    let kind = if tls { "with `tls`" } else { "without `tls`" };
    Some(format!(
        "the ACME server verifies names by `{challenge}` on port {port}, and no listener {kind} has that port: make sure that \
         it leads to one"
    ))
}

fn speaks_http1(listener: &ListenerConfig) -> bool {
    listener.protocols.contains(&HttpProtocol::Http1)
}

/// The listeners and pools for which HTTP/2 is set where it cannot work.
fn vain_http2(config: &Config) -> impl Iterator<Item = Note> {
    let redirecting = config.listeners.iter().filter(|listener| listener.redirect.is_some() && !speaks_http1(listener));
    let redirecting = redirecting.filter(|listener| listener.tls.is_none()).map(|listener| {
        let address = listener.env.show("address", &listener.address);
        format!(
            "listener {address} redirects to HTTPS and speaks only HTTP/2 without TLS, which no browser does; add \
             `http/1.1` to its `protocols`"
        )
    });
    let is_vain = |pool: &PoolConfig| pool.upstream.protocol == UpstreamProtocol::Auto && pool.upstream.tls.is_none();
    let pools = config.pools.iter().filter(move |pool| is_vain(pool)).map(|pool| {
        format!(
            "the servers of pool `{}` get HTTP/1.1, because `upstream.protocol = \"auto\"` needs `upstream.tls` to find out \
             what they speak; write `h2` for HTTP/2 without TLS",
            pool.name
        )
    });
    redirecting.chain(pools).map(Note::new)
}

/// The cookies that browsers keep only over TLS, if there is a listener without.
fn secure_cookies(config: &Config) -> impl Iterator<Item = Note> {
    let is_secure = |cookie: &str| {
        let cookie = cookie.to_ascii_lowercase();
        cookie.starts_with("__host-") || cookie.starts_with("__secure-")
    };
    let cookie = |pool: &'_ PoolConfig| {
        let cookie = pool.balance.sticky.as_ref().map(|sticky| &sticky.cookie).filter(|cookie| is_secure(cookie))?;
        Some(pool.env.show("balance.sticky.cookie", cookie))
    };
    let cookies: BTreeSet<String> = config.pools.iter().filter_map(|pool| cookie(pool)).collect();
    let is_plain = |listener: &ListenerConfig| listener.tls.is_none() && listener.redirect.is_none();
    let plain = config.listeners.iter().find(|listener| is_plain(listener));
    let message = |cookie, listener| {
        format!(
            "browsers keep a cookie named {cookie} only if it is `Secure`: on listener {listener}, which has no `tls`, it is \
             so only if a proxy of `proxy.trusted_proxies` sends `X-Forwarded-Proto: https`"
        )
    };
    let message = move |cookie| plain.map(|plain| message(cookie, plain.env.show("name", &plain.name)));
    let cookies = cookies.into_iter().filter_map(message);
    cookies.map(Note::new)
}

/// The pools that no route leads to, by name.
pub fn unrouted_pools(config: &Config) -> impl Iterator<Item = &str> {
    let routed: HashSet<&str> = config.routes.iter().map(|route| route.pool.name()).collect();
    config.pools.iter().map(|pool| pool.name.as_str()).filter(move |pool| !routed.contains(pool))
}

/// The note about a pool that no route leads to.
#[must_use]
pub fn unrouted(pool: &str) -> String {
    format!("no route leads to pool `{pool}`, so it gets no requests")
}

/// The pools whose servers are talked to with TLS and not verified, by name.
pub fn unverified_pools(config: &Config) -> impl Iterator<Item = &str> {
    let is_unverified = |pool: &PoolConfig| pool.upstream.tls.as_ref().is_some_and(|tls| !tls.verify);
    config.pools.iter().filter(move |pool| is_unverified(pool)).map(|pool| pool.name.as_str())
}

/// The note about a pool whose servers are not verified.
#[must_use]
pub fn unverified(pool: &str) -> String {
    format!(
        "the servers of pool `{pool}` are not verified, because of `upstream.tls.verify = false`: anyone on the way can \
         read and change everything; set `upstream.tls.ca` instead"
    )
}

impl Note {
    /// A note that is not about a line.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into() }
    }

    /// The note about an include that no file matches.
    #[must_use]
    pub fn unmatched(include: &Include) -> Self {
        let Include { shown, place, .. } = include;
        let message = format!("include `{shown}` names no file");
        Self { place: Some((place.file.clone(), place.line)), message }
    }

    /// A workflow command that shows it in GitHub, beside its line or else beside `file`.
    #[must_use]
    pub fn to_github(&self, file: &Path, title: &str) -> String {
        let (file, line) = self.place.as_ref().map_or((file, 0), |(file, line)| (file, *line));
        annotation_at("warning", file, line, title, &self.message)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((file, line)) => write!(f, "{}:{line}: {}", file.display(), self.message),
            None => f.write_str(&self.message),
        }
    }
}
