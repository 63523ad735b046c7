//! Events: what happened lately, in order, for those who follow it live. Some are kept, so that who was away can go on.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::live::health::HealthState;
use crate::live::reloads::Reload;
use crate::live::server::ServerKey;

/// How many events are kept. Who was away for longer is told that it missed some.
const KEPT: usize = 256;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The file was read again.
    Reload(Arc<Reload>),
    /// A server's checks came to say something else.
    Health(Arc<HealthChange>),
}

/// What a server's checks came to say.
#[derive(Debug)]
pub struct HealthChange {
    /// When it was told.
    pub at: SystemTime,
    /// Whose checks.
    pub key: ServerKey,
    /// What they said.
    pub from: HealthState,
    /// What they say.
    pub to: HealthState,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// Which event: by the process, and by its number there, from 1. Written `18c9b7c3a51.42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    /// The process, by the milliseconds since 1970 at which it began.
    process: u64,
    number: u64,
}

/// The newest events of the process. The control plane writes, whoever follows reads.
#[derive(Debug)]
pub struct Events {
    process: u64,
    /// The oldest first.
    kept: Mutex<VecDeque<Event>>,
    /// The newest one's number.
    newest: watch::Sender<u64>,
}

/// What came after some event.
#[derive(Debug)]
pub struct After {
    /// In order, each with what to go on from.
    pub events: Vec<(Id, Event)>,
    /// Whether others came before these that are not kept any more, or may have.
    pub missed: bool,
}

impl Events {
    /// No events yet, of a process that began at `started`.
    #[must_use]
    pub fn new(started: SystemTime) -> Self {
        let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let process = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { process, kept: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Takes in what just happened.
    pub fn tell(&self, event: Event) {
        // What a panic would leave is still a row of events.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event);
        self.newest.send_modify(|newest| *newest += 1);
    }

    /// What to go on from, to get what comes from now on.
    #[must_use]
    pub fn now(&self) -> Id {
        Id { process: self.process, number: *self.newest.borrow() }
    }

    /// What came after `id`; from another process or the future, it stands for nothing that is known here.
    #[must_use]
    pub fn after(&self, id: Option<Id>) -> After {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.now().number;
        let forgotten = newest - kept.len() as u64;
        let known = id.filter(|id| id.process == self.process && (forgotten..=newest).contains(&id.number));
        let from = known.map_or(forgotten, |id| id.number);
        let id = |number| Id { process: self.process, number };
        let events = (forgotten + 1..).map(id).zip(kept.iter().cloned()).filter(|(id, _)| id.number > from);
        After { events: events.collect(), missed: known.is_none() }
    }

    /// Says when there are new ones.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.process, self.number)
    }
}

impl FromStr for Id {
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

    /// The numbers of those after `id`, as their ids and as the events themselves say.
    fn numbers(events: &Events, id: Option<Id>) -> (Vec<u64>, bool) {
        let After { events, missed } = events.after(id);
        for (id, event) in &events {
            let Event::Health(change) = event else { panic!("a change of health") };
            assert_eq!(*change.key.name, *id.number.to_string());
        }
        (events.iter().map(|(id, _)| id.number).collect(), missed)
    }

    #[test]
    fn who_comes_back_gets_what_it_missed() {
        let events = events();
        let start = events.now();
        let mut news = events.news();
        assert!(!news.has_changed().expect("it is there"));
        (1..=3).for_each(|number| events.tell(event(number)));
        assert!(news.has_changed().expect("it is there"));
        news.mark_unchanged();
        assert_eq!(numbers(&events, Some(start)), (vec![1, 2, 3], false));
        let second = events.after(Some(start)).events[1].0;
        assert_eq!(numbers(&events, Some(second)), (vec![3], false));
        assert_eq!(numbers(&events, Some(events.now())), (vec![], false));
    }

    #[test]
    fn what_is_not_kept_or_not_from_here_is_a_gap() {
        let events = events();
        let start = events.now();
        let all = KEPT as u64 + 2;
        (1..=all).for_each(|number| events.tell(event(number)));
        let kept: Vec<u64> = (3..=all).collect();
        let id = |process, number| Some(Id { process, number });
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
    fn an_id_is_read_as_it_is_written() {
        let id = Id { process: 0x018c_9b7c_3a51, number: 42 };
        assert_eq!(id.to_string(), "18c9b7c3a51.42");
        assert_eq!("18c9b7c3a51.42".parse(), Ok(id));
        for bad in ["", ".", "1", "x.1", "1.x", "1.-1", "1.2.3"] {
            assert_eq!(bad.parse::<Id>(), Err(()), "{bad}");
        }
    }
}
