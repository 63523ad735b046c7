//! Watching client connections: one slot for each, swept by its worker, instead of a timer for each wait.
//!
//! A connection says what it waits for and how long that may take; that costs a store. A sweep, some
//! times a second, wakes those that waited too long, and those that are to drain or to be cut.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// What a client connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The rest of a request's head.
    Head,
    /// The next request.
    Idle,
    /// More of a request's body.
    Upload,
    /// A connection to a server: the connecting has a timer of its own.
    Connect,
    /// A server's answer.
    Answer,
    /// The next piece of an answer's body, or the client to take one.
    Download,
    /// Nothing that has a limit: an upgraded connection.
    Tunnel,
    /// The client to close, as nothing more will be said.
    Linger,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// What was waited for.
    pub phase: Phase,
    /// Whether it was the client that was waited for.
    pub client: bool,
}

/// Why a connection was woken; all that came since it last looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// It waited too long, for this.
    pub expired: Option<Late>,
    /// The next answer is to be the last.
    pub last: bool,
    /// The same, and the connection ends at once if it is idle.
    pub drain: bool,
    /// It is to end now.
    pub cut: bool,
}

/// How a client does with a body: a wait for the server is not its fault, and does not count.
#[derive(Debug, Clone, Copy, Default)]
struct BodyRate {
    /// Over so long it is judged.
    idle: Duration,
    /// Bytes a second that it has to move at least.
    rate: u64,
    /// Since when it is waited for, if it is.
    since: Option<Instant>,
    waited: Duration,
    moved: u64,
}

/// One connection's place in the [`Watchdog`].
#[derive(Debug)]
pub struct Slot {
    phase: Cell<Phase>,
    until: Cell<Option<Instant>>,
    upload: Cell<BodyRate>,
    download: Cell<BodyRate>,
    signals: Cell<Option<Signals>>,
    /// Why we end the connection, in a word, once we do.
    given_up: Cell<Option<&'static str>>,
    waker: RefCell<Option<Waker>>,
    /// The listener it came by.
    listener: u64,
    /// The server that its request is at, or 0.
    server: Cell<u64>,
    watch: Weak<Watchdog>,
    now: Rc<Cell<Instant>>,
    place: Cell<usize>,
}

/// All slots of a worker.
#[derive(Debug)]
pub struct Watchdog {
    slots: RefCell<Vec<Rc<Slot>>>,
    /// When the last sweep was: a limit is late by a sweep at most, and costs no look at the clock.
    now: Rc<Cell<Instant>>,
}

impl Watchdog {
    /// Without a slot yet.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self { slots: RefCell::default(), now: Rc::new(Cell::new(Instant::now())) })
    }

    /// A slot for a connection that came by `listener`. Its owner calls [`Slot::leave`] at the end.
    #[must_use]
    pub fn enter(self: &Rc<Self>, listener: u64) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        let slot = Rc::new(Slot {
            phase: Cell::new(Phase::Head),
            until: Cell::new(None),
            upload: Cell::default(),
            download: Cell::default(),
            signals: Cell::default(),
            given_up: Cell::default(),
            waker: RefCell::default(),
            listener,
            server: Cell::new(0),
            watch: Rc::downgrade(self),
            now: Rc::clone(&self.now),
            place: Cell::new(slots.len()),
        });
        slots.push(Rc::clone(&slot));
        slot
    }

    /// Takes note of the time and wakes those that waited too long.
    pub fn sweep(&self, now: Instant) {
        self.now.set(now);
        for slot in self.slots.borrow().iter().filter(|slot| slot.until.get().is_some_and(|until| until <= now)) {
            slot.expire(slot.waits_for_client());
        }
    }

    /// Asks the connections of one listener to take no request after the next.
    pub fn last(&self, listener: u64) {
        self.signal(|slot| slot.listener == listener, |_, signals| signals.last = true);
    }

    /// Ends the connections of one listener.
    pub fn cut(&self, listener: u64) {
        self.signal(|slot| slot.listener == listener, cut);
    }

    /// Asks all connections to take no further request.
    pub fn drain_all(&self) {
        self.signal(|_| true, |_, signals| signals.drain = true);
    }

    /// Ends all connections.
    pub fn cut_all(&self) {
        self.signal(|_| true, cut);
    }

    /// Ends the connections whose request is at a server.
    pub fn cut_server(&self, server: u64) {
        self.signal(|slot| slot.server.get() == server, cut);
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn signal(&self, concerns: impl Fn(&Slot) -> bool, change: impl Fn(&Slot, &mut Signals)) {
        for slot in self.slots.borrow().iter().filter(|slot| concerns(slot)) {
            slot.signal(|signals| change(slot, signals));
        }
    }
}

