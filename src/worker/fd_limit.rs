//! File descriptors: how many the process may have, and how many clients that leaves room for.

use std::fs;

/// Of the limit, what clients and their requests leave to the rest: checks, files, the admin address, exporters.
const REST: usize = 8;
/// What they leave at least.
const REST_MIN: usize = 16;
/// More than all of these can use: of checks alone there may be a thousand at once.
const REST_MAX: usize = 1536;
/// What a worker has open before its first client: an event queue, and what wakes it.
const WORKER: usize = 4;
/// What it has for each listener: the socket, and a client that waits for room.
const LISTENER: usize = 2;
/// What a client may take: its own, and one to the server that answers it.
const CLIENT: usize = 2;

/// Raises the process' limit as far as it may itself, and returns it.
#[must_use]
pub fn raise() -> usize {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors is unknown: clients may use them up");
            usize::MAX
        }
    }
}

/// Those that are open now; a guess where the system does not tell.
#[must_use]
pub fn open() -> usize {
    fs::read_dir("/dev/fd").map_or(REST_MIN, Iterator::count)
}

/// How many clients there is room for, by the `limit` and what is `open` before the workers start.
/// At least one, come what may.
#[must_use]
pub fn clients(limit: usize, open: usize, workers: usize, listeners: usize) -> usize {
    let taken = open + workers * (WORKER + LISTENER * listeners) + (limit / REST).clamp(REST_MIN, REST_MAX);
    (limit.saturating_sub(taken) / CLIENT).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_descriptors_to_everybody_else() {
        // Limit, open, workers, listeners; clients.
        let cases = [
            ((64, 12, 2, 1), 12),
            ((64, 12, 1, 1), 15),
            ((1024, 12, 2, 1), 436),
            ((20_000, 12, 2, 1), 9_220),
            ((1 << 20, 20, 64, 4), 523_126),
            ((64, 12, 64, 1), 1),
            ((0, 0, 1, 1), 1),
        ];
        for ((limit, open, workers, listeners), most) in cases {
            assert_eq!(clients(limit, open, workers, listeners), most, "{limit}");
        }
    }

    #[test]
    fn what_is_open_is_counted() {
        let before = open();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").expect("a file")).collect();
        // Other tests open and close theirs meanwhile.
        assert!(open() + 25 > before + files.len(), "{before}, then {}", open());
    }
}
