//! Snapshots of the same generation: published after health changes, ejections, and ended drains and holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::control::health::checker::{Readmission, StateChange};
use crate::live::health::HealthState;
use crate::live::pool::Pool;
use crate::live::server::{Server, ServerId};
use crate::live::snapshot::Snapshot;
use crate::proxy::context::{Failing, ServerReport};
use crate::telemetry::log_throttle::LogThrottle;

/// The pause after a publication, as a multiple of the time that it took. With few servers there is none to speak
/// of; with thousands that change one by one, each publication would cost a pass over all of them.
const PAUSE: u32 = 10;

/// How often the log says that the limit for ejected servers is reached.
const LIMIT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Health changes that the snapshot does not show yet.
#[derive(Debug)]
pub(super) struct UnpublishedChanges {
    changes: Vec<StateChange>,
    /// The earliest time of the next publication.
    due: tokio::time::Instant,
    /// For the message that the limit for ejected servers is reached.
    limit_log: LogThrottle,
}

impl UnpublishedChanges {
    pub(super) fn new() -> Self {
        Self {
            changes: Vec::new(),
            due: tokio::time::Instant::now(),
            limit_log: LogThrottle::every(LIMIT_LOG_INTERVAL),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn due(&self) -> tokio::time::Instant {
        self.due
    }

    pub(super) fn add(&mut self, change: StateChange) {
        self.changes.push(change);
    }
}

impl Gateway {
    /// Publishes all health changes so far, and then reports them as events, so that a client that receives one
    /// finds it in the API.
    pub(super) fn publish_changes(&mut self) {
        while let Ok(change) = self.inputs.health_changes.try_recv() {
            self.unpublished.add(change);
        }
        let started = Instant::now();
        self.publish();
        self.unpublished.due = (started + started.elapsed() * PAUSE).into();
        let by_checks = |change: &&StateChange| {
            change.from.serves() && change.to == HealthState::Down && change.server.ejection().is_none()
        };
        let down: Arc<[ServerId]> =
            self.unpublished.changes.iter().filter(by_checks).map(|change| change.server.id).collect();
        if !down.is_empty() {
            self.running.worker_pool.servers_down(&down);
        }
        // Nobody waits for the health of a server that an edit has disabled or removed.
        for change in self.unpublished.changes.drain(..).filter(|change| !change.server.is_leaving()) {
            self.state.events.publish(change.into());
        }
    }

    /// Publishes the generation in force by the health of its servers now.
    pub(super) fn publish(&mut self) {
        let snapshot = self.running.registry.refresh(&self.state.snapshot.load());
        self.put_in_force(snapshot);
    }

    /// Replaces the snapshot, for a new generation and for a health change alike.
    ///
    /// Checks come first, because only a checked server can be readmitted; readmissions and addresses come before
    /// the swap, so that requests see them with the snapshot. Requests see the snapshot from the swap on, also without
    /// the message to the workers, which is for idle connections to servers that leave.
    pub(super) fn put_in_force(&mut self, mut snapshot: Snapshot) {
        self.running.checker.apply(&snapshot);
        self.readmit(&mut snapshot);
        self.running.resolver.apply(&snapshot);
        self.swap(snapshot);
        self.running.worker_pool.refresh();
        self.free_retired();
    }

    fn swap(&mut self, snapshot: Snapshot) {
        let before = self.state.snapshot.swap(Arc::new(snapshot));
        self.retired.push(before);
    }

    /// Readmits ejected servers of pools that would otherwise have none.
    fn readmit(&mut self, snapshot: &mut Snapshot) {
        let held = snapshot.held.iter().filter(|pool| !pool.is_ready());
        let members = snapshot.unready().chain(held).flat_map(|pool| &pool.members);
        let ejected: Vec<_> = members.filter(|member| member.is_ejected()).collect();
        if ejected.is_empty() {
            return;
        }
        for member in ejected {
            self.running.checker.readmit(&member.server, Readmission::NoOther);
        }
        *snapshot = self.running.registry.refresh(snapshot);
    }

    /// Acts on a worker's report about a server.
    pub(super) fn take_report(&mut self, report: ServerReport) {
        match report {
            ServerReport::Failing(failing) => self.eject(&failing),
            ServerReport::Served(server) if server.ejection().is_some() => {
                self.running.checker.readmit(&server, Readmission::Served);
            }
            ServerReport::Served(_) => {}
        }
    }

    /// Ejects a server whose requests fail, unless no other server of its pool is up, or as many are ejected as may be:
    /// then only its checks may take it down.
    fn eject(&mut self, failing: &Failing) {
        let (server, pool) = (&failing.server, &failing.server.key.pool);
        if server.is_leaving() || !server.state().serves() {
            return;
        }
        match ejectable(&self.state.snapshot.load(), server) {
            Ejectable::Yes => self.running.checker.eject(server, failing.to_string(), failing.is_refused()),
            Ejectable::Last => {
                tracing::debug!(server = %server.key, reason = %failing, "not ejected; no other server of the pool is up");
            }
            Ejectable::Limit => {
                if self.unpublished.limit_log.allows(Instant::now()) {
                    tracing::warn!(%pool, server = %server.key.name, reason = %failing, "server is not ejected; as many servers of the pool are ejected as health.eject.max allows");
                }
            }
        }
    }

    /// Ends drains and holds whose time is over, and closes what has lingered.
    pub(super) fn expire(&mut self, now: Instant) {
        self.free_retired();
        let expired = self.running.registry.expire(&self.config, now);
        for (server, open) in &expired.servers {
            if *open {
                tracing::warn!(server = %server.key, "drain timeout reached; open requests were aborted");
                self.running.worker_pool.abort_server(server.id);
            } else {
                tracing::info!(server = %server.key, "server drained");
            }
        }
        for server in &expired.take_over {
            self.running.checker.assume_up(server);
        }
        if !expired.is_empty() {
            self.publish();
        }
        if !self.running.listeners.is_settled() {
            self.running.listeners.expire(&self.running.worker_pool, self.config.timeouts.drain, now);
            self.state.set_listeners(self.running.listeners.live(&self.config.listeners));
        }
    }

    /// Frees the retired snapshots that no request holds any more; large ones on a thread of their own.
    fn free_retired(&mut self) {
        // Once the count is 1 it stays 1: only a holder could make another.
        let free: Vec<_> = self.retired.extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1).collect();
        if !free.is_empty() {
            let serving = self.retired.iter().map(|snapshot| &snapshot.config.log);
            self.outputs.access_log.retain(&serving.chain([&self.config.log]).collect::<Vec<_>>());
        }
        if free.iter().any(|snapshot| snapshot.is_large()) {
            tokio::task::spawn_blocking(move || drop(free));
        }
    }
}

/// Whether a server may be ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ejectable {
    Yes,
    /// No other server of its pool is up.
    Last,
    /// As many servers of its pool are ejected as may be.
    Limit,
}

/// Whether each pool in which a server serves can do without it. While it is held, these may be two pools.
fn ejectable(snapshot: &Snapshot, server: &Server) -> Ejectable {
    let pools = snapshot.pools.iter().chain(&snapshot.held).filter(|pool| pool.live.name == server.key.pool);
    let (serving, others): (Vec<&Arc<Pool>>, Vec<_>) =
        pools.partition(|pool| pool.eligible().any(|member| member.server.id == server.id));
    // One with weight 0 serves in none, but cookies may lead to it.
    let pools = if serving.is_empty() { others } else { serving };
    if pools.is_empty() || !pools.iter().all(|pool| pool.has_another(server.id)) {
        Ejectable::Last
    } else if pools.iter().all(|pool| pool.may_eject_another()) {
        Ejectable::Yes
    } else {
        Ejectable::Limit
    }
}
