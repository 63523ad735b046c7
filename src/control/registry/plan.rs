//! The first half of an edit: builds everything that it changes beside the running state.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Registry;
use super::holds::{Holds, OldServers, RouteHold, Standing, standing};
use super::pool_entry::{Marks, PoolEntry, ServerFactory};
use crate::config::{self, Address, Config, HealthKind, HoldThen, RouteConfig};
use crate::control::upstream_tls::PoolsTls;
use crate::live::address_list::AddressList;
use crate::live::health::HealthState;
use crate::live::pool::Pool;
use crate::live::route::{EarlierRoutes, LiveRoute, RouteTable};
use crate::live::server::{Server, ServerId};
use crate::live::snapshot::{FileVersion, Route, Snapshot};

/// A planned edit. Must be committed to the registry that planned it, before that commits another. Dropping it
/// discards the edit, because nothing that runs refers to it yet.
#[derive(Debug)]
pub struct RegistryPlan {
    pub(super) config: Arc<Config>,
    pub(super) factory: ServerFactory,
    /// Entries of the pools that the edit changes, each with the changes to its servers.
    pub(super) changed: Vec<(PoolEntry, Marks)>,
    /// Removed pools in which nothing drains.
    pub(super) forgotten: Vec<Arc<str>>,
    /// The pools, held servers and routes of the snapshot.
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) held: Vec<Arc<Pool>>,
    pub(super) routes: Arc<[Route]>,
    pub(super) table: Arc<RouteTable>,
    pub(super) holds: Holds,
    unrouted: Arc<LiveRoute>,
    pub(super) tls: PoolsTls,
}

/// A pool after the edit.
enum Planned<'a> {
    /// The edit leaves it alone.
    Same(&'a PoolEntry),
    Changed(PoolEntry, Marks),
}

impl Planned<'_> {
    fn entry(&self) -> &PoolEntry {
        match self {
            Self::Same(entry) => entry,
            Self::Changed(entry, _) => entry,
        }
    }

    fn is_same(&self) -> bool {
        matches!(self, Self::Same(_))
    }
}

impl Registry {
    /// Builds everything that `config` changes. An unchanged pool costs only a comparison; in a changed one,
    /// only the servers between the first and the last difference are looked up.
    #[must_use]
    pub fn plan(
        &self,
        config: &Arc<Config>,
        now: Instant,
        addresses: impl Fn(&(String, u16)) -> Option<Arc<AddressList>>,
    ) -> RegistryPlan {
        let mut factory = self.factory;
        let mut planned = Vec::with_capacity(config.pools.len());
        for pool in &config.pools {
            let entry = self.pools.get(pool.name.as_str());
            planned.push(match entry.filter(|entry| entry.is_configured_as(pool)) {
                Some(entry) => Planned::Same(entry),
                None => self.change(entry, pool, now, &mut factory),
            });
        }
        for (_, entry) in self.unconfigured(config) {
            let empty = Arc::new(entry.config.without_servers());
            planned.push(match entry.is_configured_as(&empty) {
                true => Planned::Same(entry),
                false => self.change(Some(entry), &empty, now, &mut factory),
            });
        }
        self.set_first_addresses(&planned, addresses);
        let holds = self.plan_holds(config, &planned, now);
        if !self.factory.starting {
            self.set_first_states(config, &planned, &holds);
        }
        factory.starting = false;
        self.build(config, factory, planned, holds)
    }

