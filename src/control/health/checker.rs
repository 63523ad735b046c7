//! The checker: one task per server that checks it periodically and reports changes of its state.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::{self, HealthKind};
use crate::control::health::LOG_TARGET;
use crate::control::health::memory::{self, Readings};
use crate::control::health::probe::{self, CheckError};
use crate::live::events::{Event, HealthChange};
use crate::live::health::{Health, HealthState};
use crate::live::pool::Membership;
use crate::live::server::{Check, Server, ServerId};
use crate::live::snapshot::Snapshot;

/// The limit of concurrent checks, so that a large outage does not use up the process's file descriptors.
const MAX_CONCURRENT: usize = 1024;

/// The most first checks that all begin at once.
const MAX_AT_ONCE: usize = 100;

/// The maximum rate of first checks, per second, if there are more; exceeded if the interval is too short for it.
const MAX_PER_SECOND: f64 = 10_000.0;

/// The shortest time over which more first checks are spread, unless the configured interval is shorter.
const SOON: Duration = Duration::from_secs(1);

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

/// The checks of all servers. Dropping it ends them.
#[derive(Debug)]
pub struct Checker {
    changes: UnboundedSender<StateChange>,
    permits: Arc<Semaphore>,
    /// Each server's checks, by its id.
    checks: HashMap<ServerId, RunningCheck>,
}

/// The checks of one server. Dropping it ends them.
#[derive(Debug)]
struct RunningCheck {
    rule: Arc<config::HealthConfig>,
    shared: Arc<SharedHealth>,
    task: JoinHandle<()>,
}

/// The health of a server, shared by its task and the [`Checker`]. Both run on the control plane's thread.
#[derive(Debug)]
struct SharedHealth {
    health: Mutex<Health>,
    /// Notified when the checker has changed the state.
    changed: Notify,
}

impl Checker {
    /// A checker without servers that will send every state change to `changes`.
    #[must_use]
    pub fn new(changes: UnboundedSender<StateChange>) -> Self {
        Self { changes, permits: Arc::new(Semaphore::new(MAX_CONCURRENT)), checks: HashMap::new() }
    }

    /// Checks the servers of `snapshot` and no others from now on. Checks whose rule has not changed go on
    /// undisturbed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        let mut before = mem::take(&mut self.checks);
        let mut new = Vec::new();
        let held = held_rules(snapshot);
        for pool in &snapshot.pools {
            let own = Arc::new(pool.config.health.clone());
            for member in &pool.members {
                let server = &member.server;
                let held = held.get(&server.id).filter(|_| member.membership != Membership::Enabled);
                let rule = Arc::clone(held.unwrap_or(&own));
                if rule.memory.is_none() {
                    server.set_memory(None);
                    if rule.kind == HealthKind::None {
                        continue;
                    }
                }
                match before.remove(&server.id).filter(|check| check.still_follows(&rule)) {
                    Some(check) => {
                        self.checks.insert(server.id, check);
                    }
                    None => new.push((Arc::clone(server), rule)),
                }
            }
        }
        let count = new.len();
        for (place, (server, rule)) in new.into_iter().enumerate() {
            let delay = first_delay(place, count, rule.interval);
            self.checks.insert(server.id, self.start(server, rule, delay));
        }
    }

    fn start(&self, server: Arc<Server>, rule: Arc<config::HealthConfig>, delay: Duration) -> RunningCheck {
        let shared = Arc::new(SharedHealth::new(server.state()));
        let task = CheckTask {
            server,
            rule: Arc::clone(&rule),
            shared: Arc::clone(&shared),
            permits: Arc::clone(&self.permits),
            changes: self.changes.clone(),
        };
        RunningCheck { rule, shared, task: tokio::spawn(task.run(delay)) }
    }

    /// Ejects a server because its requests fail. Passed checks readmit it. The next check is an interval away,
    /// because one that is under way says nothing about later requests. A server without checks is not ejected,
    /// because nothing would readmit it.
    pub fn eject(&self, server: &Arc<Server>, error: String) {
        let checked = |check: &&RunningCheck| check.rule.kind != HealthKind::None;
        let Some(check) = self.checks.get(&server.id).filter(checked) else { return };
        let from = server.state();
        if check.shared.health.lock().eject(check.rule.rise) {
            server.eject(error.clone());
            let (pool, name) = (&server.key.pool, &server.key.name);
            tracing::warn!(target: LOG_TARGET, %pool, server = %name, reason = error, "server is ejected; it takes no requests until its checks pass");
            self.report(check, server, from, Some(error));
        }
    }

    /// Readmits an ejected server at once, without waiting for its checks.
    pub fn readmit(&self, server: &Arc<Server>) {
        let Some(check) = self.checks.get(&server.id) else { return };
        let from = server.state();
        check.shared.health.lock().readmit();
        server.set_state(HealthState::Up);
        let (pool, name) = (&server.key.pool, &server.key.name);
        tracing::warn!(target: LOG_TARGET, %pool, server = %name, "ejected server is readmitted; no other server of the pool is up");
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
    /// Whether the task is running and follows this rule. Only a panic ends a task; it is then replaced, so that its
    /// server does not go unchecked.
    fn still_follows(&self, rule: &config::HealthConfig) -> bool {
        *self.rule == *rule && !self.task.is_finished()
    }
}

