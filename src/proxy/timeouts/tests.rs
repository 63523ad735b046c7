use std::future::pending;
use std::pin::pin;

use super::*;
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn ending(slot: &ConnectionSlot) -> Option<Ending> {
    match slot.poll(&Context::from_waker(Waker::noop())) {
        Poll::Ready(ending) => Some(ending),
        Poll::Pending => None,
    }
}

fn has_ended(slot: &ConnectionSlot) -> bool {
    ending(slot).is_some()
}

/// A watchdog whose sweeps are on time.
struct Swept {
    watchdog: Watchdog,
    now: Cell<Instant>,
}

impl Swept {
    fn new() -> Self {
        let swept = Self { watchdog: Watchdog::new(), now: Cell::new(Instant::now()) };
        swept.watchdog.sweep(swept.now.get(), TICK);
        swept
    }

    /// Sweeps until `time` has passed.
    fn pass(&self, time: Duration) {
        let end = self.now.get() + time;
        while self.now.get() < end {
            self.now.set(self.now.get() + TICK);
            self.watchdog.sweep(self.now.get(), TICK);
        }
    }
}

impl std::ops::Deref for Swept {
    type Target = Watchdog;

    fn deref(&self) -> &Watchdog {
        &self.watchdog
    }
}

const TICK: Duration = Duration::from_millis(100);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_request_ends_at_its_time_whatever_it_waits_for() {
    let watchdog = Swept::new();
    let (timer, other) = (watchdog.request(ListenerId(1)), watchdog.request(ListenerId(1)));
    timer.end_at(watchdog.now.get() + seconds(2));
    other.end_at(watchdog.now.get() + seconds(2));
    assert_eq!(watchdog.next_deadline(), Some(watchdog.now.get() + seconds(2)));
    let (mut wait, mut other_wait) = (pin!(timer.run(pending::<()>())), pin!(other.run(pending::<()>())));
    for phase in [Phase::Connect, Phase::Response, Phase::Upload] {
        timer.wait(phase, seconds(60));
        watchdog.pass(seconds(1) / 2);
        assert_eq!(poll(wait.as_mut()), None);
    }
    other.reset();
    watchdog.pass(seconds(1));
    assert_eq!(poll(wait.as_mut()), Some(Err(Interrupt::Deadline)));
    assert_eq!(poll(other_wait.as_mut()), None, "it has ended before");
}

#[test]
fn a_sweep_interrupts_a_request_that_has_waited_too_long_and_only_once() {
    let watchdog = Swept::new();
    let (slow, quick) = (watchdog.request(ListenerId(1)), watchdog.request(ListenerId(1)));
    slow.wait(Phase::Response, seconds(1));
    quick.wait(Phase::Response, seconds(5));
    let mut waits = [pin!(slow.run(pending::<()>())), pin!(quick.run(pending::<()>()))];
    assert_eq!(waits.each_mut().map(|wait| poll(wait.as_mut())), [None, None]);
    watchdog.pass(seconds(2));
    let timeout = Interrupt::Timeout { phase: Phase::Response, client: false };
    assert_eq!(waits.each_mut().map(|wait| poll(wait.as_mut())), [Some(Err(timeout)), None]);
    watchdog.pass(seconds(1));
    assert_eq!(poll(pin!(slow.run(pending::<()>()))), None);
}

#[test]
fn a_timeout_is_never_early() {
    // How late the sweep after the wait is, in milliseconds. The wait begins just before that sweep.
    for late in [0, 1, 5, 50, 10_000] {
        let watchdog = Watchdog::new();
        let start = Instant::now();
        watchdog.sweep(start, TICK);
        let timer = watchdog.request(ListenerId(1));
        let slot = watchdog.connection(ListenerId(1));
        timer.wait(Phase::Connect, seconds(1));
        slot.wait(ConnectionPhase::Idle, seconds(1));
        let mut wait = pin!(timer.run(pending::<()>()));
        let began = start + TICK + Duration::from_millis(late);
        for step in 0..10 {
            watchdog.sweep(began + step * TICK, TICK);
            assert_eq!((poll(wait.as_mut()), has_ended(&slot)), (None, false), "{late} ms, after {step} sweeps");
        }
        watchdog.sweep(began + 10 * TICK, TICK);
        watchdog.sweep(began + 11 * TICK, TICK);
        assert!(poll(wait).is_some() && has_ended(&slot), "{late} ms");
    }
}

