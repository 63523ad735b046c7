//! The warnings of `/api/config`, `lb status` and the dashboard: what needs attention, one sentence each.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::config::notes::{shared_addresses, unrouted, unrouted_pools, unverified, unverified_pools};
use crate::config::units::format_duration;
use crate::live::acme::AcmeCertificate;
use crate::live::pool::Pool;
use crate::live::server::Server;
use crate::live::snapshot::{Route, Snapshot};
use crate::live::state::State;
use crate::live::tls;

/// The warnings of now: edits that may go unnoticed, certificates that expire or that ACME has not issued, holds that take too
/// long, checks that may not suit their servers, servers with one address, pools without a route, servers that are not
/// verified, and a restart that is
/// needed.
pub(super) fn warnings(state: &State, snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = state.watch_status.warnings().to_vec();
    warnings.extend(tls::warnings(&snapshot.config, snapshot.tls.as_deref(), SystemTime::now()));
    warnings.extend(overdue_holds(snapshot));
    warnings.extend(snapshot.pools.iter().flat_map(|pool| unsuitable_checks(pool)));
    warnings.extend(snapshot.config.pools.iter().flat_map(|pool| shared_addresses(pool)));
    warnings.extend(unrouted_pools(&snapshot.config).map(unrouted));
    warnings.extend(acme(snapshot));
    warnings.extend(unverified_pools(&snapshot.config).map(unverified));
    warnings.extend(restart(snapshot.unrouted.counters.workers(), snapshot.config.proxy.worker_count()));
    warnings
}

/// A warning for each pool that old servers have replaced for longer than `reload.hold`.
fn overdue_holds(snapshot: &Snapshot) -> Vec<String> {
    let limit = format_duration(snapshot.config.reload.hold);
    let overdue = snapshot.routes.iter().filter(|route| route.hold.is_some_and(|hold| hold.overdue));
    let by_pool: BTreeMap<usize, &Route> = overdue.map(|route| (route.pool, route)).collect();
    let warning = |(index, route): (usize, &Route)| {
        let name = &*snapshot.pools[index].live.name;
        let old = match route.serving == route.pool {
            true => "none of the old ones is up either".to_owned(),
            false => {
                let from = &*snapshot.serving(route.serving).live.name;
                let of = if from == name { String::new() } else { format!(" of pool `{from}`") };
                format!("the old ones{of} keep serving")
            }
        };
        format!(
            "no server of pool `{name}` has passed a check within `reload.hold` ({limit}); {old}. Correct the edit or the \
             servers, or undo the edit"
        )
    };
    by_pool.into_iter().map(warning).collect()
}

/// A warning for each hint about the checks of a pool's servers, with the first server that it is about.
fn unsuitable_checks(pool: &Pool) -> Vec<String> {
    let mut servers: BTreeMap<String, (&Server, usize)> = BTreeMap::new();
    for server in pool.members.iter().map(|member| &*member.server).filter(|server| !server.is_leaving()) {
        let Some(check) = server.last_check().filter(|check| check.hint.is_some()) else { continue };
        let words: Vec<_> = check.error.iter().chain(&check.hint).map(String::as_str).collect();
        servers.entry(words.join("; ")).or_insert((server, 0)).1 += 1;
    }
    let warning = |(words, (server, count)): (String, (&Server, usize))| match count {
        1 => format!("{}: {words}", server.key),
        _ => format!("{} and {} more of its pool: {words}", server.key, count - 1),
    };
    servers.into_iter().map(warning).collect()
}

/// A warning for each certificate that ACME has not issued, or could not renew.
fn acme(snapshot: &Snapshot) -> Vec<String> {
    let certificates = snapshot.acme.as_ref().map(|acme| acme.certificates()).unwrap_or_default();
    let warning = |certificate: &AcmeCertificate| {
        let name = certificate.name();
        let state = match (certificate.not_after, &certificate.error) {
            (Some(_), None) => return None,
            (Some(end), Some(_)) => {
                format!(
                    "certificate {name}, which ends at {}, could not be renewed",
                    humantime::format_rfc3339_seconds(end)
                )
            }
            (None, _) => format!("certificate {name} has not been issued yet, so TLS does not know its names"),
        };
        let error = certificate.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let next = certificate.next_order.filter(|_| certificate.error.is_some());
        let next = next.map(|at| format!("; the next attempt is at {}", humantime::format_rfc3339_seconds(at)));
        Some(format!("{state}{error}{}", next.unwrap_or_default()))
    };
    certificates.iter().filter_map(warning).collect()
}

fn restart(running: usize, configured: usize) -> Option<String> {
    (running != configured).then(|| {
        format!(
            "`proxy.workers` asks for {configured}, but {running} run: the change takes effect when `lb` is restarted"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_needed_while_the_numbers_of_workers_differ() {
        assert_eq!(restart(2, 2), None);
        let warning = restart(2, 4).expect("a warning");
        assert!(warning.contains("asks for 4, but 2 run"), "{warning}");
    }
}
