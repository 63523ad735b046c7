//! The registry: every live server, pool and route by name, and the snapshots that are built around them.
//!
//! It belongs to the control plane, which is the only writer. Whatever an edit leaves alone is found
//! here again by its key, so its state outlives the generation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::config::diff::common_ends;
use crate::config::{self, Config, HealthKind};
use crate::live::health::HealthState;
use crate::live::pool::{LivePool, Member, Membership, Pool};
use crate::live::route::LiveRoute;
use crate::live::route::RouteTable;
use crate::live::server::{Server, ServerKey};
use crate::live::snapshot::{FileVersion, Route, Snapshot};

/// All that outlives a generation.
#[derive(Debug)]
pub struct Registry {
    maker: ServerFactory,
    pools: HashMap<Arc<str>, PoolEntry>,
    routes: HashMap<Arc<str>, Arc<LiveRoute>>,
    unrouted: Arc<LiveRoute>,
}

/// Makes servers.
#[derive(Debug)]
struct ServerFactory {
    workers: usize,
    next_id: u64,
    /// Whether these are the servers that the process begins with: they count as up unchecked.
    first: bool,
}

/// A pool, with what is going on in it.
#[derive(Debug)]
struct PoolEntry {
    live: Arc<LivePool>,
    /// As the last edit has it; without servers once no edit names it any more.
    config: Arc<config::PoolConfig>,
    /// The servers that it names, in its order.
    servers: Vec<Arc<Server>>,
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
            maker: ServerFactory { workers, next_id: 0, first: true },
            pools: HashMap::new(),
            routes: HashMap::new(),
            unrouted: Arc::new(LiveRoute::new("-".into(), workers)),
        }
    }

    /// Takes in a configuration: makes what is new, keeps what stays, lets go what is gone. In a pool
    /// that stayed as it was nothing is looked at; in another, what lies between the servers that did.
    pub fn apply(&mut self, config: &Config, now: Instant) {
        for pool in &config.pools {
            let entry = match self.pools.get_mut(pool.name.as_str()) {
                Some(entry) => entry,
                None => {
                    let name: Arc<str> = pool.name.as_str().into();
                    let entry = PoolEntry::new(LivePool::new(Arc::clone(&name), self.maker.workers), pool);
                    self.pools.entry(name).or_insert(entry)
                }
            };
            entry.apply(pool, config, now, &mut self.maker);
        }
        self.maker.first = false;
        for (name, entry) in &mut self.pools {
            if config.pool(name).is_none() {
                let none = Arc::new(entry.config.without_servers());
                entry.apply(&none, config, now, &mut self.maker);
            }
        }
        let routes: HashSet<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
        self.routes.retain(|name, _| routes.contains(&**name));
        self.forget(config);
    }

    /// Drops the pools that neither the configuration nor a drain names.
    fn forget(&mut self, config: &Config) {
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
                        member.membership == Membership::Enabled && member.weight > 0 && member.server.state().serves()
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
        files: Arc<[FileVersion]>,
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
            pools.extend(self.pools.get_mut(pool.name.as_str()).map(PoolEntry::build));
        }
        let mut gone: Vec<_> = self.pools.iter_mut().filter(|(name, _)| config.pool(name).is_none()).collect();
        gone.sort_by_key(|(name, _)| Arc::clone(name));
        pools.extend(gone.into_iter().map(|(_, entry)| entry.build()));
        pools
    }

    /// The routes of a snapshot.
    pub fn routes(&mut self, config: &Config) -> Arc<[Route]> {
        let route = |route: &config::RouteConfig| {
            let name: Arc<str> = route.name.as_str().into();
            let live = self
                .routes
                .entry(Arc::clone(&name))
                .or_insert_with(|| Arc::new(LiveRoute::new(name, self.maker.workers)));
            Route { pool: route.pool.index(), live: Arc::clone(live) }
        };
        config.routes.iter().map(route).collect()
    }
}

impl ServerFactory {
    /// A server that nothing is known of yet.
    fn make(&mut self, key: ServerKey, checks: HealthKind) -> Arc<Server> {
        let state = match checks {
            HealthKind::None => HealthState::Up,
            HealthKind::Http | HealthKind::Tcp if self.first => HealthState::Unchecked,
            HealthKind::Http | HealthKind::Tcp => HealthState::Checking,
        };
        self.next_id += 1;
        Arc::new(Server::new(self.next_id, key, state, self.workers))
    }
}

impl PoolEntry {
    /// A pool without a server yet, by the rules of `config`.
    fn new(live: LivePool, config: &config::PoolConfig) -> Self {
        let config = Arc::new(config.without_servers());
        Self {
            live: Arc::new(live),
            config,
            servers: Vec::new(),
            built: None,
            leaving: Vec::new(),
            hold: None,
            held: HashMap::new(),
        }
    }

