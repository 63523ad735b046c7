//! The rate at which a client moves a body. Waiting for the server does not count. Pure.

use std::time::{Duration, Instant};

/// The progress of one body in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BodyRate {
    /// The period over which the rate is averaged.
    idle: Duration,
    /// The least rate, in bytes per second.
    least: u64,
    /// When the body came to rest, if it rests now.
    rests_since: Option<Instant>,
    /// Time spent waiting for the client in this period.
    waited: Duration,
    /// Bytes moved in this period.
    moved: u64,
}

impl BodyRate {
    pub(super) fn new(idle: Duration, least: u64) -> Self {
        Self { idle, least, ..Self::default() }
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// Whether the body waits for the client.
    pub(super) fn is_resting(&self) -> bool {
        self.rests_since.is_some()
    }

    /// From `now` on, the body waits for the client.
    pub(super) fn rests(self, now: Instant) -> Self {
        Self { rests_since: self.rests_since.or(Some(now)), ..self }
    }

    /// Counts bytes that the client has moved by `now`; false if they are too few for the time waited.
    pub(super) fn moves(&mut self, bytes: usize, now: Instant) -> bool {
        self.moved += bytes as u64;
        if let Some(since) = self.rests_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        if self.waited < self.idle {
            return true;
        }
        let is_enough = u128::from(self.moved) * 1000 >= u128::from(self.least) * self.waited.as_millis();
        (self.waited, self.moved) = (Duration::ZERO, 0);
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_too_slow_only_while_it_is_waited_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        /// The seconds between which the client was waited for, and the bytes that then moved.
        type Wait = (u64, u64, usize);
        let cases: [(&[Wait], bool); 6] = [
            (&[(0, 50, 1)], true),
            (&[(0, 50, 1), (50, 100, 1)], false),
            (&[(0, 50, 1), (90, 99, 1)], true),
            (&[(0, 60, 64 * 60)], true),
            (&[(0, 60, 64 * 60 - 1)], false),
            (&[(0, 60, 64 * 60), (60, 100, 0), (100, 120, 0)], false),
        ];
        for (waits, is_enough) in cases {
            let mut rate = BodyRate::new(Duration::from_secs(60), 64);
            let all = waits.iter().all(|(from, to, bytes)| {
                rate = rate.rests(at(*from));
                rate.moves(*bytes, at(*to))
            });
            assert_eq!(all, is_enough, "{waits:?}");
        }
    }
}