impl Drop for RunningCheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SharedHealth {
    fn new(state: HealthState) -> Self {
        Self { health: Mutex::new(Health::new(state)), changed: Notify::new() }
    }
}

/// The task that checks one server.
struct CheckTask {
    server: Arc<Server>,
    rule: Arc<config::HealthConfig>,
    shared: Arc<SharedHealth>,
    permits: Arc<Semaphore>,
    changes: UnboundedSender<StateChange>,
}

impl CheckTask {
    async fn run(self, delay: Duration) {
        let mut due = Instant::now() + delay;
        let mut readings = Readings::default();
        loop {
            let check = async {
                sleep_until(due).await;
                let started = Instant::now();
                self.check(&mut readings).await;
                started
            };
            let started = tokio::select! {
                started = check => started,
                // A check that was under way says nothing about the new state.
                () = self.shared.changed.notified() => Instant::now(),
            };
            let failed = self.server.last_check().is_some_and(|check| check.error.is_some());
            due = started + jittered(pause(&self.rule, failed), fastrand::f64());
        }
    }

    async fn check(&self, readings: &mut Readings) {
        let _permit = self.permits.acquire().await;
        let mut connected = true;
        if self.rule.kind != HealthKind::None {
            let started = Instant::now();
            let error = probe::check(&self.server, &self.rule).await.err();
            connected = error.as_ref().is_none_or(CheckError::connected);
            self.record(error.as_ref(), started.elapsed());
        }
        if let Some(path) = &self.rule.memory {
            let reading = if connected { memory::read(&self.server, path, self.rule.timeout).await } else { None };
            readings.record(reading, &self.server);
        }
    }

    /// Records the result of a check. An error on our side, such as a lack of descriptors, is shown but does not
    /// count against the server.
    fn record(&self, error: Option<&CheckError>, took: Duration) {
        let reason = error.map(ToString::to_string);
        let same_as_last = self.server.last_check().is_some_and(|last| last.error == reason);
        self.server.set_last_check(Check { at: SystemTime::now(), took, error: reason.clone() });
        if error.is_some_and(CheckError::is_ours) {
            return;
        }
        if error.is_some() {
            self.server.clear_ejection();
        }
        let (pool, server) = (&self.server.key.pool, &self.server.key.name);
        let mut health = self.shared.health.lock();
        let from = health.state();
        if health.record(reason.is_none(), self.rule.rise, self.rule.fall) {
            let to = health.state();
            self.server.set_state(to);
            match &reason {
                None => tracing::info!(target: LOG_TARGET, %pool, %server, "server is up"),
                Some(reason) => tracing::warn!(target: LOG_TARGET, %pool, %server, reason, "server is down"),
            }
            // Fails only while the process ends.
            let _ = self.changes.send(StateChange { server: Arc::clone(&self.server), from, to, error: reason });
        } else if let (HealthState::Checking, false, Some(reason)) = (from, same_as_last, reason) {
            tracing::warn!(target: LOG_TARGET, %pool, %server, reason, "new server takes no requests yet: its check fails");
        }
    }
}

