//! The registry: every live server, pool and route by name, and the snapshots that are built around them.
//!
//! It belongs to the control plane, which is the only writer. Whatever an edit leaves alone is found
//! here again by its key, so its state outlives the generation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{self, Config, HealthKind};
use crate::health::State;
use crate::pool::{Member, Pool, PoolLive, Standing};
use crate::route::RouteTable;
use crate::server::{Key, Server};
use crate::snapshot::{Route, RouteLive, Snapshot, SourceFile};

/// All that outlives a generation.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    next_id: u64,
    servers: HashMap<Key, Arc<Server>>,
    pools: HashMap<Arc<str>, PoolEntry>,
    routes: HashMap<Arc<str>, Arc<RouteLive>>,
    unrouted: Arc<RouteLive>,
}

/// A pool, with what is going on in it.
#[derive(Debug)]
struct PoolEntry {
    live: Arc<PoolLive>,
    /// As built last, and to be used again while nothing in it changes.
    built: Option<Arc<Pool>>,
    leaving: Vec<Leaving>,
    /// Until when the leaving servers serve on, because no new one has passed a check.
    hold: Option<Instant>,
    /// What weight such servers had that have weight 0 since then, by their id.
    held: HashMap<u64, u32>,
}

/// A server that is disabled or removed while its drain lasts.
#[derive(Debug)]
struct Leaving {
    server: Arc<Server>,
    /// As it was last.
    weight: u32,
    /// When its open requests are cut.
    until: Instant,
}

/// What [`Registry::expire`] found to be over.
#[derive(Debug, Default)]
pub struct Expired {
    /// Servers whose drain is over, with whether requests to them were still open.
    pub servers: Vec<(Arc<Server>, bool)>,
    /// Pools whose hold is over.
    pub holds: Vec<Arc<str>>,
}

