//! Timeouts and aborts of connections and requests: one sweep per worker instead of a timer per wait.
//!
//! A connection or a request stores what it waits for and its deadline; that sets no timer. A sweep, ten times per
//! second or more often, wakes those whose deadline has passed. Sweeps pause while nothing happens. They learn of a timeout
//! or an abort in one place: [`RequestTimer::run`] for a request, [`ConnectionSlot::poll`] for a connection without one.

mod body_rate;
mod clock;
mod roster;
mod watchdog;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use self::body_rate::BodyRate;
use self::clock::SweepClock;
use self::roster::Place;
pub use self::watchdog::{Registered, Watchdog};
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;

/// The phase of a client connection: what the connection itself waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// The end of the TLS handshake.
    Handshake,
    /// The first byte of the first request.
    New,
    /// The first byte of another request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// Nothing: a request is open, and its [`RequestTimer`] takes over.
    Busy,
    /// The client to close, after the last response.
    Linger,
}

/// The phase of a request: what it waits for.
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
    /// Bytes of a tunnel, in either direction.
    Tunnel,
}

/// The reason why a request is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// A timeout was reached.
    Timeout {
        /// The phase that took too long.
        phase: Phase,
        /// Whether the request waited for the client, not for the server.
        client: bool,
    },
    /// The client has ended its side of the connection, and no response has started in time.
    ClientGone,
    /// The whole request has to end.
    Deadline,
    /// The drain timeout was reached, or the process stops at once.
    Abort,
}

/// Why a connection without an open request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The rest of a request's head has not arrived in time.
    HeadTimeout,
    /// Any other timeout was reached, the connection was aborted, or it was idle when a drain began.
    Close,
}

/// How long a client that has ended its side of the connection waits for a response: it may have sent all that it
/// wants to send, or it may be gone.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// A client connection in the [`Watchdog`]: its phase and deadline, and whether it has to end.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// The id of its listener.
    listener: ListenerId,
    /// The number of the listener's rules that it was accepted by.
    pub admission: Cell<u32>,
    phase: Cell<ConnectionPhase>,
    deadline: Cell<Option<Instant>>,
    ending: Cell<Option<Ending>>,
    /// Whether the current or the next response is the last.
    pub closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    clock: Rc<SweepClock>,
    place: Place<Self>,
}

/// The timer of a connection's requests, one at a time: the phase and deadline of the current one.
#[derive(Debug)]
pub struct RequestTimer {
    /// The id of its connection's listener.
    listener: ListenerId,
    /// The id of the current attempt's server.
    server: Cell<Option<ServerId>>,
    /// Whether checks have taken that server down since the attempt began.
    server_down: Cell<bool>,
    phase: Cell<Phase>,
    deadline: Cell<Option<Instant>>,
    /// When the whole request has to end.
    end_at: Cell<Option<Instant>>,
    upload: Cell<BodyRate>,
    download: Cell<BodyRate>,
    /// When the client counts as gone, if it has ended its side of the connection.
    gone_at: Cell<Option<Instant>>,
    interrupt: Cell<Option<Interrupt>>,
    /// Whether the request was aborted; stays set, for a request that is dropped before it sees the interrupt.
    aborted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    clock: Rc<SweepClock>,
    place: Place<Self>,
}

impl ConnectionSlot {
    fn new(listener: ListenerId, clock: &Rc<SweepClock>, place: Place<Self>) -> Self {
        Self {
            listener,
            admission: Cell::new(u32::MAX),
            phase: Cell::new(ConnectionPhase::New),
            deadline: Cell::default(),
            ending: Cell::default(),
            closing: Cell::default(),
            waker: RefCell::default(),
            clock: Rc::clone(clock),
            place,
        }
    }

    /// Sets the phase and its timeout.
    pub fn wait(&self, phase: ConnectionPhase, timeout: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.clock.now().checked_add(timeout));
    }

    /// Hands over to the timer of a request: the connection itself waits for nothing.
    pub fn busy(&self) {
        self.phase.set(ConnectionPhase::Busy);
        self.deadline.set(None);
    }

    /// The current phase of the connection.
    #[must_use]
    pub fn phase(&self) -> ConnectionPhase {
        self.phase.get()
    }

    /// Makes the current or the next response the last.
    fn close(&self) {
        self.closing.set(true);
        // An HTTP/2 connection tells its client at once.
        wake(&self.waker);
    }

    /// Ready once the connection has to end.
    pub fn poll(&self, context: &Context<'_>) -> Poll<Ending> {
        if let Some(ending) = self.ending.take() {
            return Poll::Ready(ending);
        }
        register(&self.waker, context);
        Poll::Pending
    }

    fn expire(&self) {
        self.end(if self.phase.get() == ConnectionPhase::Head { Ending::HeadTimeout } else { Ending::Close });
    }

    fn end(&self, ending: Ending) {
        self.deadline.set(None);
        self.ending.set(Some(ending));
        wake(&self.waker);
    }
}

