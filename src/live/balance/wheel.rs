//! The wheel: the order in which servers take turns, in exact proportion to their weights and evenly spread.
//!
//! It has one slot per unit of weight, after division by the weights' greatest common divisor. Any run of as many positions
//! as there are slots visits each slot once, so that shares are exact wherever the run starts. The server at a position is
//! found in constant time.

/// Up to this many slots the order is listed; beyond, it is computed, which takes two words per server.
const MAX_LISTED: u64 = 1 << 16;

#[derive(Debug)]
pub(super) struct Wheel {
    /// The end (exclusive) of each server's slots, ascending.
    ends: Box<[u64]>,
    /// The circle is divided into as many equal pieces as there are servers: the owner of the first slot of each piece.
    /// A lookup starts there, and needs only a step or so on average.
    guide: Box<[u32]>,
    order: Order,
}

/// Maps a position to a server.
#[derive(Debug)]
enum Order {
    /// The server at each position.
    Listed(Box<[u32]>),
    /// Position `p` visits slot `p * stride mod slots`. The stride is coprime to the number of slots, so that each slot is
    /// visited once. It is near the golden section of the circle, so that the visits to any arc are spread as evenly as a
    /// fixed stride can (the three-distance theorem; Knuth, The Art of Computer Programming, 6.4, on multiplicative hashing).
    Strided(u64),
}

impl Wheel {
    /// Builds a wheel for the servers' weights, each at least 1.
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b))).max(1);
        let weights: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
        let ends: Box<[u64]> = weights
            .iter()
            .scan(0, |end, weight| {
                *end += weight;
                Some(*end)
            })
            .collect();
        let slots = ends.last().copied().unwrap_or(0);
        Self {
            guide: guide(&ends),
            ends,
            order: if slots <= MAX_LISTED { Order::Listed(list(&weights)) } else { Order::Strided(golden(slots)) },
        }
    }

    /// The number of slots.
    pub(super) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The server whose turn it is at `position`. The wheel must not be empty.
    #[inline]
    pub(super) fn at(&self, position: u64) -> usize {
        // A weight is at most 1000 and a file holds at most a million servers, so no product in this file overflows.
        let turn = position % self.len();
        match &self.order {
            Order::Listed(servers) => servers[usize::try_from(turn).unwrap_or(0)] as usize,
            Order::Strided(stride) => self.slot(turn * stride % self.len()),
        }
    }

    /// The owner of a slot, which must be less than [`Self::len`].
    #[inline]
    pub(super) fn slot(&self, slot: u64) -> usize {
        let piece = slot * self.ends.len() as u64 / self.len();
        let mut server = self.guide[usize::try_from(piece).unwrap_or(0)] as usize;
        while self.ends[server] <= slot {
            server += 1;
        }
        server
    }

    /// The number of a server's slots, which are its visits per revolution.
    pub(super) fn visits(&self, server: usize) -> u64 {
        self.ends[server] - if server == 0 { 0 } else { self.ends[server - 1] }
    }

    /// A server's share of the circle, 0 to 1.
    pub(super) fn share(&self, server: usize) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "the share is for display")]
        let share = self.visits(server) as f64 / self.len() as f64;
        share
    }
}

/// Smooth weighted round robin as in nginx (2012), over groups: servers of equal weight take turns within their group, so
/// that only the few groups have to be spread. At each position every group's credit grows by its number of visits; the
/// group with the most credit gets the turn and pays for all.
fn list(weights: &[u64]) -> Box<[u32]> {
    let mut servers: Vec<u32> = (0..).take(weights.len()).collect();
    servers.sort_by_key(|server| std::cmp::Reverse(weights[*server as usize]));
    let slots: u64 = weights.iter().sum();
    let mut groups: Vec<_> = servers
        .chunk_by(|a, b| weights[*a as usize] == weights[*b as usize])
        .map(|group| (group.len() as u64 * weights[group[0] as usize], 0, group.iter().cycle()))
        .collect();
    let mut turn = || {
        for (visits, credit, _) in &mut groups {
            *credit += visits.cast_signed();
        }
        // On a tie the heavier group, which comes first.
        let (_, credit, group) = groups.iter_mut().rev().max_by_key(|(_, credit, _)| *credit)?;
        *credit -= slots.cast_signed();
        group.next().copied()
    };
    (0..slots).map_while(|_| turn()).collect()
}

