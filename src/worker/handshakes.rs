//! Turns for TLS handshakes: each costs as much time as several requests, so a rush of them must not delay the requests of
//! established connections.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The handshakes that a worker computes before everything else has its turn, if no limit is configured.
const DEFAULT: usize = 4;

thread_local! {
    /// The turns of this worker, and how many there are. No other thread uses them, so that nobody waits for its lock.
    static TURNS: RefCell<(usize, Arc<Semaphore>)> = RefCell::new((0, Arc::new(Semaphore::new(0))));
}

/// The turns that each of `workers` has at once, if `configured` are the process's; 0 is by cores.
pub(super) fn per_worker(configured: usize, workers: usize) -> usize {
    match configured {
        0 => DEFAULT,
        all => (all / workers.max(1)).clamp(1, Semaphore::MAX_PERMITS),
    }
}

/// Waits for one of `limit` turns, in the order of arrival. It ends when it is dropped.
pub(super) async fn turn(limit: usize) -> Option<OwnedSemaphorePermit> {
    let turns = TURNS.with_borrow_mut(|(current, turns)| {
        if *current != limit {
            (*current, *turns) = (limit, Arc::new(Semaphore::new(limit)));
        }
        Arc::clone(turns)
    });
    // It is never closed.
    turns.acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_limit_is_divided_among_the_workers() {
        for (configured, workers, expected) in [(0, 8, DEFAULT), (1, 8, 1), (8, 8, 1), (100, 8, 12), (7, 2, 3)] {
            assert_eq!(per_worker(configured, workers), expected, "{configured} {workers}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_turns_are_taken_than_there_are_and_all_come() {
        let (running, most, done) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let one = async || {
            let turn = turn(3).await;
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
        assert!(most.get() == 3 && done.get() >= 12, "{} {}", most.get(), done.get());
    }
}
