//! The guards of `[reload]`, which reject a configuration that is valid but most likely a mistake.

mod edge;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::file::subject::{Subject, locate};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::config::{Address, Config, HostPattern, PoolConfig, RouteConfig, ServerConfig, units};

/// Returns the reasons to reject `new`, which `files` were parsed to, as an edit of `old`, or at start if there is no `old`.
///
/// `max_removed` limits edits, so `old`'s value applies: an edit cannot lift the guard that would reject it.
/// `allow_empty` limits what may run at all, so `new`'s value applies.
#[must_use]
pub fn guards(files: &[SourceFile], old: Option<&Config>, new: &Config) -> Vec<Problem> {
    let removed = old.into_iter().flat_map(|old| excessive_removals(old, new));
    let empty = empty_pools(new).filter(|_| !new.reload.allow_empty).map(|pool| {
        let reason = Reason::new(format!("pool `{}` has no enabled server", pool.name))
            .hint("enable or add one, or set `allow_empty = true` in [reload] if this is intended");
        (Subject::Pool(&pool.name), reason)
    });
    removed.chain(empty).chain(edge::problems(new)).map(|(subject, reason)| locate(files, subject, reason)).collect()
}

/// The pools without an enabled server.
pub fn empty_pools(config: &Config) -> impl Iterator<Item = &PoolConfig> {
    let pools = config.pools.iter().map(Arc::as_ref);
    pools.filter(|pool| !pool.servers.iter().any(|server| server.enabled))
}

/// A reason for each pool that a route reaches and of whose enabled servers more than `max_removed` allows no longer get
/// traffic. A server is its address here: with another name, or in another pool for the same requests, it still gets it.
fn excessive_removals<'a>(old: &'a Config, new: &Config) -> Vec<(Subject<'a>, Reason)> {
    let limit = old.reload.max_removed;
    if limit >= 1.0 {
        // Nobody can lose more than all.
        return Vec::new();
    }
    let edit = RouteEdit::new(old, new);
    let reason = |was: &'a Arc<PoolConfig>| {
        let lost = lost(&was.servers, &edit.pools_instead(was)?);
        let before = was.servers.iter().filter(|server| server.enabled).count();
        // In binary fractions, 29% of 100 is a little less than 29. With the tolerance, 29 may still be removed.
        #[expect(clippy::cast_precision_loss, reason = "counts of servers are exact")]
        let (lost_share, allowed) = (lost as f64, limit * before as f64 + 1e-6);
        (lost_share > allowed).then(|| {
            let percent = units::format_percent(limit);
            let reason = Reason::new(format!(
                "this edit removes or disables {lost} of the {before} enabled servers of pool `{}`, more than {percent}",
                was.name
            ))
            .hint(removal_hint(limit, allowed));
            (Subject::MaxRemoved(&was.name), reason)
        })
    };
    old.pools.iter().filter_map(reason).collect()
}

/// Says how to make the edit all the same. Of a small pool, the limit may not even let one server go.
fn removal_hint(limit: f64, allowed: f64) -> String {
    const RAISE: &str = "first raise `max_removed` in [reload] in a separate edit";
    if allowed >= 1.0 {
        format!("remove fewer at a time, or {RAISE}")
    } else if limit > 0.0 {
        format!("{RAISE}, or add servers in one: of {:.0} enabled ones, one may leave", (1.0 / limit - 1e-6).ceil())
    } else {
        RAISE.to_owned()
    }
}

/// The routes before and after an edit.
struct RouteEdit<'a> {
    new: &'a Config,
    /// The routes after it, by host and path.
    after: HashMap<(&'a HostPattern, &'a str), &'a RouteConfig>,
    /// The routes that the edit adds.
    added: Vec<&'a RouteConfig>,
    /// The routes before, by pool.
    by_pool: HashMap<&'a str, Vec<&'a RouteConfig>>,
}

impl<'a> RouteEdit<'a> {
    fn new(old: &'a Config, new: &'a Config) -> Self {
        let by_match = |config: &'a Config| -> HashMap<_, _> {
            config.routes.iter().map(|route| ((&route.host, &*route.path), route)).collect()
        };
        let (before, after) = (by_match(old), by_match(new));
        let is_added = |route: &&RouteConfig| !before.contains_key(&(&route.host, &*route.path));
        let added = new.routes.iter().filter(is_added).collect();
        let mut by_pool: HashMap<_, Vec<_>> = HashMap::new();
        for route in &old.routes {
            by_pool.entry(route.pool.name()).or_default().push(route);
        }
        Self { new, after, added, by_pool }
    }

    /// The pools that get the requests of `was` after the edit: those of its routes, and of routes that take over from
    /// them. `None` if no route leads to it before, or if none of its servers can lose traffic.
    fn pools_instead(&self, was: &PoolConfig) -> Option<Vec<&'a PoolConfig>> {
        let routes = self.by_pool.get(&*was.name)?;
        let mut found = HashSet::new();
        for route in routes {
            match self.after.get(&(&route.host, &*route.path)) {
                Some(after) => found.extend([after.pool.index()]),
                // Its requests go to less specific ones.
                None => found.extend(
                    self.new.routes.iter().filter(|after| covers(after, route)).map(|after| after.pool.index()),
                ),
            }
            let related = |after: &&&RouteConfig| covers(route, after) || covers(after, route);
            found.extend(self.added.iter().filter(related).map(|after| after.pool.index()));
        }
        // Its servers still get traffic if it has other routes now.
        let itself = self.new.routes.iter().find(|after| after.pool.name() == was.name);
        found.extend(itself.map(|after| after.pool.index()));
        let pools: Vec<_> = found.into_iter().filter_map(|index| self.new.pools.get(index)).map(Arc::as_ref).collect();
        (!pools.contains(&was)).then_some(pools)
    }
}

