//! The host names of an edit's new servers: it is not applied before they are resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::task::JoinSet;

use crate::config::problem::{Problem, Reason};
use crate::config::{Address, Config};
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

    /// Looks up the new `names` of the edit of `file` to `config`, and evaluates what is known of them. Called when the
    /// lookups have ended, and from time to time.
    pub(super) fn proceed(
        &mut self,
        resolver: &Resolver,
        mut names: BTreeSet<HostPort>,
        file: &Path,
        config: &Config,
    ) -> Resolution<'_> {
        names.retain(|name| !self.addresses.contains_key(name));
        if names.is_empty() {
            return Resolution::Resolved(&self.addresses);
        }
        if self.is_fresh {
            self.is_fresh = false;
            return Resolution::Failed(self.problems(file, config));
        }
        self.is_fresh = true;
        if self.unresolved.is_empty() {
            self.failed.clear();
            self.running = resolver.resolve(names.clone());
            self.unresolved = names;
        }
        Resolution::Running
    }

    fn problems(&self, file: &Path, config: &Config) -> Vec<Problem> {
        let shown = |name| shown(name, config);
        let failed = self.failed.iter().map(|(name, error)| format!("`{}` cannot be resolved: {error}", shown(name)));
        let unresolved = self.unresolved.iter().map(|name| format!("`{}` is still being resolved", shown(name)));
        let hint = "correct the name, or wait: the edit is applied as soon as the name is resolved";
        failed.chain(unresolved).map(|text| Problem::of_file(file, Reason::new(text).hint(hint))).collect()
    }
}

/// A host as it is shown: the text of the file, if it came from the environment.
fn shown<'a>((host, port): &'a HostPort, config: &'a Config) -> &'a str {
    let mut servers = config.pools.iter().flat_map(|pool| &pool.servers);
    let server = servers.find(|server| matches!(&server.address, Address::Name(own, at) if own == host && at == port));
    server.and_then(|server| server.env.typed("address")).unwrap_or(host)
}
