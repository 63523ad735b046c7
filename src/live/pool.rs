//! A pool as requests see it: its servers, which of them are eligible, and the picker that selects one.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::config::{self, Algorithm, HealthKind};
use crate::live::balance::{Candidate, Picker, Turns};
use crate::live::counters::{Counter, PerWorker};
use crate::live::evidence::{self, Evidence, PoolFigures};
use crate::live::health::HealthState;
use crate::live::retry_budget::{RetryBudget, RetryReason};
use crate::live::server::{Server, ServerId};
use crate::live::token::{Sticky, Token};

/// One pool in one snapshot. Immutable; what changes lives in the servers and in [`LivePool`].
#[derive(Debug)]
pub struct Pool {
    pub config: Arc<config::PoolConfig>,
    /// The part that outlives the snapshot.
    pub live: Arc<LivePool>,
    /// The configured servers, in order, then removed ones that are draining.
    pub members: Vec<Member>,
    picker: Picker,
    /// The members that may get new requests by the configuration but not by their health, ejected ones first.
    spare: Box<[u32]>,
    sticky: Option<Sticky>,
}

/// The part of a pool that outlives a generation. Lives as long as the configuration has a pool of this name or one of
/// its servers is draining.
#[derive(Debug)]
pub struct LivePool {
    pub name: Arc<str>,
    /// The balancing positions, which survive edits.
    turns: Turns,
    pub counters: PerWorker<PoolCounters>,
}

/// One worker's counters of a pool.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Requests routed to the pool.
    pub requests: Counter,
    /// Attempts that were served.
    pub served: Counter,
    /// Failures that speak against a server.
    pub failed: Counter,
    /// Retries, indexed by [`RetryReason`].
    pub retries: [Counter; RetryReason::ALL.len()],
    /// This worker's retry budget. No other thread locks it.
    pub budget: Mutex<RetryBudget>,
}

/// The most servers that [`Pool::last_resort`] looks at.
const MAX_SPARE: usize = 64;
/// How many servers a request may have tried before [`Pool::last_resort`] returns no more of those that refused connections.
const MAX_REFUSING: usize = 8;

/// A server in a pool.
#[derive(Debug, Clone)]
pub struct Member {
    pub server: Arc<Server>,
    /// 0 to 1000.
    pub weight: u32,
    pub membership: Membership,
    /// Whether it is draining: its open requests may finish.
    pub draining: bool,
    /// Its health when the snapshot was built, so that the API shows what requests see.
    pub state: HealthState,
    /// Its name in cookies, if the pool has sticky sessions.
    pub token: Option<Token>,
}

/// A server's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Configured, with `enabled = true`.
    Enabled,
    /// Configured, with `enabled = false`.
    Disabled,
    /// No longer configured.
    Removed,
}

/// A server's status as the API and the metrics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Gets requests; with weight 0, only those of its sticky clients.
    Up,
    /// Its checks fail, or it is ejected.
    Down,
    /// Disabled or removed; its open requests may finish.
    Draining,
    /// Disabled, and no longer draining.
    Disabled,
    /// New; gets requests once it has passed a check.
    Checking,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Up, Self::Down, Self::Draining, Self::Disabled, Self::Checking];
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Checking => "checking",
        })
    }
}

impl Member {
    /// A member with the server's current health.
    #[must_use]
    pub fn new(server: Arc<Server>, weight: u32, membership: Membership, draining: bool) -> Self {
        let state = server.state();
        Self { server, weight, membership, draining, state, token: None }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        match (self.membership, self.state) {
            (Membership::Removed, _) => Status::Draining,
            (Membership::Disabled, _) if self.draining => Status::Draining,
            (Membership::Disabled, _) => Status::Disabled,
            (Membership::Enabled, HealthState::Unchecked | HealthState::Up) => Status::Up,
            (Membership::Enabled, HealthState::Down) => Status::Down,
            (Membership::Enabled, HealthState::Checking) => Status::Checking,
        }
    }

