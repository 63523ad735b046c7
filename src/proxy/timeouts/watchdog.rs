//! All connections and requests of a worker: swept for timeouts, asked to close, aborted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::roster::{Place, Roster, RosterEntry};
use super::{ConnectionPhase, ConnectionSlot, Ending, Interrupt, Phase, RequestTimer, is_over, postpone, wake};
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;

/// How late a sweep may be without consequences; timers are not more exact.
const SLACK: Duration = Duration::from_millis(5);

/// All connections and requests of a worker.
#[derive(Debug)]
pub struct Watchdog {
    connections: Rc<Roster<ConnectionSlot>>,
    requests: Rc<Roster<RequestTimer>>,
    /// The time by which the next sweep is due, from which timeouts are counted: so setting one needs no look at the
    /// clock. It is never early, and at most two sweeps late as long as sweeps are on time.
    now: Rc<Cell<Instant>>,
}

impl Watchdog {
    /// Without connections.
    #[must_use]
    pub fn new() -> Self {
        Self { connections: Rc::default(), requests: Rc::default(), now: Rc::new(Cell::new(Instant::now())) }
    }

    /// A slot for a new connection of `listener`. It leaves when it is dropped.
    #[must_use]
    pub fn connection(&self, listener: ListenerId) -> Registered<ConnectionSlot> {
        let slot = Rc::new(ConnectionSlot::new(listener, &self.now, Place::new(&self.connections)));
        self.connections.add(&slot);
        Registered(slot)
    }

    /// A timer for the requests of a connection of `listener`, one at a time.
    #[must_use]
    pub fn request(&self, listener: ListenerId) -> Registered<RequestTimer> {
        let timer = Rc::new(RequestTimer::new(listener, &self.now, Place::new(&self.requests)));
        self.requests.add(&timer);
        Registered(timer)
    }

    /// Wakes those whose time is over at `now`; the next sweep will be `after` that.
    pub fn sweep(&self, now: Instant, after: Duration) {
        // Since the last sweep was due, timeouts may have been counted from a time in the past. If the worker or the
        // machine has stood still, peers must not pay for that.
        let late = now.saturating_duration_since(self.now.replace(now + after + SLACK));
        if !late.is_zero() {
            self.connections.each(|slot| postpone(&slot.deadline, late));
            self.requests
                .each(|timer| [&timer.deadline, &timer.gone_at].into_iter().for_each(|time| postpone(time, late)));
        }
        self.connections.each(|slot| {
            if is_over(&slot.deadline, now) {
                slot.expire();
            }
        });
        self.requests.each(|timer| timer.check(now));
    }

    /// Makes the next response on each connection of a listener its last.
    pub fn close(&self, listener: ListenerId) {
        self.connections.each(|slot| {
            if slot.listener == listener {
                slot.closing.set(true);
            }
        });
    }

    /// Makes the next response on each connection its last, and ends those without a request.
    pub fn drain(&self) {
        self.connections.each(|slot| {
            slot.closing.set(true);
            if slot.phase.get() == ConnectionPhase::Idle {
                slot.end(Ending::Close);
            }
        });
    }

    /// Aborts the connections and requests of a listener.
    pub fn abort(&self, listener: ListenerId) {
        self.abort_if(|id| id == listener, |timer| timer.listener == listener);
    }

    /// Aborts all connections and requests.
    pub fn abort_all(&self) {
        self.abort_if(|_| true, |_| true);
    }

    /// Aborts the requests that are at a server.
    pub fn abort_server(&self, server: ServerId) {
        self.abort_if(|_| false, |timer| timer.server.get() == Some(server));
    }

    /// Wakes the requests that wait for a response of one of these servers, which checks have taken down.
    pub fn servers_down(&self, servers: &[ServerId]) {
        self.requests.each(|timer| {
            if timer.server.get().is_some_and(|server| servers.contains(&server)) {
                timer.server_down.set(true);
                if timer.phase.get() == Phase::Response {
                    wake(&timer.waker);
                }
            }
        });
    }

    fn abort_if(&self, connection: impl Fn(ListenerId) -> bool, request: impl Fn(&RequestTimer) -> bool) {
        self.connections.each(|slot| {
            if connection(slot.listener) {
                slot.closing.set(true);
                if slot.phase.get() != ConnectionPhase::Busy {
                    slot.end(Ending::Close);
                }
            }
        });
        self.requests.each(|timer| {
            if request(timer) {
                timer.aborted.set(true);
                timer.interrupt(Interrupt::Abort);
            }
        });
    }

    /// Whether there are no connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

/// An entry of a [`Watchdog`], until it is dropped.
#[derive(Debug)]
pub struct Registered<T: RosterEntry>(Rc<T>);

impl<T: RosterEntry> std::ops::Deref for Registered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: RosterEntry> Drop for Registered<T> {
    fn drop(&mut self) {
        self.0.place().leave();
    }
}
