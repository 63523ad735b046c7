//! From a candidate to a generation: guards, sockets, snapshot, swap, and the record of it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::config::diff::diff;
use crate::config::guard::guards;
use crate::config::problem::{Problem, Reason};
use crate::config::{self, Config, overlap};
use crate::control::gateway::Gateway;
use crate::control::reload::last_good;
use crate::control::reload::reader::{ParsedConfig, ReloadRules, env};
use crate::control::reload::source::{Loaded, Sources};
use crate::live::events::Event;
use crate::live::reloads::{Outcome, Reload};
use crate::live::snapshot::{FileVersion, Snapshot};
use crate::proxy::fault::Failing;
use crate::worker::socket::{self, BindError};

impl Gateway {
    /// Brings a candidate into force, or records why not. Nothing that runs is touched before all
    /// of it is known to work.
    pub(super) fn consider(&mut self, candidate: ParsedConfig) {
        let ParsedConfig { loaded: Loaded { sources, result }, since, asked } = candidate;
        let (in_force, last_rejected) = {
            let snapshot = self.state.snapshot.load();
            (snapshot.generation, !self.state.reloads().last_successful())
        };
        let same = result.is_ok() && *sources.hash == *self.state.snapshot.load().hash;
        let outcome = match result {
            // Back to what is in force: worth a word after a rejection, or when somebody asked.
            Ok(_) if same => {
                if !asked && !last_rejected {
                    return;
                }
                Ok(None)
            }
            Ok(config) => self.apply(config, &sources).map(Some),
            Err(problems) => Err(problems),
        };
        let (outcome, changes, problems) = match outcome {
            Ok(Some(changes)) => (Outcome::Applied, changes, Vec::new()),
            Ok(None) => (Outcome::Unchanged, Vec::new(), Vec::new()),
            Err(problems) => (Outcome::Rejected, Vec::new(), problems),
        };
        let generation = in_force + u64::from(outcome == Outcome::Applied);
        self.record(Reload {
            generation,
            hash: sources.hash.as_str().into(),
            outcome,
            at: SystemTime::now(),
            took: since.elapsed(),
            changes,
            problems,
        });
    }

    /// The one atomic step. Before [`Gateway::swap`] nothing is visible.
    fn apply(&mut self, mut config: Config, sources: &Sources) -> Result<Vec<String>, Vec<Problem>> {
        config.share_with(&self.config);
        let guarded = guards(&self.path, Some(&self.config), &config);
        if !guarded.is_empty() {
            return Err(guarded);
        }
        let fresh = self
            .listeners
            .prepare(&config.listeners)
            .map_err(|errors| errors.iter().map(|error| self.bind_problem(error)).collect::<Vec<_>>())?;
        let admin = if config.admin.address == self.admin.configured {
            None
        } else {
            let own = overlap(self.admin.configured, config.admin.address).then_some(&self.admin.socket);
            let bound = socket::bind(config.admin.address, own.as_slice());
            Some(bound.map_err(|error| vec![self.bind_problem(&error)])?)
        };

        let now = Instant::now();
        let changes = diff(&self.config, &config).iter().map(ToString::to_string).collect();
        if config.proxy.workers != self.config.proxy.workers {
            tracing::warn!(workers = self.workers, "`proxy.workers` was changed: it takes effect with the next start");
        }
        self.registry.apply(&config, now);
        let config = Arc::new(config);
        let old = std::mem::replace(&mut self.config, Arc::clone(&config));
        let generation = self.state.snapshot.load().generation + 1;
        let hash = sources.hash.as_str().into();
        let snapshot = self.registry.snapshot(&config, generation, hash, files(sources), SystemTime::now());
        self.swap(snapshot);
        self.listeners.commit(fresh, &config.listeners, &self.worker_pool, config.timeouts.drain, now);
        self.state.set_listeners(self.listeners.live(&config.listeners));
        if let Some(socket) = admin {
            self.admin.move_to(config.admin.address, socket);
        }
        if old.log != config.log {
            self.logs.apply(&config.log);
        }
        self.traces.apply(&config.tracing);
        self.keep(sources);
        self.pace.send_replace(ReloadRules { quiet: config.reload.quiet, poll: config.reload.poll });
        Ok(changes)
    }

