//! The registry: every live server, pool and route, by name. It builds the pools of each snapshot from them.
//!
//! It belongs to the control plane, which is its only writer. State that an edit leaves alone is found here by
//! its key, so that it outlives the generation.
//!
//! An edit takes two steps. [`Registry::plan`] builds the edit beside the running state and touches nothing that
//! runs; [`Registry::commit`] installs it, which cannot fail.

mod pool_entry;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use self::pool_entry::{Marks, PoolEntry, ServerFactory};
use crate::config::{self, Config};
use crate::live::pool::Pool;
use crate::live::route::{LiveRoute, RouteTable};
use crate::live::server::Server;
use crate::live::snapshot::{FileVersion, Route, Snapshot};

/// The state that outlives generations.
#[derive(Debug)]
pub struct Registry {
    factory: ServerFactory,
    pools: HashMap<Arc<str>, PoolEntry>,
    routes: HashMap<Arc<str>, Arc<LiveRoute>>,
    unrouted: Arc<LiveRoute>,
}

/// A planned edit. Must be committed to the registry that planned it, before that commits another. Dropping it
/// discards the edit, because nothing that runs refers to it yet.
#[derive(Debug)]
pub struct RegistryPlan {
    config: Arc<Config>,
    factory: ServerFactory,
    /// Entries of the pools that the edit changes, each with the changes to its servers.
    changed: Vec<(PoolEntry, Marks)>,
    /// Removed pools in which nothing drains.
    forgotten: Vec<Arc<str>>,
    /// The pools and routes of the snapshot.
    pools: Vec<Arc<Pool>>,
    routes: Arc<[Route]>,
    unrouted: Arc<LiveRoute>,
}

/// The drains and holds that have ended.
#[derive(Debug, Default)]
pub struct Expired {
    /// Servers that have drained, and whether requests to them were still open.
    pub servers: Vec<(Arc<Server>, bool)>,
    /// Pools whose hold has ended.
    pub holds: Vec<Arc<str>>,
}

impl Expired {
    /// Whether nothing has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.holds.is_empty()
    }
}

