//! Events: reloads and health changes, in order, for subscribers. Recent events are kept, so that a subscriber can
//! resume after a disconnect.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::live::health::HealthState;
use crate::live::reloads::Reload;
use crate::live::server::ServerKey;

/// How many events are kept. A subscriber that has missed more is told that there is a gap.
const MAX_EVENTS: usize = 256;

#[derive(Debug, Clone)]
pub enum Event {
    Reload(Arc<Reload>),
    Health(Arc<HealthChange>),
}

/// A change of a server's health.
#[derive(Debug)]
pub struct HealthChange {
    pub at: SystemTime,
    pub key: ServerKey,
    pub from: HealthState,
    pub to: HealthState,
    /// Why the server is down: the failed check or the ejection. `None` if it is not down.
    pub error: Option<String>,
}

/// The id of an event: the process, and the event's number in it, from 1; 0 is before the first. Formatted as
/// `18c9b7c3a51.42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// When the process started, in milliseconds since the Unix epoch.
    process: u64,
    number: u64,
}

/// The recent events of the process. Only the control plane publishes them.
#[derive(Debug)]
pub struct Events {
    process: u64,
    /// Oldest first.
    kept: Mutex<VecDeque<Event>>,
    /// The number of the newest event; 0 before the first.
    newest: watch::Sender<u64>,
}

/// The events after a given one, as far as they are kept.
#[derive(Debug)]
pub struct EventsAfter {
    /// In order, each with the id to resume from.
    pub events: Vec<(EventId, Event)>,
    /// Whether the subscriber may have missed events before these.
    pub missed: bool,
}

impl Events {
    /// Starts without events. `started` is when the process started.
    #[must_use]
    pub fn new(started: SystemTime) -> Self {
        let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let process = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { process, kept: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Adds an event and wakes the subscribers.
    pub fn publish(&self, event: Event) {
        let mut kept = self.kept.lock();
        if kept.len() == MAX_EVENTS {
            kept.pop_front();
        }
        kept.push_back(event);
        self.newest.send_modify(|newest| *newest += 1);
    }

    /// The id of the newest event: resuming from it yields only later ones.
    #[must_use]
    pub fn latest(&self) -> EventId {
        EventId { process: self.process, number: *self.newest.borrow() }
    }

    /// The events after `id`, or all kept ones if `id` is missing, too old or not from this process.
    #[must_use]
    pub fn after(&self, id: Option<EventId>) -> EventsAfter {
        let kept = self.kept.lock();
        let newest = self.latest().number;
        let dropped = newest - kept.len() as u64;
        let valid = id.filter(|id| id.process == self.process && (dropped..=newest).contains(&id.number));
        let seen = valid.map_or(dropped, |id| id.number);
        let with_number = |number| EventId { process: self.process, number };
        let events = (dropped + 1..).map(with_number).zip(kept.iter().cloned()).filter(|(id, _)| id.number > seen);
        EventsAfter { events: events.collect(), missed: valid.is_none() }
    }

    /// Returns a receiver of the newest event's number, which changes with each event.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.process, self.number)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (process, number) = text.split_once('.').ok_or(())?;
        let process = u64::from_str_radix(process, 16).map_err(drop)?;
        Ok(Self { process, number: number.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Address;

    fn event(number: u64) -> Event {
        let address = Address::Name("backend".into(), 80);
        let key = ServerKey { pool: "default".into(), name: number.to_string().into(), address };
        let change =
            HealthChange { at: SystemTime::now(), key, from: HealthState::Up, to: HealthState::Down, error: None };
        Event::Health(Arc::new(change))
    }

    fn events() -> Events {
        Events::new(SystemTime::UNIX_EPOCH + Duration::from_millis(0x1234))
    }

    /// The numbers of the events after `id`, and whether some may have been missed.
    fn numbers(events: &Events, id: Option<EventId>) -> (Vec<u64>, bool) {
        let EventsAfter { events, missed } = events.after(id);
        for (id, event) in &events {
            let Event::Health(change) = event else { panic!("a health change") };
            assert_eq!(*change.key.name, *id.number.to_string());
        }
        (events.iter().map(|(id, _)| id.number).collect(), missed)
    }

    #[test]
    fn a_client_that_resumes_gets_the_events_it_missed() {
        let events = events();
        let start = events.latest();
        let mut receiver = events.subscribe();
        assert!(!receiver.has_changed().expect("the sender exists"));
        (1..=3).for_each(|number| events.publish(event(number)));
        assert!(receiver.has_changed().expect("the sender exists"));
        receiver.mark_unchanged();
        assert_eq!(numbers(&events, Some(start)), (vec![1, 2, 3], false));
        let second = events.after(Some(start)).events[1].0;
        assert_eq!(numbers(&events, Some(second)), (vec![3], false));
        assert_eq!(numbers(&events, Some(events.latest())), (vec![], false));
    }

    #[test]
    fn an_old_foreign_or_missing_id_is_reported_as_a_gap() {
        let events = events();
        let start = events.latest();
        let all = MAX_EVENTS as u64 + 2;
        (1..=all).for_each(|number| events.publish(event(number)));
        let kept: Vec<u64> = (3..=all).collect();
        let id = |process, number| Some(EventId { process, number });
        let cases = [
            (Some(start), true),
            (id(0x1234, 1), true),
            (id(0x1234, 2), false),
            (id(0x1234, all + 1), true),
            (id(0x1233, all), true),
            (None, true),
        ];
        for (id, missed) in cases {
            assert_eq!(numbers(&events, id), (kept.clone(), missed), "{id:?}");
        }
    }

    #[test]
    fn an_id_round_trips() {
        let id = EventId { process: 0x018c_9b7c_3a51, number: 42 };
        assert_eq!(id.to_string(), "18c9b7c3a51.42");
        assert_eq!("18c9b7c3a51.42".parse(), Ok(id));
        for bad in ["", ".", "1", "x.1", "1.x", "1.-1", "1.2.3"] {
            assert_eq!(bad.parse::<EventId>(), Err(()), "{bad}");
        }
    }
}