/// The time from one check to the next, which is shorter after one that `failed`.
fn pause(rule: &config::HealthConfig, failed: bool) -> Duration {
    if failed { rule.retry.min(rule.interval) } else { rule.interval }
}

/// `interval` shortened or prolonged by up to a tenth; `random` is between 0 and 1.
#[must_use]
pub fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random)
}

/// The rules of held servers, which an edit may have changed for the new ones: those that they were up by.
fn held_rules(snapshot: &Snapshot) -> HashMap<ServerId, Arc<config::HealthConfig>> {
    let rules = snapshot.held.iter().flat_map(|pool| {
        let rule = Arc::new(pool.config.health.clone());
        pool.members.iter().map(move |member| (member.server.id, Arc::clone(&rule)))
    });
    rules.collect()
}

/// The delay of the first check at `place` among `count`: none, unless there are very many.
fn first_delay(place: usize, count: usize, interval: Duration) -> Duration {
    if count <= MAX_AT_ONCE {
        return Duration::ZERO;
    }
    let spread = SOON.max(Duration::from_secs_f64(count as f64 / MAX_PER_SECOND));
    interval.min(spread).mul_f64(place as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::num::NonZeroU32;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::config::Address;
    use crate::http_client::SendError;
    use crate::live::server::{ServerId, ServerKey};

    #[test]
    fn a_lack_of_descriptors_does_not_count_against_a_server() {
        let address = Address::Name("backend".to_owned(), 80);
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        let rule = config::HealthConfig {
            kind: HealthKind::Tcp,
            rise: NonZeroU32::MIN,
            fall: NonZeroU32::MIN,
            ..config::HealthConfig::default()
        };
        let (changes, mut reported) = unbounded_channel();
        let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
        let permits = Arc::new(Semaphore::new(1));
        let shared = Arc::new(SharedHealth::new(HealthState::Up));
        let task = CheckTask { server: Arc::clone(&server), rule: Arc::new(rule), shared, permits, changes };

        let too_many_open_files = io::Error::from_raw_os_error(24);
        task.record(Some(&SendError::Connect(too_many_open_files).into()), Duration::ZERO);
        assert!(server.last_check().is_some_and(|check| check.error.is_some()));
        assert!(reported.try_recv().is_err());
        assert_eq!(server.state(), HealthState::Up);

        task.record(Some(&SendError::Closed.into()), Duration::ZERO);
        assert_eq!(reported.try_recv().map(|change| change.to), Ok(HealthState::Down));
        assert_eq!(server.state(), HealthState::Down);
    }

    #[test]
    fn jitter_is_at_most_a_tenth() {
        let interval = Duration::from_secs(10);
        let cases = [(0.0, 9_000), (0.25, 9_500), (0.5, 10_000), (1.0, 11_000)];
        for (random, expected) in cases {
            let millis = jittered(interval, random).as_secs_f64() * 1000.0;
            assert!((millis - f64::from(expected)).abs() < 0.001, "{random}: {millis}");
        }
    }

    #[test]
    fn many_first_checks_are_spread() {
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(5));
        let cases = [
            (0, 1, long, Duration::ZERO),
            (99, 100, long, Duration::ZERO),
            (0, 10_000, long, Duration::ZERO),
            (5_000, 10_000, long, Duration::from_millis(500)),
            (5_000, 10_000, short, Duration::from_millis(50)),
            (50_000, 100_000, long, Duration::from_millis(2_500)),
            (10_000, 20_000, long, Duration::from_secs(1)),
        ];
        for (place, count, interval, expected) in cases {
            assert_eq!(first_delay(place, count, interval), expected, "{place} of {count}");
        }
    }
}