fn guide(ends: &[u64]) -> Box<[u32]> {
    let count = ends.len() as u64;
    let slots = ends.last().copied().unwrap_or(0);
    let mut server = 0;
    (0..count)
        .map(|piece| {
            while ends[server as usize] * count <= piece * slots {
                server += 1;
            }
            server
        })
        .collect()
}

/// The number nearest to the golden section of `slots` that is coprime to it.
fn golden(slots: u64) -> u64 {
    const SECTION: f64 = 0.618_033_988_749_894_9;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let near = (slots as f64 * SECTION).round() as u64;
    (0..slots)
        .flat_map(|off| [near.saturating_sub(off), near + off])
        .find(|stride| *stride > 0 && gcd(*stride, slots) == 1)
        .unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_run(turn: &[usize], server: usize) -> usize {
        turn.split(|one| *one != server).map(<[_]>::len).max().unwrap_or(0)
    }

    #[test]
    fn two_three_six_is_exact_in_any_eleven_and_never_three_in_a_row() {
        let wheel = Wheel::new(&[2, 3, 6]);
        let turns: Vec<usize> = (0..110).map(|position| wheel.at(position)).collect();
        for window in turns.windows(11) {
            let counts = [0, 1, 2].map(|server| window.iter().filter(|one| **one == server).count());
            assert_eq!(counts, [2, 3, 6], "{window:?}");
        }
        for server in 0..3 {
            assert!(longest_run(&turns, server) <= 2, "{turns:?}");
        }
    }

    #[test]
    fn equal_weights_go_in_order() {
        let wheel = Wheel::new(&[7, 7, 7, 7]);
        let turn: Vec<usize> = (0..5).map(|position| wheel.at(position)).collect();
        assert_eq!(turn, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn every_small_wheel_is_exact_and_smooth() {
        let mut seen = 0;
        for code in 0..12_u32.pow(3) {
            let weights = [1 + code % 12, 1 + code / 12 % 12, 1 + code / 144];
            let wheel = Wheel::new(&weights);
            let slots = wheel.len();
            let divisor = u64::from(weights.iter().sum::<u32>()) / slots;
            let turn: Vec<usize> = (0..2 * slots).map(|position| wheel.at(position)).collect();
            for (server, weight) in weights.iter().enumerate() {
                let weight = u64::from(*weight) / divisor;
                let got = turn.iter().filter(|one| **one == server).count() as u64;
                assert_eq!(got, 2 * weight, "{weights:?}");
                // The shortest possible longest run of `weight` visits with `slots - weight` others in between.
                let least = weight.div_ceil((slots - weight).max(1));
                let run = longest_run(&turn, server) as u64;
                assert!(run <= least + 1, "{weights:?}: {run} of server {server} in a row, {least} is the minimum");
                seen += 1;
            }
        }
        assert_eq!(seen, 12 * 12 * 12 * 3);
    }

    #[test]
    fn one_heavy_server_alternates_with_many_light_ones() {
        let wheel = Wheel::new(&[10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let turn: Vec<usize> = (0..40).map(|position| wheel.at(position)).collect();
        assert_eq!(longest_run(&turn, 0), 1, "{turn:?}");
    }

    #[test]
    fn a_large_wheel_is_exact_and_spread() {
        let weights: Vec<u32> = (0..5000).map(|i| if i % 100 == 0 { 1000 } else { 1 + i % 7 }).collect();
        let wheel = Wheel::new(&weights);
        assert!(matches!(wheel.order, Order::Strided(_)));
        let turn: Vec<usize> = (12_345..12_345 + wheel.len()).map(|position| wheel.at(position)).collect();
        let mut counts = vec![0; weights.len()];
        for server in &turn {
            counts[*server] += 1;
        }
        assert_eq!(counts, weights);
        // Server 0 owns 1 in 70 slots: the gaps between its visits are never much smaller or larger.
        let visits: Vec<usize> = turn.iter().enumerate().filter(|(_, one)| **one == 0).map(|(at, _)| at).collect();
        let gaps = visits.windows(2).map(|pair| pair[1] - pair[0]);
        let (near, far) = (gaps.clone().min(), gaps.max());
        assert!(near >= Some(30) && far <= Some(180), "{near:?} to {far:?}");
        let shares: f64 = (0..weights.len()).map(|server| wheel.share(server)).sum();
        assert!((shares - 1.0).abs() < 1e-9);
    }
}
