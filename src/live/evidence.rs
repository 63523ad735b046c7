//! Evidence against servers: which failed attempts speak against a server, and when they suffice to eject it. A request can
//! be to blame as well, so a server is compared with the rest of its pool. Pure, but for the counts that workers share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::transport::ClientAddress;

/// How far a failed attempt speaks against its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The request was not sent, so it cannot be to blame.
    Unsent,
    /// Another server served the same request.
    Compared,
    /// No other server was asked: the request may be to blame.
    Alone,
    /// The same, and its client's cookie selected the server.
    Chosen(ClientKey),
}

/// A client by its address; the addresses of one IPv6 network are one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey(u64);

impl ClientKey {
    #[must_use]
    pub fn new(client: ClientAddress) -> Self {
        Self(match client {
            ClientAddress::Ip(IpAddr::V4(address)) => address.to_bits().into(),
            // A client may use any address of its network (RFC 4291, section 2.5.4).
            ClientAddress::Ip(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
            // An address of no client.
            ClientAddress::Unix => u64::MAX,
        })
    }
}

/// A failed attempt of a request, once it was connected and the request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed<E> {
    /// The index of the pool's member.
    pub member: usize,
    pub error: E,
}

/// Returns the failures of one request that speak against their servers, at most one for each, and how far they do.
/// `served_by` is the member that served the request in the end, if one did. If no server served it and several failed,
/// the request is to blame.
pub fn judge<E: Copy>(failed: &[Failed<E>], served_by: Option<usize>) -> impl Iterator<Item = (Failed<E>, Evidence)> {
    let is_alike = failed.iter().any(|one| one.member != failed[0].member);
    let evidence = match served_by {
        Some(_) => Some(Evidence::Compared),
        None if is_alike => None,
        None => Some(Evidence::Alone),
    };
    let speaks = move |place: usize, one: &Failed<E>| {
        let is_first = failed[..place].iter().all(|earlier| earlier.member != one.member);
        evidence.filter(|_| is_first && served_by != Some(one.member)).map(|evidence| (*one, evidence))
    };
    failed.iter().enumerate().filter_map(move |(place, one)| speaks(place, one))
}

/// The requests that the servers of a pool have served and failed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Requests served.
    pub served: u64,
    /// Failures that speak against a server.
    pub failed: u64,
}

/// The failures of a server since its last success. Written only when an attempt fails and when such a series ends, so
/// that a success writes nothing that is shared between workers.
#[derive(Debug, Default)]
pub struct FailureSeries {
    failures: AtomicU32,
    unsent: AtomicU32,
    compared: AtomicU32,
    /// The last [`ClientKey`] of [`Evidence::Chosen`].
    chosen_by: AtomicU64,
    /// The pool's figures at the first failure.
    served: AtomicU64,
    failed: AtomicU64,
}

/// The facts about a series that decide whether the server is ejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesFacts {
    pub failures: u32,
    /// How many of them are [`Evidence::Unsent`].
    pub unsent: u32,
    /// How many of them are [`Evidence::Compared`].
    pub compared: u32,
    /// The figures of the rest of the pool since the series began.
    pub rest: PoolFigures,
}

