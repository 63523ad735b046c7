//! Timeouts and aborts of connections and requests: one sweep per worker instead of a timer per wait.
//!
//! A connection or a request says what it waits for and for how long at most, which costs a store.
//! A sweep, some times a second, wakes those whose time is over. They learn of it, as of an abort, at
//! one place: [`RequestTimer::run`] for a request, [`ConnectionSlot::poll`] for a connection without one.

mod body_rate;
mod roster;
mod watchdog;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use self::body_rate::BodyRate;
use self::roster::Place;
pub use self::watchdog::{Registered, Watchdog};
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;

/// A connection without a request: what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// Nothing: a request is under way.
    Busy,
    /// The client to close, after the last response.
    Linger,
}

/// A request: what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A connection to a server.
    Connect,
    /// More of the request's body, or the server to accept some.
    Upload,
    /// The head of the response.
    Response,
    /// More of the response's body, or the client to accept some.
    Download,
    /// Anything, without a limit.
    Tunnel,
}

/// The reason for a request to be stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// A wait was too long.
    Timeout {
        /// The wait.
        phase: Phase,
        /// Whether it was the client that had to act.
        client: bool,
    },
    /// A drain is over, or the process ends.
    Abort,
}

/// The state of a client connection between requests.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// The id of its listener.
    listener: ListenerId,
    phase: Cell<ConnectionPhase>,
    deadline: Cell<Option<Instant>>,
    ended: Cell<bool>,
    /// The next response, or the current one, is the last.
    pub closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    now: Rc<Cell<Instant>>,
    place: Place<Self>,
}

/// The state of a request that waits.
#[derive(Debug)]
pub struct RequestTimer {
    /// The id of its connection's listener.
    listener: ListenerId,
    /// The id of the server that the current attempt is at.
    server: Cell<Option<ServerId>>,
    phase: Cell<Phase>,
    deadline: Cell<Option<Instant>>,
    upload: Cell<BodyRate>,
    download: Cell<BodyRate>,
    interrupt: Cell<Option<Interrupt>>,
    /// Stays set, for the record of a request that is dropped before it notices.
    aborted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    now: Rc<Cell<Instant>>,
    place: Place<Self>,
}

impl roster::RosterEntry for ConnectionSlot {
    fn place(&self) -> &Place<Self> {
        &self.place
    }
}

impl roster::RosterEntry for RequestTimer {
    fn place(&self) -> &Place<Self> {
        &self.place
    }
}

impl ConnectionSlot {
    fn new(listener: ListenerId, now: &Rc<Cell<Instant>>, place: Place<Self>) -> Self {
        Self {
            listener,
            phase: Cell::new(ConnectionPhase::Idle),
            deadline: Cell::default(),
            ended: Cell::default(),
            closing: Cell::default(),
            waker: RefCell::default(),
            now: Rc::clone(now),
            place,
        }
    }

    /// Notes what the connection waits for from now on, and for how long at most.
    pub fn wait(&self, phase: ConnectionPhase, at_most: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.now.get().checked_add(at_most));
    }

    /// Notes that a request is under way, whose timer takes over.
    pub fn busy(&self) {
        self.phase.set(ConnectionPhase::Busy);
        self.deadline.set(None);
    }

    /// The current wait of the connection.
    #[must_use]
    pub fn phase(&self) -> ConnectionPhase {
        self.phase.get()
    }

    /// Ready when the connection is to end: it has waited for too long, or was aborted.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.ended.get() {
            return Poll::Ready(());
        }
        register(&self.waker, context);
        Poll::Pending
    }

    fn end(&self) {
        self.deadline.set(None);
        self.ended.set(true);
        wake(&self.waker);
    }
}

impl RequestTimer {
    fn new(listener: ListenerId, now: &Rc<Cell<Instant>>, place: Place<Self>) -> Self {
        Self {
            listener,
            server: Cell::default(),
            phase: Cell::new(Phase::Connect),
            deadline: Cell::default(),
            upload: Cell::default(),
            download: Cell::default(),
            interrupt: Cell::default(),
            aborted: Cell::default(),
            waker: RefCell::default(),
            now: Rc::clone(now),
            place,
        }
    }

    /// Forgets the request before.
    pub fn reset(&self) {
        self.interrupt.set(None);
        self.wait_unlimited(Phase::Connect);
    }

    /// Runs `future` until a wait has been too long, or the request is aborted.
    ///
    /// # Errors
    /// With the reason.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            register(&self.waker, context);
            match self.interrupt.take() {
                Some(interrupt) => Poll::Ready(Err(interrupt)),
                None => future.as_mut().poll(context).map(Ok),
            }
        })
        .await
    }

    /// Notes what the request waits for from now on, and for how long at most.
    #[inline]
    pub fn wait(&self, phase: Phase, at_most: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.now.get().checked_add(at_most));
    }

    /// Notes that the request waits for something without a limit.
    pub fn wait_unlimited(&self, phase: Phase) {
        self.phase.set(phase);
        self.deadline.set(None);
    }

    /// Notes that a body is under way from now on: it may rest for `idle`, and the client has to move
    /// `rate` bytes per second, averaged over `idle`.
    pub fn wait_body(&self, phase: Phase, idle: Duration, rate: u64) {
        if let Some(cell) = self.rate(phase) {
            cell.set(BodyRate::new(idle, rate));
        }
        self.wait(phase, idle);
    }

    /// Notes that the body of this phase rests until the client moves it.
    #[inline]
    pub fn body_rests(&self, phase: Phase) {
        if let Some(cell) = self.rate(phase) {
            cell.set(cell.get().rests(self.now.get()));
        }
    }

    /// Notes that the client moved the body of this phase. The next piece has its time from here on,
    /// and so has the other body, where two are under way and it is the server's turn there.
    #[inline]
    pub fn body_moves(&self, phase: Phase, bytes: usize) {
        let Some(cell) = self.rate(phase) else { return };
        let mut rate = cell.get();
        let is_enough = rate.moves(bytes, self.now.get());
        cell.set(rate);
        if !is_enough {
            self.expire(true);
        } else if !self.waits_for_client() {
            self.wait(self.phase.get(), rate.idle());
        }
    }

    fn rate(&self, phase: Phase) -> Option<&Cell<BodyRate>> {
        match phase {
            Phase::Upload => Some(&self.upload),
            Phase::Download => Some(&self.download),
            Phase::Connect | Phase::Response | Phase::Tunnel => None,
        }
    }

    /// Whether it is the client that has to move the body.
    fn waits_for_client(&self) -> bool {
        self.rate(self.phase.get()).is_some_and(|rate| rate.get().is_resting())
    }

    /// The current wait of the request.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Notes the server that the current attempt is at, if there is one.
    pub fn set_server(&self, id: Option<ServerId>) {
        self.server.set(id);
    }

    /// Whether the request was aborted.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    fn expire(&self, client: bool) {
        self.deadline.set(None);
        self.interrupt(Interrupt::Timeout { phase: self.phase.get(), client });
    }

    fn interrupt(&self, interrupt: Interrupt) {
        if !self.aborted.get() || interrupt == Interrupt::Abort {
            self.interrupt.set(Some(interrupt));
        }
        wake(&self.waker);
    }
}

fn register(waker: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut waker = waker.borrow_mut();
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
        *waker = Some(context.waker().clone());
    }
}

/// Waking only schedules a task, so nothing is entered again.
fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
