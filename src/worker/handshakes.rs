//! The limit of TLS handshakes in progress, and their turns: each costs as much time as several requests, so a rush of them
//! must not delay the requests of established connections.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The handshakes that may be in progress for each worker, if no limit is configured.
const PER_WORKER: usize = 1000;
/// The handshakes that a worker computes before everything else has its turn.
const TURNS_AT_ONCE: usize = 4;

thread_local! {
    /// The turns of this worker. No other thread uses them, so that nobody waits for their lock.
    static TURNS: RefCell<Arc<Semaphore>> = RefCell::new(Arc::new(Semaphore::new(TURNS_AT_ONCE)));
}

/// The number of handshakes in progress, of all workers.
#[derive(Debug, Default)]
pub(super) struct Handshakes(AtomicUsize);

/// A handshake in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct HandshakePlace(Arc<Handshakes>);

impl Handshakes {
    /// Begins a handshake, unless as many are in progress as may be: `configured`, or with 0 by the number of `workers`.
    pub(super) fn begin(self: &Arc<Self>, configured: usize, workers: usize) -> Option<HandshakePlace> {
        let limit = if configured == 0 { PER_WORKER.saturating_mul(workers.max(1)) } else { configured };
        let begun = HandshakePlace(Arc::clone(self));
        (self.0.fetch_add(1, Relaxed) < limit).then_some(begun)
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Waits for a turn, in the order of arrival. It ends when it is dropped.
pub(super) async fn turn() -> Option<OwnedSemaphorePermit> {
    // It is never closed.
    let turns = TURNS.with_borrow(Arc::clone);
    turns.acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn no_more_handshakes_begin_than_may_be_in_progress() {
        for (configured, workers, most) in [(1, 8, 1), (7, 2, 7), (0, 1, PER_WORKER), (0, 3, 3 * PER_WORKER)] {
            let handshakes = Arc::<Handshakes>::default();
            let begin = || handshakes.begin(configured, workers);
            let mut begun: Vec<_> = std::iter::from_fn(begin).take(most + 1).collect();
            assert_eq!(begun.len(), most, "{configured} {workers}");
            begun.pop();
            assert!(begin().is_some(), "one has ended");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_turns_are_taken_than_there_are_and_all_come() {
        let (running, most, done) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let one = async || {
            let turn = turn().await;
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            tokio::task::yield_now().await;
            running.set(running.get() - 1);
            drop(turn);
            done.set(done.get() + 1);
        };
        let pairs = async || tokio::join!(one(), one(), one(), one());
        // One gives up while it waits.
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, one());
        tokio::join!(pairs(), pairs(), pairs(), given_up).3.ok();
        assert!(most.get() == TURNS_AT_ONCE && done.get() >= 12, "{} {}", most.get(), done.get());
    }
}
