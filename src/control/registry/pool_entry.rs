//! One pool of the registry: its servers across edits, which of them drain, and whether the old ones are held.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::diff::common_ends;
use crate::config::{self, Config, HealthKind};
use crate::live::health::HealthState;
use crate::live::pool::{LivePool, Member, Membership, Pool};
use crate::live::server::{Server, ServerId, ServerKey};

/// Makes live servers. A copy makes the servers of a plan, and replaces the original when that is committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerFactory {
    pub(super) workers: usize,
    next_id: u64,
    /// Whether the process is starting: then servers count as up until their first check.
    pub(super) starting: bool,
}

/// A pool and its servers. A copy is edited by a plan, and replaces the original when that is committed.
#[derive(Debug, Clone)]
pub(super) struct PoolEntry {
    pub(super) live: Arc<LivePool>,
    /// The pool as configured; without servers after an edit has removed it.
    pub(super) config: Arc<config::PoolConfig>,
    /// The configured servers, in the configuration's order.
    servers: Vec<Arc<Server>>,
    /// The pool of the newest snapshot, which is used again while nothing in it has changed.
    pub(super) built: Option<Arc<Pool>>,
    draining: Vec<Draining>,
    /// When the hold ends, if there is one. Until then, or until a new server is up, the draining ones keep serving.
    hold: Option<Instant>,
    /// During a hold, the earlier weights of the servers whose weight an edit has set to 0, by server id.
    held_weights: HashMap<ServerId, u32>,
}

/// A server that an edit has disabled or removed, until its last request has ended.
#[derive(Debug, Clone)]
struct Draining {
    server: Arc<Server>,
    /// Its last weight, by which it takes requests during a hold.
    weight: u32,
    /// When its open requests are aborted.
    until: Instant,
}

/// The changes that a commit makes to the live servers of a pool, and to the log.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Servers that are leaving from now on, or no longer.
    leaving: Vec<(Arc<Server>, bool)>,
    /// Servers that are up because they are no longer checked.
    unchecked: Vec<Arc<Server>>,
    /// The maximum duration of a hold, if one begins.
    hold: Option<Duration>,
}

impl Marks {
    pub(super) fn apply(self, pool: &str) {
        for (server, leaving) in self.leaving {
            server.set_leaving(leaving);
        }
        for server in self.unchecked {
            server.set_state(HealthState::Up);
        }
        if let Some(hold) = self.hold {
            tracing::warn!(pool, ?hold, "all servers of the pool are new; the old ones keep serving until one is up");
        }
    }
}

impl ServerFactory {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, next_id: 0, starting: true }
    }

    /// A server that has not been checked yet.
    fn make(&mut self, key: ServerKey, checks: HealthKind) -> Arc<Server> {
        let state = match checks {
            HealthKind::None => HealthState::Up,
            HealthKind::Http | HealthKind::Tcp if self.starting => HealthState::Unchecked,
            HealthKind::Http | HealthKind::Tcp => HealthState::Checking,
        };
        self.next_id += 1;
        Arc::new(Server::new(ServerId(self.next_id), key, state, self.workers))
    }
}

impl PoolEntry {
    /// A pool with the rules of `config` and no servers yet.
    pub(super) fn new(config: &config::PoolConfig, workers: usize) -> Self {
        Self {
            live: Arc::new(LivePool::new(config.name.as_str().into(), workers)),
            config: Arc::new(config.without_servers()),
            servers: Vec::new(),
            built: None,
            draining: Vec::new(),
            hold: None,
            held_weights: HashMap::new(),
        }
    }

    pub(super) fn is_configured_as(&self, config: &Arc<config::PoolConfig>) -> bool {
        Arc::ptr_eq(&self.config, config) || self.config == *config
    }

    pub(super) fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    pub(super) fn is_holding(&self) -> bool {
        self.hold.is_some()
    }