    /// Takes in what an edit says of the pool.
    fn apply(&mut self, new: &Arc<config::PoolConfig>, whole: &Config, now: Instant, maker: &mut ServerFactory) {
        if Arc::ptr_eq(&self.config, new) || self.config == *new {
            return;
        }
        let old = std::mem::replace(&mut self.config, Arc::clone(new));
        let (first, last) = common_ends(&old.servers, &new.servers);
        let between = first..old.servers.len() - last;
        let (gone, come) = (&old.servers[between.clone()], &new.servers[first..new.servers.len() - last]);

        let before = self.servers[between.clone()].to_vec();
        let leaving: Vec<_> = self.leaving.iter().map(|leaving| Arc::clone(&leaving.server)).collect();
        let known: HashMap<_, _> =
            before.iter().chain(&leaving).map(|server| (server.key.identity(), server)).collect();
        let mut live_of = |server: &config::ServerConfig| {
            let live = known.get(&identity(server)).map(|live| Arc::clone(live)).unwrap_or_else(|| {
                let (pool, name) = (Arc::clone(&self.live.name), server.name.as_str().into());
                maker.make(ServerKey { pool, name, address: server.address.clone() }, new.health.kind)
            });
            live.set_leaving(!server.enabled);
            live
        };
        let after: Vec<_> = come.iter().map(&mut live_of).collect();
        self.servers.splice(between, after);
        if new.health.kind == HealthKind::None {
            self.servers
                .iter()
                .filter(|live| live.state() != HealthState::Up)
                .for_each(|live| live.set_state(HealthState::Up));
        }

        // Who is enabled no more begins to drain, and who came back does not leave any more.
        let stays: HashSet<_> = come.iter().filter(|server| server.enabled).map(identity).collect();
        for (server, live) in gone.iter().zip(before).filter(|(server, _)| server.enabled) {
            if !stays.contains(&identity(server)) {
                live.set_leaving(true);
                let until = now + whole.timeouts.drain;
                let weight = self.held.remove(&live.id).unwrap_or(server.weight);
                self.leaving.push(Leaving { server: live, weight, until });
            }
        }
        self.leaving.retain(|leaving| !stays.contains(&leaving.server.key.identity()));
        self.hold_or_let_go(whole, now);
        if self.hold.is_some() {
            let idle = come.iter().zip(&self.servers[first..]).filter(|(server, _)| server.weight == 0);
            let idle: HashMap<_, _> = idle.map(|(server, live)| (identity(server), live.id)).collect();
            for server in gone.iter().filter(|server| server.weight > 0) {
                self.held.extend(idle.get(&identity(server)).map(|id| (*id, server.weight)));
            }
        }
    }

    /// After an edit: keeps the servers that leave while nobody else can serve but somebody soon might.
    fn hold_or_let_go(&mut self, whole: &Config, now: Instant) {
        let (drain, hold) = (whole.timeouts.drain, whole.reload.hold);
        let takes = |(server, _): &(&config::ServerConfig, &Arc<Server>)| server.enabled && server.weight > 0;
        let staying = self.config.servers.iter().zip(&self.servers).filter(takes);
        let awaits = awaits_first_pass(staying.map(|(_, live)| live.state()));
        let was_ready = self.built.as_ref().is_some_and(|pool| pool.is_ready());
        if self.hold.is_some() && !awaits {
            self.let_go(now + drain);
        } else if self.hold.is_none() && awaits && was_ready && !hold.is_zero() {
            let until = now + hold;
            tracing::warn!(pool = %self.live.name, ?hold, "all its servers are new: the old ones serve until one of them is up");
            self.hold = Some(until);
            for leaving in &mut self.leaving {
                leaving.until = until + drain;
            }
        }
    }

    /// Ends the hold: what it kept has until then, at most, for its open requests.
    fn let_go(&mut self, until: Instant) {
        self.hold = None;
        self.held.clear();
        for leaving in &mut self.leaving {
            leaving.until = leaving.until.min(until);
        }
    }

    fn build(&mut self) -> Arc<Pool> {
        let members = self.members();
        let holding = self.hold.is_some();
        if let Some(built) = &self.built
            && Arc::ptr_eq(&built.config, &self.config)
            && built.holding == holding
            && built.is_current(&members)
        {
            return Arc::clone(built);
        }
        let pool = Arc::new(Pool::new(Arc::clone(&self.config), Arc::clone(&self.live), members, holding));
        self.built = Some(Arc::clone(&pool));
        pool
    }

    fn members(&self) -> Vec<Member> {
        let leaving: HashSet<u64> = self.leaving.iter().map(|leaving| leaving.server.id).collect();
        let mut members: Vec<Member> = Vec::with_capacity(self.servers.len() + self.leaving.len());
        for (server, live) in self.config.servers.iter().zip(&self.servers) {
            let membership = if server.enabled { Membership::Enabled } else { Membership::Disabled };
            let draining = !server.enabled && leaving.contains(&live.id);
            let held = self.held.get(&live.id).copied().unwrap_or(0);
            members.push(Member { held, ..Member::new(Arc::clone(live), server.weight, membership, draining) });
        }
        let configured: HashSet<u64> =
            self.servers.iter().map(|live| live.id).filter(|id| leaving.contains(id)).collect();
        for leaving in self.leaving.iter().filter(|leaving| !configured.contains(&leaving.server.id)) {
            members.push(Member::new(Arc::clone(&leaving.server), leaving.weight, Membership::Removed, true));
        }
        members
    }
}

/// Whether nobody would serve but might soon: some servers are still to pass their first check, and
/// none has.
fn awaits_first_pass(states: impl Iterator<Item = HealthState>) -> bool {
    let mut some = false;
    for state in states {
        if state.serves() {
            return false;
        }
        some |= state == HealthState::Checking;
    }
    some
}

/// What makes a server the same within its pool.
fn identity(server: &config::ServerConfig) -> (&str, &config::Address) {
    (&server.name, &server.address)
}

#[cfg(test)]
mod tests;
