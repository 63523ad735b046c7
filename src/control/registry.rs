//! The registry: every live server, pool and route, by name. It builds the pools of each snapshot from them.
//!
//! It belongs to the control plane, which is its only writer. State that an edit leaves alone is found here by
//! its key, so that it outlives the generation.
//!
//! An edit takes two steps. [`Registry::plan`] builds the edit beside the running state and touches nothing that
//! runs; [`Registry::commit`] installs it, which cannot fail.

mod holds;
mod plan;
mod pool_entry;

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use self::holds::{Holds, Lateness, OldServers, RouteHold, Standing, held_servers, standing};
use self::pool_entry::{PoolEntry, ServerFactory};
use crate::config::{self, Config};
use crate::control::upstream_tls::PoolsTls;
use crate::live::health::HealthState;
use crate::live::pool::Pool;
use crate::live::route::{LiveRoute, RouteTable};
use crate::live::server::Server;
use crate::live::snapshot::{Route, Snapshot};

pub use self::plan::RegistryPlan;

/// The state that outlives generations.
#[derive(Debug)]
pub struct Registry {
    factory: ServerFactory,
    pools: HashMap<Arc<str>, PoolEntry>,
    routes: HashMap<Arc<str>, Arc<LiveRoute>>,
    unrouted: Arc<LiveRoute>,
    holds: Holds,
    /// The rules for TLS to servers.
    tls: PoolsTls,
    /// The committed configuration, with the table of its routes.
    current: Option<(Arc<Config>, Arc<RouteTable>)>,
}

/// The drains and holds that have ended.
#[derive(Debug, Default)]
pub struct Expired {
    /// Servers that have drained, and whether requests to them were still open.
    pub servers: Vec<(Arc<Server>, bool)>,
    /// Whether a hold has ended or become overdue.
    pub holds_changed: bool,
    /// Servers that take over although their first check has not finished.
    pub take_over: Vec<Arc<Server>>,
}