    /// Gives new servers that are configured by name their first addresses, if they are known.
    fn set_first_addresses(
        &self,
        planned: &[Planned<'_>],
        addresses: impl Fn(&(String, u16)) -> Option<Arc<AddressList>>,
    ) {
        let changed = planned.iter().filter(|planned| !planned.is_same());
        let servers = changed.flat_map(|planned| planned.entry().servers());
        for (_, server) in servers.filter(|(_, server)| self.factory.precedes(server)) {
            if let Address::Name(host, port) = &server.key.address
                && let Some(addresses) = addresses(&(host.clone(), *port))
            {
                server.set_addresses(addresses);
            }
        }
    }

    fn change<'a>(
        &self,
        entry: Option<&PoolEntry>,
        pool: &Arc<config::PoolConfig>,
        now: Instant,
        factory: &mut ServerFactory,
    ) -> Planned<'a> {
        let mut entry = entry.cloned().unwrap_or_else(|| PoolEntry::new(pool, self.factory.workers));
        let marks = entry.apply(pool, now, factory);
        Planned::Changed(entry, marks)
    }

    fn build(
        &self,
        config: &Arc<Config>,
        factory: ServerFactory,
        planned: Vec<Planned<'_>>,
        holds: Holds,
    ) -> RegistryPlan {
        let (mut changed, mut forgotten, mut pools) = (Vec::new(), Vec::new(), Vec::with_capacity(planned.len()));
        for (index, planned) in planned.into_iter().enumerate() {
            let entry = planned.entry();
            if index >= config.pools.len() && !entry.is_draining() {
                forgotten.push(Arc::clone(&entry.live.name));
                continue;
            }
            match planned {
                Planned::Same(entry) => pools.push(entry.pool()),
                Planned::Changed(mut entry, marks) => {
                    pools.push(entry.build());
                    changed.push((entry, marks));
                }
            }
        }
        let (held, routes) = self.routes(config, &pools, &holds);
        let (config, unrouted) = (Arc::clone(config), Arc::clone(&self.unrouted));
        let table = Arc::new(RouteTable::new(&config.routes));
        RegistryPlan {
            config,
            factory,
            changed,
            forgotten,
            pools,
            held,
            routes,
            table,
            holds,
            unrouted,
            tls: PoolsTls::default(),
        }
    }

    /// The holds after the edit: of each route whose pool has no server that is up yet, while other servers have
    /// received its requests before.
    fn plan_holds(&self, config: &Config, planned: &[Planned<'_>], now: Instant) -> Holds {
        let mut holds = Holds::new();
        let Some((old, table)) = &self.current else { return holds };
        if config.reload.hold.is_zero() && config.reload.hold_then == HoldThen::Switch {
            return holds;
        }
        // Pools of which it is certain, without looking at a route, whether one of their servers is up.
        let is_up = |planned: &Planned<'_>| {
            let entry = planned.entry();
            entry.candidates().any(|server| entry.state_of(server) == HealthState::Up && server.target().is_some())
        };
        let mut up: Vec<Option<bool>> = vec![None; config.pools.len()];
        let mut earlier = EarlierRoutes::new(&old.routes, table, &config.routes);
        let leaving = self.newly_leaving(planned);
        let mut sources = EarlierServers { registry: self, leaving, pools: HashMap::new(), held: Vec::new() };
        for (place, route) in config.routes.iter().enumerate() {
            let (index, target) = (route.pool.index(), &planned[route.pool.index()]);
            if self.holds.is_empty() && target.is_same() && old.routes.get(place) == Some(route) {
                continue;
            }
            let Some(before) = earlier.of(place, route) else { continue };
            let held = self.holds.get(before.name.as_str());
            let untouched = held.is_none() && target.is_same() && before.pool.name() == route.pool.name();
            if untouched || *up[index].get_or_insert_with(|| is_up(target)) {
                continue;
            }
            let entry = target.entry();
            let Some((servers, held)) = sources.of(before, held) else { continue };
            if standing(entry, &servers) != Standing::Waits || !servers.are_replaced_by(entry) {
                continue;
            }
            let pool = Arc::clone(&entry.live.name);
            let hold = match held {
                Some(held) => held.after_edit(servers, pool, target.is_same().then_some(&config.reload), now),
                None => RouteHold::new(servers, pool, now),
            };
            holds.insert(route.name.as_str().into(), hold);
        }
        holds
    }

    /// The servers that this edit disables or removes, if there are holds that they may be part of.
    fn newly_leaving(&self, planned: &[Planned<'_>]) -> HashSet<ServerId> {
        if self.holds.is_empty() {
            return HashSet::new();
        }
        let enabled = |entry: &PoolEntry| -> HashSet<ServerId> {
            entry.servers().filter(|(server, _)| server.enabled).map(|(_, live)| live.id).collect()
        };
        let leaving = |planned: &Planned<'_>| {
            let before = self.pools.get(&planned.entry().live.name).filter(|_| !planned.is_same());
            let after = enabled(planned.entry());
            before.map(enabled).into_iter().flatten().filter(move |id| !after.contains(id)).collect::<Vec<_>>()
        };
        planned.iter().flat_map(leaving).collect()
    }

    /// Decides whether new servers count as up until their first check. They do in a pool that has no others, unless old
    /// servers serve its routes.
    fn set_first_states(&self, config: &Config, planned: &[Planned<'_>], holds: &Holds) {
        let is_new = |server: &Server| self.factory.precedes(server);
        for (index, planned) in planned.iter().enumerate().take(config.pools.len()) {
            let entry = planned.entry();
            if planned.is_same() || entry.config.health.kind == HealthKind::None {
                continue;
            }
            if !entry.candidates().all(|server| is_new(server)) {
                continue;
            }
            let leads_here = |route: &&RouteConfig| route.pool.index() == index;
            let mut held = config.routes.iter().filter(leads_here).filter_map(|route| holds.get(route.name.as_str()));
            if !held.any(|hold| hold.old.can_serve()) {
                entry.candidates().for_each(|server| server.set_state(HealthState::Unchecked));
            }
        }
    }
}

