//! File descriptors: the process's limit, and the number of connections that it allows.

use std::fs;

/// The share of the limit, one part in this many, that is reserved for everything but clients and their
/// requests: checks, files, the admin address, exporters.
const RESERVED_SHARE: usize = 100;
/// The smallest reserve.
const RESERVED_MIN: usize = 16;
/// The largest reserve: more than anything needs, although a thousand checks may run at once.
const RESERVED_MAX: usize = 1536;
/// Descriptors of a worker without clients: an event queue and its wake-up.
const PER_WORKER: usize = 4;
/// Descriptors of a worker per listener: the socket, and a client that is delayed by the limit.
const PER_LISTENER: usize = 2;

/// Raises the process's soft limit to the hard limit, and returns it.
#[must_use]
pub fn raise() -> usize {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "file descriptor limit is unknown; clients may use up all descriptors");
            usize::MAX
        }
    }
}

/// Returns the number of open descriptors, or a guess if the system does not list them.
#[must_use]
pub fn open() -> usize {
    fs::read_dir("/dev/fd").map_or(RESERVED_MIN, Iterator::count)
}

/// Returns the number of connections, with clients and servers, that the limit allows. `open` is the number of descriptors
/// that are open before the workers start, `servers` that of the servers, each of which may be checked.
#[must_use]
pub fn connections(limit: usize, open: usize, workers: usize, listeners: usize, servers: usize) -> usize {
    let reserved = (limit / RESERVED_SHARE).max(RESERVED_MIN + servers.min(limit / 16)).min(RESERVED_MAX);
    let taken = open + workers * (PER_WORKER + PER_LISTENER * listeners) + reserved;
    limit.saturating_sub(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        // Limit, open, workers, listeners, servers; connections.
        let cases = [
            ((64, 12, 2, 1, 1), 23),
            ((64, 12, 1, 1, 100), 26),
            ((1024, 12, 2, 1, 3), 981),
            ((20_480, 12, 2, 1, 3), 20_252),
            ((20_480, 12, 2, 1, 1000), 19_440),
            ((1 << 20, 20, 64, 4, 10), 1_046_252),
            ((64, 12, 64, 1, 1), 0),
            ((0, 0, 1, 1, 1), 0),
        ];
        for ((limit, open, workers, listeners, servers), expected) in cases {
            assert_eq!(connections(limit, open, workers, listeners, servers), expected, "{limit}");
        }
    }

    #[test]
    fn open_descriptors_are_counted() {
        let before = open();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").expect("a file")).collect();
        // Other tests open and close files at the same time.
        assert!(open() + 25 > before + files.len(), "{before}, then {}", open());
    }
}
