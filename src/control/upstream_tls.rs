//! TLS to servers: builds pools' rules from the files that they refer to and from the system's CAs.

mod roots;

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::roots::SystemRoots;
use crate::config::file::subject::{Subject, locate};
use crate::config::problem::{Problem, Reason};
use crate::config::references::Role;
use crate::config::source::SourceFile;
use crate::config::{Address, Config, HttpProtocol, LOCALHOST, PoolConfig, UpstreamProtocol, UpstreamTlsConfig};
use crate::control::certificates::in_force::FilesInForce;
use crate::tls::alpn;
use crate::tls::client::{PoolTls, PoolTlsParts, Roots, parse_roots, server_name};

/// The rules of the pools that use TLS, by pool.
#[derive(Debug, Clone, Default)]
pub struct PoolsTls {
    pools: HashMap<String, Arc<PoolTls>>,
    system: Option<SystemRoots>,
}

impl PoolsTls {
    /// Builds the rules of `config`, which refers to `files` and was read from `sources`. A pool whose rules are as `before`,
    /// the contents of its files included, keeps them, so that its connections stay.
    ///
    /// # Errors
    /// A problem for each pool whose rules cannot be built.
    pub fn load(
        config: &Config,
        files: &FilesInForce,
        sources: &[SourceFile],
        before: &Self,
    ) -> Result<Self, Vec<Problem>> {
        let mut loaded = Self::default();
        let mut problems = Vec::new();
        for pool in &config.pools {
            let Some(tls) = &pool.upstream.tls else { continue };
            match loaded.load_pool(pool, tls, files, before) {
                Ok(rules) => drop(loaded.pools.insert(pool.name.clone(), rules)),
                Err((key, reason)) => problems.push(locate(sources, Subject::UpstreamTls(&pool.name, key), reason)),
            }
        }
        // Several pools may have the same rules from the same place.
        problems.dedup();
        if problems.is_empty() { Ok(loaded) } else { Err(problems) }
    }

    /// The error is the key whose value cannot be used.
    fn load_pool(
        &mut self,
        pool: &PoolConfig,
        tls: &UpstreamTlsConfig,
        files: &FilesInForce,
        before: &Self,
    ) -> Result<Arc<PoolTls>, (&'static str, Reason)> {
        let roots = self.roots(pool, tls, files, before).map_err(|reason| ("ca", reason))?;
        let pair = tls.certificate.as_ref().zip(tls.key.as_ref());
        let pair =
            pair.and_then(|(chain, key)| files.pair(Role::UpstreamCertificate, &chain.full_path(), &key.full_path()));
        let identity = pair.map(|pair| Arc::clone(&pair.certified));
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
        identity.iter().flat_map(|identity| &identity.cert).for_each(|certificate| add(certificate));
        let protocols = offered(pool.upstream.protocol);
        protocols.iter().for_each(|protocol| add(alpn(*protocol)));
        // Cannot fail: `check` has reported it.
        let server_name = tls.server_name.as_deref().and_then(|name| server_name(name).ok());
        let parts = PoolTlsParts { roots, identity, server_name, protocols, digest: digest.finalize().into() };
        let rules = PoolTls::new(parts).map_err(|error| {
            ("ca", Reason::new(format!("TLS to the servers of pool `{}` is not possible: {error}", pool.name)))
        })?;
        Ok(match before.pools.get(&pool.name) {
            Some(same) if same.is_like(&rules) => Arc::clone(same),
            _ => Arc::new(rules),
        })
    }

    /// The CAs that a pool's servers are verified with; `None` if they are not.
    fn roots(
        &mut self,
        pool: &PoolConfig,
        tls: &UpstreamTlsConfig,
        files: &FilesInForce,
        before: &Self,
    ) -> Result<Option<Arc<Roots>>, Reason> {
        if !tls.verify {
            return Ok(None);
        }
        let Some(ca) = &tls.ca else {
            let system = match &self.system {
                Some(system) => system,
                None => self.system.insert(SystemRoots::load(before.system.as_ref())?),
            };
            return Ok(Some(Arc::clone(&system.roots)));
        };
        let shown = || pool.env.show("upstream.tls.ca", &ca.path.display());
        let file = files.bytes(Role::UpstreamCa, &ca.full_path());
        let file = file.ok_or_else(|| Reason::new(format!("{}: there is no such file", shown())))?;
        Ok(Some(Arc::new(parse_roots(&file.bytes)?)))
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
                problems.push(locate(sources, Subject::UpstreamTls(&pool.name, "server_name"), reason.hint(hint)));
            }
            continue;
        }
        for (index, server) in pool.servers.iter().enumerate() {
            if matches!(server.address, Address::Unix(_)) && tls.verify {
                let shown = server.env.show("address", &server.address);
                let reason = Reason::new(format!("`{shown}` has no name that its certificate could be verified for"));
                problems.push(locate(sources, Subject::Server(&pool.name, index), reason.hint(hint)));
            } else if server_name(&host(&server.address)).is_err() {
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
        Address::Unix(_) => LOCALHOST.to_owned(),
    }
}

/// The protocols that are offered to servers.
fn offered(protocol: UpstreamProtocol) -> &'static [HttpProtocol] {
    match protocol {
        UpstreamProtocol::Http1 => &[HttpProtocol::Http1],
        UpstreamProtocol::Http2 => &[HttpProtocol::Http2],
        UpstreamProtocol::Auto => &[HttpProtocol::Http2, HttpProtocol::Http1],
    }
}