    /// Has the files kept as the last good ones, one after the other and beside everything else: a
    /// disk may be slow.
    pub(super) fn keep(&mut self, sources: &Sources) {
        let Some(directory) = last_good::directory(&self.config.reload, &env) else { return };
        let (files, before) = (sources.files.clone(), self.keeping.take());
        self.keeping = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // It has said itself what went wrong.
                let _ = before.await;
            }
            let place = directory.clone();
            let kept = tokio::task::spawn_blocking(move || last_good::keep(&place, &files)).await;
            if let Err(error) = kept.map_err(std::io::Error::other).flatten() {
                let directory = directory.display();
                tracing::error!(%directory, %error, "the last good configuration cannot be kept; a start with a bad file would fail");
            }
        }));
    }

    /// Puts a snapshot in force.
    fn swap(&mut self, mut snapshot: Snapshot) {
        self.checker.apply(&snapshot);
        if self.readmit(&snapshot) {
            snapshot.pools = self.registry.pools(&self.config);
        }
        self.resolver.apply(&snapshot);
        let before = self.state.snapshot.swap(Arc::new(snapshot));
        self.worker_pool.refresh();
        self.retired.push(before);
        self.free_retired();
    }

    /// Frees the snapshots that nobody holds any more, beside everything else.
    fn free_retired(&mut self) {
        // Nobody can take hold of one that nobody else holds.
        let free: Vec<_> = self.retired.extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1).collect();
        if free.iter().any(|snapshot| snapshot.is_large()) {
            tokio::task::spawn_blocking(move || drop(free));
        }
    }

    /// The same generation with another health.
    pub(super) fn publish(&mut self) {
        let pools = self.registry.pools(&self.config);
        let now = self.state.snapshot.load_full();
        self.swap(Snapshot { pools, ..(*now).clone() });
    }

    /// Takes a server out whose requests fail, unless nobody else is left: its checks alone may do that.
    pub(super) fn eject(&self, failing: &Failing) {
        let snapshot = self.state.snapshot.load();
        let (server, key) = (&failing.server, &failing.server.key);
        if snapshot.pools.iter().any(|pool| pool.live.name == key.pool && pool.has_another(server.id)) {
            self.checker.eject(server, failing.to_string());
        } else {
            tracing::debug!(server = %key, reason = %failing, "not ejected, for nobody else is left");
        }
    }

    /// Brings back who was taken out for failing requests alone, where nobody else is left by now;
    /// whether there was somebody.
    fn readmit(&self, snapshot: &Snapshot) -> bool {
        let ejected = snapshot.unready().flat_map(|pool| &pool.members).filter(|member| member.is_ejected());
        ejected.map(|member| self.checker.readmit(&member.server)).count() > 0
    }

    /// Ends the drains whose time has come, and frees what is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.free_retired();
        let expired = self.registry.expire(&self.config, now);
        for (server, open) in &expired.servers {
            if *open {
                tracing::warn!(server = %server.key, "the time to drain is over: its open requests are cut");
                self.worker_pool.cut_server(server.id);
            } else {
                tracing::info!(server = %server.key, "drained");
            }
        }
        for pool in &expired.holds {
            tracing::info!(%pool, "the pool's old servers are let go");
        }
        if !expired.is_empty() {
            self.publish();
        }
        if !self.listeners.is_settled() {
            self.listeners.expire(&self.worker_pool, now);
            self.state.set_listeners(self.listeners.live(&self.config.listeners));
        }
    }

    fn bind_problem(&self, error: &BindError) -> Problem {
        let mut ours = self.listeners.addresses().chain([self.admin.configured]);
        let hint = match ours.find(|held| overlap(*held, error.address)) {
            Some(held) => format!("lb itself still listens on {held}: free that first, in an edit of its own"),
            None => error.hint(),
        };
        Problem::of_file(&self.path, Reason::new(error.to_string()).hint(hint))
    }

    /// Says what came of a reload: in the log, and to all who read the record.
    pub(super) fn record(&self, reload: Reload) {
        let Reload { generation, hash, outcome, took, changes, problems, .. } = &reload;
        match outcome {
            Outcome::Applied if *generation == 1 => {
                let servers: usize = self.config.pools.iter().map(|pool| pool.servers.len()).sum();
                let (pools, routes) = (self.config.pools.len(), self.config.routes.len());
                tracing::info!(generation, %hash, ?took, servers, pools, routes, "configuration applied: the first one");
            }
            Outcome::Applied => {
                tracing::info!(generation, %hash, ?took, changes = changes.join("; "), "configuration applied");
            }
            Outcome::Unchanged => {
                tracing::info!(generation, %hash, "configuration unchanged");
            }
            Outcome::Rejected => {
                tracing::error!(generation, %hash, problems = problems.len(), "configuration rejected; the generation stays in force");
                for problem in problems {
                    tracing::error!("{problem}");
                }
            }
        }
        let reload = Arc::new(reload);
        self.state.reloads().add(Arc::clone(&reload), self.config.reload.history);
        self.state.events.publish(Event::Reload(reload));
    }
}

/// The files of a generation, for those who show them.
pub(super) fn files(sources: &Sources) -> Arc<[FileVersion]> {
    let file =
        |file: &config::source::SourceFile| FileVersion { path: file.path.clone(), hash: file.hash.as_str().into() };
    sources.files.iter().map(file).collect()
}

/// What the record says of files that a start found bad.
pub(super) fn fallen_back(hash: Arc<str>, since: Instant, problems: Vec<Problem>) -> Reload {
    tracing::error!(
        "THE CONFIGURATION IS BAD OR MISSING: started with the last good one, as it was kept. Mended, the file is applied at once"
    );
    Reload {
        generation: 1,
        hash,
        outcome: Outcome::Rejected,
        at: SystemTime::now(),
        took: since.elapsed(),
        changes: Vec::new(),
        problems,
    }
}

/// What the record calls a snapshot that is being shown for the first time.
pub(super) fn first_reload(snapshot: &Snapshot, since: Instant) -> Reload {
    Reload {
        generation: snapshot.generation,
        hash: Arc::clone(&snapshot.hash),
        outcome: Outcome::Applied,
        at: snapshot.applied_at,
        took: since.elapsed(),
        changes: Vec::new(),
        problems: Vec::new(),
    }
}
