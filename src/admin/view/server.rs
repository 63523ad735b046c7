//! The JSON form of a server.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{as_seconds, as_time};
use crate::config::Address;
use crate::live::pool::{self, Member, Membership, Status};
use crate::live::server;
use crate::live::snapshot::Snapshot;

#[derive(Serialize)]
pub(in crate::admin) struct ServerView<'a> {
    pub(in crate::admin) pool: &'a str,
    pub(in crate::admin) name: &'a str,
    pub(in crate::admin) address: &'a Address,
    weight: u32,
    enabled: bool,
    pub(in crate::admin) status: Status,
    active_requests: u64,
    requests_total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    share: f64,
    last_check: Option<CheckView>,
    ejected: Option<EjectionView>,
    #[serde(serialize_with = "as_time")]
    since: SystemTime,
}

#[derive(Serialize)]
struct CheckView {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    ok: bool,
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(serialize_with = "as_seconds")]
    seconds: Duration,
}

/// Why a server is down although its health checks pass.
#[derive(Serialize)]
struct EjectionView {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    error: String,
}

/// Every server, pool by pool; within a pool in the file's order, followed by those that drain.
pub(in crate::admin) fn servers(snapshot: &Snapshot) -> impl Iterator<Item = ServerView<'_>> {
    snapshot.pools.iter().flat_map(|pool| servers_of(snapshot, pool))
}

/// A pool's servers, in the same order. One that gets requests only because it is held has its share of those.
pub(in crate::admin) fn servers_of<'a>(
    snapshot: &'a Snapshot,
    pool: &'a pool::Pool,
) -> impl Iterator<Item = ServerView<'a>> + use<'a> {
    let held = snapshot.held.iter().filter(|held| held.live.name == pool.live.name);
    let held: HashMap<_, _> =
        held.flat_map(|held| held.members.iter().map(|one| one.server.id).zip(held.shares())).collect();
    pool.members.iter().zip(pool.shares()).map(move |(member, share)| {
        let held = held.get(&member.server.id).copied().filter(|_| share <= 0.0);
        ServerView::new(member, held.unwrap_or(share))
    })
}

impl<'a> ServerView<'a> {
    fn new(member: &'a Member, share: f64) -> Self {
        let live = &member.server;
        Self {
            pool: &live.key.pool,
            name: &live.key.name,
            address: &live.key.address,
            weight: member.weight,
            enabled: member.membership == Membership::Enabled,
            status: member.status(),
            active_requests: live.active_requests(),
            requests_total: live.requests_total(),
            memory_bytes: live.memory(),
            share,
            last_check: live.last_check().as_deref().map(CheckView::new),
            // Shown once the snapshot has it too, because `status` comes from there.
            ejected: live.ejection().filter(|_| !member.state.serves()).as_deref().map(EjectionView::new),
            since: live.since(),
        }
    }

    /// Whether it receives new requests now.
    pub(in crate::admin) fn is_active(&self) -> bool {
        self.share > 0.0
    }

    /// A unique value for `?after=`.
    pub(in crate::admin) fn cursor(&self) -> String {
        format!("{}/{}/{}", self.pool, self.name, self.address)
    }
}

impl CheckView {
    fn new(check: &server::Check) -> Self {
        Self {
            at: check.at,
            ok: check.error.is_none(),
            error: check.error.clone(),
            hint: check.hint.clone(),
            seconds: check.took,
        }
    }
}

impl EjectionView {
    fn new(ejection: &server::Ejection) -> Self {
        Self { at: ejection.at, error: ejection.error.clone() }
    }
}