impl Expired {
    /// Whether nothing has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && !self.holds_changed
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
            holds: Holds::new(),
            tls: PoolsTls::default(),
            current: None,
        }
    }

    /// Installs an edit: from now on live servers know whether they are leaving, and counters of removed routes
    /// are gone. Requests see the edit with the plan's snapshot.
    pub fn commit(&mut self, plan: RegistryPlan) {
        let RegistryPlan { config, factory, changed, forgotten, pools, held: _, holds, routes, table, tls, .. } = plan;
        self.factory = factory;
        for (entry, marks) in changed {
            marks.apply();
            entry.set_idle_limits();
            self.pools.insert(Arc::clone(&entry.live.name), entry);
        }
        for name in forgotten {
            self.pools.remove(&name);
        }
        for pool in pools {
            if let Some(entry) = self.pools.get_mut(&pool.live.name) {
                entry.built = Some(pool);
            }
        }
        self.set_tls(tls);
        self.routes = routes.iter().map(|route| (Arc::clone(&route.live.name), Arc::clone(&route.live))).collect();
        let before = mem::replace(&mut self.holds, holds);
        self.mark_leaving();
        self.log_new_holds(&before);
        self.current = Some((config, table));
    }

    /// Gives the configured servers their rules for TLS. A server whose rules have not changed keeps them.
    fn set_tls(&mut self, tls: PoolsTls) {
        let before = mem::replace(&mut self.tls, tls);
        if before.is_empty() && self.tls.is_empty() {
            return;
        }
        for (name, entry) in &self.pools {
            entry.set_tls(self.tls.of(name), self.factory.workers);
        }
    }

    /// The rules for TLS to servers.
    #[must_use]
    pub fn tls(&self) -> &PoolsTls {
        &self.tls
    }

    /// Ends drains and holds that have timed out. A drain also ends with the last open request; a hold also
    /// ends when a new server is up.
    pub fn expire(&mut self, config: &Config, now: Instant) -> Expired {
        let mut expired = Expired { holds_changed: self.end_holds(), ..Expired::default() };
        self.expire_holds(config, now, &mut expired);
        let (held, drain) = (held_servers(&self.holds), config.timeouts.drain);
        for entry in self.pools.values_mut() {
            expired.servers.extend(entry.expire_drains(&held, drain, now));
        }
        if !expired.servers.is_empty() {
            self.pools.retain(|name, entry| entry.is_draining() || config.pool(name).is_some());
        }
        expired
    }

    /// Whether there is neither a drain nor a hold that [`Registry::expire`] would have to end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.holds.is_empty() && self.pools.values().all(|entry| !entry.is_draining())
    }

    /// A snapshot of the committed configuration by the servers' current health: the configured pools,
    /// then those that only drain. A pool in which nothing has changed since the last call is the same object. Holds for
    /// which a new server is up end with it.
    pub fn refresh(&mut self, current: &Snapshot) -> Snapshot {
        self.end_holds();
        let config = &current.config;
        let unconfigured: Vec<_> = self.unconfigured(config).into_iter().map(|(name, _)| Arc::clone(name)).collect();
        let configured = config.pools.iter().map(|pool| pool.name.as_str());
        let names = configured.chain(unconfigured.iter().map(|name| &**name));
        let pools: Vec<_> = names.filter_map(|name| self.pools.get_mut(name).map(PoolEntry::build)).collect();
        let (held, routes) = match self.holds.is_empty() && !current.is_holding() {
            true => (Vec::new(), Arc::clone(&current.routes)),
            false => self.routes(config, &pools, &self.holds),
        };
        Snapshot { pools, held, routes, ..current.clone() }
    }

    /// Ends the holds whose pool has a server that is up, or none that could be. Returns whether there were any.
    fn end_holds(&mut self) -> bool {
        let pools = &self.pools;
        let is_over = |_: &Arc<str>, hold: &mut RouteHold| {
            pools.get(&hold.pool).is_none_or(|entry| standing(entry, &hold.old) != Standing::Waits)
        };
        let ended: BTreeSet<_> = self.holds.extract_if(is_over).map(|(_, hold)| hold.pool).collect();
        for pool in &ended {
            tracing::info!(%pool, "hold ended; the old servers drain");
        }
        if !ended.is_empty() {
            self.mark_leaving();
        }
        !ended.is_empty()
    }

    /// Marks holds that have become overdue, and ends them if `reload.hold_then` says so.
    fn expire_holds(&mut self, config: &Config, now: Instant, expired: &mut Expired) {
        let (mut overdue, mut given_up) = (BTreeSet::new(), BTreeSet::new());
        self.holds.retain(|_, hold| {
            let was_overdue = hold.is_overdue();
            match hold.lateness(&config.reload, now) {
                Lateness::InTime => {}
                Lateness::Overdue if was_overdue => {}
                Lateness::Overdue => {
                    overdue.insert(Arc::clone(&hold.pool));
                }
                Lateness::GivenUp => {
                    given_up.insert(Arc::clone(&hold.pool));
                    return false;
                }
            }
            expired.holds_changed |= was_overdue != hold.is_overdue();
            true
        });
        let hold = config.reload.hold;
        for pool in overdue {
            tracing::warn!(%pool, ?hold, "no server of the pool has passed a check in time; the old servers keep serving");
        }
        for pool in &given_up {
            tracing::warn!(%pool, ?hold, "no server of the pool has passed a check in time; the old servers drain all the same");
            let entry = self.pools.get(pool);
            let unchecked =
                |server: &&Arc<Server>| server.state() == HealthState::Checking && server.last_check().is_none();
            expired.take_over.extend(entry.into_iter().flat_map(PoolEntry::candidates).filter(unchecked).cloned());
        }
        if !given_up.is_empty() {
            expired.holds_changed = true;
            self.mark_leaving();
        }
    }

    /// Connections to a server are kept for reuse while it is held.
    fn mark_leaving(&self) {
        let held = held_servers(&self.holds);
        self.pools.values().for_each(|entry| entry.mark_leaving(&held));
    }

    fn log_new_holds(&self, before: &Holds) {
        let new = self.holds.iter().filter(|(route, hold)| {
            !before.get(*route).is_some_and(|before| before.pool == hold.pool && Arc::ptr_eq(&before.old, &hold.old))
        });
        let new: BTreeSet<_> = new.map(|(_, hold)| (&hold.pool, hold.old.name())).collect();
        for (pool, from) in new {
            tracing::info!(%pool, old_servers = %from, "all servers of the pool are new; the old ones keep serving until one is up");
        }
    }

    /// The pools that `config` does not have, by name.
    fn unconfigured(&self, config: &Config) -> Vec<(&Arc<str>, &PoolEntry)> {
        let mut entries: Vec<_> = self.pools.iter().filter(|(name, _)| config.pool(name).is_none()).collect();
        entries.sort_by_key(|(name, _)| *name);
        entries
    }

    /// The routes of a snapshot of `config` with `pools`, and the old servers that serve the held ones. A route that
    /// already exists keeps its counters. Old servers serve only while one of them can.
    fn routes(&self, config: &Config, pools: &[Arc<Pool>], holds: &Holds) -> (Vec<Arc<Pool>>, Arc<[Route]>) {
        let mut old: Vec<&Arc<OldServers>> = Vec::new();
        let mut place_of = |servers| {
            old.iter().position(|known| Arc::ptr_eq(known, servers)).unwrap_or_else(|| {
                old.push(servers);
                old.len() - 1
            })
        };
        let route = |route: &config::RouteConfig| {
            let live = self.routes.get(route.name.as_str()).cloned();
            let live =
                live.unwrap_or_else(|| Arc::new(LiveRoute::new(route.name.as_str().into(), self.factory.workers)));
            let (pool, hold) = (route.pool.index(), holds.get(route.name.as_str()));
            let serving = hold.filter(|hold| hold.old.can_serve() || !pools[pool].is_ready());
            let serving = serving.map_or(pool, |hold| pools.len() + place_of(&hold.old));
            Route { pool, serving, hold: hold.map(RouteHold::view), live }
        };
        let routes = config.routes.iter().map(route).collect();
        (old.into_iter().map(|old| Arc::new(old.pool())).collect(), routes)
    }
}

#[cfg(test)]
mod tests;
