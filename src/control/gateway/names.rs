//! The host names of an edit's new servers: it is not applied before they are resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::config::file::subject::{Subject, locate};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{Address, Config, PoolConfig, ServerConfig};
use crate::control::resolver::{Addresses, HostPort, Resolver};

/// The lookups for one edit.
#[derive(Debug, Default)]
pub(super) struct NameLookups {
    running: JoinSet<(HostPort, io::Result<Vec<SocketAddr>>)>,
    /// The names that are being looked up.
    unresolved: BTreeSet<HostPort>,
    /// The names that could not be resolved, and why.
    failed: BTreeMap<HostPort, String>,
    addresses: Addresses,
    /// Whether names are looked up of which no problem has been reported since.
    is_fresh: bool,
}

/// How far the lookups are.
#[derive(Debug)]
pub(super) enum Resolution<'a> {
    /// Every name has an address.
    Resolved(&'a Addresses),
    /// It is too early to say.
    Running,
    /// Some names have no address, at least for now.
    Failed(Vec<Problem>),
}

impl NameLookups {
    /// Waits until all lookups have ended; for ever if there are none.
    pub(super) async fn ended(&mut self) {
        if self.unresolved.is_empty() {
            return std::future::pending().await;
        }
        while let Some(ended) = self.running.join_next().await {
            let Ok((name, result)) = ended else { continue };
            self.unresolved.remove(&name);
            match result {
                Ok(addresses) => drop(self.addresses.insert(name, addresses)),
                Err(error) => drop(self.failed.insert(name, error.to_string())),
            }
        }
        // A lookup that panicked is repeated like one that failed.
        for name in std::mem::take(&mut self.unresolved) {
            self.failed.insert(name, "the lookup was aborted".to_owned());
        }
    }

    /// Looks up the new `names` of the edit of `files` to `config`, and evaluates what is known of them. Called when the
    /// lookups have ended, and from time to time.
    pub(super) fn proceed(
        &mut self,
        resolver: &Resolver,
        mut names: BTreeSet<HostPort>,
        files: &[SourceFile],
        config: &Config,
    ) -> Resolution<'_> {
        names.retain(|name| !self.addresses.contains_key(name));
        if names.is_empty() {
            return Resolution::Resolved(&self.addresses);
        }
        if self.is_fresh {
            self.is_fresh = false;
            return Resolution::Failed(self.problems(files, config));
        }
        self.is_fresh = true;
        if self.unresolved.is_empty() {
            self.failed.clear();
            self.running = resolver.resolve(names.clone());
            self.unresolved = names;
        }
        Resolution::Running
    }

    fn problems(&self, files: &[SourceFile], config: &Config) -> Vec<Problem> {
        let failed = self.failed.iter().map(|(name, error)| (name, format!("cannot be resolved: {error}")));
        let unresolved = self.unresolved.iter().map(|name| (name, "is still being resolved".to_owned()));
        let hint = "correct the name, or wait: the edit is applied as soon as the name is resolved";
        let problem = |(name, what): (&HostPort, String)| {
            let (shown, subject) = shown(name, config);
            locate(files, subject, Reason::new(format!("`{shown}` {what}")).hint(hint))
        };
        failed.chain(unresolved).map(problem).collect()
    }
}

/// A host as it is shown, which is the text of the file if it came from the environment, and where it is.
fn shown<'a>((host, port): &'a HostPort, config: &'a Config) -> (&'a str, Subject<'a>) {
    let servers =
        |pool: &'a PoolConfig| pool.servers.iter().enumerate().map(move |(index, server)| (pool, index, server));
    let mut servers = config.pools.iter().flat_map(|pool| servers(pool));
    let has_name =
        |server: &ServerConfig| matches!(&server.address, Address::Name(own, at) if own == host && at == port);
    match servers.find(|(.., server)| server.enabled && has_name(server)) {
        Some((pool, index, server)) => {
            (server.env.typed("address").unwrap_or(host), Subject::Server(&pool.name, index))
        }
        None => (host, Subject::Pool("")),
    }
}
