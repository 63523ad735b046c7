//! Choosing a server: pickers are built once from the servers that may take requests, and only read afterwards.

mod wheel;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::Algorithm;
use wheel::Wheel;

/// Up to so many servers, least-connections looks at each; above, at the best of [`SAMPLE`].
const SCAN: usize = 32;
/// How many servers least-connections draws where it cannot look at all: the more, the closer to the least.
const SAMPLE: u64 = 8;
/// Turns of the wheel that may hit servers already tried before the rest is looked through in order.
const SKIPS: usize = 16;

/// A server that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// What the pool knows it by.
    pub index: u32,
    /// Its share, at least 1.
    pub weight: u32,
}

/// Chooses among candidates; immutable, the position in the turn lives outside and outlives it.
#[derive(Debug)]
pub struct Picker {
    algorithm: Algorithm,
    candidates: Box<[Candidate]>,
    wheel: Wheel,
}

impl Picker {
    /// A picker for these candidates.
    #[must_use]
    pub fn new(algorithm: Algorithm, candidates: Vec<Candidate>) -> Self {
        let weights: Vec<u32> = match algorithm {
            Algorithm::RoundRobin => vec![1; candidates.len()],
            Algorithm::WeightedRoundRobin | Algorithm::Random | Algorithm::LeastConnections => {
                candidates.iter().map(|candidate| candidate.weight).collect()
            }
        };
        Self { algorithm, wheel: Wheel::new(&weights), candidates: candidates.into() }
    }

    /// Who may be chosen.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The share of new requests that each candidate gets, from 0 to 1, by its index.
    pub fn shares(&self) -> impl Iterator<Item = (u32, f64)> {
        let shares = (0..self.candidates.len()).map(|slot| self.wheel.share(slot));
        self.candidates.iter().map(|candidate| candidate.index).zip(shares)
    }

    /// Chooses one that `tried` does not hold back, or none when all are held back.
    ///
    /// `position` is the pool's place in the turn; `open` tells a server's open requests.
    pub fn pick(&self, position: &AtomicU64, tried: impl Fn(u32) -> bool, open: impl Fn(u32) -> u64) -> Option<u32> {
        if self.candidates.is_empty() {
            return None;
        }
        let free = |slot: usize| !tried(self.candidates[slot].index);
        let turn = || self.wheel.at(position.fetch_add(1, Relaxed));
        let draw = || self.wheel.slot(fastrand::u64(..self.wheel.len()));
        let found = match self.algorithm {
            Algorithm::WeightedRoundRobin | Algorithm::RoundRobin => skip(turn, free),
            Algorithm::Random => skip(draw, free),
            Algorithm::LeastConnections => self.least(turn, free, open),
        };
        found.or_else(|| (0..self.candidates.len()).find(|slot| free(*slot))).map(|slot| self.candidates[slot].index)
    }

    /// The candidate with the fewest open requests for its weight; equals take turns.
    fn least(
        &self,
        turn: impl Fn() -> usize,
        free: impl Fn(usize) -> bool,
        open: impl Fn(u32) -> u64,
    ) -> Option<usize> {
        let count = self.candidates.len();
        let first = turn();
        let load = |slot: usize| {
            let candidate = self.candidates[slot];
            (open(candidate.index), u64::from(candidate.weight))
        };
        // a/b < c/d without dividing; one more request is what the choice would make of it.
        let less = |(a, b): (u64, u64), (c, d): (u64, u64)| (a + 1) * d < (c + 1) * b;
        let best = |slots: &mut dyn Iterator<Item = usize>| {
            slots
                .filter(|slot| free(*slot))
                .map(|slot| (slot, load(slot)))
                .reduce(|best, other| if less(other.1, best.1) { other } else { best })
        };
        let found = if count <= SCAN {
            best(&mut (0..count).map(|step| (first + step) % count))
        } else {
            best(&mut (0..SAMPLE).map(|_| self.wheel.slot(fastrand::u64(..self.wheel.len()))))
        };
        found.map(|(slot, _)| slot)
    }
}

/// The first free slot that `next` gives, within bounds.
fn skip(next: impl Fn() -> usize, free: impl Fn(usize) -> bool) -> Option<usize> {
    (0..SKIPS).map(|_| next()).find(|slot| free(*slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picker(algorithm: Algorithm, weights: &[u32]) -> Picker {
        let candidates = (0..).zip(weights).map(|(index, weight)| Candidate { index, weight: *weight });
        Picker::new(algorithm, candidates.collect())
    }

    fn picks(picker: &Picker, count: usize) -> Vec<u32> {
        let position = AtomicU64::new(0);
        let pick = || picker.pick(&position, |_| false, |_| 0);
        (0..count).map_while(|_| pick()).collect()
    }

    #[test]
    fn each_algorithm_shares_as_it_says() {
        let counts = |algorithm, count| {
            let chosen = picks(&picker(algorithm, &[2, 3, 6]), count);
            [0, 1, 2].map(|server| chosen.iter().filter(|one| **one == server).count())
        };
        assert_eq!(counts(Algorithm::WeightedRoundRobin, 110), [20, 30, 60]);
        assert_eq!(counts(Algorithm::RoundRobin, 9), [3, 3, 3]);
        let random = counts(Algorithm::Random, 11_000);
        for (got, expected) in random.into_iter().zip([2000_usize, 3000, 6000]) {
            assert!(got.abs_diff(expected) < 300, "random: {random:?}");
        }
    }

    #[test]
    fn nobody_to_choose_is_none() {
        assert!(picks(&picker(Algorithm::Random, &[]), 1).is_empty());
    }

    #[test]
    fn what_was_tried_is_skipped_until_nothing_is_left() {
        use Algorithm::{LeastConnections, Random, RoundRobin, WeightedRoundRobin};
        for algorithm in [WeightedRoundRobin, RoundRobin, Random, LeastConnections] {
            let picker = picker(algorithm, &[1000, 1000, 1]);
            let position = AtomicU64::new(0);
            let rest = picker.pick(&position, |index| index < 2, |_| 0);
            assert_eq!(rest, Some(2), "{algorithm:?}");
            assert_eq!(picker.pick(&position, |_| true, |_| 0), None, "{algorithm:?}");
        }
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_chosen_and_equals_take_turns() {
        let cases: [(&[u32], &[u64], u32); 4] =
            [(&[1, 1, 1], &[3, 1, 2], 1), (&[1, 10], &[1, 9], 1), (&[1, 10], &[0, 20], 0), (&[2, 1], &[1, 1], 0)];
        for (weights, open, expected) in cases {
            let picker = picker(Algorithm::LeastConnections, weights);
            for start in 0..5 {
                let position = AtomicU64::new(start);
                let chosen = picker.pick(&position, |_| false, |index| open[index as usize]);
                assert_eq!(chosen, Some(expected), "{weights:?} {open:?}");
            }
        }
        let turns = picks(&picker(Algorithm::LeastConnections, &[1, 1, 1]), 3);
        assert_eq!(turns, [0, 1, 2]);
    }

    #[test]
    fn among_many_the_sample_avoids_the_loaded() {
        let picker = picker(Algorithm::LeastConnections, &[1; 1000]);
        let position = AtomicU64::new(0);
        let busy = |index: u32| u64::from(index % 2) * 1000;
        let odd =
            (0..1000).filter_map(|_| picker.pick(&position, |_| false, busy)).filter(|index| index % 2 == 1).count();
        assert!(odd < 40, "1 in 256 expected, got {odd} in 1000");
    }
}