impl BodyRate {
    /// Counts what the client sent or took by `now`; false if that was too little for the time.
    fn moves(&mut self, bytes: usize, now: Instant) -> bool {
        self.moved += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        if self.waited < self.idle {
            return true;
        }
        let enough = u128::from(self.moved) * 1000 >= u128::from(self.rate) * self.waited.as_millis();
        (self.waited, self.moved) = (Duration::ZERO, 0);
        enough
    }
}

impl Slot {
    /// Says what the connection waits for from now on, and how long that may take.
    #[inline]
    pub fn wait(&self, phase: Phase, at_most: Duration) {
        self.phase.set(phase);
        self.until.set(self.now.get().checked_add(at_most));
    }

    /// Says that a body is under way from now on: it may stand still for `idle`, and the client has
    /// to move `rate` bytes a second over as long.
    pub fn wait_body(&self, phase: Phase, idle: Duration, rate: u64) {
        if let Some(pace) = self.pace(phase) {
            pace.set(BodyRate { idle, rate, ..BodyRate::default() });
        }
        self.wait(phase, idle);
    }

    /// Says that the body of this phase is at a stand until the client moves it.
    #[inline]
    pub fn body_waits(&self, phase: Phase) {
        let Some(cell) = self.pace(phase) else { return };
        let mut pace = cell.get();
        pace.since = pace.since.or(Some(self.now.get()));
        cell.set(pace);
    }

    /// Says that the client moved the body of this phase. The next piece has its time from here on,
    /// and so has the other body, where two are under way and it is the server's turn there.
    #[inline]
    pub fn body_moves(&self, phase: Phase, bytes: usize) {
        let Some(cell) = self.pace(phase) else { return };
        let mut pace = cell.get();
        let enough = pace.moves(bytes, self.now.get());
        cell.set(pace);
        if !enough {
            self.expire(true);
        } else if !self.waits_for_client() {
            self.wait(self.phase(), pace.idle);
        }
    }

    fn pace(&self, phase: Phase) -> Option<&Cell<BodyRate>> {
        match phase {
            Phase::Upload => Some(&self.upload),
            Phase::Download => Some(&self.download),
            _ => None,
        }
    }

    /// Whether it is the client that has to move the body which is waited for.
    fn waits_for_client(&self) -> bool {
        self.pace(self.phase()).is_some_and(|pace| pace.get().since.is_some())
    }

    /// Says that the connection waits for something that is not limited here.
    pub fn wait_unlimited(&self, phase: Phase) {
        self.phase.set(phase);
        self.until.set(None);
    }

    /// Wakes the connection, for what it waits for has taken too long.
    fn expire(&self, client: bool) {
        self.until.set(None);
        self.signal(|signals| signals.expired = Some(Late { phase: self.phase(), client }));
    }

    fn signal(&self, change: impl FnOnce(&mut Signals)) {
        let mut signals = self.signals.get().unwrap_or_default();
        change(&mut signals);
        self.signals.set(Some(signals));
        // Waking only schedules the task: nothing here is entered again.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What the connection waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Says which server the request is at; 0 for none.
    pub fn at_server(&self, id: u64) {
        self.server.set(id);
    }

    /// Says that we end the connection, and why, in a word.
    pub fn give_up(&self, why: &'static str) {
        self.given_up.set(Some(why));
    }

    /// Why we end the connection, if we do.
    #[must_use]
    pub fn given_up(&self) -> Option<&'static str> {
        self.given_up.get()
    }

