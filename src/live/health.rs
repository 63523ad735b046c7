//! Health rules: how the results of checks and failing requests change a server's health. Pure; the checks themselves run in
//! the control plane.

use std::num::NonZeroU32;

use serde::Serialize;

/// Whether a server is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum HealthState {
    /// Configured at the start and not checked yet: counts as up, so that a restart is not an outage.
    Unchecked,
    /// Added by an edit and has not passed a check yet: counts as down, so that a typo is not an outage.
    Checking,
    Up,
    Down,
}

impl HealthState {
    /// Whether a server with this health is eligible for requests.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Unchecked | Self::Up)
    }
}

/// A server's health, with the counts that decide when it changes. Lives as long as the server is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    state: HealthState,
    /// Consecutive results that contradict the state.
    contradicting: u32,
    /// Passed checks since the server last came up.
    passes_since_up: u32,
    /// Failed checks in a row.
    failed_checks: u32,
    /// After an ejection, the return takes this many times `rise` passes. 0 before the first ejection.
    backoff: u32,
}

const MAX_BACKOFF: u32 = 16;

impl Health {
    #[must_use]
    pub fn new(state: HealthState) -> Self {
        Self { state, contradicting: 0, passes_since_up: 0, failed_checks: 0, backoff: 0 }
    }

    #[must_use]
    pub fn state(self) -> HealthState {
        self.state
    }

    /// Notes the result of a check, whatever the state. Returns the number of failed checks in a row since the state changed.
    pub fn note(&mut self, passed: bool) -> u32 {
        self.failed_checks = if passed { 0 } else { self.failed_checks.saturating_add(1) };
        self.failed_checks
    }

    /// Records the result of a check, and returns whether the state changed.
    ///
    /// The first result decides at once, except that a server added by an edit must pass. After that, `rise` consecutive
    /// passes or `fall` consecutive failures change the state.
    pub fn record(&mut self, passed: bool, rise: NonZeroU32, fall: NonZeroU32) -> bool {
        let (next, needed) = match (self.state, passed) {
            (HealthState::Unchecked | HealthState::Checking, true) => (HealthState::Up, 1),
            (HealthState::Unchecked, false) => (HealthState::Down, 1),
            (HealthState::Up, false) => (HealthState::Down, fall.get()),
            (HealthState::Down, true) => (HealthState::Up, rise.get().saturating_mul(self.backoff.max(1))),
            (HealthState::Checking | HealthState::Down, false) => {
                self.contradicting = 0;
                return false;
            }
            (HealthState::Up, true) => {
                self.contradicting = 0;
                self.passes_since_up = self.passes_since_up.saturating_add(1);
                return false;
            }
        };
        self.contradicting += 1;
        if self.contradicting < needed {
            return false;
        }
        if next == HealthState::Up {
            self.enter(HealthState::Up);
        } else {
            *self = Self::new(next);
        }
        true
    }

    /// Ejects the server because its requests fail, and returns whether the state changed.
    ///
    /// If its checks pass while its requests fail, the server would alternate between up and down. So each time that it is
    /// ejected again before it has passed as many checks as its last return took, the next return takes twice as many.
    pub fn eject(&mut self, rise: NonZeroU32) -> bool {
        if !self.state.serves() {
            return false;
        }
        let too_soon = self.passes_since_up < rise.get().saturating_mul(self.backoff);
        self.backoff = if too_soon { (self.backoff * 2).min(MAX_BACKOFF) } else { 1 };
        self.enter(HealthState::Down);
        true
    }

    /// Brings the server back at once.
    pub fn readmit(&mut self) {
        self.enter(HealthState::Up);
    }

    fn enter(&mut self, state: HealthState) {
        *self = Self { backoff: self.backoff, ..Self::new(state) };
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
    fn consecutive_results_change_the_state() {
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
    fn a_server_ejected_again_soon_takes_longer_to_return() {
        let (rise, fall) = (NonZeroU32::MIN.saturating_add(1), NonZeroU32::MIN.saturating_add(2));
        let returns = |health: &mut Health| (1..=100).find(|_| health.record(true, rise, fall));
        let mut health = Health::new(HealthState::Up);
        let mut took = Vec::new();
        for steady in [0, 0, 3, 3, 0, 0, 0, 64, 0] {
            for _ in 0..steady {
                assert!(!health.record(true, rise, fall));
            }
            assert!(health.eject(rise) && !health.eject(rise), "it is ejected only once");
            took.extend(returns(&mut health));
        }
        assert_eq!(took, [2, 4, 8, 16, 32, 32, 32, 2, 4]);
        // A failed check restarts the count of passes; going down by checks alone resets the backoff.
        assert!(health.eject(rise));
        assert!((0..7).all(|_| !health.record(true, rise, fall)) && !health.record(false, rise, fall));
        assert_eq!(returns(&mut health), Some(8));
        assert_eq!((0..3).map(|_| health.record(false, rise, fall)).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(returns(&mut health), Some(2));
    }

    #[test]
    fn only_changes_are_reported() {
        let mut health = Health::new(HealthState::Up);
        let one = NonZeroU32::MIN;
        assert!(health.record(false, one, one));
        assert!(!health.record(false, one, one));
        assert!(health.record(true, one, one));
    }
}
