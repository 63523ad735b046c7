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

fn has_ended(slot: &ConnectionSlot) -> bool {
    slot.poll(&Context::from_waker(Waker::noop())).is_ready()
}

const TICK: Duration = Duration::from_millis(100);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_sweep_interrupts_a_request_that_has_waited_too_long_and_only_once() {
    let watchdog = Watchdog::new();
    let (slow, quick) = (watchdog.request(ListenerId(1)), watchdog.request(ListenerId(1)));
    let start = Instant::now();
    watchdog.sweep(start, TICK);
    slow.wait(Phase::Response, seconds(1));
    quick.wait(Phase::Response, seconds(5));
    let mut waits = [pin!(slow.run(pending::<()>())), pin!(quick.run(pending::<()>()))];
    assert_eq!(waits.each_mut().map(|wait| poll(wait.as_mut())), [None, None]);
    watchdog.sweep(start + seconds(2), TICK);
    let timeout = Interrupt::Timeout { phase: Phase::Response, client: false };
    assert_eq!(waits.each_mut().map(|wait| poll(wait.as_mut())), [Some(Err(timeout)), None]);
    watchdog.sweep(start + seconds(3), TICK);
    assert_eq!(poll(pin!(slow.run(pending::<()>()))), None);
}

#[test]
fn a_timeout_is_never_early() {
    let watchdog = Watchdog::new();
    let start = Instant::now();
    watchdog.sweep(start, TICK);
    let timer = watchdog.request(ListenerId(1));
    // This wait may begin at any time before the next sweep.
    timer.wait(Phase::Connect, seconds(1));
    let mut wait = pin!(timer.run(pending::<()>()));
    watchdog.sweep(start + seconds(1), TICK);
    assert_eq!(poll(wait.as_mut()), None);
    watchdog.sweep(start + seconds(1) + TICK, TICK);
    assert!(poll(wait).is_some());
}

#[test]
fn a_client_that_rests_and_a_server_that_rests_are_told_apart() {
    let watchdog = Watchdog::new();
    let start = Instant::now();
    for client in [false, true] {
        watchdog.sweep(start, TICK);
        let timer = watchdog.request(ListenerId(1));
        timer.wait_body(Phase::Download, seconds(1), 1);
        if client {
            timer.body_rests(Phase::Download);
        }
        watchdog.sweep(start + seconds(2), TICK);
        let timeout = Interrupt::Timeout { phase: Phase::Download, client };
        assert_eq!(poll(pin!(timer.run(pending::<()>()))), Some(Err(timeout)));
    }
}

#[test]
fn a_connection_ends_when_it_has_waited_too_long() {
    let watchdog = Watchdog::new();
    let start = Instant::now();
    watchdog.sweep(start, TICK);
    let (idle, busy) = (watchdog.connection(ListenerId(1)), watchdog.connection(ListenerId(1)));
    for slot in [&idle, &busy] {
        slot.wait(ConnectionPhase::Idle, seconds(1));
    }
    busy.busy();
    watchdog.sweep(start + seconds(2), TICK);
    assert_eq!((has_ended(&idle), has_ended(&busy)), (true, false));
}

#[test]
fn a_drain_ends_idle_connections_and_closes_the_others_after_their_response() {
    let watchdog = Watchdog::new();
    let phases = [ConnectionPhase::Idle, ConnectionPhase::Head, ConnectionPhase::Busy, ConnectionPhase::Linger];
    let slots = phases.map(|phase| {
        let slot = watchdog.connection(ListenerId(1));
        slot.wait(phase, seconds(60));
        slot
    });
    watchdog.drain();
    assert!(slots.iter().all(|slot| slot.closing.get()));
    assert_eq!(slots.each_ref().map(|slot| has_ended(slot)), [true, false, false, false]);
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
    let watchdog = Watchdog::new();
    let start = Instant::now();
    watchdog.sweep(start, TICK);
    let timer = watchdog.request(ListenerId(1));
    timer.wait(Phase::Response, seconds(1));
    watchdog.abort_all();
    watchdog.sweep(start + seconds(2), TICK);
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
