//! The limit of client connections: its value, its log messages (at most one per second), and its metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::live::descriptors::Descriptors;
use crate::telemetry::log_throttle::LogThrottle;

/// The least time between two log messages of a kind.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The limit that all workers share.
#[derive(Debug)]
pub struct ClientLimit {
    descriptors: Arc<Descriptors>,
    delayed: AtomicU64,
    log_times: Mutex<LogTimes>,
}

/// The times that decide which messages are due. Pure.
#[derive(Debug)]
struct LogTimes {
    limit_reached: LogThrottle,
    /// When a client was last delayed; cleared once the end of the delays is logged.
    last_delay: Option<Instant>,
    accept_failed: LogThrottle,
}

impl ClientLimit {
    #[must_use]
    pub fn new(descriptors: Descriptors) -> Self {
        Self { descriptors: Arc::new(descriptors), delayed: AtomicU64::new(0), log_times: Mutex::default() }
    }

    /// The descriptors, which connections to servers share.
    #[must_use]
    pub fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }

    /// Returns the limit that results from `limits.connections`, where 0 is no limit.
    #[must_use]
    pub fn limit(&self, configured: usize) -> usize {
        let possible = self.descriptors.max_clients();
        if configured == 0 { possible } else { configured.min(possible) }
    }

    /// The number of clients that had to wait until another disconnected.
    #[must_use]
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Relaxed)
    }

    pub(super) fn count_delayed(&self) {
        self.delayed.fetch_add(1, Relaxed);
    }

    /// Notes that a client has to wait, and logs it at most once per second.
    pub(super) fn note_reached(&self, clients: usize, configured: usize) {
        if self.log_times.lock().note_reached(Instant::now()) {
            let limit = self.limit(configured);
            let set_by = if limit == configured { "limits.connections" } else { "file descriptors" };
            tracing::warn!(clients, limit, set_by, "connection limit reached; new clients are queued");
        }
    }

    /// Logs the end of the delays, once no client has been delayed for a second. Returns whether there is no end to log.
    pub(super) fn check_recovered(&self, now: Instant) -> bool {
        let mut log_times = self.log_times.lock();
        if log_times.has_recovered(now) {
            tracing::info!("connection limit no longer reached");
        }
        log_times.last_delay.is_none()
    }

    /// Whether to log now that accepting a client has failed: at most once per second.
    pub(super) fn should_log_accept_error(&self) -> bool {
        self.log_times.lock().accept_failed.allows(Instant::now())
    }
}

impl LogTimes {
    /// Notes a delay and returns whether to log it.
    fn note_reached(&mut self, now: Instant) -> bool {
        self.last_delay = Some(now);
        self.limit_reached.allows(now)
    }

    /// Whether to log that the delays are over.
    fn has_recovered(&mut self, now: Instant) -> bool {
        self.last_delay.take_if(|last| now.saturating_duration_since(*last) >= LOG_INTERVAL).is_some()
    }
}

impl Default for LogTimes {
    fn default() -> Self {
        let throttle = || LogThrottle::every(LOG_INTERVAL);
        Self { limit_reached: throttle(), last_delay: None, accept_failed: throttle() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_logged_once_a_second_and_their_end_once() {
        let start = Instant::now();
        let mut log_times = LogTimes::default();
        // Milliseconds; whether a client is delayed then, and whether something is logged.
        let steps = [
            (0, false, false),
            (10, true, true),
            (900, true, false),
            (1_010, true, true),
            (1_020, true, false),
            (1_900, false, false),
            (2_020, false, true),
            (3_100, false, false),
            (3_200, true, true),
            (4_200, false, true),
        ];
        for (millis, delayed, logged) in steps {
            let now = start + Duration::from_millis(millis);
            let is_logged = if delayed { log_times.note_reached(now) } else { log_times.has_recovered(now) };
            assert_eq!(is_logged, logged, "at {millis} ms");
        }
    }

    #[test]
    fn the_configured_limit_applies_up_to_the_system_limit() {
        let client_limit = ClientLimit::new(Descriptors::new(100, 1));
        for (configured, limit) in [(0, 84), (1, 1), (84, 84), (101, 84)] {
            assert_eq!(client_limit.limit(configured), limit);
        }
    }
}
