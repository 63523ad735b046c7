//! How long a connection lingers after its last response, so that the client can read it.

use std::time::{Duration, Instant};

use crate::transport::{Buffers, Transport};

/// The longest silence of a client that may still be sending its request: it may pause.
const SILENCE_SENDING: Duration = Duration::from_secs(5);
/// The longest silence of a client that has sent its whole request: it only has to close.
const SILENCE_DONE: Duration = Duration::from_secs(2);
/// The time that every client gets. More has to be earned by [`RATE`].
const TIME: Duration = Duration::from_secs(30);
/// The least rate after that, in bytes per second.
const RATE: u64 = 1024;
/// The time that a client gets while the connection limit is reached: others may be waiting for its place.
const TIME_AT_LIMIT: Duration = Duration::from_secs(5);
/// The most bytes that are discarded.
const MAX_BYTES: u64 = 1 << 30;

/// A lingering connection. It ends when the client closes, is silent, sends too slowly, or sends too much, and soon if
/// the connection limit is reached.
#[derive(Debug)]
pub(super) struct Linger {
    since: Instant,
    silence: Duration,
    /// The number of bytes that have been discarded.
    discarded: u64,
}

impl Linger {
    /// Starts at `now`. `sending` is whether the client may still be sending its request.
    pub(super) fn new(now: Instant, sending: bool) -> Self {
        Self { since: now, silence: if sending { SILENCE_SENDING } else { SILENCE_DONE }, discarded: 0 }
    }

    /// Counts bytes that have been discarded by `now`, and returns how long to wait for more; `None` ends the
    /// connection. `at_limit` is whether the connection limit is reached.
    pub(super) fn discards(&mut self, bytes: usize, now: Instant, at_limit: bool) -> Option<Duration> {
        self.discarded += bytes as u64;
        let earned = TIME + Duration::from_secs(self.discarded / RATE);
        let allowed = if at_limit { TIME_AT_LIMIT } else { earned };
        let left = allowed.checked_sub(now.saturating_duration_since(self.since))?;
        (self.discarded <= MAX_BYTES && !left.is_zero()).then_some(left.min(self.silence))
    }
}

/// Discards what a client still sends after the last response, so that it can read that. `goes_on` is called with the
/// number of bytes of each read, and returns whether to wait for more.
pub(super) async fn discard(transport: &Transport, buffers: &Buffers, mut goes_on: impl FnMut(usize) -> bool) {
    let (mut input, mut more) = (Vec::new(), goes_on(0));
    while more && let Ok(bytes @ 1..) = transport.read(&mut input, buffers).await {
        input.clear();
        buffers.release(&mut input);
        more = goes_on(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lingers_while_its_client_makes_progress() {
        let start = Instant::now();
        // Whether the client may be sending; the bytes and the second of each read; the wait after the last, in seconds.
        type Reads = &'static [(usize, u64)];
        let cases: [(bool, Reads, Option<u64>); 9] = [
            (true, &[(0, 0)], Some(5)),
            (false, &[(0, 0)], Some(2)),
            (true, &[(1, 4), (1, 8), (1, 27)], Some(3)),
            (true, &[(1, 4), (1, 8), (1, 30)], None),
            (true, &[(1 << 20, 29), (1, 40), (1, 1000)], Some(5)),
            (true, &[(1 << 20, 29), (1, 40), (1, 1054)], None),
            (true, &[(1 << 29, 1), (1 << 29, 2)], Some(5)),
            (true, &[(1 << 30, 1), (1, 2)], None),
            (false, &[(1 << 20, 1), (1 << 20, 100)], Some(2)),
        ];
        for (sending, reads, expected) in cases {
            let mut linger = Linger::new(start, sending);
            let waits = reads
                .iter()
                .map(|(bytes, second)| linger.discards(*bytes, start + Duration::from_secs(*second), false));
            assert_eq!(waits.last().flatten(), expected.map(Duration::from_secs), "{sending} {reads:?}");
        }
    }

    #[test]
    fn at_the_connection_limit_it_ends_soon_however_much_its_client_sends() {
        let start = Instant::now();
        for (second, at_limit, expected) in
            [(0, true, Some(5)), (3, true, Some(2)), (5, true, None), (5, false, Some(5))]
        {
            let mut linger = Linger::new(start, true);
            let wait = linger.discards(1 << 20, start + Duration::from_secs(second), at_limit);
            assert_eq!(wait, expected.map(Duration::from_secs), "{second} {at_limit}");
        }
    }
}