#[test]
fn sweeps_may_pause_when_no_timeout_is_set_until_the_next_deadline() {
    let watchdog = Swept::new();
    let (timer, slot) = (watchdog.request(ListenerId(1)), watchdog.connection(ListenerId(1)));
    assert_eq!(watchdog.next_deadline(), None);
    slot.wait(ConnectionPhase::Idle, seconds(60));
    timer.wait(Phase::Response, seconds(5));
    assert!(!watchdog.is_quiet());
    watchdog.pass(seconds(1) / 2);
    assert!(watchdog.is_quiet());
    let next = watchdog.next_deadline().expect("a deadline");
    assert!(next <= watchdog.now.get() + seconds(5));
    // What ends a request needs a sweep, too: its log is flushed then.
    timer.reset();
    assert!(!watchdog.is_quiet() && watchdog.next_deadline() > Some(next));
}

#[test]
fn a_timeout_that_is_set_in_a_pause_ends_it_and_is_not_early() {
    let watchdog = Swept::new();
    let slot = watchdog.connection(ListenerId(1));
    let mut stirred = pin!(watchdog.stirred());
    watchdog.pass(seconds(1));
    watchdog.pause(Instant::now() + seconds(600));
    assert_eq!(poll(stirred.as_mut()), None);
    let set = Instant::now();
    slot.wait(ConnectionPhase::Idle, seconds(1));
    assert_eq!(poll(stirred.as_mut()), Some(()));
    let deadline = watchdog.next_deadline().expect("a deadline");
    assert!(deadline >= set + seconds(1) && deadline <= Instant::now() + seconds(1) + 2 * TICK, "{:?}", deadline - set);
    watchdog.sweep(set + TICK, TICK);
    assert_eq!(watchdog.next_deadline(), Some(deadline));
}

#[test]
fn a_pause_that_ends_late_is_nobodys_fault() {
    let watchdog = Swept::new();
    let slot = watchdog.connection(ListenerId(1));
    slot.wait(ConnectionPhase::Idle, seconds(1));
    watchdog.pass(seconds(1) / 2);
    let end = watchdog.next_deadline().expect("a deadline");
    watchdog.pause(end);
    // The process was stopped for a minute.
    watchdog.sweep(end + seconds(60), TICK);
    assert!(!has_ended(&slot));
    watchdog.sweep(end + seconds(60) + TICK, TICK);
    assert!(has_ended(&slot));
}

#[test]
fn a_request_that_ends_a_pause_late_takes_no_time_from_others() {
    let watchdog = Swept::new();
    let (slot, timer) = (watchdog.connection(ListenerId(1)), watchdog.request(ListenerId(1)));
    slot.wait(ConnectionPhase::Idle, seconds(1));
    watchdog.pass(seconds(1) / 2);
    // The process was stopped since before the end of the pause, and the request comes before the sweep.
    watchdog.pause(Instant::now().checked_sub(seconds(5)).expect("a time"));
    let deadline = watchdog.next_deadline().expect("a deadline");
    timer.wait(Phase::Response, seconds(60));
    watchdog.sweep(Instant::now(), TICK);
    assert!(watchdog.next_deadline() >= Some(deadline + seconds(5) + TICK));
}

#[test]
fn a_timeout_is_reached_although_every_sweep_is_late() {
    let watchdog = Swept::new();
    let slot = watchdog.connection(ListenerId(1));
    slot.wait(ConnectionPhase::Idle, seconds(1));
    watchdog.pass(seconds(1) / 2);
    let mut now = watchdog.now.get();
    for sweeps in 0.. {
        if has_ended(&slot) {
            return;
        }
        assert!(sweeps < 5, "{:?}", watchdog.next_deadline());
        let next = if watchdog.is_quiet() { watchdog.next_deadline().expect("a deadline") } else { now + TICK };
        if watchdog.is_quiet() {
            watchdog.pause(next);
        }
        now = next + TICK / 5;
        watchdog.sweep(now, TICK);
    }
}

#[test]
fn a_client_that_rests_and_a_server_that_rests_are_told_apart() {
    for client in [false, true] {
        let watchdog = Swept::new();
        let timer = watchdog.request(ListenerId(1));
        timer.wait_body(Phase::Download, seconds(1), 1);
        if client {
            timer.body_rests(Phase::Download);
        }
        watchdog.pass(seconds(2));
        let timeout = Interrupt::Timeout { phase: Phase::Download, client };
        assert_eq!(poll(pin!(timer.run(pending::<()>()))), Some(Err(timeout)));
    }
}

/// Starts the response of a request, in 1000 seconds at the latest.
fn respond(timer: &RequestTimer) {
    timer.wait_body(Phase::Download, seconds(1000), 0);
}

