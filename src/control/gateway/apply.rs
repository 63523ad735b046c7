//! Turns an edit into a generation: prepares it without touching what runs, then commits it, which cannot fail.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Gateway;
use super::admin_server::NewAdminSocket;
use super::listeners::{BoundListeners, NewSockets};
use super::log_file::not_configuration;
use super::pending::{self, PendingEdit};
use crate::config::diff::diff;
use crate::config::guard::guards;
use crate::config::notes::{shared_addresses, unrouted, unrouted_pools, unverified, unverified_pools};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{Config, PoolConfig, SocketMode};
use crate::control::certificates::in_force::{FilesInForce, Replacement};
use crate::control::certificates::tls_state::tls_state;
use crate::control::registry::RegistryPlan;
use crate::control::reload::reader::{ParsedConfig, ReloadRules};
use crate::control::reload::source::{LoadedConfig, Sources};
use crate::control::resolver::{Addresses, HostPort};
use crate::control::upstream_tls::{self, PoolsTls};
use crate::live::reloads::{Outcome, Reload};
use crate::live::snapshot::{FileVersion, Snapshot};
use crate::telemetry::access_log::NewOutput;
use crate::worker::socket::{BindError, BoundSocket, OpenSocket};

/// An edit that can be committed, with everything that it needs. Nothing that runs refers to it yet, so dropping it
/// discards the edit and closes its sockets.
#[derive(Debug)]
pub(super) struct Prepared {
    config: Arc<Config>,
    snapshot: Snapshot,
    registry: RegistryPlan,
    listeners: NewSockets,
    /// The socket of the new admin address, if the edit changes it.
    admin: Option<NewAdminSocket>,
    /// The file of the access log, if the edit names another one.
    pub(super) access_log: Option<NewOutput>,
    /// The files of the edit.
    sources: Sources,
    /// The files that the edit refers to.
    files: FilesInForce,
    /// Why older contents of them are kept, although there are newer ones.
    pub(super) kept: Vec<Problem>,
    /// The differences from the previous generation, in words.
    pub(super) changes: Vec<String>,
}

/// The addresses that an edit adds: those of listeners, and the admin address if it changes that.
type BoundAddresses = (BoundListeners, Option<BoundSocket>);

/// Why an edit is not applied.
#[derive(Debug)]
pub(super) enum NotApplied {
    /// It is invalid. It is tried again only when the files change, or on SIGHUP.
    Rejected(Vec<Problem>),
    /// It needs something that is not available yet. It is tried again by itself.
    Pending(Vec<Problem>),
}

impl Gateway {
    /// Applies or rejects an edit, or leaves it pending, and records the outcome.
    pub(super) fn consider(&mut self, parsed: ParsedConfig) {
        let ParsedConfig { loaded: LoadedConfig { sources, result }, noticed, requested } = parsed;
        // This edit replaces it, or is the same.
        self.pending = None;
        let same_hash = *sources.hash == *self.state.snapshot.load().hash;
        let unchanged = same_hash && self.files.are(&sources.referenced);
        let result = match result {
            Ok(_) if unchanged => {
                // Recorded only if SIGHUP asked for it, or if it undoes an edit that is not in force.
                if !requested && self.state.reloads().last_successful() {
                    return;
                }
                Ok(None)
            }
            Ok(mut config) => {
                config.share_with(&self.config);
                let recorded = if requested { Vec::new() } else { self.recorded(&sources) };
                return self.attempt(PendingEdit::new(config, sources, noticed, recorded));
            }
            Err(problems) => {
                // Only files that the running configuration refers to may have changed.
                if !self.renew(&sources, noticed) && !requested && self.recorded(&sources) == problems {
                    return;
                }
                Err(NotApplied::Rejected(problems))
            }
        };
        self.conclude(&sources, noticed, result);
    }

    /// Commits what was prepared, if anything was, and records the outcome.
    pub(super) fn conclude(&mut self, sources: &Sources, began: Instant, result: Result<Option<Prepared>, NotApplied>) {
        let mut kept = Vec::new();
        let (outcome, changes, problems) = match result {
            Ok(Some(mut prepared)) => {
                kept = mem::take(&mut prepared.kept);
                self.kept.clone_from(&kept);
                (Outcome::Applied, self.commit(prepared), Vec::new())
            }
            Ok(None) => (Outcome::Unchanged, Vec::new(), Vec::new()),
            Err(NotApplied::Rejected(problems)) => (Outcome::Rejected, Vec::new(), problems),
            Err(NotApplied::Pending(problems)) => (Outcome::Pending, Vec::new(), problems),
        };
        let record = |outcome, changes, problems| {
            self.record(Reload {
                generation: self.state.snapshot.load().generation,
                hash: sources.hash.as_str().into(),
                outcome,
                at: SystemTime::now(),
                took: began.elapsed(),
                changes,
                problems,
            });
        };
        record(outcome, changes, problems);
        if !kept.is_empty() {
            // The rest of the edit does not wait for it.
            record(Outcome::Pending, Vec::new(), kept);
        }
    }

