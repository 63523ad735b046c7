//! All connections and requests of a worker: swept for timeouts, asked to close, aborted.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::clock::SweepClock;
use super::roster::{Place, Roster, RosterEntry};
use super::{ConnectionPhase, ConnectionSlot, Ending, Interrupt, Phase, RequestTimer, is_over, wake};
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;

/// How long a client that has connected just before the process stops has for its first request. It would be reset if it
/// sent one while its connection is closed, and hardly any sends that again elsewhere.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// All connections and requests of a worker.
#[derive(Debug)]
pub struct Watchdog {
    connections: Rc<Roster<ConnectionSlot>>,
    requests: Rc<Roster<RequestTimer>>,
    clock: Rc<SweepClock>,
}

impl Watchdog {
    /// Without connections.
    #[must_use]
    pub fn new() -> Self {
        Self { connections: Rc::default(), requests: Rc::default(), clock: Rc::new(SweepClock::new()) }
    }

    /// A slot for a new connection of `listener`. It leaves when it is dropped.
    #[must_use]
    pub fn connection(&self, listener: ListenerId) -> Registered<ConnectionSlot> {
        let slot = Rc::new(ConnectionSlot::new(listener, &self.clock, Place::new(&self.connections)));
        self.connections.add(&slot);
        Registered(slot)
    }

    /// A timer for the requests of a connection of `listener`, one at a time.
    #[must_use]
    pub fn request(&self, listener: ListenerId) -> Registered<RequestTimer> {
        let timer = Rc::new(RequestTimer::new(listener, &self.clock, Place::new(&self.requests)));
        self.requests.add(&timer);
        Registered(timer)
    }

    /// Wakes those whose time is over at `now`; the next sweep will be `step` after that, unless sweeps pause.
    pub fn sweep(&self, now: Instant, step: Duration) {
        // Since the last sweep was due, timeouts may have been counted from a time in the past. If the worker or the
        // machine has stood still, peers must not pay for that.
        let late = self.clock.sweep(now, step);
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

    /// Whether nothing has happened for a while, so that sweeps may pause.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.clock.is_quiet()
    }

    /// The first time at which a sweep has to wake anybody.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = Cell::new(None);
        let consider = |time: &Cell<Option<Instant>>| {
            next.set([next.get(), time.get()].into_iter().flatten().min());
        };
        self.connections.each(|slot| consider(&slot.deadline));
        self.requests.each(|timer| [&timer.deadline, &timer.gone_at, &timer.end_at].into_iter().for_each(consider));
        next.get()
    }

    /// Pauses sweeps until `next`, or until a timeout is set.
    pub fn pause(&self, next: Instant) {
        self.clock.pause(next);
    }

    /// Waits until a pause of the sweeps ends because a timeout is set.
    pub async fn stirred(&self) {
        poll_fn(|context| self.clock.poll_stirred(context)).await;
    }

    /// Makes the next response on each connection of a listener its last.
    pub fn close(&self, listener: ListenerId) {
        self.connections.each(|slot| {
            if slot.listener == listener {
                slot.close();
            }
        });
    }

    /// Ends the connections of a listener that were admitted before its rules had this number: those without a request at
    /// once, the others with their current response. A handshake ends them itself.
    pub fn retire(&self, listener: ListenerId, admission: u32) {
        self.connections.each(|slot| {
            if slot.listener != listener || slot.admission.get() >= admission {
                return;
            }
            match slot.phase.get() {
                ConnectionPhase::New | ConnectionPhase::Idle => {
                    slot.close();
                    // Its client is told, as an idle one is.
                    slot.phase.set(ConnectionPhase::Idle);
                    slot.end(Ending::Close);
                }
                ConnectionPhase::Head | ConnectionPhase::Busy => slot.close(),
                ConnectionPhase::Handshake | ConnectionPhase::Linger => {}
            }
        });
    }

    /// Makes the next response on each connection its last, and ends those without a request; new ones after
    /// a second, in which their first request may come.
    pub fn drain(&self) {
        let until = self.clock.now().checked_add(FIRST_REQUEST);
        self.connections.each(|slot| {
            slot.close();
            match slot.phase.get() {
                ConnectionPhase::Idle => slot.end(Ending::Close),
                ConnectionPhase::Handshake | ConnectionPhase::New => {
                    slot.deadline.set([slot.deadline.get(), until].into_iter().flatten().min())
                }
                ConnectionPhase::Head | ConnectionPhase::Busy | ConnectionPhase::Linger => {}
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
                slot.close();
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

fn postpone(deadline: &Cell<Option<Instant>>, by: Duration) {
    deadline.set(deadline.get().and_then(|deadline| deadline.checked_add(by)));
}
