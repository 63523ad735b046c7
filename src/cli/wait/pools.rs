//! The pools that keep `lb wait` waiting, or make it fail.

use std::fmt;

use crate::cli::api::PoolReply;
use crate::live::availability::Availability;

/// The pools that a route reaches and whose own servers are not available yet, each with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pools {
    /// No server can be expected to come up.
    pub(super) down: Vec<String>,
    /// Every check has failed so far, but there is time left.
    pub(super) failing: Vec<String>,
    /// Everything else is open.
    waiting: Vec<String>,
}

impl Pools {
    pub(super) fn of(pools: &[PoolReply]) -> Self {
        use Availability::{Available, Empty, Failed, Unavailable, Unchecked};
        let mut found = Self::default();
        for pool in pools.iter().filter(|pool| pool.routed) {
            let (list, reason) = match (pool.availability, pool.holding, pool.overdue) {
                (Available, false, _) => continue,
                (Empty, ..) => (&mut found.down, "no server may get new requests"),
                (Failed, _, true) => (&mut found.down, "every server's check fails"),
                (Failed, false, false) => (&mut found.failing, "every server's check fails"),
                (_, true, _) => (&mut found.waiting, "no new server has passed a check yet; the old servers serve"),
                (Unchecked, ..) => (&mut found.waiting, "a server has not been checked yet"),
                (Unavailable, ..) => (&mut found.waiting, "no server is up"),
            };
            list.push(format!("pool {}: {reason}", pool.name));
        }
        found
    }

    pub(super) fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl fmt::Display for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools: Vec<&str> =
            [&self.down, &self.failing, &self.waiting].into_iter().flatten().map(|pool| &**pool).collect();
        f.write_str(&pools.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pools_that_routes_reach_decide() {
        let pool = |name: &str, availability: &str, flags: &str| -> PoolReply {
            let pool = json!({
                "name": name, "algorithm": "random", "routed": !flags.contains('u'), "ready": true,
                "availability": availability, "holding": flags.contains('h'), "overdue": flags.contains('o'),
                "active_requests": 0, "requests_total": 0,
            });
            serde_json::from_value(pool).expect("a pool")
        };
        // Flags: unrouted, holding, overdue. Expected: the numbers of pools that are down, that fail, and that wait.
        let cases = [
            ("available", "", [0, 0, 0]),
            ("available", "h", [0, 0, 1]),
            ("unchecked", "", [0, 0, 1]),
            ("unchecked", "o", [0, 0, 1]),
            ("unchecked", "ho", [0, 0, 1]),
            ("unavailable", "o", [0, 0, 1]),
            ("failed", "", [0, 1, 0]),
            ("failed", "o", [1, 0, 0]),
            ("failed", "h", [0, 0, 1]),
            ("failed", "ho", [1, 0, 0]),
            ("empty", "", [1, 0, 0]),
            ("failed", "uo", [0, 0, 0]),
        ];
        for (availability, flags, expected) in cases {
            let pools = Pools::of(&[pool("web", availability, flags)]);
            let counts = [&pools.down, &pools.failing, &pools.waiting].map(Vec::len);
            assert_eq!(counts, expected, "{availability} {flags}");
            assert!(pools.is_empty() || pools.to_string().contains("pool web: "), "{pools}");
        }
    }
}
