//! The file descriptors that connections may use, shared by clients and connections to servers.
//!
//! A client has one, and a request borrows another for its connection to a server. If there were two for each client, idle
//! clients would waste half of them; so more clients are admitted than could all have a request at once, but slowly.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

/// The share of the limit, one part in this many, that clients leave to connections to servers.
const FOR_SERVERS: usize = 100;
/// The share that they leave if the limit is low, and the most of it.
const FOR_SERVERS_LOW: (usize, usize) = (4, 16);
/// The time in which clients beyond half of the limit may take half of what is left: by then, their first requests have
/// arrived and have their connections to servers.
const PACE: Duration = Duration::from_millis(250);

/// The limit of connections, and their number.
#[derive(Debug)]
pub struct Descriptors {
    limit: usize,
    workers: Box<[CachePadded<Connections>]>,
    pace: Mutex<Admission>,
}

/// The connections of one worker.
#[derive(Debug, Default)]
struct Connections {
    clients: AtomicUsize,
    /// In use, idle or being opened.
    servers: AtomicUsize,
}

/// How many clients beyond half of the limit are admitted. Pure.
#[derive(Debug, Default)]
struct Admission {
    since: Option<Instant>,
    left: usize,
}

impl Descriptors {
    /// No connections yet, of at most `limit`.
    #[must_use]
    pub fn new(limit: usize, workers: usize) -> Self {
        let workers = (0..workers).map(|_| CachePadded::default()).collect();
        Self { limit, workers, pace: Mutex::default() }
    }

    /// The most clients, at least one.
    #[must_use]
    pub fn max_clients(&self) -> usize {
        self.limit.saturating_sub(for_servers(self.limit)).max(1)
    }

    /// The number of clients of a worker.
    #[must_use]
    pub fn clients_of(&self, worker: usize) -> usize {
        self.workers[worker].clients.load(Relaxed)
    }

    /// The number of all clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.workers.iter().map(|worker| worker.clients.load(Relaxed)).sum()
    }

    /// The number of connections to servers.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.connections().1
    }

    /// The number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Counts a client for a worker.
    pub fn add_client(&self, worker: usize) {
        self.workers[worker].clients.fetch_add(1, Relaxed);
    }

    /// Subtracts a client of a worker.
    pub fn remove_client(&self, worker: usize) {
        self.workers[worker].clients.fetch_sub(1, Relaxed);
    }

    /// Counts a connection to a server for a worker.
    pub fn add_server(&self, worker: usize) {
        self.workers[worker].servers.fetch_add(1, Relaxed);
    }

    /// Subtracts a worker's connection to a server.
    pub fn remove_server(&self, worker: usize) {
        self.workers[worker].servers.fetch_sub(1, Relaxed);
    }

    /// Whether there is a descriptor for a connection to a server. Two workers may both get the last one: the reserve for
    /// everything else covers that.
    #[must_use]
    pub fn has_room_for_server(&self) -> bool {
        let (clients, servers) = self.connections();
        clients + servers < self.limit
    }

    /// Whether another client may be admitted now.
    #[must_use]
    pub fn has_room_for_client(&self, now: Instant) -> bool {
        let (clients, servers) = self.connections();
        // All of them could have a connection to a server.
        if clients + servers.max(clients) + 2 <= self.limit {
            return true;
        }
        let left = self.max_clients().saturating_sub(clients + servers);
        left > 0 && self.pace.lock().admits(now, left)
    }

    /// Whether closing a connection to a server would make room for a client.
    #[must_use]
    pub fn is_short_of_clients(&self) -> bool {
        let (clients, servers) = self.connections();
        clients + servers >= self.max_clients() && servers > 0
    }

    fn connections(&self) -> (usize, usize) {
        self.workers.iter().fold((0, 0), |(clients, servers), worker| {
            (clients + worker.clients.load(Relaxed), servers + worker.servers.load(Relaxed))
        })
    }
}

/// The descriptors that clients leave to connections to servers.
fn for_servers(limit: usize) -> usize {
    let (share, most) = FOR_SERVERS_LOW;
    (limit / FOR_SERVERS).max(most.min(limit / share))
}

impl Admission {
    /// Whether a client may have one of `left` descriptors.
    fn admits(&mut self, now: Instant, left: usize) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PACE) {
            *self = Self { since: Some(now), left: left.div_ceil(2) };
        }
        let admits = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_descriptors_are_left_to_servers() {
        for (limit, clients) in
            [(0, 1), (1, 1), (24, 18), (100, 84), (1000, 984), (20_250, 20_048), (1 << 20, 1_038_091)]
        {
            assert_eq!(Descriptors::new(limit, 1).max_clients(), clients, "{limit}");
        }
    }

    #[test]
    fn clients_that_may_all_have_a_request_are_admitted_at_once_and_others_slowly() {
        let (descriptors, start) = (Descriptors::new(100, 2), Instant::now());
        let admit = |at: Instant| {
            let admitted = (0..1000).take_while(|_| {
                let admits = descriptors.has_room_for_client(at);
                if admits {
                    descriptors.add_client(0);
                }
                admits
            });
            admitted.count()
        };
        // 49 at once, then half of what is left up to 84, and so on.
        assert_eq!((admit(start), admit(start)), (50 + 17, 0));
        assert_eq!([1, 2, 3, 4, 5, 6].map(|step| admit(start + step * PACE)), [9, 4, 2, 1, 1, 0]);
        assert_eq!(descriptors.clients(), descriptors.max_clients());
        // Connections to servers may use the rest.
        let opened = (0..1000).take_while(|_| {
            let has_room = descriptors.has_room_for_server();
            if has_room {
                descriptors.add_server(1);
            }
            has_room
        });
        assert_eq!(opened.count(), 16);
        descriptors.remove_client(0);
        assert!(descriptors.has_room_for_server());
        assert!(!descriptors.has_room_for_client(start + 10 * PACE), "it is left to servers");
    }

    #[test]
    fn clients_with_requests_take_two_descriptors_each() {
        let (descriptors, now) = (Descriptors::new(100, 1), Instant::now());
        let mut count = 0;
        while descriptors.has_room_for_client(now) && count < 1000 {
            descriptors.add_client(0);
            descriptors.add_server(0);
            count += 1;
        }
        assert_eq!(count, 50);
    }
}
