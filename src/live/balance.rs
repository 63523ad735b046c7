//! Pickers, which select a server for a request. A picker is built once from the eligible servers, and immutable.

mod wheel;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::Algorithm;
use wheel::Wheel;

/// Least-connections compares up to this many servers; of more it compares [`SAMPLE_SIZE`], drawn at random.
const MAX_SCAN: usize = 32;
/// The larger the sample, the closer its best server is to the best of all.
const SAMPLE_SIZE: u64 = 8;
/// How many turns may yield an excluded server before the candidates are scanned in order.
const MAX_SKIPS: usize = 16;

/// An eligible server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its index among the pool's members.
    pub index: u32,
    /// At least 1.
    pub weight: u32,
}

/// Selects among candidates. Immutable: the position in the turn is kept outside, and outlives the picker.
#[derive(Debug)]
pub struct Picker {
    algorithm: Algorithm,
    candidates: Box<[Candidate]>,
    wheel: Wheel,
}

impl Picker {
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

    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Each candidate's index, with its share (0 to 1) of new requests.
    pub fn shares(&self) -> impl Iterator<Item = (u32, f64)> {
        let shares = (0..self.candidates.len()).map(|slot| self.wheel.share(slot));
        self.candidates.iter().map(|candidate| candidate.index).zip(shares)
    }

    /// Returns the index of a candidate that is not excluded, or `None` if all are.
    ///
    /// `position` is the pool's position in the turn; `open` returns a server's number of open requests.
    pub fn pick(&self, position: &AtomicU64, excluded: impl Fn(u32) -> bool, open: impl Fn(u32) -> u64) -> Option<u32> {
        if self.candidates.is_empty() {
            return None;
        }
        let allowed = |slot: usize| !excluded(self.candidates[slot].index);
        let turn = || self.wheel.at(position.fetch_add(1, Relaxed));
        let draw = || self.wheel.slot(fastrand::u64(..self.wheel.len()));
        let slot = match self.algorithm {
            Algorithm::WeightedRoundRobin | Algorithm::RoundRobin => first_allowed(turn, allowed),
            Algorithm::Random => first_allowed(draw, allowed),
            Algorithm::LeastConnections => self.least(turn, allowed, open),
        };
        let slot = slot.or_else(|| (0..self.candidates.len()).find(|slot| allowed(*slot)));
        slot.map(|slot| self.candidates[slot].index)
    }

    /// The candidate with the fewest open requests for its weight. Candidates with an equal load take turns.
    fn least(
        &self,
        turn: impl Fn() -> usize,
        allowed: impl Fn(usize) -> bool,
        open: impl Fn(u32) -> u64,
    ) -> Option<usize> {
        let count = self.candidates.len();
        let start = turn();
        let load = |slot: usize| {
            let candidate = self.candidates[slot];
            (open(candidate.index), u64::from(candidate.weight))
        };
        // Compares (a + 1) / b with (c + 1) / d without dividing: the loads if this request were added.
        let less = |(a, b): (u64, u64), (c, d): (u64, u64)| (a + 1) * d < (c + 1) * b;
        let best = |slots: &mut dyn Iterator<Item = usize>| {
            slots
                .filter(|slot| allowed(*slot))
                .map(|slot| (slot, load(slot)))
                .reduce(|best, other| if less(other.1, best.1) { other } else { best })
        };
        let least = if count <= MAX_SCAN {
            best(&mut (0..count).map(|step| (start + step) % count))
        } else {
            best(&mut (0..SAMPLE_SIZE).map(|_| self.wheel.slot(fastrand::u64(..self.wheel.len()))))
        };
        least.map(|(slot, _)| slot)
    }
}

/// The first allowed slot among the next few.
fn first_allowed(next: impl Fn() -> usize, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    (0..MAX_SKIPS).map(|_| next()).find(|slot| allowed(*slot))
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
    fn each_algorithm_has_the_documented_shares() {
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
    fn a_picker_without_candidates_picks_none() {
        assert!(picks(&picker(Algorithm::Random, &[]), 1).is_empty());
    }

    #[test]
    fn excluded_servers_are_skipped_until_none_is_left() {
        use Algorithm::{LeastConnections, Random, RoundRobin, WeightedRoundRobin};
        for algorithm in [WeightedRoundRobin, RoundRobin, Random, LeastConnections] {
            let picker = picker(algorithm, &[1000, 1000, 1]);
            let position = AtomicU64::new(0);
            let last = picker.pick(&position, |index| index < 2, |_| 0);
            assert_eq!(last, Some(2), "{algorithm:?}");
            assert_eq!(picker.pick(&position, |_| true, |_| 0), None, "{algorithm:?}");
        }
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_picked_and_ties_take_turns() {
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
    fn a_sample_of_many_servers_avoids_loaded_ones() {
        let picker = picker(Algorithm::LeastConnections, &[1; 1000]);
        let position = AtomicU64::new(0);
        let busy = |index: u32| u64::from(index % 2) * 1000;
        let odd =
            (0..1000).filter_map(|_| picker.pick(&position, |_| false, busy)).filter(|index| index % 2 == 1).count();
        assert!(odd < 40, "1 in 256 expected, got {odd} in 1000");
    }
}