impl Expired {
    /// Whether nothing was over.
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
            workers,
            next_id: 0,
            servers: HashMap::new(),
            pools: HashMap::new(),
            routes: HashMap::new(),
            unrouted: Arc::new(RouteLive::new("-".into(), workers)),
        }
    }

    /// Takes in a configuration: makes what is new, keeps what stays, lets go what is gone.
    ///
    /// `first` says that this is the process' first one, whose servers count as up unchecked.
    pub fn apply(&mut self, old: Option<&Config>, new: &Config, now: Instant) {
        let first = old.is_none();
        for pool in &new.pools {
            self.adopt(pool, first);
        }
        if let Some(old) = old {
            for pool in &old.pools {
                self.release(pool, new.pool(&pool.name), &new.reload, new.timeouts.drain, now);
            }
        }
        for pool in &new.pools {
            if let Some(entry) = self.pools.get_mut(pool.name.as_str()) {
                // Who came back does not leave any more.
                let enabled: HashSet<_> = pool.servers.iter().filter(|server| server.enabled).map(identity).collect();
                entry
                    .leaving
                    .retain(|leaving| !enabled.contains(&(&*leaving.server.key.name, &leaving.server.key.address)));
            }
        }
        let routes: HashSet<&str> = new.routes.iter().map(|route| route.name.as_str()).collect();
        self.routes.retain(|name, _| routes.contains(&**name));
        self.forget(new);
    }

    /// Makes the pool's live parts, as far as there are none.
    fn adopt(&mut self, pool: &config::Pool, first: bool) {
        let name: Arc<str> = match self.pools.get_key_value(pool.name.as_str()) {
            Some((name, _)) => Arc::clone(name),
            None => pool.name.as_str().into(),
        };
        self.pools.entry(Arc::clone(&name)).or_insert_with(|| PoolEntry {
            live: Arc::new(PoolLive::new(Arc::clone(&name), self.workers)),
            built: None,
            leaving: Vec::new(),
            hold: None,
            held: HashMap::new(),
        });
        for server in &pool.servers {
            let key =
                Key { pool: Arc::clone(&name), name: server.name.as_str().into(), address: server.address.clone() };
            let live = self.servers.entry(key).or_insert_with_key(|key| {
                let state = match pool.health.kind {
                    HealthKind::None => State::Up,
                    HealthKind::Http | HealthKind::Tcp if first => State::Unchecked,
                    HealthKind::Http | HealthKind::Tcp => State::Checking,
                };
                self.next_id += 1;
                Arc::new(Server::new(self.next_id, key.clone(), state, self.workers))
            });
            live.set_leaving(!server.enabled);
            if pool.health.kind == HealthKind::None && live.state() != State::Up {
                live.set_state(State::Up);
            }
        }
    }

    /// Begins the drain of every server that `old` had enabled and `new` has not.
    fn release(
        &mut self,
        old: &config::Pool,
        new: Option<&config::Pool>,
        reload: &config::Reload,
        drain: Duration,
        now: Instant,
    ) {
        let Some(entry) = self.pools.get_mut(old.name.as_str()) else { return };
        let key = |server: &config::Server, pool: &Arc<str>| Key {
            pool: Arc::clone(pool),
            name: server.name.as_str().into(),
            address: server.address.clone(),
        };
        let stays: HashSet<_> =
            new.iter().flat_map(|pool| &pool.servers).filter(|server| server.enabled).map(identity).collect();
        for server in old.servers.iter().filter(|server| server.enabled && !stays.contains(&identity(server))) {
            if let Some(live) = self.servers.get(&key(server, &entry.live.name)) {
                live.set_leaving(true);
                let weight = entry.held.remove(&live.id).unwrap_or(server.weight);
                entry.leaving.push(Leaving { server: Arc::clone(live), weight, until: now + drain });
            }
        }
        let staying = new.iter().flat_map(|pool| &pool.servers).filter(|server| server.enabled && server.weight > 0);
        let staying: Vec<State> =
            staying.filter_map(|server| Some(self.servers.get(&key(server, &entry.live.name))?.state())).collect();
        let awaits = awaits_first_pass(&staying);
        let was_ready = entry.built.as_ref().is_some_and(|pool| pool.is_ready());
        if entry.hold.is_some() && !awaits {
            entry.let_go(now + drain);
        } else if entry.hold.is_none() && awaits && was_ready && !reload.hold.is_zero() {
            let until = now + reload.hold;
            entry.hold = Some(until);
            for leaving in &mut entry.leaving {
                leaving.until = until + drain;
            }
        }
        if entry.hold.is_some() {
            let idle: HashSet<_> =
                new.iter().flat_map(|pool| &pool.servers).filter(|server| server.weight == 0).map(identity).collect();
            for server in old.servers.iter().filter(|server| server.weight > 0 && idle.contains(&identity(server))) {
                if let Some(live) = self.servers.get(&key(server, &entry.live.name)) {
                    entry.held.insert(live.id, server.weight);
                }
            }
        }
    }

    /// Drops what neither the configuration nor a drain names.
    fn forget(&mut self, config: &Config) {
        let mut named: HashSet<Key> = HashSet::with_capacity(self.servers.len());
        for pool in &config.pools {
            if let Some((name, _)) = self.pools.get_key_value(pool.name.as_str()) {
                named.extend(pool.servers.iter().map(|server| Key {
                    pool: Arc::clone(name),
                    name: server.name.as_str().into(),
                    address: server.address.clone(),
                }));
            }
        }
        let leaving = self.pools.values().flat_map(|entry| &entry.leaving);
        named.extend(leaving.map(|leaving| leaving.server.key.clone()));
        self.servers.retain(|key, _| named.contains(key));
        self.pools.retain(|name, entry| !entry.leaving.is_empty() || config.pool(name).is_some());
    }

    /// Ends drains and holds whose time has come; a drain also ends with the last open request,
    /// unless cookies may still lead to the server.
    pub fn expire(&mut self, config: &Config, now: Instant) -> Expired {
        let mut expired = Expired::default();
        for (name, entry) in &mut self.pools {
            if let Some(until) = entry.hold {
                let new_is_up = entry.built.as_ref().is_some_and(|pool| {
                    pool.members.iter().any(|member| {
                        member.standing == Standing::Enabled && member.weight > 0 && member.server.state().serves()
                    })
                });
                if new_is_up || now >= until {
                    entry.let_go(now + config.timeouts.drain);
                    expired.holds.push(Arc::clone(name));
                }
            }
            let sticky = config.pool(name).is_some_and(|pool| pool.balance.sticky.is_some());
            let held = entry.hold.is_some();
            entry.leaving.retain(|leaving| {
                let open = leaving.server.active_requests() > 0;
                let over = !held && (now >= leaving.until || (!open && !sticky));
                if over {
                    expired.servers.push((Arc::clone(&leaving.server), open));
                }
                !over
            });
        }
        if !expired.servers.is_empty() {
            self.forget(config);
        }
        expired
    }

    /// Whether anything waits for [`Registry::expire`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pools.values().all(|entry| entry.leaving.is_empty() && entry.hold.is_none())
    }

    /// A snapshot of `config`, which was applied, and of the servers as they are now.
    pub fn snapshot(
        &mut self,
        config: &Arc<Config>,
        generation: u64,
        hash: Arc<str>,
        files: Arc<[SourceFile]>,
        applied_at: SystemTime,
    ) -> Snapshot {
        Snapshot {
            generation,
            hash,
            files,
            applied_at,
            config: Arc::clone(config),
            pools: self.pools(config),
            routes: self.routes(config),
            unrouted: Arc::clone(&self.unrouted),
            table: Arc::new(RouteTable::new(&config.routes)),
        }
    }

    /// The pools of a snapshot: those of the configuration, then those that only drain. A pool in
    /// which nothing changed since the last call is the same object as then.
    pub fn pools(&mut self, config: &Config) -> Vec<Arc<Pool>> {
        let mut pools = Vec::with_capacity(config.pools.len());
        for pool in &config.pools {
            if let Some(entry) = self.pools.get_mut(pool.name.as_str()) {
                pools.push(entry.build(pool, &self.servers));
            }
        }
        let mut gone: Vec<_> = self.pools.iter_mut().filter(|(name, _)| config.pool(name).is_none()).collect();
        gone.sort_by_key(|(name, _)| Arc::clone(name));
        for (_, entry) in gone {
            if let Some(built) = &entry.built {
                let rules = config::Pool { servers: Vec::new(), ..(*built.config).clone() };
                pools.push(entry.build(&rules, &self.servers));
            }
        }
        pools
    }

    /// The routes of a snapshot.
    pub fn routes(&mut self, config: &Config) -> Arc<[Route]> {
        let places: HashMap<&str, usize> =
            config.pools.iter().enumerate().map(|(place, pool)| (pool.name.as_str(), place)).collect();
        let route = |route: &config::Route| {
            let name: Arc<str> = route.name.as_str().into();
            let live =
                self.routes.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(RouteLive::new(name, self.workers)));
            // Every route leads to a pool that exists: the configuration has been checked.
            Route { pool: places.get(route.pool.as_str()).copied().unwrap_or(0), live: Arc::clone(live) }
        };
        config.routes.iter().map(route).collect()
    }
}

