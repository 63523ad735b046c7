//! A pool as the request path sees it: its servers, who of them takes requests, and how one is chosen.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};

use crate::config::{self, HealthKind};
use crate::live::balance::{Candidate, Picker};
use crate::live::counters::{Counter, PerWorker};
use crate::live::health::HealthState;
use crate::live::retry_budget::Budget;
use crate::live::server::Server;
use crate::live::token::{self, Token};

/// One pool in one snapshot. Immutable; what changes lives in the servers and in [`LivePool`].
#[derive(Debug)]
pub struct Pool {
    /// Its rules, as configured.
    pub config: Arc<config::PoolConfig>,
    /// What outlives the snapshot.
    pub live: Arc<LivePool>,
    /// All servers: as configured, then those that are leaving.
    pub members: Vec<Member>,
    /// Whether servers that left still serve, because none of the new ones has passed a check.
    pub holding: bool,
    picker: Picker,
    /// Who a cookie may name, when cookies are used.
    tokens: HashMap<Token, u32>,
}

/// What a pool keeps through any number of generations.
#[derive(Debug)]
pub struct LivePool {
    /// Its name.
    pub name: Arc<str>,
    /// The place in the turn, one for all workers; an edit does not move it.
    position: CachePadded<AtomicU64>,
    /// What each worker counts.
    pub counters: PerWorker<PoolCounters>,
}

/// What one worker counts of a pool.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Requests that came for the pool.
    pub requests: Counter,
    /// Tries after the first, by [`RetryReason`].
    pub retries: [Counter; RetryReason::ALL.len()],
    /// What this worker may still try again; nobody else ever locks it.
    pub budget: Mutex<Budget>,
}

/// Why a request was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The server could not be connected to.
    Connect,
    /// The kept-alive connection closed before the request was sent.
    NotSent,
    /// The connection broke after the request was sent, before an answer.
    Broken,
}

impl RetryReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Connect, Self::NotSent, Self::Broken];

    /// As the metric's label says it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::NotSent => "not_sent",
            Self::Broken => "broken",
        }
    }
}

/// A server in a pool.
#[derive(Debug, Clone)]
pub struct Member {
    /// The live server.
    pub server: Arc<Server>,
    /// Its weight, 0 to 1000.
    pub weight: u32,
    /// By which weight it takes new clients while its pool holds its old servers: what it had before an edit took it
    /// to 0.
    pub held: u32,
    /// What the file says of it.
    pub standing: Standing,
    /// Whether it is going: open requests finish, cookies that name it still lead to it.
    pub draining: bool,
    /// What its checks said when the snapshot was made: people are told what requests see.
    pub state: HealthState,
    /// What a cookie calls it, when cookies are used.
    pub token: Option<Token>,
}

/// What the file says of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is there and enabled.
    Enabled,
    /// It is there with `enabled = false`.
    Disabled,
    /// It is there no more.
    Removed,
}

/// What people are told of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Takes requests (with weight 0: from clients that it knows).
    Up,
    /// Its checks fail.
    Down,
    /// Disabled or removed; its open requests finish.
    Draining,
    /// Disabled, and nothing is open.
    Disabled,
    /// New; it takes requests after its first passed check.
    Checking,
}

impl Status {
    /// All of them.
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
    /// A member whose part in the pool is decided by its health now.
    #[must_use]
    pub fn new(server: Arc<Server>, weight: u32, standing: Standing, draining: bool) -> Self {
        let state = server.state();
        Self { server, weight, held: 0, standing, draining, state, token: None }
    }

    /// What people are told of it.
    #[must_use]
    pub fn status(&self) -> Status {
        match (self.standing, self.state) {
            (Standing::Removed, _) => Status::Draining,
            (Standing::Disabled, _) if self.draining => Status::Draining,
            (Standing::Disabled, _) => Status::Disabled,
            (Standing::Enabled, HealthState::Unchecked | HealthState::Up) => Status::Up,
            (Standing::Enabled, HealthState::Down) => Status::Down,
            (Standing::Enabled, HealthState::Checking) => Status::Checking,
        }
    }