    /// Whether it is ineligible only because requests failed, while its checks pass.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.is_candidate() && self.server.ejection().is_some()
    }

    /// Whether its health lets it serve new requests now, whatever it was when the snapshot was built.
    fn is_up_by_now(&self) -> bool {
        self.is_candidate() && !self.server.is_leaving() && self.server.state().serves()
    }

    /// Whether it may serve although it is down: it is ejected, or its checks pass again.
    fn may_serve(&self) -> bool {
        let passes = || self.server.last_check().is_some_and(|check| check.error.is_none());
        self.is_down_by_now() && (self.server.ejection().is_some() || passes())
    }

    /// Whether it is down only because it refused connections, so that it may have started since its last check.
    fn may_have_started(&self) -> bool {
        self.is_down_by_now() && self.server.last_check().is_some_and(|check| check.refused)
    }

    fn is_down_by_now(&self) -> bool {
        self.is_candidate() && !self.server.is_leaving() && self.server.state() == HealthState::Down
    }

    /// Whether `other` is the same server in the same state, so that a pool built from either is the same.
    fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.server, &other.server)
            && (self.weight, self.membership, self.draining, self.state)
                == (other.weight, other.membership, other.draining, other.state)
    }

    /// Whether it may get new requests, by the configuration alone.
    #[must_use]
    pub fn is_candidate(&self) -> bool {
        self.membership == Membership::Enabled && self.weight > 0
    }

    fn serves_new(&self) -> bool {
        self.is_candidate() && self.state.serves()
    }

    /// Whether cookies that name it select it, whatever its weight.
    fn serves_known(&self) -> bool {
        self.membership == Membership::Enabled && self.state.serves()
    }
}

impl LivePool {
    #[must_use]
    pub fn new(name: Arc<str>, workers: usize) -> Self {
        Self { name, turns: Turns::random(), counters: PerWorker::new(workers) }
    }

    fn figures(&self) -> PoolFigures {
        PoolFigures {
            served: self.counters.sum(|set| set.served.get()),
            failed: self.counters.sum(|set| set.failed.get()),
        }
    }
}

impl Pool {
    /// Builds the picker for `members` with the health that they have now.
    #[must_use]
    pub fn new(config: Arc<config::PoolConfig>, live: Arc<LivePool>, mut members: Vec<Member>) -> Self {
        let indexed = || (0_u32..).zip(&members);
        let candidates = indexed()
            .filter(|(_, member)| member.serves_new())
            .map(|(index, member)| Candidate { index, weight: member.weight })
            .collect();
        let picker = Picker::new(config.balance.algorithm, candidates);
        let is_spare = |(_, member): &(u32, &Member)| member.is_candidate() && !member.serves_new();
        let spare = indexed().filter(is_spare).partition::<Vec<_>, _>(|(_, member)| member.is_ejected());
        let spare = spare.0.into_iter().chain(spare.1).map(|(index, _)| index).collect();
        let mut sticky = config.balance.sticky.as_ref().map(|rule| Sticky::new(rule, &config.name));
        if let Some(sticky) = &mut sticky {
            let servers = members.iter().map(|member| (&member.server.key, member.serves_known()));
            let tokens = sticky.add(servers);
            members.iter_mut().zip(tokens).for_each(|(member, token)| member.token = Some(token));
        }
        Self { config, live, members, picker, spare, sticky }
    }

    /// Whether it was built from the same members in the same state.
    #[must_use]
    pub fn is_current(&self, members: &[Member]) -> bool {
        self.members.len() == members.len() && self.members.iter().zip(members).all(|(a, b)| a.is_like(b))
    }

    /// Its sticky sessions, if it has any.
    #[must_use]
    pub fn sticky(&self) -> Option<&Sticky> {
        self.sticky.as_ref()
    }