impl FailureSeries {
    /// Ends the series.
    #[inline]
    pub fn end(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Adds a failure; `pool` are the figures of the pool without it. `None` if it says nothing new: a client whose cookie
    /// selects the server counts once, or it could eject one server after the other.
    pub fn add(&self, evidence: Evidence, pool: PoolFigures) -> Option<SeriesFacts> {
        if let Evidence::Chosen(ClientKey(client)) = evidence {
            let before = self.chosen_by.swap(client, Relaxed);
            if before == client && self.failures.load(Relaxed) > 0 {
                return None;
            }
        }
        let failures = self.failures.fetch_add(1, Relaxed).wrapping_add(1);
        if failures == 1 {
            self.unsent.store(0, Relaxed);
            self.compared.store(0, Relaxed);
            self.served.store(pool.served, Relaxed);
            self.failed.store(pool.failed, Relaxed);
        }
        let count = |counter: &AtomicU32, kind| {
            if evidence == kind { counter.fetch_add(1, Relaxed).wrapping_add(1) } else { counter.load(Relaxed) }
        };
        let (unsent, compared) = (count(&self.unsent, Evidence::Unsent), count(&self.compared, Evidence::Compared));
        let own = u64::from(failures - 1);
        let rest = PoolFigures {
            served: pool.served.saturating_sub(self.served.load(Relaxed)),
            failed: pool.failed.saturating_sub(self.failed.load(Relaxed)).saturating_sub(own),
        };
        Some(SeriesFacts { failures, unsent, compared, rest })
    }
}

/// The most that a series may be due to chance, if requests fail at this server as often as at the rest of its pool. It is
/// small because every few failures are another chance.
const CHANCE: f64 = 1e-7;
/// The most requests that each of the other servers must have served, on average, during a series.
const ENOUGH: f64 = 5.0;

/// Whether a series of at least `needed` failures speaks against the server, not against the requests. `share` is the
/// server's share (0 to 1) of the pool's requests.
///
/// It does if requests could not even be sent. Otherwise the rest of the pool must fail so much less often that the series
/// is no chance. And it must have served requests meanwhile: the same ones, or about as many as follow from the shares.
/// Without that, requests that only this server got may be to blame.
#[must_use]
pub fn suffices(facts: SeriesFacts, needed: u32, share: f64) -> bool {
    let SeriesFacts { failures, unsent, compared, rest } = facts;
    if unsent >= needed {
        return true;
    }
    if failures < needed {
        return false;
    }
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let (served, failed) = (rest.served as f64, rest.failed as f64);
    let fails_elsewhere = if rest.failed == 0 { 0.0 } else { failed / (failed + served) };
    if fails_elsewhere.powf(failures.into()) > CHANCE {
        return false;
    }
    // Half of the expected number, because requests arrive unevenly. The first failure only starts the series, so a single
    // one is never enough.
    let rounds = (f64::from(failures.saturating_sub(1).max(1)) / 2.0).min(ENOUGH);
    let share = share.clamp(f64::EPSILON, 1.0);
    unsent + compared >= needed || served >= (rounds * (1.0 - share) / share).ceil()
}

/// The limit for ejected servers of a pool with this many: the share `max`, rounded down, but at least one and never all.
/// A pool of one has none.
#[must_use]
pub fn max_ejected(servers: usize, max: f64) -> usize {
    if max <= 0.0 || servers < 2 {
        return 0;
    }
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few servers"
    )]
    let share = (servers as f64 * max + 1e-9) as usize;
    share.clamp(1, servers - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_fails_at_several_servers_speaks_against_none() {
        use Evidence::{Alone, Compared};
        /// The members that failed, the one that served, and the members that this speaks against.
        type Case = (&'static [usize], Option<usize>, &'static [(usize, Evidence)]);
        let cases: [Case; 9] = [
            (&[], Some(1), &[]),
            (&[], None, &[]),
            (&[0], None, &[(0, Alone)]),
            (&[0, 0], None, &[(0, Alone)]),
            (&[0, 1], None, &[]),
            (&[0, 0, 1], None, &[]),
            (&[0], Some(1), &[(0, Compared)]),
            (&[0, 1, 0], Some(2), &[(0, Compared), (1, Compared)]),
            (&[0, 1], Some(0), &[(1, Compared)]),
        ];
        for (members, served_by, expected) in cases {
            let failed: Vec<_> = members.iter().map(|member| Failed { member: *member, error: () }).collect();
            let judged: Vec<_> = judge(&failed, served_by).map(|(one, evidence)| (one.member, evidence)).collect();
            assert_eq!(judged, expected, "{members:?} {served_by:?}");
        }
    }

    #[test]
    fn a_server_is_compared_with_the_rest_of_its_pool() {
        // Failures, how many were unsent or compared, the figures of the rest, the share; with three needed.
        let cases = [
            // Requests that could not be sent speak for themselves, whatever the rest does.
            ((3, 3, 0), (0, 0), 0.5, true),
            ((2, 2, 0), (9, 0), 0.5, false),
            ((3, 3, 0), (0, 99), 0.5, true),
            // Another server served the same requests.
            ((3, 0, 3), (3, 0), 0.1, true),
            ((3, 1, 2), (2, 0), 0.1, true),
            ((2, 0, 2), (99, 0), 0.1, false),
            // No other server was asked. In a pool of two, with turns.
            ((3, 0, 0), (2, 0), 0.5, true),
            ((3, 0, 0), (0, 0), 0.5, false),
            ((3, 0, 0), (0, 2), 0.5, false),
            // In a pool of ten, the others have about nine requests for each of this one.
            ((3, 0, 0), (18, 0), 0.1, true),
            ((3, 0, 0), (9, 0), 0.1, true),
            ((3, 0, 0), (8, 0), 0.1, false),
            ((3, 0, 0), (0, 27), 0.1, false),
            // One that gets most requests, say of sticky clients.
            ((30, 0, 0), (4, 0), 0.5, false),
            ((30, 0, 0), (5, 0), 0.5, true),
            ((3, 0, 0), (0, 0), 0.999, false),
            ((3, 0, 0), (1, 0), 0.999, true),
            // Requests fail elsewhere too: the more often, the longer the series must be.
            ((3, 0, 0), (998, 2), 0.1, true),
            ((3, 0, 0), (98, 2), 0.1, false),
            ((5, 0, 0), (98, 2), 0.1, true),
            ((6, 0, 0), (90, 10), 0.1, false),
            ((8, 0, 0), (90, 10), 0.1, true),
            ((3, 0, 3), (3, 3), 0.1, false),
            ((23, 0, 0), (50, 50), 0.1, false),
            ((24, 0, 0), (50, 50), 0.1, true),
        ];
        for ((failures, unsent, compared), (served, failed), share, expected) in cases {
            let facts = SeriesFacts { failures, unsent, compared, rest: PoolFigures { served, failed } };
            assert_eq!(suffices(facts, 3, share), expected, "{facts:?} {share}");
        }
        let once = SeriesFacts { failures: 1, unsent: 0, compared: 0, rest: PoolFigures::default() };
        assert!(!suffices(once, 1, 0.5), "the request may be to blame, even if one failure is enough");
        assert!(suffices(SeriesFacts { compared: 1, ..once }, 1, 0.5));
        assert!(suffices(SeriesFacts { failures: 2, rest: PoolFigures { served: 1, failed: 0 }, ..once }, 1, 0.5));
    }

    #[test]
    fn a_series_begins_with_the_first_failure_after_a_success() {
        let series = FailureSeries::default();
        let pool = |served, failed| PoolFigures { served, failed };
        let add = |evidence, pool| series.add(evidence, pool).expect("it says something new");
        let first = add(Evidence::Alone, pool(100, 7));
        assert_eq!(first, SeriesFacts { failures: 1, unsent: 0, compared: 0, rest: pool(0, 0) });
        // The pool's figures contain the first failure of this server, and one of another.
        let second = add(Evidence::Compared, pool(105, 9));
        assert_eq!(second, SeriesFacts { failures: 2, unsent: 0, compared: 1, rest: pool(5, 1) });
        let third = add(Evidence::Unsent, pool(105, 10));
        assert_eq!(third, SeriesFacts { failures: 3, unsent: 1, compared: 1, rest: pool(5, 1) });
        series.end();
        let again = add(Evidence::Alone, pool(200, 11));
        assert_eq!(again, SeriesFacts { failures: 1, unsent: 0, compared: 0, rest: pool(0, 0) });
    }

    #[test]
    fn a_client_whose_cookie_selects_the_server_counts_once_in_a_series() {
        let series = FailureSeries::default();
        let key = |address: &str| ClientKey::new(address.parse::<IpAddr>().expect("an address").into());
        let (one, two) = (Evidence::Chosen(key("192.0.2.1")), Evidence::Chosen(key("2001:db8::1")));
        let add = |evidence| series.add(evidence, PoolFigures::default()).map(|facts| facts.failures);
        assert_eq!([one, one, Evidence::Alone, one, one].map(add), [Some(1), None, Some(2), None, None]);
        assert_eq!([two, Evidence::Compared, two].map(add), [Some(3), Some(4), None]);
        series.end();
        assert_eq!([two, two].map(add), [Some(1), None]);
        for (other, is_same) in [("192.0.2.1", false), ("2001:db8::ffff:1:2:3", true), ("2001:db8:0:1::1", false)] {
            assert_eq!(key(other) == key("2001:db8::1"), is_same, "{other}");
        }
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(ClientKey::new(ClientAddress::Unix), ClientKey::new(ClientAddress::Unix));
        assert_ne!(ClientKey::new(ClientAddress::Unix), key("0.0.0.0"));
    }

    #[test]
    fn some_servers_of_a_pool_are_never_ejected() {
        let cases = [
            (0, 0.5, 0),
            (1, 0.5, 0),
            (1, 1.0, 0),
            (2, 0.5, 1),
            (2, 0.1, 1),
            (2, 1.0, 1),
            (3, 0.5, 1),
            (3, 1.0, 2),
            (10, 0.5, 5),
            (10, 0.1, 1),
            (10, 0.3, 3),
            (11, 0.5, 5),
            (10, 0.0, 0),
        ];
        for (servers, max, expected) in cases {
            assert_eq!(max_ejected(servers, max), expected, "{max} of {servers}");
        }
    }
}
