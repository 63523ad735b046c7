//! The time from which a worker's timeouts are counted, and whether its sweeps pause.
//!
//! Sweeps follow each other while timeouts are set. Once none has been set for a while, they pause until the next deadline:
//! without traffic, a worker does not wake up. The first timeout that is set then wakes it.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How late a sweep may be without consequences; timers are not more exact.
const SLACK: Duration = Duration::from_millis(5);
/// The number of sweeps without a new timeout before sweeps pause.
const QUIET: u8 = 3;

/// One per worker, shared by all that sets timeouts.
#[derive(Debug)]
pub(super) struct SweepClock {
    /// The time by which the next sweep is due, from which timeouts are counted: so setting one needs no look at the
    /// clock. It is never early, and at most two sweeps late as long as sweeps are on time.
    due: Cell<Instant>,
    /// The time between two sweeps that do not pause.
    step: Cell<Duration>,
    /// The number of sweeps since a timeout was last set.
    quiet: Cell<u8>,
    pausing: Cell<bool>,
    /// How late the sweep was that a pause should have ended with, if it ended otherwise.
    late: Cell<Duration>,
    /// Wakes the worker.
    waker: RefCell<Option<Waker>>,
}

impl SweepClock {
    /// Sweeps do not pause yet.
    pub(super) fn new() -> Self {
        Self {
            due: Cell::new(Instant::now()),
            step: Cell::default(),
            quiet: Cell::default(),
            pausing: Cell::default(),
            late: Cell::default(),
            waker: RefCell::default(),
        }
    }

    /// The time from which a timeout is counted that is set now.
    #[inline]
    pub(super) fn now(&self) -> Instant {
        self.stir();
        self.due.get()
    }

    /// Keeps sweeps from pausing for a while, because something is happening.
    #[inline]
    pub(super) fn stir(&self) {
        if self.quiet.get() > 0 {
            self.end_pause();
        }
    }

    #[cold]
    fn end_pause(&self) {
        self.quiet.set(0);
        if self.pausing.get() {
            self.late.set(self.late.get() + self.restart(Instant::now()));
            super::wake(&self.waker);
        }
    }

    /// Begins a sweep at `now`; the next one follows after `step`. Returns how late this one is.
    pub(super) fn sweep(&self, now: Instant, step: Duration) -> Duration {
        self.step.set(step);
        self.quiet.set(self.quiet.get().saturating_add(1));
        self.restart(now) + self.late.take()
    }

    /// Ends a pause and counts timeouts from `now`. Returns how late that is.
    fn restart(&self, now: Instant) -> Duration {
        let step = self.step.get();
        let late = now.saturating_duration_since(self.due.replace(now + step + SLACK));
        if !self.pausing.replace(false) || late.is_zero() {
            return late;
        }
        // A pause ends at a deadline: whoever it is for gets another step. No other pause comes before that, which might
        // end late too, so that the timeout would never be reached.
        self.quiet.set(0);
        late + SLACK + step
    }

    /// Whether no timeout has been set for a while, so that sweeps may pause.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.get() >= QUIET
    }

    /// Pauses sweeps until `next`.
    pub(super) fn pause(&self, next: Instant) {
        self.pausing.set(true);
        self.due.set(next + SLACK);
    }

    /// Ready once a pause has ended because a timeout was set.
    pub(super) fn poll_stirred(&self, context: &Context<'_>) -> Poll<()> {
        if !self.pausing.get() {
            return Poll::Ready(());
        }
        super::register(&self.waker, context);
        Poll::Pending
    }
}