    /// Applies an edit of the pool to this entry. Changes no live server, but returns the changes to make.
    pub(super) fn apply(
        &mut self,
        new: &Arc<config::PoolConfig>,
        config: &Config,
        now: Instant,
        factory: &mut ServerFactory,
    ) -> Marks {
        let mut marks = Marks::default();
        let old = mem::replace(&mut self.config, Arc::clone(new));
        let (first, last) = common_ends(&old.servers, &new.servers);
        let between = first..old.servers.len() - last;
        let (before, after) = (&old.servers[between.clone()], &new.servers[first..new.servers.len() - last]);

        let live_after = self.find_or_make(after, between.clone(), factory);
        for (server, live) in after.iter().zip(&live_after) {
            marks.set_leaving(live, !server.enabled);
        }
        let live_before: Vec<_> = self.servers.splice(between, live_after).collect();
        if new.health.kind == HealthKind::None {
            marks.unchecked.extend(self.servers.iter().filter(|live| live.state() != HealthState::Up).cloned());
        }

        // A server that is no longer enabled starts to drain; one that is enabled again stops draining.
        let stay: HashSet<_> = after.iter().filter(|server| server.enabled).map(identity).collect();
        for (server, live) in before.iter().zip(live_before).filter(|(server, _)| server.enabled) {
            if !stay.contains(&identity(server)) {
                marks.set_leaving(&live, true);
                let until = now + config.timeouts.drain;
                let weight = self.held_weights.remove(&live.id).unwrap_or(server.weight);
                self.draining.push(Draining { server: live, weight, until });
            }
        }
        self.draining.retain(|draining| !stay.contains(&draining.server.key.identity()));
        marks.hold = self.begin_or_end_hold(config, now);
        if self.hold.is_some() {
            let weightless = after.iter().zip(&self.servers[first..]).filter(|(server, _)| server.weight == 0);
            let weightless: HashMap<_, _> = weightless.map(|(server, live)| (identity(server), live.id)).collect();
            for server in before.iter().filter(|server| server.weight > 0) {
                self.held_weights.extend(weightless.get(&identity(server)).map(|id| (*id, server.weight)));
            }
        }
        marks
    }

    /// The live server of each of `servers`: one from `between`, a draining one, or else a new one.
    fn find_or_make(
        &self,
        servers: &[config::ServerConfig],
        between: std::ops::Range<usize>,
        factory: &mut ServerFactory,
    ) -> Vec<Arc<Server>> {
        let draining = self.draining.iter().map(|draining| &draining.server);
        let existing: HashMap<_, _> =
            self.servers[between].iter().chain(draining).map(|server| (server.key.identity(), server)).collect();
        let find_or_make = |server: &config::ServerConfig| match existing.get(&identity(server)) {
            Some(live) => Arc::clone(live),
            None => {
                let (pool, name) = (Arc::clone(&self.live.name), server.name.as_str().into());
                factory.make(ServerKey { pool, name, address: server.address.clone() }, self.config.health.kind)
            }
        };
        servers.iter().map(find_or_make).collect()
    }

    /// After an edit: begins a hold if no server can serve but a new one soon may; otherwise ends the current one.
    /// Returns the maximum duration of a hold that begins.
    fn begin_or_end_hold(&mut self, config: &Config, now: Instant) -> Option<Duration> {
        let (drain, hold) = (config.timeouts.drain, config.reload.hold);
        let takes_requests = |(server, _): &(&config::ServerConfig, &Arc<Server>)| server.enabled && server.weight > 0;
        let staying = self.config.servers.iter().zip(&self.servers).filter(takes_requests);
        let waits = waits_for_first_pass(staying.map(|(_, live)| self.state_of(live)));
        let was_ready = self.built.as_ref().is_some_and(|pool| pool.is_ready());
        if self.hold.is_some() && !waits {
            self.end_hold(now + drain);
        } else if self.hold.is_none() && waits && was_ready && !hold.is_zero() {
            let until = now + hold;
            self.hold = Some(until);
            for draining in &mut self.draining {
                draining.until = until + drain;
            }
            return Some(hold);
        }
        None
    }

