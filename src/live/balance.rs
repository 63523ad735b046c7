//! Pickers, which select a server for a request. A picker is built once from the eligible servers, and immutable.

mod penalty;
mod wheel;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::config::Algorithm;
pub use penalty::Penalty;
use wheel::Wheel;

/// Least-connections compares up to this many servers; of more it compares [`SAMPLE_SIZE`], drawn at random.
const MAX_SCAN: usize = u32::BITS as usize;
/// The larger the sample, the closer its best server is to the best of all.
const SAMPLE_SIZE: usize = 8;
/// How many turns may yield an excluded server before one of the others is drawn.
const MAX_SKIPS: usize = 16;
/// An idle server gets this share of its turns whatever its penalty, so that no one can keep all requests from it.
const SPARED: u8 = 16;

/// An eligible server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its index among the pool's members.
    pub index: u32,
    /// At least 1.
    pub weight: u32,
}

/// A pool's positions in the turn, shared by all workers so that the order is exact. They outlive the pickers.
#[derive(Debug)]
pub struct Turns {
    /// For the first attempts of requests.
    first: Turn,
    /// For retries. If they took turns from the others, the server after a failing one in the order would get its share.
    retry: Turn,
}

/// A position in the turn.
#[derive(Debug)]
pub struct Turn(CachePadded<AtomicU64>);

/// Selects among candidates. Immutable: the position in the turn is kept outside, and outlives the picker.
#[derive(Debug)]
pub struct Picker {
    algorithm: Algorithm,
    candidates: Box<[Candidate]>,
    wheel: Wheel,
}

impl Turns {
    /// Positions to begin at, which are random: otherwise the first server would get the first request from every replica,
    /// and after every restart.
    #[must_use]
    pub fn random() -> Self {
        // Far from the end of the range, so that no run of requests contains the step from it to 0.
        let turn = || Turn::at(fastrand::u64(..1 << 48));
        Self { first: turn(), retry: turn() }
    }

    /// The turn of first attempts, or that of retries.
    #[must_use]
    pub fn of(&self, is_retry: bool) -> &Turn {
        if is_retry { &self.retry } else { &self.first }
    }
}

impl Turn {
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self(CachePadded::new(AtomicU64::new(position)))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
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
    /// `open` returns a server's number of open requests, and `penalty` how many more it counts as having.
    pub fn pick(
        &self,
        turn: &Turn,
        excluded: impl Fn(u32) -> bool,
        open: impl Fn(u32) -> u64,
        penalty: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        if self.candidates.is_empty() {
            return None;
        }
        let allowed = |slot: usize| !excluded(self.candidates[slot].index);
        let turn = || self.wheel.at(turn.next());
        let slot = match self.algorithm {
            Algorithm::WeightedRoundRobin | Algorithm::RoundRobin => first_allowed(turn, allowed),
            Algorithm::Random => first_allowed(|| self.draw(), allowed),
            Algorithm::LeastConnections => self.least(turn(), allowed, open, penalty),
        };
        let slot = slot.or_else(|| self.draw_among(allowed));
        slot.map(|slot| self.candidates[slot].index)
    }

    /// The candidate with the fewest open requests for its weight, of those that are `allowed`.
    ///
    /// If several have as few, above all if they are idle, it is the one whose turn it is (`next`), so that the shares at
    /// low load follow the weights too. If none of them has the turn, they are drawn by weight.
    fn least(
        &self,
        next: usize,
        allowed: impl Fn(usize) -> bool,
        open: impl Fn(u32) -> u64,
        penalty: impl Fn(u32) -> u64,
    ) -> Option<usize> {
        let index = |slot: usize| self.candidates[slot].index;
        let is_spared = || fastrand::u8(..SPARED) == 0;
        // Nothing is less loaded than an idle server.
        if allowed(next) && open(index(next)) == 0 && (penalty(index(next)) == 0 || is_spared()) {
            return Some(next);
        }
        let load = |slot: usize| (open(index(slot)) + penalty(index(slot)), u64::from(self.candidates[slot].weight));
        // Compares a / b with c / d without dividing.
        let less = |(a, b): (u64, u64), (c, d): (u64, u64)| a * d < c * b;
        let count = self.candidates.len();
        if count > MAX_SCAN {
            let draws = (1..SAMPLE_SIZE).map(|_| self.draw());
            let loads = std::iter::once(next).chain(draws).filter(|slot| allowed(*slot)).map(|slot| (slot, load(slot)));
            return loads.reduce(|best, other| if less(other.1, best.1) { other } else { best }).map(|(slot, _)| slot);
        }
        // The slots that tie, as bits.
        let (mut tied, mut best) = (0_u32, None);
        for (slot, load) in (0..count).filter(|slot| allowed(*slot)).map(|slot| (slot, load(slot))) {
            if best.is_none_or(|best| less(load, best)) {
                (tied, best) = (1 << slot, Some(load));
            } else if best.is_some_and(|best| !less(best, load)) {
                tied |= 1 << slot;
            }
        }
        let is_tied = |slot: usize| tied >> slot & 1 == 1;
        if is_tied(next) { Some(next) } else { self.draw_among(is_tied) }
    }