/// Finds the servers that have received the requests of a route before an edit.
struct EarlierServers<'a> {
    registry: &'a Registry,
    /// The servers that the edit disables or removes.
    leaving: HashSet<ServerId>,
    /// The servers of pools, so that routes of the same pool share them.
    pools: HashMap<Arc<str>, Arc<OldServers>>,
    /// The servers of earlier holds, each with those of them that stay.
    held: Vec<(Arc<OldServers>, Arc<OldServers>)>,
}

impl EarlierServers<'_> {
    /// The servers that receive the requests of `before`: those of its pool or, while `held` goes on, older ones.
    fn of<'h>(
        &mut self,
        before: &RouteConfig,
        held: Option<&'h RouteHold>,
    ) -> Option<(Arc<OldServers>, Option<&'h RouteHold>)> {
        let entry = self.registry.pools.get(before.pool.name())?;
        let Some(held) = held.filter(|held| standing(entry, &held.old) == Standing::Waits) else {
            let known = self.pools.entry(Arc::clone(&entry.live.name));
            return Some((Arc::clone(known.or_insert_with(|| Arc::new(OldServers::of(entry)))), None));
        };
        if let Some((_, stay)) = self.held.iter().find(|(old, _)| Arc::ptr_eq(old, &held.old)) {
            return Some((Arc::clone(stay), Some(held)));
        }
        let stay = held.old.without(&self.leaving).map_or_else(|| Arc::clone(&held.old), Arc::new);
        self.held.push((Arc::clone(&held.old), Arc::clone(&stay)));
        Some((stay, Some(held)))
    }
}

impl RegistryPlan {
    /// The plan with these rules for TLS to servers.
    #[must_use]
    pub fn with_tls(self, tls: PoolsTls) -> Self {
        Self { tls, ..self }
    }

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
            acme: None,
            generation,
            hash,
            files,
            applied_at,
            config: Arc::clone(&self.config),
            pools: self.pools.clone(),
            held: self.held.clone(),
            routes: Arc::clone(&self.routes),
            unrouted: Arc::clone(&self.unrouted),
            table: Arc::clone(&self.table),
            tls: None,
            redirects: self.config.listeners.iter().any(|listener| listener.redirect.is_some()),
            sends_proxy_headers: self.config.pools.iter().any(|pool| pool.upstream.proxy_protocol.is_some()),
        }
    }
}