    /// Whether there is a hold that should end, because a new server is up or the hold has timed out.
    pub(super) fn is_hold_over(&self, now: Instant) -> bool {
        let is_up = |member: &Member| {
            member.membership == Membership::Enabled && member.weight > 0 && member.server.state().serves()
        };
        let new_is_up = || self.built.as_ref().is_some_and(|pool| pool.members.iter().any(is_up));
        self.hold.is_some_and(|until| now >= until || new_is_up())
    }

    /// Ends the hold. The servers that it kept may finish their open requests until `until`, at most.
    pub(super) fn end_hold(&mut self, until: Instant) {
        self.hold = None;
        self.held_weights.clear();
        for draining in &mut self.draining {
            draining.until = draining.until.min(until);
        }
    }

    /// Removes the servers that have drained. Returns them, and whether requests to them are still open.
    pub(super) fn expire_drains(&mut self, sticky: bool, now: Instant) -> Vec<(Arc<Server>, bool)> {
        if self.hold.is_some() {
            return Vec::new();
        }
        let mut expired = Vec::new();
        self.draining.retain(|draining| {
            let open = draining.server.active_requests() > 0;
            let over = now >= draining.until || (!open && !sticky);
            if over {
                expired.push((Arc::clone(&draining.server), open));
            }
            !over
        });
        expired
    }

    /// The pool for a snapshot, with its servers' current health: the one that was built last, if still up to date.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let members = self.members();
        let holding = self.hold.is_some();
        if let Some(built) = &self.built
            && Arc::ptr_eq(&built.config, &self.config)
            && built.holding == holding
            && built.is_current(&members)
        {
            return Arc::clone(built);
        }
        Arc::new(Pool::new(Arc::clone(&self.config), Arc::clone(&self.live), members, holding))
    }

    /// Like `pool`, and remembers it.
    pub(super) fn build(&mut self) -> Arc<Pool> {
        let pool = self.pool();
        self.built = Some(Arc::clone(&pool));
        pool
    }

    /// The configured servers, then those that only drain.
    fn members(&self) -> Vec<Member> {
        let draining: HashSet<ServerId> = self.draining.iter().map(|draining| draining.server.id).collect();
        let mut members: Vec<Member> = Vec::with_capacity(self.servers.len() + self.draining.len());
        for (server, live) in self.config.servers.iter().zip(&self.servers) {
            let membership = if server.enabled { Membership::Enabled } else { Membership::Disabled };
            let drains = !server.enabled && draining.contains(&live.id);
            let held = self.held_weights.get(&live.id).copied().unwrap_or(0);
            let state = self.state_of(live);
            members.push(Member { held, state, ..Member::new(Arc::clone(live), server.weight, membership, drains) });
        }
        let configured: HashSet<ServerId> =
            self.servers.iter().map(|live| live.id).filter(|id| draining.contains(id)).collect();
        for draining in self.draining.iter().filter(|draining| !configured.contains(&draining.server.id)) {
            members.push(Member::new(Arc::clone(&draining.server), draining.weight, Membership::Removed, true));
        }
        members
    }

    /// The state of a configured server. One that is not checked is up, even before a commit has said so.
    fn state_of(&self, live: &Server) -> HealthState {
        if self.config.health.kind == HealthKind::None { HealthState::Up } else { live.state() }
    }
}

impl Marks {
    fn set_leaving(&mut self, server: &Arc<Server>, leaving: bool) {
        if server.is_leaving() != leaving {
            self.leaving.push((Arc::clone(server), leaving));
        }
    }
}

/// Whether no server can serve but one soon may: none is up, and a new one has not passed a check yet.
fn waits_for_first_pass(states: impl Iterator<Item = HealthState>) -> bool {
    let mut unchecked = false;
    for state in states {
        if state.serves() {
            return false;
        }
        unchecked |= state == HealthState::Checking;
    }
    unchecked
}

/// The part of a server's configuration that makes it the same server after an edit.
fn identity(server: &config::ServerConfig) -> (&str, &config::Address) {
    (&server.name, &server.address)
}