impl RequestTimer {
    fn new(listener: ListenerId, clock: &Rc<SweepClock>, place: Place<Self>) -> Self {
        Self {
            listener,
            server: Cell::default(),
            server_down: Cell::default(),
            phase: Cell::new(Phase::Connect),
            deadline: Cell::default(),
            end_at: Cell::default(),
            upload: Cell::default(),
            download: Cell::default(),
            gone_at: Cell::default(),
            interrupt: Cell::default(),
            aborted: Cell::default(),
            waker: RefCell::default(),
            clock: Rc::clone(clock),
            place,
        }
    }

    /// Stops the timer, and drops a timeout that has not been noticed. Keeps an abort, which ends the connection as well.
    pub fn reset(&self) {
        if !self.aborted.get() {
            self.interrupt.set(None);
        }
        self.gone_at.set(None);
        self.end_at.set(None);
        self.phase.set(Phase::Connect);
        self.deadline.set(None);
        // A sweep flushes what the request has logged.
        self.clock.stir();
    }

    /// Runs `future` to its end, unless a timeout is reached or the request is aborted first.
    ///
    /// # Errors
    /// If the request was interrupted, with the reason.
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

    /// Sets when the whole request has to end.
    pub fn end_at(&self, end: Instant) {
        self.clock.stir();
        self.end_at.set(Some(end));
    }

    /// Sets the phase and how long it may take.
    #[inline]
    pub fn wait(&self, phase: Phase, timeout: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.clock.now().checked_add(timeout));
    }

    /// Sets the phase to that of a body: it may go without a byte for `idle`, and the client has to send or accept
    /// `rate` bytes per second, averaged over `idle`.
    pub fn wait_body(&self, phase: Phase, idle: Duration, rate: u64) {
        if let Some(cell) = self.rate(phase) {
            cell.set(BodyRate::new(idle, rate));
        }
        if phase == Phase::Download {
            // A client that has ended its side gets the whole response.
            self.gone_at.set(None);
        }
        self.wait(phase, idle);
    }

    /// Sets the phase to that of a tunnel, which may be silent for `silence`.
    pub fn start_tunnel(&self, silence: Duration) {
        self.gone_at.set(None);
        self.wait(Phase::Tunnel, silence);
    }

    /// Notes that the client has ended its side of the connection. If no response starts within a second, or if this
    /// happens during the response and then no byte follows for a second, the client counts as gone.
    pub fn client_ended(&self) {
        self.gone_at.set(self.clock.now().checked_add(HALF_CLOSED));
    }

    /// Begins to wait for the client to send or accept more of this phase's body.
    #[inline]
    pub fn body_rests(&self, phase: Phase) {
        if let Some(cell) = self.rate(phase) {
            cell.set(cell.get().rests(self.clock.now()));
        }
    }

    /// Ends that wait: the client has sent or accepted `bytes`. Interrupts the request if that was too slow. Otherwise
    /// the timeout of the current phase starts again, unless that is the other body's and waits for the client too.
    #[inline]
    pub fn body_moves(&self, phase: Phase, bytes: usize) {
        let Some(cell) = self.rate(phase) else { return };
        let mut rate = cell.get();
        let is_enough = rate.moves(bytes, self.clock.now());
        cell.set(rate);
        if phase == Phase::Download && self.gone_at.get().is_some() {
            self.client_ended();
        }
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

    /// Whether the body of the current phase waits for the client, not for the server.
    fn waits_for_client(&self) -> bool {
        self.rate(self.phase.get()).is_some_and(|rate| rate.get().is_resting())
    }

    /// The current phase of the request.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Sets the server of the current attempt; `None` between attempts.
    pub fn set_server(&self, id: Option<ServerId>) {
        self.server.set(id);
        self.server_down.set(false);
    }

    /// Whether checks have taken the server of the current attempt down.
    #[must_use]
    pub fn is_server_down(&self) -> bool {
        self.server_down.get()
    }

    /// Whether the request was aborted.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// Interrupts the request if a time of its is over at `now`.
    fn check(&self, now: Instant) {
        if is_over(&self.end_at, now) {
            self.end_at.set(None);
            self.interrupt(Interrupt::Deadline);
        } else if is_over(&self.deadline, now) {
            self.expire(self.waits_for_client());
        } else if is_over(&self.gone_at, now) && !self.waits_for_client() {
            self.gone_at.set(None);
            self.interrupt(Interrupt::ClientGone);
        }
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

impl Drop for RequestTimer {
    /// A sweep flushes what the last request of the connection has logged, and frees its buffers.
    fn drop(&mut self) {
        self.clock.stir();
    }
}

fn is_over(deadline: &Cell<Option<Instant>>, now: Instant) -> bool {
    deadline.get().is_some_and(|deadline| deadline <= now)
}

fn register(waker: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut waker = waker.borrow_mut();
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
        *waker = Some(context.waker().clone());
    }
}

/// Safe during a sweep, because it only schedules the task.
fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
