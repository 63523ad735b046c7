//! The idle connections while ticks pause: when the next tick is needed for them.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use super::{IdleConnection, LONG, MAX_CLOSED_EARLY, UpstreamPool};

impl UpstreamPool {
    /// The time at which a sweep will have something to do, if servers close no connection.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let idle = self.idle.borrow();
        let of_server = |closed_early, connections: &[IdleConnection]| {
            let age =
                |idle: &IdleConnection| if closed_early < MAX_CLOSED_EARLY { idle.limit } else { idle.limit.min(LONG) };
            connections.iter().filter_map(|idle| idle.since.checked_add(age(idle))).min()
        };
        idle.values().filter_map(|idle| of_server(idle.closed_early, &idle.connections)).min()
    }

    /// Waits until a server closes an idle connection, or sends something on it. A sweep must have come before.
    pub async fn closed(&self) {
        poll_fn(|context| {
            let idle = self.idle.borrow();
            let mut connections = idle.values().flat_map(|idle| &idle.connections);
            match connections.any(|idle| idle.connection.upstream.poll_stirs(context).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}
