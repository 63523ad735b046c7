//! TLS to servers: reads the files that pools' rules refer to and the system's CAs, and builds the rules.

mod files;
mod roots;

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::files::Files;
use self::roots::SystemRoots;
use crate::config::file::locate::problem_of;
use crate::config::file::subject::{Subject, locate};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{Address, Config, DEFAULT_POOL, PoolConfig, UpstreamProtocol, UpstreamTlsConfig};
use crate::tls::client::{PoolTls, PoolTlsParts, server_name};

/// The rules of the pools that use TLS, by pool.
#[derive(Debug, Clone, Default)]
pub struct PoolsTls {
    pools: HashMap<String, Arc<PoolTls>>,
    system: Option<SystemRoots>,
}

impl PoolsTls {
    /// Builds the rules of `config`. A pool whose rules are as `before`, the contents of its files included, keeps them, so
    /// that its connections stay.
    ///
    /// # Errors
    /// A problem for each file that cannot be used.
    pub fn load(config: &Config, sources: &[SourceFile], before: &Self) -> Result<Self, Vec<Problem>> {
        let mut loaded = Self::default();
        let mut problems = Vec::new();
        for pool in &config.pools {
            let Some(tls) = &pool.upstream.tls else { continue };
            match loaded.load_pool(pool, tls, sources, before) {
                Ok(rules) => drop(loaded.pools.insert(pool.name.clone(), rules)),
                Err(found) => problems.extend(found),
            }
        }
        // Several pools may have the same rules from the same place.
        problems.dedup();
        if problems.is_empty() { Ok(loaded) } else { Err(problems) }
    }

    fn load_pool(
        &mut self,
        pool: &PoolConfig,
        tls: &UpstreamTlsConfig,
        sources: &[SourceFile],
        before: &Self,
    ) -> Result<Arc<PoolTls>, Vec<Problem>> {
        let files = Files::read(pool, tls).map_err(|failed| {
            let problem = |(key, reason)| problem_at(sources, &pool.name, key, reason);
            failed.into_iter().map(problem).collect::<Vec<_>>()
        })?;
        let roots = match files.ca {
            _ if !tls.verify => None,
            Some(ca) => Some(ca),
            None => {
                let system = match &self.system {
                    Some(system) => system,
                    None => {
                        let loaded = SystemRoots::load(before.system.as_ref());
                        let loaded = loaded.map_err(|reason| vec![problem_at(sources, &pool.name, "ca", reason)])?;
                        self.system.insert(loaded)
                    }
                };
                Some(Arc::clone(&system.roots))
            }
        };
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        match &roots {
            None => add(b"unverified"),
            Some(roots) if roots.certificates().is_empty() => add(b"built in"),
            Some(roots) => roots.certificates().iter().for_each(|certificate| add(certificate)),
        }
        add(tls.server_name.as_deref().unwrap_or_default().as_bytes());
        files.identity_texts.iter().for_each(|text| add(text));
        let protocols = alpn(pool.upstream.protocol);
        protocols.iter().for_each(|protocol| add(protocol));
        // Cannot fail: the file has been checked by `check`.
        let server_name = tls.server_name.as_deref().and_then(|name| server_name(name).ok());
        let (names, identity) = (files.names, files.identity);
        let parts = PoolTlsParts { roots, identity, server_name, protocols, digest: digest.finalize().into() };
        let rules = PoolTls::new(parts).map_err(|error| {
            let reason = match error {
                rustls::Error::InconsistentKeys(_) => {
                    Reason::new(format!("the key {} is not that of the certificate {}", names[2], names[1]))
                        .hint("write both files, or correct their names")
                }
                error => Reason::new(format!("TLS to the servers of pool `{}` is not possible: {error}", pool.name)),
            };
            vec![problem_at(sources, &pool.name, if tls.key.is_some() { "key" } else { "ca" }, reason)]
        })?;
        Ok(match before.pools.get(&pool.name) {
            Some(same) if same.is_like(&rules) => Arc::clone(same),
            _ => Arc::new(rules),
        })
    }

    /// The rules of a pool, if it uses TLS.
    #[must_use]
    pub fn of(&self, pool: &str) -> Option<&Arc<PoolTls>> {
        self.pools.get(pool)
    }

    /// Whether no pool uses TLS.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }
}

/// The names of servers that no certificate can have, which waiting would not mend.
#[must_use]
pub fn check(config: &Config, sources: &[SourceFile]) -> Vec<Problem> {
    let pools = config.pools.iter().filter_map(|pool| Some((pool, pool.upstream.tls.as_ref()?)));
    let mut problems = Vec::new();
    for (pool, tls) in pools {
        let hint = "set `server_name` of `upstream.tls` to the name in the server's certificate";
        if let Some(name) = &tls.server_name {
            if server_name(name).is_err() {
                let shown = pool.env.show("upstream.tls.server_name", name);
                let reason = Reason::new(format!("no certificate can have the name `{shown}`"));
                problems.push(problem_at(sources, &pool.name, "server_name", reason.hint(hint)));
            }
            continue;
        }
        for (index, server) in pool.servers.iter().enumerate() {
            if server_name(&host(&server.address)).is_err() {
                let shown = server.env.show("address", &server.address);
                let reason = Reason::new(format!("no certificate can have the name of `{shown}`"));
                problems.push(locate(sources, Subject::Server(&pool.name, index), reason.hint(hint)));
            }
        }
    }
    problems.dedup();
    problems
}

/// The host of a server's address, which its certificate must have unless the file sets another name.
#[must_use]
pub fn host(address: &Address) -> String {
    match address {
        Address::Ip(address) => address.ip().to_string(),
        Address::Name(name, _) => name.clone(),
    }
}

/// The protocols that are offered to servers.
fn alpn(protocol: UpstreamProtocol) -> &'static [&'static [u8]] {
    match protocol {
        UpstreamProtocol::Http1 | UpstreamProtocol::Auto => &[b"http/1.1"],
        UpstreamProtocol::Http2 => &[b"h2"],
    }
}

/// A problem with a key of a pool's `upstream.tls`, which the pool may have from the top level.
fn problem_at(sources: &[SourceFile], pool: &str, key: &str, reason: Reason) -> Problem {
    let own = ["pool", pool, "upstream", "tls", key];
    let places: [&[&str]; 4] = [&own, &own[..4], &own[2..], &own[2..4]];
    let mut found = places.iter().map(|place| problem_of(sources, place, reason.clone()));
    let own_place = found.find(|problem| problem.line > 0);
    own_place
        .unwrap_or_else(|| locate(sources, Subject::Pool(if pool.is_empty() { DEFAULT_POOL } else { pool }), reason))
}