    /// Why the connection was woken, if it was from here; asks to be woken next time.
    #[inline]
    pub fn poll(&self, context: &Context<'_>) -> Option<Signals> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        self.signals.take()
    }

    /// Gives the place up.
    pub fn leave(&self) {
        let Some(watch) = self.watch.upgrade() else { return };
        let mut slots = watch.slots.borrow_mut();
        let place = self.place.get();
        if slots.get(place).is_some_and(|slot| std::ptr::eq(&raw const **slot, self)) {
            slots.swap_remove(place);
            if let Some(moved) = slots.get(place) {
                moved.place.set(place);
            }
        }
    }
}

/// Said at once: at the very end, a connection is dropped without looking again.
fn cut(slot: &Slot, signals: &mut Signals) {
    slot.give_up("cut");
    signals.cut = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals(slot: &Slot) -> Signals {
        slot.poll(&Context::from_waker(Waker::noop())).unwrap_or_default()
    }

    const NONE: Signals = Signals { expired: None, last: false, drain: false, cut: false };

    #[test]
    fn a_sweep_finds_who_waited_too_long_and_only_once() {
        let watch = Watchdog::new();
        let (slow, quick) = (watch.enter(1), watch.enter(1));
        let start = Instant::now();
        watch.sweep(start);
        slow.wait(Phase::Answer, Duration::from_secs(1));
        quick.wait(Phase::Idle, Duration::from_secs(5));
        watch.sweep(start + Duration::from_secs(2));
        assert_eq!(signals(&slow), Signals { expired: Some(Late { phase: Phase::Answer, client: false }), ..NONE });
        assert_eq!(signals(&quick), NONE);
        watch.sweep(start + Duration::from_secs(3));
        assert_eq!(signals(&slow), NONE);
    }

    #[test]
    fn a_client_is_too_slow_only_while_it_is_waited_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        /// Seconds from which and to which it was waited for, and the bytes that then moved.
        type Wait = (u64, u64, usize);
        let cases: [(&[Wait], bool); 6] = [
            (&[(0, 50, 1)], true),
            (&[(0, 50, 1), (50, 100, 1)], false),
            (&[(0, 50, 1), (90, 99, 1)], true),
            (&[(0, 60, 64 * 60)], true),
            (&[(0, 60, 64 * 60 - 1)], false),
            (&[(0, 60, 64 * 60), (60, 100, 0), (100, 120, 0)], false),
        ];
        for (waits, enough) in cases {
            let mut pace = BodyRate { idle: Duration::from_secs(60), rate: 64, ..BodyRate::default() };
            let all = waits.iter().all(|(from, to, bytes)| {
                pace.since = Some(at(*from));
                pace.moves(*bytes, at(*to))
            });
            assert_eq!(all, enough, "{waits:?}");
        }
    }

    #[test]
    fn signals_reach_the_connections_they_are_meant_for_and_none_is_lost() {
        let watch = Watchdog::new();
        let (first, second) = (watch.enter(1), watch.enter(2));
        first.at_server(7);
        watch.last(2);
        watch.cut_server(7);
        assert_eq!(
            (signals(&first), signals(&second)),
            (Signals { cut: true, ..NONE }, Signals { last: true, ..NONE })
        );
        watch.cut(2);
        assert_eq!((signals(&first), signals(&second)), (NONE, Signals { cut: true, ..NONE }));
        watch.drain_all();
        watch.cut_all();
        assert_eq!(signals(&first), Signals { drain: true, cut: true, ..NONE });
    }

    #[test]
    fn places_are_given_up_in_any_order() {
        let watch = Watchdog::new();
        let slots: Vec<_> = (0..5).map(|_| watch.enter(1)).collect();
        for place in [2, 0, 4, 1, 3] {
            slots[place].leave();
            slots[place].leave();
        }
        assert!(watch.is_empty());
    }
}
