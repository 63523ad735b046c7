//! How long no idle connections are kept to a server that did not respond to a check. Pure.

/// Silent again within so many passed checks, a server is likely to be so because of its idle connections.
const SOON: u32 = 12;
/// The factor by which the pause then becomes longer.
const FACTOR: u32 = 12;
/// The longest pause, in passed checks.
const MAX: u32 = 144;

/// The pause of one server. It ends with the first passed check, because the silence usually has another cause. A server
/// that serves few connections at a time would be silent again soon after each pause.
#[derive(Debug, Default)]
pub(super) struct IdlePause {
    /// The length of the last pause, in passed checks; 0 before the first one.
    length: u32,
    /// The passed checks until the pause ends.
    left: u32,
    /// The passed checks since it has ended.
    since: u32,
}

impl IdlePause {
    /// Begins a pause, because a check had no response. Returns its length if idle connections seem to be the cause.
    pub(super) fn silent(&mut self) -> Option<u32> {
        let again = self.length > 0 && self.left == 0 && self.since < SOON;
        self.length = if again { (self.length * FACTOR).min(MAX) } else { 1 };
        (self.left, self.since) = (self.length, 0);
        again.then_some(self.length)
    }

    /// Notes a passed check. Returns whether connections may be kept.
    pub(super) fn passed(&mut self) -> bool {
        if self.left == 0 {
            self.since = self.since.saturating_add(1);
        } else {
            self.left -= 1;
        }
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_only_while_idle_connections_seem_to_be_the_cause() {
        // The passed checks before a silent one, and those that the pause then takes.
        let cases: [&[(u32, u32)]; 4] = [
            &[(0, 1), (1, 12), (12, 144), (144, 144), (150, 144)],
            // Something else makes it silent now and then.
            &[(100, 1), (100, 1)],
            // It is silent without idle connections too.
            &[(5, 1), (0, 1), (0, 1), (1, 12), (3, 1)],
            &[(5, 1), (2, 12), (30, 1)],
        ];
        for steps in cases {
            let mut pause = IdlePause::default();
            for (index, (passed, expected)) in steps.iter().enumerate() {
                for _ in 0..*passed {
                    pause.passed();
                }
                assert_eq!(pause.silent(), Some(*expected).filter(|expected| *expected > 1));
                let mut copy = IdlePause { ..pause };
                let took = (1..).find(|_| copy.passed());
                assert_eq!(took, Some(*expected), "{steps:?}, step {index}");
            }
        }
    }
}
