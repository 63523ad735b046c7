//! Holds: the routes that old servers still serve, because no server of their pool is up yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::pool_entry::PoolEntry;
use crate::config::{self, HoldThen, ReloadConfig};
use crate::live::health::HealthState;
use crate::live::pool::{LivePool, Member, Membership, Pool};
use crate::live::server::{Server, ServerId};
use crate::live::snapshot;

/// The servers that served a route before an edit, with the rules and weights that they had.
#[derive(Debug)]
pub(super) struct OldServers {
    config: Arc<config::PoolConfig>,
    live: Arc<LivePool>,
    /// The enabled ones, with their weights.
    servers: Vec<(Arc<Server>, u32)>,
    ids: HashSet<ServerId>,
}

/// A hold of one route.
#[derive(Debug, Clone)]
pub(super) struct RouteHold {
    pub(super) old: Arc<OldServers>,
    /// The pool that the route waits for.
    pub(super) pool: Arc<str>,
    since: Instant,
    since_time: SystemTime,
    overdue: bool,
}

/// The holds, by the names of their routes.
pub(super) type Holds = HashMap<Arc<str>, RouteHold>;

/// The condition that a hold waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing any more: a server of the pool is up.
    Up,
    /// That a server of the pool passes a check, or that its name is resolved.
    Waits,
    /// Nothing: no server of the pool may get requests.
    Empty,
}

/// The effect of time on a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lateness {
    InTime,
    /// It goes on, with a warning.
    Overdue,
    /// It ends.
    GivenUp,
}

impl OldServers {
    /// The servers of a pool that an edit is about to change.
    pub(super) fn of(entry: &PoolEntry) -> Self {
        let enabled = entry.servers().filter(|(server, _)| server.enabled);
        let servers = enabled.map(|(server, live)| (Arc::clone(live), server.weight)).collect();
        Self::new(&entry.config, &entry.live, servers)
    }

    fn new(config: &Arc<config::PoolConfig>, live: &Arc<LivePool>, servers: Vec<(Arc<Server>, u32)>) -> Self {
        let ids = servers.iter().map(|(server, _)| server.id).collect();
        Self { config: Arc::clone(config), live: Arc::clone(live), servers, ids }
    }

    /// The name of the pool that they come from.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.live.name
    }

    fn contains(&self, server: &Server) -> bool {
        self.ids.contains(&server.id)
    }

    fn candidates(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.iter().filter(|(_, weight)| *weight > 0).map(|(server, _)| server)
    }

    /// Whether one of them can serve now.
    pub(super) fn can_serve(&self) -> bool {
        self.candidates().any(|server| self.state_of(server).serves())
    }

    /// Whether the servers of `entry` replace some of them: requests would lose one, and get another that is new to them.
    pub(super) fn are_replaced_by(&self, entry: &PoolEntry) -> bool {
        let new: HashSet<ServerId> = entry.candidates().map(|server| server.id).collect();
        self.candidates().any(|server| !new.contains(&server.id))
            && entry.candidates().any(|server| !self.contains(server))
    }

    /// Those of them that are not in `leaving`; `None` if none is, or if no other can serve.
    pub(super) fn without(&self, leaving: &HashSet<ServerId>) -> Option<Self> {
        if self.ids.is_disjoint(leaving) {
            return None;
        }
        let stay = self.servers.iter().filter(|(server, _)| !leaving.contains(&server.id)).cloned().collect();
        let stay = Self::new(&self.config, &self.live, stay);
        stay.can_serve().then_some(stay)
    }

    /// The pool that they form, for a snapshot.
    pub(super) fn pool(&self) -> Pool {
        let member = |(server, weight): &(Arc<Server>, u32)| Member {
            state: self.state_of(server),
            ..Member::new(Arc::clone(server), *weight, Membership::Enabled, false)
        };
        let members = self.servers.iter().map(member).collect();
        Pool::new(Arc::clone(&self.config), Arc::clone(&self.live), members)
    }

    fn state_of(&self, server: &Server) -> HealthState {
        if self.config.health.kind == config::HealthKind::None { HealthState::Up } else { server.state() }
    }
}

/// Whether a server of `entry` is up, so that the servers in `old` may leave. An old server that stays in the pool
/// counts as before; a new one must have passed a check, and its name must be resolved.
pub(super) fn standing(entry: &PoolEntry, old: &OldServers) -> Standing {
    let mut standing = Standing::Empty;
    for server in entry.candidates() {
        let is_up = match entry.state_of(server) {
            HealthState::Up => server.target().is_some(),
            HealthState::Unchecked => old.contains(server),
            HealthState::Checking | HealthState::Down => false,
        };
        if is_up {
            return Standing::Up;
        }
        standing = Standing::Waits;
    }
    standing
}

impl RouteHold {
    pub(super) fn new(old: Arc<OldServers>, pool: Arc<str>, now: Instant) -> Self {
        Self { old, pool, since: now, since_time: SystemTime::now(), overdue: false }
    }

    /// The same hold after an edit, by its rules if it waits for the same servers. Others have as much time as the first
    /// ones had.
    pub(super) fn after_edit(
        &self,
        old: Arc<OldServers>,
        pool: Arc<str>,
        same_servers: Option<&ReloadConfig>,
        now: Instant,
    ) -> Self {
        match same_servers.filter(|_| pool == self.pool) {
            // That it is overdue from now on is logged when it is noticed.
            Some(rules) => Self { old, overdue: self.overdue && self.is_late(rules, now), ..self.clone() },
            None => Self::new(old, pool, now),
        }
    }

    fn is_late(&self, rules: &ReloadConfig, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= rules.hold
    }

    /// The effect of time at `now`. Marks it as overdue if it is.
    pub(super) fn lateness(&mut self, rules: &ReloadConfig, now: Instant) -> Lateness {
        let late = self.is_late(rules, now);
        self.overdue = late;
        match (late, rules.hold_then) {
            (false, _) => Lateness::InTime,
            (true, HoldThen::Keep) => Lateness::Overdue,
            (true, HoldThen::Switch) => Lateness::GivenUp,
        }
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.overdue
    }

    pub(super) fn view(&self) -> snapshot::Hold {
        snapshot::Hold { since: self.since_time, overdue: self.overdue }
    }
}

/// The ids of all servers that are held.
pub(super) fn held_servers(holds: &Holds) -> HashSet<ServerId> {
    holds.values().flat_map(|hold| &hold.old.ids).copied().collect()
}