impl PoolEntry {
    /// Ends the hold: what it kept has until then, at most, for its open requests.
    fn let_go(&mut self, until: Instant) {
        self.hold = None;
        self.held.clear();
        for leaving in &mut self.leaving {
            leaving.until = leaving.until.min(until);
        }
    }

    fn build(&mut self, config: &config::Pool, servers: &HashMap<Key, Arc<Server>>) -> Arc<Pool> {
        let members = self.members(config, servers);
        let holding = self.hold.is_some();
        if let Some(built) = &self.built
            && *built.config == *config
            && built.holding == holding
            && built.is_current(&members)
        {
            return Arc::clone(built);
        }
        let pool = Arc::new(Pool::new(Arc::new(config.clone()), Arc::clone(&self.live), members, holding));
        self.built = Some(Arc::clone(&pool));
        pool
    }

    fn members(&self, config: &config::Pool, servers: &HashMap<Key, Arc<Server>>) -> Vec<Member> {
        let draining: HashSet<u64> = self.leaving.iter().map(|leaving| leaving.server.id).collect();
        let mut key = Key {
            pool: Arc::clone(&self.live.name),
            name: "".into(),
            address: config::Address::Name(String::new(), 0),
        };
        let mut members: Vec<Member> = Vec::with_capacity(config.servers.len() + self.leaving.len());
        for server in &config.servers {
            key.name = server.name.as_str().into();
            key.address = server.address.clone();
            let Some(live) = servers.get(&key) else { continue };
            let standing = if server.enabled { Standing::Enabled } else { Standing::Disabled };
            let draining = !server.enabled && draining.contains(&live.id);
            let held = self.held.get(&live.id).copied().unwrap_or(0);
            members.push(Member { held, ..Member::new(Arc::clone(live), server.weight, standing, draining) });
        }
        let configured: HashSet<u64> = members.iter().map(|member| member.server.id).collect();
        for leaving in self.leaving.iter().filter(|leaving| !configured.contains(&leaving.server.id)) {
            members.push(Member::new(Arc::clone(&leaving.server), leaving.weight, Standing::Removed, true));
        }
        members
    }
}

/// Whether nobody would serve but might soon: some servers are still to pass their first check, and
/// none has.
fn awaits_first_pass(states: &[State]) -> bool {
    states.contains(&State::Checking) && !states.iter().any(|state| state.serves())
}

/// What makes a server the same within its pool.
fn identity(server: &config::Server) -> (&str, &config::Address) {
    (&server.name, &server.address)
}

#[cfg(test)]
mod tests;
