//! Health rules: what a row of check results makes of a server. Pure; the checks themselves are in [`checker`].

pub mod checker;
pub mod memory;
pub mod probe;

use std::num::NonZeroU32;

use serde::Serialize;

/// What the checks say of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum State {
    /// There at the start and not checked yet: counts as up, so that a restart is no outage.
    Unchecked,
    /// Came with an edit and has not passed a check yet: counts as down, so that a typo is no outage.
    Checking,
    /// Takes requests.
    Up,
    /// Takes none.
    Down,
}

impl State {
    /// Whether a server in this state may get requests.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Unchecked | Self::Up)
    }
}

/// The state of one server, with what led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
}

impl Health {
    /// Begins in `state`.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state, against: 0 }
    }

    /// The state now.
    #[must_use]
    pub fn state(self) -> State {
        self.state
    }

    /// Takes in one result; says whether the state changed.
    ///
    /// The first result of a server decides at once. After that it takes `rise` passes in a row
    /// to be up and `fall` failures in a row to be down.
    pub fn record(&mut self, passed: bool, rise: NonZeroU32, fall: NonZeroU32) -> bool {
        let (next, needed) = match (self.state, passed) {
            (State::Unchecked | State::Checking, true) => (State::Up, 1),
            (State::Unchecked, false) => (State::Down, 1),
            (State::Up, false) => (State::Down, fall.get()),
            (State::Down, true) => (State::Up, rise.get()),
            (State::Checking | State::Down, false) | (State::Up, true) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Self::new(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds results (`+` passed, `-` failed) with rise 2 and fall 3; returns the state after each.
    fn run(from: State, results: &str) -> Vec<State> {
        let (rise, fall) = (NonZeroU32::MIN.saturating_add(1), NonZeroU32::MIN.saturating_add(2));
        let mut health = Health::new(from);
        results
            .chars()
            .map(|result| {
                health.record(result == '+', rise, fall);
                health.state()
            })
            .collect()
    }

    #[test]
    fn results_in_a_row_decide() {
        use State::{Checking, Down, Unchecked, Up};
        let cases: [(State, &str, &[State]); 8] = [
            (Unchecked, "+", &[Up]),
            (Unchecked, "-", &[Down]),
            (Checking, "-----", &[Checking; 5]),
            (Checking, "--+", &[Checking, Checking, Up]),
            (Up, "---", &[Up, Up, Down]),
            (Up, "--+--+", &[Up; 6]),
            (Down, "++", &[Down, Up]),
            (Down, "+-+-", &[Down; 4]),
        ];
        for (from, results, expected) in cases {
            assert_eq!(run(from, results), expected, "{from:?} {results}");
        }
    }

    #[test]
    fn only_the_change_is_reported() {
        let mut health = Health::new(State::Up);
        let one = NonZeroU32::MIN;
        assert!(health.record(false, one, one));
        assert!(!health.record(false, one, one));
        assert!(health.record(true, one, one));
    }
}
