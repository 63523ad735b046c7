//! One pool of the registry: its servers across edits, and which of them drain.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::diff::common_ends;
use crate::config::{self, HealthKind};
use crate::control::upstream_tls::host;
use crate::live::health::HealthState;
use crate::live::pool::{LivePool, Member, Membership, Pool};
use crate::live::server::{Server, ServerId, ServerKey};
use crate::tls::client::{PoolTls, UpstreamTls};

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
}

/// A server that an edit has disabled or removed, until its last request has ended.
#[derive(Debug, Clone)]
struct Draining {
    server: Arc<Server>,
    /// Its last weight.
    weight: u32,
    /// The start of the drain: the edit, or the end of the hold during which the server still served.
    since: Instant,
}

/// The changes that a commit makes to the live servers of a pool, and to the log.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Servers that are leaving from now on, or no longer.
    leaving: Vec<(Arc<Server>, bool)>,
    /// Servers that are up because they are no longer checked.
    unchecked: Vec<Arc<Server>>,
}

impl Marks {
    pub(super) fn apply(self) {
        for (server, leaving) in self.leaving {
            server.set_leaving(leaving);
        }
        for server in self.unchecked {
            server.set_state(HealthState::Up);
        }
    }
}

impl ServerFactory {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, next_id: 0, starting: true }
    }

    /// Whether a server was made by a later copy of this factory.
    pub(super) fn precedes(&self, server: &Server) -> bool {
        server.id.0 > self.next_id
    }

    /// A server that has not been checked yet.
    fn make(&mut self, key: ServerKey, checks: HealthKind) -> Arc<Server> {
        let state = match checks {
            HealthKind::None => HealthState::Up,
            HealthKind::Http | HealthKind::Tcp | HealthKind::Grpc if self.starting => HealthState::Unchecked,
            HealthKind::Http | HealthKind::Tcp | HealthKind::Grpc => HealthState::Checking,
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
        }
    }

    pub(super) fn is_configured_as(&self, config: &Arc<config::PoolConfig>) -> bool {
        Arc::ptr_eq(&self.config, config) || self.config == *config
    }

    pub(super) fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// The configured servers, in the configuration's order.
    pub(super) fn servers(&self) -> impl Iterator<Item = (&config::ServerConfig, &Arc<Server>)> {
        self.config.servers.iter().zip(&self.servers)
    }

    /// The servers that may get new requests, by the configuration alone.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers().filter(|(server, _)| server.enabled && server.weight > 0).map(|(_, live)| live)
    }

    /// Applies an edit of the pool to this entry. Changes no live server, but returns the changes to make.
    pub(super) fn apply(&mut self, new: &Arc<config::PoolConfig>, now: Instant, factory: &mut ServerFactory) -> Marks {
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
                self.draining.push(Draining { server: live, weight: server.weight, since: now });
            }
        }
        self.draining.retain(|draining| !stay.contains(&draining.server.key.identity()));
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

    /// Gives the configured servers the pool's limits for idle connections.
    pub(super) fn set_idle_limits(&self) {
        for server in &self.servers {
            server.set_idle_limits(&self.config.upstream);
            server.set_proxy_header(self.config.upstream.proxy_protocol);
            if self.config.health.kind == HealthKind::None {
                // No check will.
                server.allow_idle();
            }
        }
    }

    /// Gives the configured servers the pool's rules for TLS. Those that drain keep theirs, which may be of another address.
    pub(super) fn set_tls(&self, tls: Option<&Arc<PoolTls>>, workers: usize) {
        for server in &self.servers {
            let (before, _) = server.tls();
            let is_same = match (before.as_ref(), tls) {
                (Some(before), Some(tls)) => Arc::ptr_eq(before.pool(), tls),
                (before, tls) => before.is_none() && tls.is_none(),
            };
            if !is_same {
                // A name that no certificate can have has been rejected.
                let new = tls.and_then(|tls| UpstreamTls::new(tls, &host(&server.key.address), workers).ok());
                server.set_tls(new.map(Arc::new));
            }
        }
    }

    /// Marks the draining servers that are not `held` as leaving, so that their connections are not kept for reuse.
    pub(super) fn mark_leaving(&self, held: &HashSet<ServerId>) {
        for Draining { server, .. } in &self.draining {
            let leaving = !held.contains(&server.id);
            if server.is_leaving() != leaving {
                server.set_leaving(leaving);
            }
        }
    }

    /// Removes the servers that have drained, or have for as long as `drain`. Returns them, and whether requests to them
    /// are still open. The drain of a server that is `held` has not begun.
    pub(super) fn expire_drains(
        &mut self,
        held: &HashSet<ServerId>,
        drain: Duration,
        now: Instant,
    ) -> Vec<(Arc<Server>, bool)> {
        let mut expired = Vec::new();
        self.draining.retain_mut(|draining| {
            if held.contains(&draining.server.id) {
                draining.since = now;
                return true;
            }
            let open = draining.server.active_requests() > 0;
            let over = !open || now.saturating_duration_since(draining.since) >= drain;
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
        if let Some(built) = &self.built
            && Arc::ptr_eq(&built.config, &self.config)
            && built.is_current(&members)
        {
            return Arc::clone(built);
        }
        Arc::new(Pool::new(Arc::clone(&self.config), Arc::clone(&self.live), members))
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
            let state = self.state_of(live);
            members.push(Member { state, ..Member::new(Arc::clone(live), server.weight, membership, drains) });
        }
        let configured: HashSet<ServerId> =
            self.servers.iter().map(|live| live.id).filter(|id| draining.contains(id)).collect();
        for draining in self.draining.iter().filter(|draining| !configured.contains(&draining.server.id)) {
            members.push(Member::new(Arc::clone(&draining.server), draining.weight, Membership::Removed, true));
        }
        members
    }

    /// The state of a configured server. One that is not checked is up, even before a commit has said so.
    pub(super) fn state_of(&self, live: &Server) -> HealthState {
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

/// The part of a server's configuration that makes it the same server after an edit.
fn identity(server: &config::ServerConfig) -> (&str, &config::Address) {
    (&server.name, &server.address)
}
