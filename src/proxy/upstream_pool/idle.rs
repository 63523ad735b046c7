//! The idle connections of one worker to one server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::UpstreamConnection;
use crate::live::server::Server;
use crate::proxy::client::OwnerId;
use crate::proxy::upstream::Upstream;

/// The least that an idle connection is closed before the time that the server says it keeps it. A request that is on its
/// way when the server closes fails.
const MARGIN: Duration = Duration::from_secs(1);
/// A server that closes an idle connection sooner than this is restarting, or never keeps one although it says so.
pub(super) const EARLY: Duration = Duration::from_secs(1);
/// The number of connections closed early, in a row, from which on a request that could not be sent again gets a new
/// connection.
const MAX_CLOSED_EARLY: u8 = 3;
/// A server that keeps an idle connection for this long may serve another request on it: one that cannot be sent again
/// finds out.
pub(super) const LONG: Duration = Duration::from_secs(10);

/// The idle connections to one server, the most recently used last.
#[derive(Debug)]
pub(super) struct IdleConnections {
    server: Arc<Server>,
    connections: VecDeque<IdleConnection>,
    /// How many of its connections in a row were closed [`EARLY`].
    closed_early: u8,
}

#[derive(Debug)]
struct IdleConnection {
    connection: UpstreamConnection,
    since: Instant,
    /// How long the server keeps it, if it says so.
    announced: Option<Duration>,
    /// [`Server::idle_ended`] when it became idle.
    ended: u32,
}

impl IdleConnections {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        Self { server: Arc::clone(server), connections: VecDeque::new(), closed_early: 0 }
    }

    /// Since when the connection has been idle that has been so the longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.connections.front().map(|idle| idle.since)
    }

    /// Closes the one that has been idle the longest; false if there is none.
    pub(super) fn close_oldest(&mut self) -> bool {
        self.connections.pop_front().is_some()
    }

    /// Closes half of them, those that have been idle the longest.
    pub(super) fn halve(&mut self) {
        self.connections.drain(..self.connections.len().div_ceil(2));
    }

    /// See [`UpstreamPool::take`](super::UpstreamPool::take).
    pub(super) fn take(&mut self, owner: Option<OwnerId>, repeatable: bool) -> Option<UpstreamConnection> {
        while repeatable || self.closed_early < MAX_CLOSED_EARLY {
            // Usually the last one.
            let place = self.connections.iter().rposition(|idle| idle.connection.owner == owner)?;
            let IdleConnection { mut connection, since, ended, .. } = self.connections.remove(place)?;
            let upstream = &connection.upstream;
            if upstream.is_quiet() && (repeatable || upstream.is_quiet_now()) {
                if ended == self.server.idle_ended() && connection.leads_to(&self.server) {
                    connection.idle_since = Some(since);
                    return Some(connection);
                }
            } else {
                self.count_closed(since);
            }
        }
        None
    }

    pub(super) fn put(&mut self, mut connection: UpstreamConnection, now: Instant, announced: Option<Duration>) {
        if connection.tls_changes != self.server.tls_changes() {
            return;
        }
        if connection.reused {
            self.closed_early = 0;
        }
        connection.reused = true;
        self.shrink_to(self.server.max_idle().saturating_sub(1));
        let ended = self.server.idle_ended();
        self.connections.push_back(IdleConnection { connection, since: now, announced, ended });
    }

    /// Closes those that are too old or too many, that the server has closed, or that lead to a former address of it.
    pub(super) fn sweep(&mut self, now: Instant) {
        let (server, closed_early) = (&self.server, &mut self.closed_early);
        let (timeout, last_end) = (server.idle_timeout(), server.idle_ended());
        self.connections.retain(|IdleConnection { connection, since, announced, ended }| {
            let (age, is_quiet) = (now.saturating_duration_since(*since), connection.upstream.is_quiet());
            match is_quiet {
                true if age >= LONG => *closed_early = (*closed_early).min(MAX_CLOSED_EARLY - 1),
                false if age < EARLY => *closed_early = closed_early.saturating_add(1),
                _ => {}
            }
            is_quiet && age < limit(*announced, timeout) && *ended == last_end && connection.leads_to(server)
        });
        self.shrink_to(self.server.max_idle());
    }

    /// The time at which a sweep will have something to do, if the server closes no connection.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timeout = self.server.idle_timeout();
        let age = |idle: &IdleConnection| {
            let limit = limit(idle.announced, timeout);
            if self.closed_early < MAX_CLOSED_EARLY { limit } else { limit.min(LONG) }
        };
        self.connections.iter().filter_map(|idle| idle.since.checked_add(age(idle))).min()
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.connections.iter().map(|idle| &idle.connection.upstream)
    }

    /// Closes those that belong to `owner`.
    pub(super) fn close_own(&mut self, owner: OwnerId) {
        self.connections.retain(|idle| idle.connection.owner != Some(owner));
    }

    fn shrink_to(&mut self, count: usize) {
        self.connections.drain(..self.connections.len().saturating_sub(count));
    }

    /// Whether anything of this matters to later requests.
    pub(super) fn is_worth_keeping(&self) -> bool {
        let is_known = !self.connections.is_empty() || self.closed_early > 0;
        is_known && !self.server.is_leaving()
    }

    /// Counts a connection that was found closed, if it had become idle shortly before.
    pub(super) fn count_closed(&mut self, since: Instant) {
        if since.elapsed() < EARLY {
            self.closed_early = self.closed_early.saturating_add(1);
        }
    }
}

/// Returns how long a connection may be idle that its server keeps for `announced`, if `timeout` is the configured limit.
fn limit(announced: Option<Duration>, timeout: Duration) -> Duration {
    let early = |announced: Duration| announced.saturating_sub(MARGIN).max(announced / 2);
    announced.map_or(timeout, |announced| early(announced).min(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_closed_before_the_server_does_so() {
        for (announced, timeout, expected) in [
            (None, 60_000, 60_000),
            (Some(0), 60_000, 0),
            (Some(1), 60_000, 500),
            (Some(2), 60_000, 1000),
            (Some(5), 60_000, 4000),
            (Some(300), 60_000, 60_000),
            (Some(5), 100, 100),
        ] {
            let announced = announced.map(Duration::from_secs);
            let expected = Duration::from_millis(expected);
            assert_eq!(limit(announced, Duration::from_millis(timeout)), expected, "{announced:?} {timeout}");
        }
    }
}
