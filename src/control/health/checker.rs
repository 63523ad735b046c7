//! The checker: starts and ends the checks of servers, and changes their health for other reasons than checks.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::config::HealthKind;
use crate::control::health::LOG_TARGET;
use crate::control::health::idle_pause::IdlePause;
use crate::control::health::probe::CheckRule;
use crate::control::health::schedule::first_delay;
use crate::control::health::task::{CheckTask, Notices};
use crate::live::events::{Event, HealthChange};
use crate::live::health::{Health, HealthState};
use crate::live::pool::Membership;
use crate::live::server::{Server, ServerId};
use crate::live::snapshot::Snapshot;

/// The limit of concurrent checks, so that a large outage does not use up the process's file descriptors.
const MAX_CONCURRENT: usize = 1024;

/// A change of a server's state.
#[derive(Debug, Clone)]
pub struct StateChange {
    /// The server, which already has the new state.
    pub server: Arc<Server>,
    /// The state before.
    pub from: HealthState,
    /// The new state.
    pub to: HealthState,
    /// The reason, if the server is down.
    pub error: Option<String>,
}

impl From<StateChange> for Event {
    fn from(StateChange { server, from, to, error }: StateChange) -> Self {
        Self::Health(Arc::new(HealthChange { at: SystemTime::now(), key: server.key.clone(), from, to, error }))
    }
}

/// Why an ejected server is readmitted before its checks pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readmission {
    /// No other server of its pool is up.
    NoOther,
    /// It was tried because no other server served a request, and it did.
    Served,
}

/// The checks of all servers. Dropping it ends them.
#[derive(Debug)]
pub struct Checker {
    changes: UnboundedSender<StateChange>,
    permits: Arc<Semaphore>,
    /// Each server's checks, by its id.
    checks: HashMap<ServerId, RunningCheck>,
    notices: Notices,
    /// Notified when idle connections have to be closed.
    idle_ended: Arc<Notify>,
}

/// The checks of one server. Dropping it ends them.
#[derive(Debug)]
struct RunningCheck {
    rule: Arc<CheckRule>,
    shared: Arc<SharedHealth>,
    /// Whether an edit has disabled or removed the server, whose health is then of no interest.
    leaving: bool,
    task: JoinHandle<()>,
}

/// The health of a server, shared by its task and the [`Checker`]. Both run on the control plane's thread.
#[derive(Debug)]
pub(super) struct SharedHealth {
    pub(super) health: Mutex<Health>,
    /// Notified when the checker has changed the state.
    pub(super) changed: Notify,
}

impl Checker {
    /// A checker without servers that will send every state change to `changes`.
    #[must_use]
    pub fn new(changes: UnboundedSender<StateChange>) -> Self {
        Self {
            changes,
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            checks: HashMap::new(),
            notices: Notices::default(),
            idle_ended: Arc::default(),
        }
    }

    /// Waits until the idle connections of a server have to be closed, because it is silent.
    pub async fn idle_ended(&self) {
        self.idle_ended.notified().await;
    }

