//! Health rules: what check results and failing requests make of a server. Pure; the checks themselves are in [`checker`].

use std::num::NonZeroU32;

use serde::Serialize;

/// What is known of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum HealthState {
    /// There at the start and not checked yet: counts as up, so that a restart is no outage.
    Unchecked,
    /// Came with an edit and has not passed a check yet: counts as down, so that a typo is no outage.
    Checking,
    /// Takes requests.
    Up,
    /// Takes none.
    Down,
}

impl HealthState {
    /// Whether a server in this state may get requests.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Unchecked | Self::Up)
    }
}

/// The state of one server, with what led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    state: HealthState,
    /// Results in a row that speak against the state.
    against: u32,
    /// Checks that passed since it last came up.
    steady: u32,
    /// How many times `rise` passes its return took, or takes, after its last ejection; 0 before any.
    hold: u32,
}

/// The most that [`Health`] holds a server back for its requests: so many times `rise` passes.
const MAX_HOLD: u32 = 16;

impl Health {
    /// Begins in `state`.
    #[must_use]
    pub fn new(state: HealthState) -> Self {
        Self { state, against: 0, steady: 0, hold: 0 }
    }

    /// The state now.
    #[must_use]
    pub fn state(self) -> HealthState {
        self.state
    }

    /// Takes in one result; says whether the state changed.
    ///
    /// The first result of a server decides at once. After that it takes `rise` passes in a row
    /// to be up and `fall` failures in a row to be down.
    pub fn record(&mut self, passed: bool, rise: NonZeroU32, fall: NonZeroU32) -> bool {
        let (next, needed) = match (self.state, passed) {
            (HealthState::Unchecked | HealthState::Checking, true) => (HealthState::Up, 1),
            (HealthState::Unchecked, false) => (HealthState::Down, 1),
            (HealthState::Up, false) => (HealthState::Down, fall.get()),
            (HealthState::Down, true) => (HealthState::Up, rise.get().saturating_mul(self.hold.max(1))),
            (HealthState::Checking | HealthState::Down, false) => {
                self.against = 0;
                return false;
            }
            (HealthState::Up, true) => {
                self.against = 0;
                self.steady = self.steady.saturating_add(1);
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        if next == HealthState::Up {
            self.enter(HealthState::Up);
        } else {
            *self = Self::new(next);
        }
        true
    }

    /// Takes it out because its requests fail; says whether the state changed.
    ///
    /// Checks that pass while requests fail would bring it back and forth. So each time that it is
    /// taken out again before it has passed as many checks as its last return took, the next return
    /// takes twice as many.
    pub fn eject(&mut self, rise: NonZeroU32) -> bool {
        if !self.state.serves() {
            return false;
        }
        let again = self.steady < rise.get().saturating_mul(self.hold);
        self.hold = if again { (self.hold * 2).min(MAX_HOLD) } else { 1 };
        self.enter(HealthState::Down);
        true
    }

    /// Brings it back at once.
    pub fn readmit(&mut self) {
        self.enter(HealthState::Up);
    }

    fn enter(&mut self, state: HealthState) {
        *self = Self { state, against: 0, steady: 0, hold: self.hold };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds results (`+` passed, `-` failed) with rise 2 and fall 3; returns the state after each.
    fn run(from: HealthState, results: &str) -> Vec<HealthState> {
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
        use HealthState::{Checking, Down, Unchecked, Up};
        let cases: [(HealthState, &str, &[HealthState]); 8] = [
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
    fn who_is_ejected_soon_again_is_held_back_for_longer() {
        let (rise, fall) = (NonZeroU32::MIN.saturating_add(1), NonZeroU32::MIN.saturating_add(2));
        let returns = |health: &mut Health| (1..=100).find(|_| health.record(true, rise, fall));
        let mut health = Health::new(HealthState::Up);
        let mut took = Vec::new();
        for steady in [0, 0, 3, 3, 0, 0, 0, 64, 0] {
            for _ in 0..steady {
                assert!(!health.record(true, rise, fall));
            }
            assert!(health.eject(rise) && !health.eject(rise), "out is out");
            took.extend(returns(&mut health));
        }
        assert_eq!(took, [2, 4, 8, 16, 32, 32, 32, 2, 4]);
        // A failed check begins the row of passes anew; a fall by checks alone is forgiven.
        assert!(health.eject(rise));
        assert!((0..7).all(|_| !health.record(true, rise, fall)) && !health.record(false, rise, fall));
        assert_eq!(returns(&mut health), Some(8));
        assert_eq!((0..3).map(|_| health.record(false, rise, fall)).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(returns(&mut health), Some(2));
    }

    #[test]
    fn only_the_change_is_reported() {
        let mut health = Health::new(HealthState::Up);
        let one = NonZeroU32::MIN;
        assert!(health.record(false, one, one));
        assert!(!health.record(false, one, one));
        assert!(health.record(true, one, one));
    }
}