    /// A slot at random, by weight.
    fn draw(&self) -> usize {
        self.wheel.slot(fastrand::u64(..self.wheel.len()))
    }

    /// One of the allowed slots at random, by weight. Looks at all of them.
    fn draw_among(&self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let slots = || (0..self.candidates.len()).filter(|slot| allowed(*slot));
        let total: u64 = slots().map(|slot| self.wheel.visits(slot)).sum();
        let mut rest = if total > 0 { fastrand::u64(..total) } else { 0 };
        slots().find(|slot| match rest.checked_sub(self.wheel.visits(*slot)) {
            Some(less) => {
                rest = less;
                false
            }
            None => true,
        })
    }
}

/// The first allowed slot among the next few. Those that are skipped are the excluded servers' own, so the others keep
/// their proportions.
fn first_allowed(next: impl Fn() -> usize, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    (0..MAX_SKIPS).map(|_| next()).find(|slot| allowed(*slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Algorithm; 4] =
        [Algorithm::WeightedRoundRobin, Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastConnections];

    fn picker(algorithm: Algorithm, weights: &[u32]) -> Picker {
        let candidates = (0..).zip(weights).map(|(index, weight)| Candidate { index, weight: *weight });
        Picker::new(algorithm, candidates.collect())
    }

    /// How often each of `servers` servers is picked, while they have these numbers of open requests and penalties.
    fn counts(picker: &Picker, turn: &Turn, picks: usize, open: &[u64], penalty: &[u64]) -> Vec<usize> {
        let of = |values: &[u64], index: u32| values.get(index as usize).copied().unwrap_or(0);
        let mut counts = vec![0; picker.candidates().len()];
        for _ in 0..picks {
            let picked = picker.pick(turn, |_| false, |index| of(open, index), |index| of(penalty, index));
            counts[picked.expect("a server") as usize] += 1;
        }
        counts
    }

    fn is_near(counts: &[usize], expected: &[usize]) -> bool {
        // More than six standard deviations.
        let near = |(got, expected): (&usize, &usize)| got.abs_diff(*expected) <= 6 * expected.isqrt();
        counts.len() == expected.len() && counts.iter().zip(expected).all(near)
    }

    #[test]
    fn each_algorithm_has_the_documented_shares_wherever_it_begins() {
        for _ in 0..20 {
            let turns = Turns::random();
            let counts = |algorithm, count| counts(&picker(algorithm, &[2, 3, 6]), turns.of(false), count, &[], &[]);
            assert_eq!(counts(Algorithm::WeightedRoundRobin, 110), [20, 30, 60]);
            assert_eq!(counts(Algorithm::LeastConnections, 110), [20, 30, 60], "all of them are idle");
            assert_eq!(counts(Algorithm::RoundRobin, 9), [3, 3, 3]);
            let random = counts(Algorithm::Random, 11_000);
            assert!(is_near(&random, &[2000, 3000, 6000]), "{random:?}");
        }
    }

    #[test]
    fn a_turn_begins_anywhere() {
        let picker = picker(Algorithm::RoundRobin, &[1; 6]);
        let first = |_| picker.pick(Turns::random().of(false), |_| false, |_| 0, |_| 0);
        let seen: std::collections::BTreeSet<_> = (0..300).map(first).collect();
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn a_picker_without_candidates_picks_none() {
        for algorithm in ALL {
            assert_eq!(picker(algorithm, &[]).pick(&Turn::at(0), |_| false, |_| 0, |_| 0), None);
        }
    }

    #[test]
    fn excluded_servers_are_skipped_until_none_is_left() {
        for algorithm in ALL {
            let picker = picker(algorithm, &[1000, 1000, 1]);
            let turn = Turn::at(0);
            let pick = |excluded: &dyn Fn(u32) -> bool| picker.pick(&turn, excluded, |_| 0, |_| 0);
            assert_eq!(pick(&|index| index < 2), Some(2), "{algorithm:?}");
            assert_eq!(pick(&|_| true), None, "{algorithm:?}");
        }
    }

    #[test]
    fn the_share_of_an_excluded_server_is_divided_in_proportion() {
        for algorithm in ALL {
            let even = algorithm == Algorithm::RoundRobin;
            for (weights, share) in [([2, 1, 1], [2, 0, 1]), ([1000, 1, 1], [1000, 0, 1]), ([1, 1000, 1], [1, 0, 1])] {
                let picker = picker(algorithm, &weights);
                let turn = Turn::at(7);
                let mut counts = [0_usize; 3];
                for _ in 0..6000 {
                    let picked = picker.pick(&turn, |index| index == 1, |_| 0, |_| 0).expect("a server");
                    counts[picked as usize] += 1;
                }
                let share = if even { [1, 0, 1] } else { share };
                let expected = share.map(|one| 6000 * one / share.iter().sum::<usize>());
                assert!(is_near(&counts, &expected), "{algorithm:?} {weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_picked() {
        let cases: [(&[u32], &[u64], u32); 4] =
            [(&[1, 1, 1], &[3, 1, 2], 1), (&[1, 10], &[1, 9], 1), (&[1, 10], &[0, 20], 0), (&[2, 1], &[1, 1], 0)];
        for (weights, open, expected) in cases {
            let picker = picker(Algorithm::LeastConnections, weights);
            for start in 0..5 {
                let chosen = picker.pick(&Turn::at(start), |_| false, |index| open[index as usize], |_| 0);
                assert_eq!(chosen, Some(expected), "{weights:?} {open:?}");
            }
        }
    }

    #[test]
    fn servers_that_tie_share_by_weight_whatever_the_others_do() {
        // Weights, open requests, expected shares of 8400 picks.
        let cases: [(&[u32], &[u64], &[usize]); 5] = [
            (&[1, 1, 2], &[0, 0, 0], &[2100, 2100, 4200]),
            (&[1, 1, 2], &[1, 1, 2], &[2100, 2100, 4200]),
            // The second is busy: its turns do not all go to the third, which follows it.
            (&[1, 1, 1], &[0, 5, 0], &[4200, 0, 4200]),
            (&[2, 9, 4, 1], &[0, 9, 0, 0], &[2400, 0, 4800, 1200]),
            (&[1, 1000, 1], &[0, 9, 0], &[4200, 0, 4200]),
        ];
        for (weights, open, expected) in cases {
            let picker = picker(Algorithm::LeastConnections, weights);
            let counts = counts(&picker, &Turn::at(3), 8400, open, &[]);
            assert!(is_near(&counts, expected), "{weights:?} {open:?}: {counts:?}");
        }
    }

    #[test]
    fn a_penalty_counts_as_open_requests_but_keeps_no_server_from_all() {
        let picker = picker(Algorithm::LeastConnections, &[1, 1, 1]);
        let few = counts(&picker, &Turn::at(0), 300, &[5, 5, 0], &[0, 0, 9]);
        assert!(few[2] > 0 && few[2] < 30, "{few:?}");
        let low = counts(&picker, &Turn::at(0), 300, &[5, 5, 0], &[0, 0, 4]);
        assert_eq!(low, [0, 0, 300]);
        let alike = counts(&picker, &Turn::at(0), 300, &[0, 0, 0], &[7, 7, 7]);
        assert!(is_near(&alike, &[100; 3]), "{alike:?}");
        let alone = counts(&self::picker(Algorithm::LeastConnections, &[1]), &Turn::at(0), 10, &[0], &[99]);
        assert_eq!(alone, [10]);
        let many = self::picker(Algorithm::LeastConnections, &[1; 64]);
        let odd = |counts: Vec<usize>| counts.into_iter().skip(1).step_by(2).sum::<usize>();
        let penalty: Vec<u64> = (0..64).map(|index| index % 2 * 9).collect();
        assert!((1..200).contains(&odd(counts(&many, &Turn::at(0), 1000, &[], &penalty))));
    }

    #[test]
    fn a_sample_of_many_servers_avoids_loaded_ones_and_follows_the_weights() {
        let many = picker(Algorithm::LeastConnections, &[1; 1000]);
        let busy: Vec<u64> = (0..1000).map(|index| index % 2 * 1000).collect();
        let odd: usize = counts(&many, &Turn::at(0), 1000, &busy, &[]).iter().skip(1).step_by(2).sum();
        assert!(odd < 40, "1 in 256 expected, got {odd} in 1000");
        let weights: Vec<u32> = (0..100).map(|index| 1 + index % 3).collect();
        let many = picker(Algorithm::LeastConnections, &weights);
        let idle = counts(&many, &Turn::at(12), 10 * weights.iter().sum::<u32>() as usize, &[], &[]);
        let expected: Vec<usize> = weights.iter().map(|weight| 10 * *weight as usize).collect();
        assert_eq!(idle, expected);
    }
}