impl Registry {
    /// An empty registry for `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            factory: ServerFactory::new(workers),
            pools: HashMap::new(),
            routes: HashMap::new(),
            unrouted: Arc::new(LiveRoute::new("-".into(), workers)),
        }
    }

    /// Builds everything that `config` changes. An unchanged pool costs only a comparison; in a changed one,
    /// only the servers between the first and the last difference are looked up.
    #[must_use]
    pub fn plan(&self, config: &Arc<Config>, now: Instant) -> RegistryPlan {
        let mut plan = RegistryPlan {
            config: Arc::clone(config),
            factory: self.factory,
            changed: Vec::new(),
            forgotten: Vec::new(),
            pools: Vec::with_capacity(config.pools.len()),
            routes: self.routes(config),
            unrouted: Arc::clone(&self.unrouted),
        };
        for pool in &config.pools {
            plan.add_pool(self.pools.get(pool.name.as_str()), pool, now);
        }
        plan.factory.starting = false;
        for (name, entry) in self.unconfigured(config) {
            let empty = Arc::new(entry.config.without_servers());
            if !plan.add_pool(Some(entry), &empty, now) {
                plan.forgotten.push(Arc::clone(name));
            }
        }
        plan
    }

    /// Installs an edit: from now on live servers know whether they are leaving, and counters of removed routes
    /// are gone. Requests see the edit with the plan's snapshot.
    pub fn commit(&mut self, plan: RegistryPlan) {
        self.factory = plan.factory;
        for (entry, marks) in plan.changed {
            marks.apply(&entry.live.name);
            self.pools.insert(Arc::clone(&entry.live.name), entry);
        }
        for name in plan.forgotten {
            self.pools.remove(&name);
        }
        for pool in plan.pools {
            if let Some(entry) = self.pools.get_mut(&pool.live.name) {
                entry.built = Some(pool);
            }
        }
        let routes = plan.routes.iter().map(|route| (Arc::clone(&route.live.name), Arc::clone(&route.live)));
        self.routes = routes.collect();
    }

    /// Ends drains and holds that have timed out. A drain also ends with the last open request, unless cookies may
    /// still lead to the server; a hold also ends when a new server is up.
    pub fn expire(&mut self, config: &Config, now: Instant) -> Expired {
        let mut expired = Expired::default();
        for (name, entry) in &mut self.pools {
            if entry.is_hold_over(now) {
                entry.end_hold(now + config.timeouts.drain);
                expired.holds.push(Arc::clone(name));
            }
            let sticky = config.pool(name).is_some_and(|pool| pool.balance.sticky.is_some());
            expired.servers.extend(entry.expire_drains(sticky, now));
        }
        if !expired.servers.is_empty() {
            self.pools.retain(|name, entry| entry.is_draining() || config.pool(name).is_some());
        }
        expired
    }

    /// Whether there is neither a drain nor a hold that [`Registry::expire`] would have to end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pools.values().all(|entry| !entry.is_draining() && !entry.is_holding())
    }

    /// The pools for a snapshot of the committed `config` and the servers' current health: the configured pools,
    /// then those that only drain. A pool in which nothing has changed since the last call is the same object.
    pub fn pools(&mut self, config: &Config) -> Vec<Arc<Pool>> {
        let unconfigured: Vec<_> = self.unconfigured(config).into_iter().map(|(name, _)| Arc::clone(name)).collect();
        let configured = config.pools.iter().map(|pool| pool.name.as_str());
        let names = configured.chain(unconfigured.iter().map(|name| &**name));
        names.filter_map(|name| self.pools.get_mut(name).map(PoolEntry::build)).collect()
    }

    /// The pools that `config` does not have, by name.
    fn unconfigured(&self, config: &Config) -> Vec<(&Arc<str>, &PoolEntry)> {
        let mut entries: Vec<_> = self.pools.iter().filter(|(name, _)| config.pool(name).is_none()).collect();
        entries.sort_by_key(|(name, _)| *name);
        entries
    }

    /// The routes of a snapshot. A route that already exists keeps its counters.
    fn routes(&self, config: &Config) -> Arc<[Route]> {
        let route = |route: &config::RouteConfig| {
            let live = self.routes.get(route.name.as_str()).cloned();
            let live =
                live.unwrap_or_else(|| Arc::new(LiveRoute::new(route.name.as_str().into(), self.factory.workers)));
            Route { pool: route.pool.index(), live }
        };
        config.routes.iter().map(route).collect()
    }
}

impl RegistryPlan {
    /// The snapshot of the edit.
    #[must_use]
    pub fn snapshot(
        &self,
        generation: u64,
        hash: Arc<str>,
        files: Arc<[FileVersion]>,
        applied_at: SystemTime,
    ) -> Snapshot {
        Snapshot {
            generation,
            hash,
            files,
            applied_at,
            config: Arc::clone(&self.config),
            pools: self.pools.clone(),
            routes: Arc::clone(&self.routes),
            unrouted: Arc::clone(&self.unrouted),
            table: Arc::new(RouteTable::new(&self.config.routes)),
        }
    }

    /// Adds a pool to the snapshot, and its new entry if the edit changes it. Returns false, and
    /// leaves the snapshot alone, if the pool has been removed and nothing in it drains.
    fn add_pool(&mut self, entry: Option<&PoolEntry>, pool: &Arc<config::PoolConfig>, now: Instant) -> bool {
        if let Some(entry) = entry.filter(|entry| entry.is_configured_as(pool)) {
            self.pools.push(entry.pool());
            return true;
        }
        let mut entry = entry.cloned().unwrap_or_else(|| PoolEntry::new(pool, self.factory.workers));
        let marks = entry.apply(pool, &self.config, now, &mut self.factory);
        let exists = entry.is_draining() || self.config.pool(&pool.name).is_some();
        if exists {
            self.pools.push(entry.build());
        }
        self.changed.push((entry, marks));
        exists
    }
}

#[cfg(test)]
mod tests;