    /// Checks the servers of `snapshot` and no others from now on. Checks whose rule has not changed go on
    /// undisturbed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        self.notices.lock().retain(|name, _| snapshot.pools.iter().any(|pool| pool.live.name == *name));
        let mut before = mem::take(&mut self.checks);
        let mut new = Vec::new();
        let held = held_rules(snapshot);
        for pool in &snapshot.pools {
            let own = Arc::new(CheckRule::of(&pool.config));
            for member in &pool.members {
                let server = &member.server;
                let held = held.get(&server.id).filter(|_| member.membership != Membership::Enabled);
                let rule = Arc::clone(held.unwrap_or(&own));
                if rule.config.memory.is_none() {
                    server.set_memory(None);
                    if rule.config.kind == HealthKind::None {
                        continue;
                    }
                }
                let running = before.remove(&server.id).map(|check| check.log_return(server));
                match running.filter(|check| check.still_follows(&rule)) {
                    Some(check) => {
                        self.checks.insert(server.id, check);
                    }
                    None => new.push((Arc::clone(server), rule)),
                }
            }
        }
        let count = new.len();
        for (place, (server, rule)) in new.into_iter().enumerate() {
            let delay = first_delay(place, count, rule.config.interval);
            self.checks.insert(server.id, self.start(server, rule, delay));
        }
    }

    fn start(&self, server: Arc<Server>, rule: Arc<CheckRule>, delay: Duration) -> RunningCheck {
        let (shared, leaving) = (Arc::new(SharedHealth::new(server.state())), server.is_leaving());
        let task = CheckTask {
            server,
            rule: Arc::clone(&rule),
            shared: Arc::clone(&shared),
            permits: Arc::clone(&self.permits),
            changes: self.changes.clone(),
            notices: Arc::clone(&self.notices),
            idle_ended: Arc::clone(&self.idle_ended),
            idle_pause: IdlePause::default(),
        };
        RunningCheck { rule, shared, leaving, task: tokio::spawn(task.run(delay)) }
    }

    /// Ejects a server because its requests fail. Passed checks readmit it. The next check is an interval away,
    /// because one that is under way says nothing about later requests; if the server `refused` connections, it is checked
    /// again as soon as after a failed check. A server without checks is not ejected,
    /// because nothing would readmit it.
    pub fn eject(&self, server: &Arc<Server>, error: String, refused: bool) {
        let checked = |check: &&RunningCheck| check.rule.config.kind != HealthKind::None;
        let Some(check) = self.checks.get(&server.id).filter(checked) else { return };
        let from = server.state();
        if check.shared.health.lock().eject(check.rule.config.rise) {
            server.eject(error.clone(), refused);
            server.end_idle();
            let (pool, name) = (&server.key.pool, &server.key.name);
            tracing::warn!(target: LOG_TARGET, %pool, server = %name, reason = error, "server is ejected; it takes no requests until its checks pass");
            self.report(check, server, from, Some(error));
        }
    }

    /// Readmits an ejected server at once, without waiting for its checks.
    pub fn readmit(&self, server: &Arc<Server>, why: Readmission) {
        let Some(check) = self.checks.get(&server.id) else { return };
        let from = server.state();
        check.shared.health.lock().readmit();
        server.set_state(HealthState::Up);
        let (pool, name) = (&server.key.pool, &server.key.name);
        match why {
            Readmission::NoOther => {
                tracing::warn!(target: LOG_TARGET, %pool, server = %name, "ejected server is readmitted; no other server of the pool is up");
            }
            Readmission::Served => {
                tracing::info!(target: LOG_TARGET, %pool, server = %name, "ejected server is readmitted; it served a request");
            }
        }
        self.report(check, server, from, None);
    }

    /// Makes a server count as up until its first check has finished. A check that is under way goes on.
    pub fn assume_up(&self, server: &Arc<Server>) {
        let Some(check) = self.checks.get(&server.id) else { return };
        let mut health = check.shared.health.lock();
        if health.state() == HealthState::Checking && server.last_check().is_none() {
            *health = Health::new(HealthState::Unchecked);
            server.set_state(HealthState::Unchecked);
        }
    }

    fn report(&self, check: &RunningCheck, server: &Arc<Server>, from: HealthState, error: Option<String>) {
        check.shared.changed.notify_one();
        // Fails only while the process ends.
        let _ = self.changes.send(StateChange { server: Arc::clone(server), from, to: server.state(), error });
    }

    /// Ends all checks.
    pub fn stop(self) {
        drop(self);
    }
}

impl RunningCheck {
    /// Logs that a server is down, if that was of no interest before.
    fn log_return(mut self, server: &Server) -> Self {
        let was_leaving = mem::replace(&mut self.leaving, server.is_leaving());
        if was_leaving && !self.leaving && server.state() == HealthState::Down {
            let (pool, name) = (&server.key.pool, &server.key.name);
            let reason = server.last_check().and_then(|check| check.error.clone());
            tracing::warn!(target: LOG_TARGET, %pool, server = %name, reason, "server is down");
        }
        self
    }

    /// Whether the task is running and follows this rule. Only a panic ends a task; it is then replaced, so that its
    /// server does not go unchecked.
    fn still_follows(&self, rule: &CheckRule) -> bool {
        *self.rule == *rule && !self.task.is_finished()
    }
}

impl Drop for RunningCheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SharedHealth {
    pub(super) fn new(state: HealthState) -> Self {
        Self { health: Mutex::new(Health::new(state)), changed: Notify::new() }
    }
}

/// The rules of held servers, which an edit may have changed for the new ones: those that they were up by.
fn held_rules(snapshot: &Snapshot) -> HashMap<ServerId, Arc<CheckRule>> {
    let rules = snapshot.held.iter().flat_map(|pool| {
        let rule = Arc::new(CheckRule::of(&pool.config));
        pool.members.iter().map(move |member| (member.server.id, Arc::clone(&rule)))
    });
    rules.collect()
}