    /// Whether some server is eligible.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.picker.candidates().is_empty()
    }

    /// Records a failed attempt at a member. Returns the number of failures in a row if they suffice to eject it. That is
    /// decided again after as many more, so that an ejection that is not possible now (say, of the last server) happens later.
    #[must_use]
    pub fn record_failure(&self, worker: usize, member: usize, evidence: Evidence) -> Option<u32> {
        let server = &self.members[member].server;
        // That a server out of rotation refuses connections is no news, and says nothing about the pool.
        if evidence == Evidence::Unsent && !server.state().serves() {
            return None;
        }
        let facts = server.failures.add(evidence, self.live.figures())?;
        self.live.counters.of(worker).failed.add(1);
        let health = &self.config.health;
        let needed = health.eject.failures.unwrap_or(health.fall).get();
        let is_due = health.kind != HealthKind::None && facts.failures.is_multiple_of(needed);
        (is_due && evidence::suffices(facts, needed, self.share_of(member))).then_some(facts.failures)
    }

    /// A member's share (0 to 1) of the pool's requests. One that only sticky clients reach counts like any other.
    fn share_of(&self, member: usize) -> f64 {
        let mut shares = self.picker.shares();
        shares
            .find(|(index, _)| *index as usize == member)
            .map_or_else(|| 1.0 / (self.picker.candidates().len() + 1) as f64, |(_, share)| share)
    }

    /// Whether another of its servers may be ejected, by `eject.max`.
    #[must_use]
    pub fn may_eject_another(&self) -> bool {
        let candidates = || self.members.iter().filter(|member| member.is_candidate());
        let ejected = candidates().filter(|member| member.server.ejection().is_some()).count();
        ejected < evidence::max_ejected(candidates().count(), self.config.health.eject.max)
    }

    /// A member to try before a request fails for lack of servers: none of the eligible ones has served it. Servers whose
    /// ids are in `tried` are excluded.
    #[must_use]
    pub fn last_resort(&self, tried: &[ServerId]) -> Option<usize> {
        let spare = &self.spare[..self.spare.len().min(MAX_SPARE)];
        let start = if spare.is_empty() { 0 } else { fastrand::usize(..spare.len()) };
        let (before, from) = spare.split_at(start);
        let members = || from.iter().chain(before).map(|index| *index as usize);
        let find = |serves: &dyn Fn(&Member) -> bool| {
            let is_untried = |member: &Member| !tried.contains(&member.server.id);
            members().find(|index| is_untried(&self.members[*index]) && serves(&self.members[*index]))
        };
        let may_refuse = || tried.len() < MAX_REFUSING;
        find(&Member::is_up_by_now)
            .or_else(|| find(&Member::may_serve))
            .or_else(|| if may_refuse() { find(&Member::may_have_started) } else { None })
    }

    /// Whether another server is up by now, in or out of the snapshot's rotation.
    #[must_use]
    pub fn has_another_by_now(&self, server: ServerId) -> bool {
        self.members.iter().any(|member| member.server.id != server && member.is_up_by_now())
    }

    /// Whether another server is eligible, by its current health.
    #[must_use]
    pub fn has_another(&self, server: ServerId) -> bool {
        self.eligible().any(|member| member.server.id != server && member.server.state().serves())
    }

    /// The members that get new requests.
    pub fn eligible(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.picker.candidates().iter().map(|candidate| &self.members[candidate.index as usize])
    }

    /// Each member's share (0 to 1) of new requests, in the order of the members.
    #[must_use]
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.members.len()];
        for (index, share) in self.picker.shares() {
            shares[index as usize] = share;
        }
        shares
    }

    /// Whether a failed attempt makes a server less likely to be selected for a while.
    #[must_use]
    pub fn penalises_failures(&self) -> bool {
        self.config.balance.algorithm == Algorithm::LeastConnections
    }

    /// Selects a member for a request, and returns its index: the one that the cookie names, or else one by the pool's
    /// algorithm. Servers whose ids are in `tried` are excluded; `None` if no other is left.
    #[inline]
    pub fn pick(&self, tried: &[ServerId], token: Option<Token>) -> Option<usize> {
        self.pick_in_turn(tried, token, !tried.is_empty())
    }

    /// The index of the member that a client's cookie selects.
    pub fn named(&self, token: Token) -> Option<u32> {
        self.sticky.as_ref()?.member(token)
    }

    /// Like [`Pool::pick`], for a retry, even if no server is excluded. It takes no turn from other requests.
    pub fn pick_again(&self, tried: &[ServerId], token: Option<Token>) -> Option<usize> {
        self.pick_in_turn(tried, token, true)
    }

    #[inline]
    fn pick_in_turn(&self, tried: &[ServerId], token: Option<Token>, is_retry: bool) -> Option<usize> {
        let server = |index: u32| &self.members[index as usize].server;
        let excluded = |index| !tried.is_empty() && tried.contains(&server(index).id);
        let (open, penalty) =
            (|index| server(index).active_requests(), |index| server(index).penalty.count(Instant::now));
        token
            .and_then(|token| self.named(token))
            .filter(|index| !excluded(*index))
            .or_else(|| self.picker.pick(self.live.turns.of(is_retry), excluded, open, penalty))
            .map(|index| index as usize)
    }
}