    /// Checks an edit against the guards, binds its new addresses and builds everything else that it needs. `addresses`
    /// has those of its servers' names that are new.
    ///
    /// Touches nothing that runs: no server, no snapshot, no open socket. After an error, everything that it built is
    /// dropped.
    pub(super) fn prepare(
        &self,
        config: &Arc<Config>,
        sources: &Sources,
        addresses: &Addresses,
    ) -> Result<Prepared, NotApplied> {
        self.check(config, sources)?;
        let Replacement { files, kept, missing } = self.files.replace(&sources.referenced, &sources.files);
        if !missing.is_empty() {
            return Err(NotApplied::Pending([missing, kept].concat()));
        }
        if !kept.is_empty() && **config == *self.config && self.files.same(&files.0) {
            return Err(NotApplied::Pending(kept));
        }
        let tls = PoolsTls::load(config, &files, &sources.files, self.running.registry.tls());
        let tls = tls.map_err(NotApplied::Pending)?;
        let before = self.state.snapshot.load();
        let listeners_tls = tls_state(config, (&files, &sources.files), before.tls.as_deref());
        let listeners_tls = listeners_tls.map_err(NotApplied::Pending)?;
        let (listeners, admin) = self.bind(config, sources).and_then(|bound| self.listen(bound, config, sources))?;
        sources.warn_of_unmatched();
        let is_same = |pool: &Arc<PoolConfig>| self.config.pool(&pool.name).is_some_and(|old| Arc::ptr_eq(old, pool));
        warn_of_shared_addresses(config.pools.iter().filter(|pool| !is_same(pool)));
        let mut changes: Vec<String> = diff(&self.config, config).iter().map(ToString::to_string).collect();
        changes.extend(self.files.changes(&files));
        let addresses = |name: &HostPort| self.running.resolver.addresses(name, addresses);
        let registry = self.running.registry.plan(config, Instant::now(), addresses).with_tls(tls);
        let generation = before.generation + 1;
        let hash = sources.hash.as_str().into();
        let mut snapshot = registry.snapshot(generation, hash, file_hashes(sources, &files), SystemTime::now());
        snapshot.tls = listeners_tls;
        snapshot.acme = self.running.acme.state_for(config);
        let (config, sources) = (Arc::clone(config), sources.clone());
        Ok(Prepared { config, snapshot, registry, listeners, admin, access_log: None, sources, files, kept, changes })
    }

    /// Checks an edit for what no waiting would mend: against the guards, and its own files.
    pub(super) fn check(&self, config: &Config, sources: &Sources) -> Result<(), NotApplied> {
        let mut problems = guards(&sources.files, Some(&self.config), config);
        problems.extend(self.emptied(sources));
        problems.extend(not_configuration(&config.log, &sources.files).err());
        problems.extend(upstream_tls::check(config, &sources.files));
        if problems.is_empty() { Ok(()) } else { Err(NotApplied::Rejected(problems)) }
    }

    /// A problem for each included file that has lost all of its content, as on a full disk.
    fn emptied(&self, sources: &Sources) -> Vec<Problem> {
        let snapshot = self.state.snapshot.load();
        let had_content = |file: &SourceFile| {
            snapshot.files.iter().any(|before| before.path == file.path && *before.hash != *file.hash)
        };
        let emptied = sources.files.iter().filter(|file| file.bytes.is_empty() && had_content(file));
        let reason = Reason::new("this file had content and is empty now")
            .hint("write its content again; if nothing should be in it, delete it or leave a comment in it");
        emptied.map(|file| Problem::of_file(&file.path, reason.clone())).collect()
    }

    /// Binds the addresses that `config` adds. No client notices.
    pub(super) fn bind(&self, config: &Config, sources: &Sources) -> Result<BoundAddresses, NotApplied> {
        let (address, admin) = (&config.admin.address, &self.outputs.admin);
        let listeners = self.running.listeners.bind(&config.listeners, admin.moving(address));
        let making_way = self.making_way_for_admin(config);
        let admin =
            admin.moving(address).map(|_| BoundSocket::bind(address, SocketMode::default(), &making_way)).transpose();
        both((listeners, admin)).map_err(|errors| pending::not_bound(&sources.files, config, &errors))
    }

    /// Listens on the addresses that [`Gateway::bind`] has bound.
    fn listen(
        &self,
        (listeners, admin): BoundAddresses,
        config: &Config,
        sources: &Sources,
    ) -> Result<(NewSockets, Option<NewAdminSocket>), NotApplied> {
        let moving = self.outputs.admin.moving(&config.admin.address);
        let listeners = self.running.listeners.listen(listeners, &config.listeners, moving);
        let making_way = self.making_way_for_admin(config);
        let admin = admin.map(|bound| NewAdminSocket::listen(bound, &making_way)).transpose();
        both((listeners, admin)).map_err(|errors| pending::not_bound(&sources.files, config, &errors))
    }

    fn making_way_for_admin<'a>(&'a self, config: &'a Config) -> Vec<&'a OpenSocket> {
        let address = &config.admin.address;
        let listeners = self.running.listeners.making_way(address, &config.listeners);
        listeners.chain(self.outputs.admin.making_way(address)).collect()
    }

