//! Turns an edit into a generation: prepares it without touching what runs, then commits it, which cannot fail.

use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Gateway;
use super::admin_server::NewAdminSocket;
use super::listeners::NewSockets;
use crate::config::diff::diff;
use crate::config::guard::guards;
use crate::config::problem::{Problem, Reason};
use crate::config::{self, Config, overlap};
use crate::control::registry::RegistryPlan;
use crate::control::reload::reader::{ParsedConfig, ReloadRules};
use crate::control::reload::source::{LoadedConfig, Sources};
use crate::live::reloads::{Outcome, Reload};
use crate::live::snapshot::{FileVersion, Snapshot};
use crate::worker::socket::BindError;

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
    /// The files of the edit, for the last good copy.
    files: Vec<config::source::SourceFile>,
    /// The differences from the previous generation, in words.
    pub(super) changes: Vec<String>,
}

/// Why an edit is not applied.
#[derive(Debug)]
pub(super) enum NotApplied {
    /// It is invalid. It is tried again only when the files change, or on SIGHUP.
    Rejected(Vec<Problem>),
}

impl Gateway {
    /// Applies or rejects an edit, and records the outcome.
    pub(super) fn consider(&mut self, parsed: ParsedConfig) {
        let ParsedConfig { loaded: LoadedConfig { sources, result }, noticed, requested } = parsed;
        let unchanged = *sources.hash == *self.state.snapshot.load().hash;
        let result = match result {
            Ok(_) if unchanged => {
                // Recorded only if SIGHUP asked for it, or if it undoes a rejected edit.
                if !requested && self.state.reloads().last_successful() {
                    return;
                }
                Ok(None)
            }
            Ok(config) => self.prepare(config, &sources).map(Some),
            Err(problems) => Err(NotApplied::Rejected(problems)),
        };
        let (outcome, changes, problems) = match result {
            Ok(Some(prepared)) => (Outcome::Applied, self.commit(prepared), Vec::new()),
            Ok(None) => (Outcome::Unchanged, Vec::new(), Vec::new()),
            Err(NotApplied::Rejected(problems)) => (Outcome::Rejected, Vec::new(), problems),
        };
        self.record(Reload {
            generation: self.state.snapshot.load().generation,
            hash: sources.hash.as_str().into(),
            outcome,
            at: SystemTime::now(),
            took: noticed.elapsed(),
            changes,
            problems,
        });
    }

    /// Checks an edit against the guards, binds its new addresses and builds everything else that it needs.
    ///
    /// Touches nothing that runs: no server, no snapshot, no open socket. After an error, everything that it built is
    /// dropped.
    pub(super) fn prepare(&self, mut config: Config, sources: &Sources) -> Result<Prepared, NotApplied> {
        config.share_with(&self.config);
        let problems = guards(&self.path, Some(&self.config), &config);
        if !problems.is_empty() {
            return Err(NotApplied::Rejected(problems));
        }
        let (listeners, admin) = self.bind(&config).map_err(NotApplied::Rejected)?;
        sources.warn_of_unmatched();
        let config = Arc::new(config);
        let changes = diff(&self.config, &config).iter().map(ToString::to_string).collect();
        let registry = self.running.registry.plan(&config, Instant::now());
        let generation = self.state.snapshot.load().generation + 1;
        let hash = sources.hash.as_str().into();
        let snapshot = registry.snapshot(generation, hash, file_hashes(sources), SystemTime::now());
        Ok(Prepared { config, snapshot, registry, listeners, admin, files: sources.files.clone(), changes })
    }

    /// Binds the addresses that `config` adds.
    fn bind(&self, config: &Config) -> Result<(NewSockets, Option<NewAdminSocket>), Vec<Problem>> {
        let problems = |errors: Vec<BindError>| errors.iter().map(|error| self.bind_problem(error)).collect::<Vec<_>>();
        let listeners = self.running.listeners.prepare(&config.listeners).map_err(problems)?;
        let admin = self.outputs.admin.prepare(config.admin.address).map_err(|error| problems(vec![error]))?;
        Ok((listeners, admin))
    }

    fn bind_problem(&self, error: &BindError) -> Problem {
        let mut ours = self.running.listeners.addresses().chain([self.outputs.admin.address()]);
        let hint = match ours.find(|bound| overlap(*bound, error.address)) {
            Some(bound) => format!("lb itself still listens on {bound}: free that address first, in a separate edit"),
            None => error.hint(),
        };
        Problem::of_file(&self.path, Reason::new(error.to_string()).hint(hint))
    }

    /// Makes an edit take effect. Returns its changes in words.
    ///
    /// No step can fail, and none waits, so no other task of the control plane runs in between. The order:
    ///
    /// 1. The registry, because later steps look servers up in it. From here on, workers keep no more
    ///    connections to servers that leave. No request sees the edit yet.
    /// 2. The snapshot: from here on, the new generation serves each new request. See [`Gateway::put_in_force`]
    ///    for checks, readmissions, name lookups and the workers' part.
    /// 3. The listeners after the snapshot, so that a new address never serves the old generation.
    /// 4. Everything that reports: the admin address, the log, the traces.
    /// 5. The last good copy, for the next start, and the reader's rules, for the next edit.
    pub(super) fn commit(&mut self, prepared: Prepared) -> Vec<String> {
        // Every field is named, so that the compiler reports one that no step commits.
        let Prepared { config, snapshot, registry, listeners, admin, files, changes } = prepared;
        let old = mem::replace(&mut self.config, config);

        self.running.registry.commit(registry);
        self.put_in_force(snapshot);
        self.commit_listeners(listeners);
        self.outputs.admin.commit(admin);
        self.commit_logs(&old);
        self.outputs.traces.apply(&self.config.tracing);
        self.outputs.last_good.save(&self.config.reload, files);
        self.inputs.reader.set_rules(ReloadRules::from(&self.config.reload));
        self.warn_if_restart_needed(&old);
        changes
    }

    /// Opens and closes listeners, and publishes the result.
    pub(super) fn commit_listeners(&mut self, sockets: NewSockets) {
        let (config, running) = (&self.config, &mut self.running);
        let drain = config.timeouts.drain;
        running.listeners.commit(sockets, &config.listeners, &running.worker_pool, drain, Instant::now());
        self.state.set_listeners(running.listeners.live(&config.listeners));
    }

    /// Replaces the log's level and format, but only if `[log]` was edited: after a replacement, each log statement has
    /// to be matched with the filter again.
    fn commit_logs(&self, old: &Config) {
        if old.log != self.config.log {
            self.outputs.logs.apply(&self.config.log);
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

/// The files of a generation with their hashes.
pub(super) fn file_hashes(sources: &Sources) -> Arc<[FileVersion]> {
    let file =
        |file: &config::source::SourceFile| FileVersion { path: file.path.clone(), hash: file.hash.as_str().into() };
    sources.files.iter().map(file).collect()
}
