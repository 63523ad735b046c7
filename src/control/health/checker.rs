//! The checker: a task for each server that checks it time and again, and says when its state changes. All changes of it go through here.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::{self, HealthKind};
use crate::control::health::memory::{self, Readings};
use crate::control::health::probe::{self, CheckError};
use crate::live::events::{Event, HealthChange};
use crate::live::health::{Health, HealthState};
use crate::live::server::{Check, Server};
use crate::live::snapshot::Snapshot;

/// Checks that run at once at most, so that a great outage does not use up the process' files.
const AT_ONCE: usize = 1024;

/// First checks that begin in the same instant at most.
const AT_START: usize = 100;

/// First checks that begin in a second at most, as far as the interval is that long.
const A_SECOND: f64 = 10_000.0;

/// Over how long more first checks than that are spread at least; also the time between the checks of a new
/// server, which takes no requests until one has passed.
const SOON: Duration = Duration::from_secs(1);

/// A server's state changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whose; it has the new state already.
    pub server: Arc<Server>,
    /// The state that it had.
    pub from: HealthState,
    /// The state that it has.
    pub to: HealthState,
    /// Why it is down, if it is.
    pub error: Option<String>,
}

impl From<Change> for Event {
    fn from(Change { server, from, to, error }: Change) -> Self {
        Self::Health(Arc::new(HealthChange { at: SystemTime::now(), key: server.key.clone(), from, to, error }))
    }
}

/// All checks. They end with it.
#[derive(Debug)]
pub struct Checker {
    changes: UnboundedSender<Change>,
    permits: Arc<Semaphore>,
    /// By the server's id.
    tasks: HashMap<u64, Task>,
}

/// The checks of one server. They end with it.
#[derive(Debug)]
struct Task {
    rule: Arc<config::HealthConfig>,
    known: Arc<Known>,
    handle: JoinHandle<()>,
}

/// What a task shares with the [`Checker`]. Both run on the control plane's thread.
#[derive(Debug)]
struct Known {
    health: Mutex<Health>,
    /// Told when the state was changed from outside of the task.
    changed: Notify,
}

impl Checker {
    /// A checker of nothing yet, which will send every change of a state to `changes`.
    #[must_use]
    pub fn new(changes: UnboundedSender<Change>) -> Self {
        Self { changes, permits: Arc::new(Semaphore::new(AT_ONCE)), tasks: HashMap::new() }
    }

    /// Checks from now on the servers of `snapshot` and no others. Those whose rule is as it was go
    /// on at their own pace. To be called within a runtime.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        let mut before = mem::take(&mut self.tasks);
        let mut fresh = Vec::new();
        for pool in &snapshot.pools {
            let rule = Arc::new(pool.config.health.clone());
            for member in &pool.members {
                let server = &member.server;
                if rule.memory.is_none() {
                    server.set_memory(None);
                    if rule.kind == HealthKind::None {
                        continue;
                    }
                }
                match before.remove(&server.id).filter(|task| task.goes_on_by(&rule)) {
                    Some(task) => {
                        self.tasks.insert(server.id, task);
                    }
                    None => fresh.push((Arc::clone(server), Arc::clone(&rule))),
                }
            }
        }
        let count = fresh.len();
        for (place, (server, rule)) in fresh.into_iter().enumerate() {
            let delay = first_delay(place, count, rule.interval);
            let (permits, changes) = (Arc::clone(&self.permits), self.changes.clone());
            let known = Arc::new(Known::new(server.state()));
            let (id, rule, own) = (server.id, Arc::clone(&rule), Arc::clone(&known));
            let routine = Routine { server, rule: Arc::clone(&rule), permits, changes, known: own };
            let handle = tokio::spawn(routine.run(delay));
            self.tasks.insert(id, Task { rule, known, handle });
        }
    }

    /// Takes a server out because its requests fail, and says why. It comes back by its checks, of
    /// which the next is an interval away: one that is under way says nothing of later requests. A
    /// server without checks stays, as nobody would let it come back.
    pub fn eject(&self, server: &Arc<Server>, error: String) {
        let Some(task) = self.tasks.get(&server.id).filter(|task| task.rule.kind != HealthKind::None) else { return };
        let from = server.state();
        if task.known.health().eject(task.rule.rise) {
            server.eject(error.clone());
            let (pool, name) = (&server.key.pool, &server.key.name);
            tracing::warn!(%pool, server = %name, reason = error, "server is ejected: it takes no requests until its checks have passed");
            self.tell(task, server, from, Some(error));
        }
    }

    /// Lets a server come back that was taken out for its requests alone.
    pub fn readmit(&self, server: &Arc<Server>) {
        let Some(task) = self.tasks.get(&server.id) else { return };
        let from = server.state();
        task.known.health().readmit();
        server.set_state(HealthState::Up);
        let (pool, name) = (&server.key.pool, &server.key.name);
        tracing::warn!(%pool, server = %name, "server is up again: it was ejected, and nobody else is left");
        self.tell(task, server, from, None);
    }

    fn tell(&self, task: &Task, server: &Arc<Server>, from: HealthState, error: Option<String>) {
        task.known.changed.notify_one();
        let change = Change { server: Arc::clone(server), from, to: server.state(), error };
        // Nobody listens only when the process ends.
        let _ = self.changes.send(change);
    }

    /// Ends all checks.
    pub fn stop(self) {
        drop(self);
    }
}

