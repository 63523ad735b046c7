//! How fast a client has to be with a body: a rate, held against the time in which it was the client's turn.

use std::time::{Duration, Instant};

use super::watch::{Phase, Slot};
use crate::config::{Limits, Timeouts};

/// The time that a client has for the next bytes of a body. It is given anew when so many bytes
/// have passed as make `limits.body_rate` over `timeouts.body_idle`; while the server is waited
/// for, it stands still.
#[derive(Debug)]
pub struct Pace {
    span: Duration,
    quota: u64,
    /// Of the span, what is left.
    time: Duration,
    /// Of the quota, what is left.
    bytes: u64,
    since: Option<Instant>,
}

impl Pace {
    /// With all of the time.
    #[must_use]
    pub fn new(timeouts: &Timeouts, limits: &Limits) -> Self {
        let span = timeouts.body_idle;
        // At least one byte: that is what `body_idle` means by itself.
        let quota = limits.body_rate.saturating_mul(span.as_secs()).max(1);
        Self { span, quota, time: span, bytes: quota, since: None }
    }

    /// It is the client's turn.
    pub fn client(&mut self, slot: &Slot, phase: Phase) {
        self.since = Some(slot.now());
        slot.wait(phase, self.time);
    }

    /// So many bytes have passed, which ends the client's turn.
    pub fn passed(&mut self, bytes: usize, now: Instant) {
        if let Some(since) = self.since.take() {
            self.time = self.time.saturating_sub(now.duration_since(since));
        }
        let bytes = bytes as u64;
        if bytes >= self.bytes {
            (self.time, self.bytes) = (self.span, self.quota);
        } else {
            self.bytes -= bytes;
        }
    }
}
