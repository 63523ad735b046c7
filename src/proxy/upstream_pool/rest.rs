//! The idle connections while ticks pause: when the next tick is needed for them.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use super::UpstreamPool;

impl UpstreamPool {
    /// The time at which a sweep will have something to do, if servers close no connection.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let shared = self.shared.borrow();
        let shared = shared.values().filter_map(super::SharedConnections::next_deadline);
        self.idle.borrow().values().filter_map(super::IdleConnections::next_deadline).chain(shared).min()
    }

    /// Waits until a server closes an idle connection, or sends something on it. A sweep must have come before.
    pub async fn closed(&self) {
        let stirs = poll_fn(|context| {
            let idle = self.idle.borrow();
            let stirs = idle.values().flat_map(|idle| idle.upstreams()).any(|idle| idle.poll_stirs(context).is_ready());
            if stirs { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = stirs => {}
            () = self.shared_ended.notified() => {}
        }
    }
}
