//! Whether a pool's own servers can serve, and how its routes use it. Pure.

use serde::{Deserialize, Serialize};

use crate::config::HealthKind;
use crate::live::pool::{Member, Pool};
use crate::live::snapshot::{Hold, Snapshot};

/// Whether a pool's own servers, as opposed to old ones that are held, can serve new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// A server is up, and every first check has finished.
    Available,
    /// The first check of a server has not finished.
    Unchecked,
    /// No server is up, but the last check of one passed, or a name is being resolved.
    Unavailable,
    /// The last check of every server failed.
    Failed,
    /// No server may get new requests: each one is disabled or has weight 0.
    Empty,
}

/// How the routes use a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Whether a route leads to it.
    pub routed: bool,
    /// The hold of its routes that is overdue, or else the first one.
    pub hold: Option<Hold>,
}

/// The facts about a server that decide.
#[derive(Debug, Clone, Copy)]
struct ServerFacts {
    serves: bool,
    resolved: bool,
    /// The result of the last check; `None` before the first one, and if there are no checks.
    passed: Option<bool>,
}

impl Availability {
    /// The availability by the health that the pool's snapshot shows.
    #[must_use]
    pub fn of(pool: &Pool) -> Self {
        let facts = |member: &Member| ServerFacts {
            serves: member.state.serves(),
            resolved: member.server.target().is_some(),
            passed: member.server.last_check().map(|check| check.error.is_none()),
        };
        let servers: Vec<_> = pool.members.iter().filter(|member| member.is_candidate()).map(facts).collect();
        decide(&servers, pool.config.health.kind != HealthKind::None)
    }
}

fn decide(servers: &[ServerFacts], checked: bool) -> Availability {
    let serves = |server: &ServerFacts| server.serves && (checked || server.resolved);
    if servers.is_empty() {
        Availability::Empty
    } else if checked && servers.iter().any(|server| server.passed.is_none()) {
        Availability::Unchecked
    } else if servers.iter().any(serves) {
        Availability::Available
    } else if checked && servers.iter().all(|server| server.passed == Some(false)) {
        Availability::Failed
    } else {
        Availability::Unavailable
    }
}

impl Snapshot {
    /// How the routes use each of the configured pools, in their order.
    #[must_use]
    pub fn pool_uses(&self) -> Vec<PoolUse> {
        let mut uses = vec![PoolUse::default(); self.config.pools.len()];
        for route in self.routes.iter() {
            let Some(one) = uses.get_mut(route.pool) else { continue };
            one.routed = true;
            let is_worse = |hold: &Hold| one.hold.is_none_or(|known| hold.overdue && !known.overdue);
            if let Some(hold) = route.hold.filter(is_worse) {
                one.hold = Some(hold);
            }
        }
        uses
    }

    /// Whether old servers serve some route.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.routes.iter().any(|route| route.hold.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn availability_follows_from_the_servers_that_may_get_requests() {
        use Availability::{Available, Empty, Failed, Unavailable, Unchecked};
        // `+` is up, `-` is down; then `p` or `f` for a check that passed or failed, `?` for none, `!` for an
        // unresolved name.
        let cases = [
            ("", true, Empty),
            ("", false, Empty),
            ("+p", true, Available),
            ("+p -f", true, Available),
            ("+f", true, Available),
            ("+p -?", true, Unchecked),
            ("+?", true, Unchecked),
            ("-? -f", true, Unchecked),
            ("-f", true, Failed),
            ("-f -f", true, Failed),
            ("-f -p", true, Unavailable),
            ("+?", false, Available),
            ("+!", false, Unavailable),
            ("+! +?", false, Available),
        ];
        for (servers, checked, expected) in cases {
            let fact = |server: &str| ServerFacts {
                serves: server.starts_with('+'),
                resolved: !server.ends_with('!'),
                passed: match server.as_bytes()[1] {
                    b'p' => Some(true),
                    b'f' => Some(false),
                    _ => None,
                },
            };
            let facts: Vec<_> = servers.split_whitespace().map(fact).collect();
            assert_eq!(decide(&facts, checked), expected, "{servers:?} checked: {checked}");
        }
    }
}