impl Task {
    fn goes_on_by(&self, rule: &config::HealthConfig) -> bool {
        // It ends by itself only in a panic, and must not leave the server unwatched.
        *self.rule == *rule && !self.handle.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Known {
    fn new(state: HealthState) -> Self {
        Self { health: Mutex::new(Health::new(state)), changed: Notify::new() }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // A panic while it was held leaves a state that is still a state.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the task of one server does.
struct Routine {
    server: Arc<Server>,
    rule: Arc<config::HealthConfig>,
    known: Arc<Known>,
    permits: Arc<Semaphore>,
    changes: UnboundedSender<Change>,
}

impl Routine {
    async fn run(self, delay: Duration) {
        let mut due = Instant::now() + delay;
        let mut readings = Readings::default();
        loop {
            let check = async {
                sleep_until(due).await;
                let begin = Instant::now();
                self.round(&mut readings).await;
                begin
            };
            let begin = tokio::select! {
                begin = check => begin,
                // What was under way by then says nothing of what comes.
                () = self.known.changed.notified() => Instant::now(),
            };
            let new = self.known.health().state() == HealthState::Checking;
            let pause = if new { self.rule.interval.min(SOON) } else { self.rule.interval };
            due = begin + jittered(pause, fastrand::f64());
        }
    }

    async fn round(&self, readings: &mut Readings) {
        let _permit = self.permits.acquire().await;
        let mut connected = true;
        if self.rule.kind != HealthKind::None {
            let begin = Instant::now();
            let failure = probe::check(&self.server, &self.rule).await.err();
            connected = failure.as_ref().is_none_or(CheckError::connected);
            self.record(failure.as_ref(), begin.elapsed());
        }
        if let Some(path) = &self.rule.memory {
            let reading = if connected { memory::read(&self.server, path, self.rule.timeout).await } else { None };
            readings.record(reading, &self.server);
        }
    }

    /// Takes in a check's end.
    fn record(&self, failure: Option<&CheckError>, took: Duration) {
        let error = failure.map(ToString::to_string);
        let known = self.server.last_check().is_some_and(|last| last.error == error);
        self.server.set_last_check(Check { at: SystemTime::now(), took, error: error.clone() });
        if failure.is_some_and(CheckError::is_ours) {
            return;
        }
        if failure.is_some() {
            self.server.clear_ejection();
        }
        let (pool, server) = (&self.server.key.pool, &self.server.key.name);
        let mut health = self.known.health();
        let from = health.state();
        if health.record(error.is_none(), self.rule.rise, self.rule.fall) {
            let to = health.state();
            self.server.set_state(to);
            match &error {
                None => tracing::info!(%pool, %server, "server is up"),
                Some(reason) => tracing::warn!(%pool, %server, reason, "server is down"),
            }
            // Nobody listens only when the process ends.
            let _ = self.changes.send(Change { server: Arc::clone(&self.server), from, to, error });
        } else if let (HealthState::Checking, false, Some(reason)) = (from, known, error) {
            tracing::warn!(%pool, %server, reason, "new server takes no requests yet: its check fails");
        }
    }
}

/// `interval` made shorter or longer by up to a tenth, as `roll`, from 0 to 1, says.
#[must_use]
pub fn jittered(interval: Duration, roll: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * roll)
}

/// When the first check at `place` among `count` begins: at once, unless there are very many.
fn first_delay(place: usize, count: usize, interval: Duration) -> Duration {
    if count <= AT_START {
        return Duration::ZERO;
    }
    let spread = SOON.max(Duration::from_secs_f64(count as f64 / A_SECOND));
    interval.min(spread).mul_f64(place as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::num::NonZeroU32;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::config::{Address, StatusRanges};
    use crate::live::server::ServerKey;

    #[test]
    fn want_of_files_says_nothing_of_a_server() {
        let address = Address::Name("backend".to_owned(), 80);
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        let rule = config::HealthConfig {
            kind: HealthKind::Tcp,
            path: String::new(),
            expect: StatusRanges(Vec::new()),
            interval: SOON,
            timeout: SOON,
            rise: NonZeroU32::MIN,
            fall: NonZeroU32::MIN,
            memory: None,
        };
        let (changes, mut told) = unbounded_channel();
        let server = Arc::new(Server::new(1, key, HealthState::Up, 1));
        let permits = Arc::new(Semaphore::new(1));
        let known = Arc::new(Known::new(HealthState::Up));
        let routine = Routine { server: Arc::clone(&server), rule: Arc::new(rule), known, permits, changes };

        let too_many_open_files = io::Error::from_raw_os_error(24);
        routine.record(Some(&CheckError::Connect(too_many_open_files)), Duration::ZERO);
        assert!(server.last_check().is_some_and(|check| check.error.is_some()));
        assert!(told.try_recv().is_err());
        assert_eq!(server.state(), HealthState::Up);

        routine.record(Some(&CheckError::Closed), Duration::ZERO);
        assert_eq!(told.try_recv().map(|change| change.to), Ok(HealthState::Down));
        assert_eq!(server.state(), HealthState::Down);
    }

    #[test]
    fn jitter_is_a_tenth() {
        let interval = Duration::from_secs(10);
        let cases = [(0.0, 9_000), (0.25, 9_500), (0.5, 10_000), (1.0, 11_000)];
        for (roll, expected) in cases {
            let millis = jittered(interval, roll).as_secs_f64() * 1000.0;
            assert!((millis - f64::from(expected)).abs() < 0.001, "{roll}: {millis}");
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