    /// Whether it would take new requests but that requests failed, of which its checks know nothing.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.standing == Standing::Enabled && self.weight > 0 && self.server.ejection().is_some()
    }

    /// Whether `other` would take the same part in the pool.
    fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.server, &other.server)
            && (self.weight, self.held, self.standing, self.draining, self.state)
                == (other.weight, other.held, other.standing, other.draining, other.state)
    }

    fn serves_new(&self, holding: bool) -> bool {
        let stands = match self.standing {
            Standing::Enabled => true,
            Standing::Disabled | Standing::Removed => holding && self.draining,
        };
        stands && self.weight_now(holding) > 0 && self.state.serves()
    }

    fn weight_now(&self, holding: bool) -> u32 {
        if holding && self.weight == 0 { self.held } else { self.weight }
    }

    fn serves_known(&self) -> bool {
        (self.standing == Standing::Enabled || self.draining) && self.state.serves()
    }
}

impl LivePool {
    /// A pool that nothing has gone through yet.
    #[must_use]
    pub fn new(name: Arc<str>, workers: usize) -> Self {
        Self { name, position: CachePadded::default(), counters: PerWorker::new(workers) }
    }
}

impl Pool {
    /// Prepares the choice among `members` as their servers are now.
    #[must_use]
    pub fn new(config: Arc<config::PoolConfig>, live: Arc<LivePool>, mut members: Vec<Member>, holding: bool) -> Self {
        let indexed = || (0_u32..).zip(&members);
        let candidates = indexed()
            .filter(|(_, member)| member.serves_new(holding))
            .map(|(index, member)| Candidate { index, weight: member.weight_now(holding) })
            .collect();
        let picker = Picker::new(config.balance.algorithm, candidates);
        let mut tokens = HashMap::new();
        if let Some(rule) = &config.balance.sticky {
            for (index, member) in (0..).zip(&mut members) {
                let token = token::token(rule, &config.name, &member.server.key.name);
                member.token = Some(token);
                // A name that came back at another address beats the one that leaves.
                if member.serves_known() {
                    tokens.entry(token).or_insert(index);
                }
            }
        }
        Self { config, live, members, holding, picker, tokens }
    }

    /// Whether it was built from members like these.
    #[must_use]
    pub fn is_current(&self, members: &[Member]) -> bool {
        self.members.len() == members.len() && self.members.iter().zip(members).all(|(a, b)| a.is_like(b))
    }

    /// Whether some server takes new requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.picker.candidates().is_empty()
    }

    /// Whether a server is to be taken out after so many failed tries in a row. Said time and again:
    /// what speaks against it now, such as being the last, may not later.
    #[must_use]
    pub fn is_enough(&self, failures: u32) -> bool {
        self.config.health.kind != HealthKind::None && failures.is_multiple_of(self.config.health.fall.get())
    }

    /// Whether some server but this one takes new requests, as things are now.
    #[must_use]
    pub fn has_another(&self, server: u64) -> bool {
        self.eligible().any(|member| member.server.id != server && member.server.state().serves())
    }

    /// The members that take new requests.
    pub fn eligible(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.picker.candidates().iter().map(|candidate| &self.members[candidate.index as usize])
    }

    /// The share of new requests that each member gets, from 0 to 1, in the members' order.
    #[must_use]
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.members.len()];
        for (index, share) in self.picker.shares() {
            shares[index as usize] = share;
        }
        shares
    }

    /// Chooses a member for a request, by its place: the one that its cookie names, else by the
    /// pool's rule; never one whose server's id is among `tried`. None when no other is left.
    #[inline]
    pub fn pick(&self, tried: &[u64], token: Option<Token>) -> Option<usize> {
        let server = |index: u32| &self.members[index as usize].server;
        let was_tried = |index| !tried.is_empty() && tried.contains(&server(index).id);
        let named = token.and_then(|token| self.tokens.get(&token).copied());
        named
            .filter(|index| !was_tried(*index))
            .or_else(|| self.picker.pick(&self.live.position, was_tried, |index| server(index).active_requests()))
            .map(|index| index as usize)
    }
}
