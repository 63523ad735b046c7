//! The task that checks one server, and what a result changes and reports.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::config::HealthKind;
use crate::control::health::LOG_TARGET;
use crate::control::health::checker::{SharedHealth, StateChange};
use crate::control::health::error::CheckError;
use crate::control::health::idle_pause::IdlePause;
use crate::control::health::memory::{self, Readings};
use crate::control::health::probe::{self, CheckRule, Probe};
use crate::control::health::schedule::Pace;
use crate::live::health::HealthState;
use crate::live::server::{Check, Server};

/// The last notice of each pool.
pub(super) type Notices = Arc<Mutex<HashMap<Arc<str>, String>>>;

pub(super) struct CheckTask {
    pub(super) server: Arc<Server>,
    pub(super) rule: Arc<CheckRule>,
    pub(super) shared: Arc<SharedHealth>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) changes: UnboundedSender<StateChange>,
    pub(super) notices: Notices,
    /// Notified when idle connections have to be closed.
    pub(super) idle_ended: Arc<Notify>,
    pub(super) idle_pause: IdlePause,
}

impl CheckTask {
    /// Checks the server for as long as the task lives; the first time after `delay`.
    pub(super) async fn run(mut self, delay: Duration) {
        let mut due = Instant::now() + delay;
        let mut readings = Readings::default();
        let shared = Arc::clone(&self.shared);
        let mut pace = Pace::default();
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
                () = shared.changed.notified() => Instant::now(),
            };
            due = started + pace.pause(&self.rule.config, self.needs_attention(), fastrand::f64());
        }
    }

    /// Whether the next check matters soon: the last one failed, or the server is down and may be back. One that is
    /// ejected although it accepts connections passes its checks anyway, so it has to wait.
    fn needs_attention(&self) -> bool {
        let failed = self.server.last_check().is_some_and(|check| check.error.is_some());
        failed || !self.server.state().serves() && self.server.ejection().is_none_or(|ejection| ejection.refused)
    }

    /// Checks the server once. Each exchange is a task of its own: if this one ends meanwhile, because of an edit, the server
    /// still sees an orderly end.
    async fn check(&mut self, readings: &mut Readings) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
        let permit = Arc::new(permit);
        let mut connected = true;
        if self.rule.config.kind != HealthKind::None {
            let started = Instant::now();
            let (known, result) = oneshot::channel();
            let (server, rule, permit) = (Arc::clone(&self.server), Arc::clone(&self.rule), Arc::clone(&permit));
            let exchange = tokio::spawn(async move {
                let _permit = permit;
                probe::check(&server, &rule, known).await;
            });
            // The result counts before the exchange has ended. There is none if it panicked.
            let Ok(probe) = result.await else { return };
            connected = probe.error.as_ref().is_none_or(CheckError::connected);
            self.record(&probe, started.elapsed());
            let _ = exchange.await;
        }
        if self.rule.config.memory.is_some() {
            let reading = if connected { self.read_memory(permit).await } else { None };
            readings.record(reading, &self.server);
        }
    }

    async fn read_memory(&self, permit: Arc<OwnedSemaphorePermit>) -> Option<u64> {
        let (server, rule) = (Arc::clone(&self.server), Arc::clone(&self.rule));
        let read = async move {
            let _permit = permit;
            memory::read(&server, &rule).await
        };
        tokio::spawn(read).await.ok().flatten()
    }

    /// Records the result of a check. An error on our side, such as a lack of descriptors, is shown but does not
    /// count against the server.
    fn record(&mut self, probe: &Probe, took: Duration) {
        self.log_check(probe, took);
        let error = probe.error.as_ref();
        let check = Check {
            at: SystemTime::now(),
            took,
            error: error.map(ToString::to_string),
            refused: error.is_some_and(CheckError::is_refusal),
            hint: error.and_then(CheckError::hint).map(str::to_owned).or_else(|| probe.notice.clone()),
        };
        let last = self.server.last_check();
        self.server.set_last_check(check.clone());
        if error.is_some_and(CheckError::is_ours) {
            return;
        }
        match error {
            Some(error) if error.is_silence() => self.heed_silence(probe.peer),
            Some(_) => {}
            None if self.idle_pause.passed() => self.server.allow_idle(),
            None => {}
        }
        let rule = &self.rule.config;
        let mut health = self.shared.health.lock();
        let from = health.state();
        if health.note(error.is_none()) >= rule.fall.get() {
            self.server.clear_ejection();
        }
        if health.record(error.is_none(), rule.rise, rule.fall) {
            let to = health.state();
            self.server.set_state(to);
            if error.is_some() {
                self.server.end_idle();
            }
            self.log_state(error);
            // Fails only while the process ends.
            let change = StateChange { server: Arc::clone(&self.server), from, to, error: check.error.clone() };
            let _ = self.changes.send(change);
        } else if from == HealthState::Checking && last.as_ref().is_none_or(|last| last.error != check.error) {
            self.log_new(error);
        }
        if let (None, Some(notice)) = (error, &check.hint)
            && last.is_none_or(|last| last.hint != check.hint)
        {
            self.log_notice(notice);
        }
    }

    /// Ends the idle connections to a silent server: one that serves few connections at a time may wait for their end. If
    /// its host name has another address, that one is next.
    fn heed_silence(&mut self, peer: Option<SocketAddr>) {
        if let Some(checks) = self.idle_pause.silent() {
            let (pool, server) = (&self.server.key.pool, &self.server.key.name);
            tracing::info!(target: LOG_TARGET, %pool, %server, "no response to a check again soon after idle connections were kept; none is kept until {checks} checks have passed; if the server serves few connections at a time, set `upstream.idle_connections = 0`");
        }
        self.server.end_idle();
        self.idle_ended.notify_one();
        if let Some(peer) = peer {
            self.server.unresponsive_at(peer);
        }
    }

    fn log_check(&self, probe: &Probe, took: Duration) {
        let (pool, server) = (&self.server.key.pool, &self.server.key.name);
        let (status, seconds) = (probe.status, took.as_secs_f64());
        let result = if probe.error.is_some() { "failed" } else { "passed" };
        let reason = probe.error.as_ref().map(ToString::to_string);
        match self.rule.config.kind {
            HealthKind::Http => {
                let (method, path) = (self.rule.method(), &self.rule.path);
                tracing::debug!(target: LOG_TARGET, %pool, %server, %method, %path, status, seconds, result, reason, "checked");
            }
            HealthKind::Grpc => {
                let service = &self.rule.service;
                tracing::debug!(target: LOG_TARGET, %pool, %server, %service, status, seconds, result, reason, "checked");
            }
            _ => tracing::debug!(target: LOG_TARGET, %pool, %server, seconds, result, reason, "checked"),
        }
    }

    /// Logs a change of state. Nobody needs to know it of a server that an edit has disabled or removed.
    fn log_state(&self, error: Option<&CheckError>) {
        let (pool, server) = (&self.server.key.pool, &self.server.key.name);
        let hint = error.and_then(CheckError::hint);
        match error {
            _ if self.server.is_leaving() => {
                let state = if error.is_none() { "up" } else { "down" };
                tracing::debug!(target: LOG_TARGET, %pool, %server, state, "health of a disabled or removed server has changed");
            }
            None => tracing::info!(target: LOG_TARGET, %pool, %server, "server is up"),
            Some(error) => {
                let reason = error.to_string();
                tracing::warn!(target: LOG_TARGET, %pool, %server, reason, hint, "server is down");
            }
        }
    }

    /// Logs the first of equal failures of a server that has not been up yet.
    fn log_new(&self, error: Option<&CheckError>) {
        let (pool, server) = (&self.server.key.pool, &self.server.key.name);
        if let Some(error) = error
            && !self.server.is_leaving()
        {
            let (reason, hint) = (error.to_string(), error.hint());
            tracing::warn!(target: LOG_TARGET, %pool, %server, reason, hint, "new server takes no requests yet: its check fails");
        }
    }

    /// Logs why checks pass although the server has no such page; once per pool, because the servers of one are alike.
    fn log_notice(&self, notice: &str) {
        let (pool, server) = (&self.server.key.pool, &self.server.key.name);
        if !self.server.is_leaving()
            && self.notices.lock().insert(Arc::clone(pool), notice.to_owned()).as_deref() != Some(notice)
        {
            tracing::warn!(target: LOG_TARGET, %pool, %server, "{notice}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::num::NonZeroU32;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::config::{Address, HealthConfig};
    use crate::control::health::error::ResponseFault;
    use crate::live::server::{ServerId, ServerKey};

    #[test]
    fn a_lack_of_descriptors_does_not_count_against_a_server() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address: Address::Ip(address) };
        let (rise, fall) = (NonZeroU32::MIN, NonZeroU32::MIN);
        let rule = CheckRule::new(HealthConfig { rise, fall, ..HealthConfig::default() });
        let (changes, mut reported) = unbounded_channel();
        let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
        let mut task = CheckTask {
            server: Arc::clone(&server),
            rule: Arc::new(rule),
            shared: Arc::new(SharedHealth::new(HealthState::Up)),
            permits: Arc::new(Semaphore::new(1)),
            changes,
            notices: Notices::default(),
            idle_ended: Arc::default(),
            idle_pause: IdlePause::default(),
        };
        let failed = |error| Probe { error: Some(error), ..Probe::default() };

        let too_many_open_files = io::Error::from_raw_os_error(24);
        task.record(&failed(CheckError::Connect(address.into(), too_many_open_files)), Duration::ZERO);
        assert!(server.last_check().is_some_and(|check| check.error.is_some()));
        assert!(reported.try_recv().is_err());
        assert_eq!(server.state(), HealthState::Up);
        assert!(task.needs_attention(), "the check is repeated soon");

        let closed = CheckError::Response { request: "GET /health".to_owned(), fault: ResponseFault::Closed };
        task.record(&failed(closed), Duration::ZERO);
        assert_eq!(reported.try_recv().map(|change| change.to), Ok(HealthState::Down));
        assert_eq!(server.state(), HealthState::Down);
    }
}