#[test]
fn a_client_that_has_ended_its_side_gets_a_response_that_starts_within_a_second() {
    type Step = fn(&RequestTimer);
    let wait: Step = |timer| timer.wait(Phase::Response, seconds(1000));
    let ends: Step = RequestTimer::client_ended;
    let moves: Step = |timer| {
        timer.body_rests(Phase::Download);
        timer.body_moves(Phase::Download, 1);
    };
    let rests: Step = |timer| timer.body_rests(Phase::Download);
    let nothing: Step = |_| {};
    let tunnel: Step = |timer| timer.start_tunnel(seconds(1000));
    // The steps of a request, after each of which half a second passes; whether the client counts as gone at the end.
    let cases: Vec<(Vec<Step>, bool)> = vec![
        (vec![wait, ends], false),
        (vec![wait, ends, nothing, nothing], true),
        // Another attempt does not give it more time.
        (vec![wait, ends, wait, nothing], true),
        (vec![wait, ends, respond, nothing, nothing, nothing], false),
        (vec![wait, ends, tunnel, nothing, nothing, nothing], false),
        // It ends its side during the response.
        (vec![respond, ends, nothing, nothing], true),
        (vec![respond, ends, moves, moves, moves, moves], false),
        (vec![respond, ends, moves, moves, nothing, nothing], true),
        (vec![respond, ends, rests, nothing, nothing, nothing], false),
    ];
    for (number, (steps, gone)) in cases.into_iter().enumerate() {
        let watchdog = Swept::new();
        let timer = watchdog.request(ListenerId(1));
        for step in steps {
            step(&timer);
            watchdog.pass(seconds(1) / 2);
        }
        let expected = gone.then_some(Err(Interrupt::ClientGone));
        assert_eq!(poll(pin!(timer.run(pending::<()>()))), expected, "{number}");
    }
}

#[test]
fn a_connection_ends_when_it_has_waited_too_long() {
    let watchdog = Swept::new();
    let [idle, head, busy] = [(); 3].map(|()| watchdog.connection(ListenerId(1)));
    idle.wait(ConnectionPhase::Idle, seconds(1));
    head.wait(ConnectionPhase::Head, seconds(1));
    busy.wait(ConnectionPhase::Idle, seconds(1));
    busy.busy();
    watchdog.pass(seconds(2));
    let endings = [&idle, &head, &busy].map(|slot| ending(slot));
    assert_eq!(endings, [Some(Ending::Close), Some(Ending::HeadTimeout), None]);
    // The response to a late head has times of its own.
    head.wait(ConnectionPhase::Linger, seconds(1));
    assert!(!has_ended(&head));
    watchdog.pass(seconds(2));
    assert_eq!(ending(&head), Some(Ending::Close));
}

#[test]
fn a_drain_ends_idle_connections_and_closes_the_others_after_their_response() {
    use ConnectionPhase::{Busy, Head, Idle, Linger, New};
    let watchdog = Swept::new();
    let phases = [Idle, New, Head, Busy, Linger];
    let slots = phases.map(|phase| {
        let slot = watchdog.connection(ListenerId(1));
        slot.wait(phase, seconds(60));
        slot
    });
    watchdog.drain();
    assert!(slots.iter().all(|slot| slot.closing.get()));
    assert_eq!(slots.each_ref().map(|slot| has_ended(slot)), [true, false, false, false, false]);
    // Nor does a client that has just connected wait for long.
    watchdog.pass(seconds(2));
    assert_eq!(slots.each_ref().map(|slot| has_ended(slot)), [false, true, false, false, false]);
}

#[test]
fn an_abort_reaches_the_connections_and_requests_that_it_is_meant_for() {
    let watchdog = Watchdog::new();
    let (first, second) = (watchdog.connection(ListenerId(1)), watchdog.connection(ListenerId(2)));
    let (at_server, other) = (watchdog.request(ListenerId(1)), watchdog.request(ListenerId(2)));
    at_server.set_server(Some(ServerId(7)));
    watchdog.close(ListenerId(2));
    watchdog.abort_server(ServerId(7));
    assert_eq!((first.closing.get(), second.closing.get()), (false, true));
    assert_eq!((at_server.is_aborted(), other.is_aborted()), (true, false));
    assert_eq!(poll(pin!(at_server.run(async {}))), Some(Err(Interrupt::Abort)));
    watchdog.abort(ListenerId(2));
    assert_eq!((has_ended(&first), has_ended(&second), other.is_aborted()), (false, true, true));
    watchdog.abort_all();
    assert!(has_ended(&first));
}

#[test]
fn a_timeout_does_not_hide_an_abort() {
    let watchdog = Swept::new();
    let timer = watchdog.request(ListenerId(1));
    timer.wait(Phase::Response, seconds(1));
    watchdog.abort_all();
    watchdog.pass(seconds(2));
    assert_eq!(poll(pin!(timer.run(pending::<()>()))), Some(Err(Interrupt::Abort)));
}

#[test]
fn entries_leave_with_their_owner() {
    let watchdog = Watchdog::new();
    let slots: Vec<_> = (0..5).map(|_| watchdog.connection(ListenerId(1))).collect();
    assert!(!watchdog.is_empty());
    drop(slots);
    assert!(watchdog.is_empty());
}