/// Whether every request of the second route matches the first one.
fn covers(one: &RouteConfig, other: &RouteConfig) -> bool {
    let within = |name: &str, domain: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let host = match (&one.host, &other.host) {
        (HostPattern::Any, _) => true,
        (HostPattern::Wildcard(domain), HostPattern::Exact(name)) => within(name, domain),
        (HostPattern::Wildcard(domain), HostPattern::Wildcard(name)) => name == domain || within(name, domain),
        (one, other) => one == other,
    };
    let rest = other.path.strip_prefix(one.path.trim_end_matches('/'));
    host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The number of enabled servers of `was` whose address gets no traffic from `now` any more; one that had a weight also
/// loses its traffic with weight 0. An address that has several servers counts as often.
fn lost(was: &[ServerConfig], now: &[&PoolConfig]) -> usize {
    // The servers at each address that get new clients, and all of them.
    let mut left: HashMap<&Address, [usize; 2]> = HashMap::new();
    for server in now.iter().flat_map(|pool| &pool.servers).filter(|server| server.enabled) {
        let [with_weight, all] = left.entry(&server.address).or_default();
        *with_weight += usize::from(server.weight > 0);
        *all += 1;
    }
    let mut is_lost = |server: &ServerConfig| {
        let Some([with_weight, all]) = left.get_mut(&server.address) else { return true };
        let is_left = *all > 0 && (server.weight == 0 || *with_weight > 0);
        if is_left {
            *with_weight = with_weight.saturating_sub(usize::from(server.weight > 0));
            *all -= 1;
        }
        !is_left
    };
    // Those with a weight first, because they are choosier.
    let (with_weight, without): (Vec<_>, Vec<_>) =
        was.iter().filter(|server| server.enabled).partition(|server| server.weight > 0);
    with_weight.into_iter().chain(without).filter(|server| is_lost(server)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;

    fn files() -> [SourceFile; 1] {
        [SourceFile::new("lb.toml", "")]
    }

    /// Ten servers, of which some are disabled and some removed.
    fn config(reload: &str, disabled: &[u32], removed: &[u32]) -> Config {
        let mut text = format!("[[listener]]\naddress = \"127.0.0.1:1\"\n[reload]\n{reload}\n");
        for number in (0..10).filter(|number| !removed.contains(number)) {
            let enabled = !disabled.contains(&number);
            text += &format!("[[server]]\nname = \"s{number}\"\naddress = \"a:1\"\nenabled = {enabled}\n");
        }
        parse(&[SourceFile::new("lb.toml", text.as_str())], &|_| None).expect(&text)
    }

    #[test]
    fn an_edit_may_remove_a_limited_share_of_servers() {
        let all: Vec<u32> = (0..10).collect();
        for (before, after, disabled, removed, rejected) in [
            ("", "", &[][..], &[][..], 0),
            ("", "", &[0, 1, 2][..], &[3, 4, 5, 6, 7, 8][..], 0),
            ("max_removed = \"50%\"", "", &[0, 1][..], &[2, 3, 4][..], 0),
            ("max_removed = \"50%\"", "", &[0, 1, 2][..], &[3, 4, 5][..], 1),
            ("max_removed = \"50%\"", "max_removed = \"100%\"", &[0, 1, 2][..], &[3, 4, 5][..], 1),
            ("", "max_removed = \"0%\"", &[0, 1, 2][..], &[3, 4, 5][..], 0),
            ("max_removed = \"0%\"", "", &[0][..], &[][..], 1),
            ("max_removed = \"30%\"", "", &[][..], &[1, 2, 3][..], 0),
            ("", "", &all[..], &[][..], 1),
            ("", "allow_empty = true", &all[..], &[][..], 0),
            ("allow_empty = true", "", &all[..], &[][..], 1),
            ("", "allow_empty = true", &[][..], &all[..], 0),
        ] {
            let (old, new) = (config(before, &[], &[]), config(after, disabled, removed));
            let problems = guards(&files(), Some(&old), &new);
            assert_eq!(problems.len(), rejected, "{before} / {after}: {problems:?}");
            assert!(problems.iter().all(|problem| problem.hint.is_some()));
        }
    }

    /// Pools as in `p: a=1 b=2:0`, and routes as in `/path > p`.
    fn gateway(limit: &str, parts: &str) -> Config {
        let mut text = format!("[[listener]]\naddress = \"127.0.0.1:1\"\n[reload]\nmax_removed = \"{limit}\"\n");
        for part in parts.split(" | ") {
            if let Some((path, pool)) = part.split_once(" > ") {
                text += &format!("[[route]]\npath = \"{path}\"\npool = \"{pool}\"\n");
                continue;
            }
            let (pool, servers) = part.split_once(": ").expect(part);
            for server in servers.split(' ') {
                let (name, address) = server.split_once('=').expect(server);
                let (port, weight) = address.split_once(':').unwrap_or((address, "1"));
                text +=
                    &format!("[[pool.{pool}.server]]\nname = \"{name}\"\naddress = \"h:{port}\"\nweight = {weight}\n");
            }
        }
        parse(&[SourceFile::new("lb.toml", text.as_str())], &|_| None).expect(&text)
    }

    #[test]
    fn a_removal_is_a_loss_of_traffic() {
        let two = "p: a=1 b=2 | / > p";
        let two_routes = "p: a=1 | q: b=2 | / > p | /q > q";
        let cases = [
            ("same", two, two, None),
            ("other names", two, "p: c=1 d=2 | / > p", None),
            ("swapped names", two, "p: a=2 b=1 | / > p", None),
            ("all at other addresses", two, "p: a=8 b=9 | / > p", Some("2 of the 2")),
            ("one at another address", two, "p: a=1 b=9 | / > p", Some("1 of the 2")),
            ("pool of one replaced", "p: a=1 | / > p", "p: a=9 | / > p", Some("1 of the 1")),
            ("no route", "p: a=1 | q: b=2 | / > p", "p: a=1 | / > p", None),
            ("pool renamed", two, "q: a=1 b=2 | / > q", None),
            ("pool renamed, one lost", two, "q: a=1 | / > q", Some("1 of the 2")),
            ("pool split", two, "q: a=1 | r: b=2 | / > q | /r > r", None),
            ("pools merged", two_routes, "r: a=1 b=2 | / > r", None),
            ("route to another pool", "p: a=1 | q: b=2 | / > p", "p: a=1 | q: b=2 | / > q", Some("1 of the 1")),
            ("route gone", two_routes, "p: a=1 | q: b=2 | / > p", Some("1 of the 1")),
            ("route moved", "p: a=1 | / > p", "p: a=1 | /p > p", None),
            (
                "elsewhere for other requests",
                "p: a=1 b=2 | q: a=1 c=3 | /p > p | /q > q",
                "p: b=2 | q: a=1 c=3 | /p > p | /q > q",
                Some("1 of the 2"),
            ),
            ("weight 0", two, "p: a=1:0 b=2 | / > p", Some("1 of the 2")),
            ("weight 0 before", "p: a=1:0 b=2 | / > p", "p: a=1:0 b=2:5 | / > p", None),
            ("weight 0 removed", "p: a=1:0 b=2 | / > p", "p: b=2 | / > p", Some("1 of the 2")),
            ("one address twice", "p: a=1 b=1 | / > p", "p: a=1 | / > p", Some("1 of the 2")),
        ];
        for (name, before, after, expected) in cases {
            let problems = guards(&files(), Some(&gateway("0%", before)), &gateway("0%", after));
            let messages: Vec<&str> = problems.iter().map(|problem| &*problem.message).collect();
            assert_eq!(messages.len(), usize::from(expected.is_some()), "{name}: {messages:?}");
            assert!(expected.is_none_or(|share| messages[0].contains(share)), "{name}: {messages:?}");
        }
    }

    #[test]
    fn the_hint_of_a_removal_can_be_followed() {
        let cases = [
            (
                "50%",
                "p: a=1 | / > p",
                "p: a=9 | / > p",
                "first raise `max_removed`",
                "of 2 enabled ones, one may leave",
            ),
            (
                "30%",
                "p: a=1 | / > p",
                "p: a=9 | / > p",
                "first raise `max_removed`",
                "of 4 enabled ones, one may leave",
            ),
            ("50%", "p: a=1 b=2 | / > p", "p: a=8 b=9 | / > p", "remove fewer at a time", "in a separate edit"),
            ("0%", "p: a=1 b=2 | / > p", "p: a=1 | / > p", "first raise `max_removed`", "in a separate edit"),
        ];
        for (limit, before, after, start, end) in cases {
            let problems = guards(&files(), Some(&gateway(limit, before)), &gateway(limit, after));
            let hint = problems[0].hint.clone().unwrap_or_default();
            assert!(hint.starts_with(start) && hint.ends_with(end), "{limit} {before}: {hint}");
        }
    }

    #[test]
    fn the_first_configuration_needs_an_enabled_server_too() {
        let all: Vec<u32> = (0..10).collect();
        let file = &files();
        assert_eq!(guards(file, None, &config("", &[1], &[])), []);
        let problems = guards(file, None, &config("", &all, &[]));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("`default` has no enabled server"));
    }

    #[test]
    fn already_disabled_servers_do_not_count() {
        let old = config("max_removed = \"50%\"", &[0, 1, 2, 3, 4, 5, 6, 7], &[]);
        let new = config("", &[8], &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(guards(&files(), Some(&old), &new), []);
    }
}
