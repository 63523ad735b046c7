//! The guards of `[reload]`, which reject a configuration that is valid but most likely a mistake.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::config::diff::common_ends;
use crate::config::problem::{Problem, Reason};
use crate::config::{Config, PoolConfig, ServerConfig, units};

/// Returns the reasons to reject `new` as an edit of `old`, or at start if there is no `old`.
///
/// `max_removed` limits edits, so `old`'s value applies: an edit cannot lift the guard that would reject it.
/// `allow_empty` limits what may run at all, so `new`'s value applies.
#[must_use]
pub fn guards(file: &Path, old: Option<&Config>, new: &Config) -> Vec<Problem> {
    let removed = old.into_iter().flat_map(|old| excessive_removals(old, new));
    let empty = empty_pools(new).filter(|_| !new.reload.allow_empty).map(|pool| {
        Reason::new(format!("pool `{}` has no enabled server", pool.name))
            .hint("enable or add one, or set `allow_empty = true` in [reload] if this is intended")
    });
    removed.chain(empty).map(|reason| Problem::of_file(file, reason)).collect()
}

/// The pools without an enabled server.
pub fn empty_pools(config: &Config) -> impl Iterator<Item = &PoolConfig> {
    let pools = config.pools.iter().map(Arc::as_ref);
    pools.filter(|pool| enabled(&pool.servers).next().is_none())
}

/// A reason for each pool that loses more of its enabled servers than `max_removed` allows.
fn excessive_removals(old: &Config, new: &Config) -> impl Iterator<Item = Reason> {
    let limit = old.reload.max_removed;
    old.pools.iter().filter_map(move |was| {
        let is = new.pool(&was.name).map_or(&[][..], |pool| &pool.servers);
        // Names are unique, so the common servers at both ends are not removed.
        let (first, last) = common_ends(&was.servers, is);
        let after: HashSet<&str> = enabled(&is[first..is.len() - last]).collect();
        let before = enabled(&was.servers).count();
        let lost = enabled(&was.servers[first..was.servers.len() - last]).filter(|name| !after.contains(name)).count();
        // In binary fractions, 29% of 100 is a little less than 29. With the tolerance, 29 may still be removed.
        #[expect(clippy::cast_precision_loss, reason = "counts of servers are exact")]
        let too_many = lost as f64 > limit * before as f64 + 1e-6;
        too_many.then(|| {
            let limit = units::format_percent(limit);
            Reason::new(format!(
                "this edit removes or disables {lost} of the {before} enabled servers of pool `{}`, more than {limit}",
                was.name
            ))
            .hint("remove fewer at a time, or first raise `max_removed` in [reload] in a separate edit")
        })
    })
}

/// The names of the enabled servers.
fn enabled(servers: &[ServerConfig]) -> impl Iterator<Item = &str> {
    servers.iter().filter(|server| server.enabled).map(|server| server.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

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
            let problems = guards(Path::new("lb.toml"), Some(&old), &new);
            assert_eq!(problems.len(), rejected, "{before} / {after}: {problems:?}");
            assert!(problems.iter().all(|problem| problem.hint.is_some()));
        }
    }

    #[test]
    fn the_first_configuration_needs_an_enabled_server_too() {
        let all: Vec<u32> = (0..10).collect();
        let file = Path::new("lb.toml");
        assert_eq!(guards(file, None, &config("", &[1], &[])), []);
        let problems = guards(file, None, &config("", &all, &[]));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("`default` has no enabled server"));
    }

    #[test]
    fn already_disabled_servers_do_not_count() {
        let old = config("max_removed = \"50%\"", &[0, 1, 2, 3, 4, 5, 6, 7], &[]);
        let new = config("", &[8], &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(guards(Path::new("lb.toml"), Some(&old), &new), []);
    }
}