    /// Makes an edit take effect. Returns its changes in words.
    ///
    /// No step can fail, and none waits, so no other task of the control plane runs in between. The order:
    ///
    /// 1. The registry, because later steps look servers up in it. From here on, workers keep no more
    ///    connections to servers that leave. No request sees the edit yet.
    /// 2. The file of the access log, before a request can be logged there.
    /// 3. The snapshot: from here on, the new generation serves each new request. See [`Gateway::put_in_force`]
    ///    for checks, readmissions, name lookups and the workers' part.
    /// 4. The listeners after the snapshot, so that a new address never serves the old generation.
    /// 5. Everything else that reports: the admin address, the log, the traces; and the orders of certificates.
    /// 6. The last good copy, for the next start, and the reader's rules, for the next edit.
    pub(super) fn commit(&mut self, prepared: Prepared) -> Vec<String> {
        // Every field is named, so that the compiler reports one that no step commits.
        let Prepared { config, snapshot, registry, listeners, admin, access_log, sources, files, kept: _, changes } =
            prepared;
        let old = mem::replace(&mut self.config, config);
        self.files = files;
        self.sources = sources;

        self.running.registry.commit(registry);
        self.outputs.access_log.commit(access_log);
        self.put_in_force(snapshot);
        self.commit_listeners(listeners);
        self.outputs.admin.commit(admin);
        self.commit_logs(&old);
        self.outputs.traces.apply(&self.config.tracing);
        self.running.acme.apply(&self.config, &self.files);
        self.outputs.last_good.save(&self.config.reload, self.sources.files.clone());
        self.inputs.reader.set_rules(ReloadRules::from(&*self.config));
        self.warn_of_unrouted(Some(&old));
        self.warn_of_certificates();
        self.warn_of_unverified(Some(&old));
        self.warn_if_restart_needed(&old);
        changes
    }

    /// Opens and closes listeners, and publishes the result.
    pub(super) fn commit_listeners(&mut self, sockets: NewSockets) {
        let (config, running) = (&self.config, &mut self.running);
        let drain = config.timeouts.drain;
        let snapshot = self.state.snapshot.load();
        let listeners = (&*config.listeners, snapshot.tls.as_deref());
        running.listeners.commit(sockets, listeners, &running.worker_pool, drain, Instant::now());
        self.state.set_listeners(running.listeners.live(&config.listeners));
    }

    /// Replaces the log's level and format, but only if `[log]` was edited: after a replacement, each log statement has
    /// to be matched with the filter again.
    fn commit_logs(&self, old: &Config) {
        if old.log != self.config.log {
            self.outputs.logs.apply(&self.config.log);
        }
    }

    /// Warns of pools that no route leads to, unless that was so before. The API goes on to warn until one does.
    pub(super) fn warn_of_unrouted(&self, old: Option<&Config>) {
        let known: HashSet<&str> = old.map(unrouted_pools).into_iter().flatten().collect();
        for pool in unrouted_pools(&self.config).filter(|pool| !known.contains(pool)) {
            tracing::warn!("{}", unrouted(pool));
        }
    }

    /// Warns of pools whose servers are not verified, unless that was so before. The API goes on to warn until they are.
    pub(super) fn warn_of_unverified(&self, old: Option<&Config>) {
        let known: HashSet<&str> = old.map(unverified_pools).into_iter().flatten().collect();
        for pool in unverified_pools(&self.config).filter(|pool| !known.contains(pool)) {
            tracing::warn!("{}", unverified(pool));
        }
    }

    /// Warns if an edit changes `proxy.workers`, the only key that takes effect at the next start. The API goes on to warn
    /// until then.
    fn warn_if_restart_needed(&self, old: &Config) {
        if old.proxy.workers != self.config.proxy.workers && self.config.proxy.worker_count() != self.workers {
            tracing::warn!(workers = self.workers, "`proxy.workers` was changed; it takes effect at the next start");
        }
    }
}

/// Both values, or the errors of both.
pub(super) fn both<L, A>(
    (listeners, admin): (Result<L, Vec<BindError>>, Result<A, BindError>),
) -> Result<(L, A), Vec<BindError>> {
    match (listeners, admin) {
        (Ok(listeners), Ok(admin)) => Ok((listeners, admin)),
        (listeners, admin) => Err(listeners.err().into_iter().flatten().chain(admin.err()).collect()),
    }
}

/// Warns of servers that have the same address, which is hardly meant.
pub(super) fn warn_of_shared_addresses<'a>(pools: impl Iterator<Item = &'a Arc<PoolConfig>>) {
    for message in pools.flat_map(|pool| shared_addresses(pool)) {
        tracing::warn!("{message}");
    }
}

/// The files of a generation with their hashes, and then those that it refers to.
pub(super) fn file_hashes(sources: &Sources, referenced: &FilesInForce) -> Arc<[FileVersion]> {
    let file = |file: &SourceFile| FileVersion { path: file.path.clone(), hash: file.hash.as_str().into() };
    sources.files.iter().map(file).chain(referenced.versions()).collect()
}
