//! Which route takes a request: exact host, then wildcard host, then any; then the longest path. Pure.

use std::collections::HashMap;

use std::sync::Arc;

use crate::config::{HostPattern, RouteConfig};
use crate::live::counters::{Histogram, PerWorker, Tally};

/// All routes, ready to be asked. Routes are known by their place in the configuration.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Paths>,
    /// By what follows the `*.`.
    wildcard: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// The routes of one host pattern, by path prefix.
#[derive(Debug, Default)]
struct Paths {
    routes: HashMap<Box<str>, usize>,
    /// The prefixes' lengths, longest first, so that only those are looked up that can be there.
    lengths: Vec<usize>,
    /// The route for `/`, which takes what no other does.
    root: Option<usize>,
}

impl RouteTable {
    /// A table of these routes, whose (host, path) are distinct.
    #[must_use]
    pub fn new(routes: &[RouteConfig]) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let paths = match &route.host {
                HostPattern::Any => &mut table.any,
                HostPattern::Exact(host) => table.exact.entry(host.as_str().into()).or_default(),
                HostPattern::Wildcard(domain) => table.wildcard.entry(domain.as_str().into()).or_default(),
            };
            paths.add(&route.path, index);
        }
        table
    }

    /// The place of the route for `host` (lower case, no port, no trailing dot) and `path` (normalised).
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.exact(host, path).or_else(|| self.wildcard(host, path)).or_else(|| self.any.find(path))
    }

    fn exact(&self, host: &str, path: &str) -> Option<usize> {
        if self.exact.is_empty() {
            return None;
        }
        self.exact.get(host)?.find(path)
    }

    /// The longest domain first: `*.b.example.com` before `*.example.com`.
    fn wildcard(&self, host: &str, path: &str) -> Option<usize> {
        if self.wildcard.is_empty() {
            return None;
        }
        host.match_indices('.')
            .filter(|(dot, _)| *dot > 0)
            .find_map(|(dot, _)| self.wildcard.get(&host[dot + 1..])?.find(path))
    }
}

impl Paths {
    fn add(&mut self, path: &str, index: usize) {
        if path == "/" {
            self.root = Some(index);
            return;
        }
        self.routes.insert(path.into(), index);
        if let Err(place) = self.lengths.binary_search_by(|length| path.len().cmp(length)) {
            self.lengths.insert(place, path.len());
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        let prefix = |length: &usize| {
            let whole_segments = matches!(path.as_bytes().get(*length), None | Some(b'/'));
            whole_segments.then(|| self.routes.get(path.get(..*length)?)).flatten()
        };
        self.lengths.iter().find_map(prefix).copied().or(self.root)
    }
}

/// What a route keeps through any number of generations.
#[derive(Debug)]
pub struct LiveRoute {
    /// Its name.
    pub name: Arc<str>,
    /// What each worker counts.
    pub counters: PerWorker<RouteCounters>,
}

/// What one worker counts of a route.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// Answers, by [`crate::live::method::key`] of method and status.
    pub codes: Tally<48>,
    /// From the request's head to the end of its answer.
    pub seconds: Histogram,
}

impl LiveRoute {
    /// A route that nothing has gone through yet.
    #[must_use]
    pub fn new(name: Arc<str>, workers: usize) -> Self {
        Self { name, counters: PerWorker::new(workers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    fn table(routes: &[(&str, &str)]) -> RouteTable {
        let mut file = String::from("listener = [{ address = \"127.0.0.1:1\" }]\n");
        file += "server = [{ name = \"a\", address = \"a:1\" }]\n";
        for (host, path) in routes {
            file += &format!("[[route]]\nhost = \"{host}\"\npath = \"{path}\"\npool = \"default\"\n");
        }
        let config = parse(&[SourceFile::new("lb.toml", file.as_str())], &|_| None).expect(&file);
        RouteTable::new(&config.routes)
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = [
            ("*", "/"),
            ("*", "/v1"),
            ("*.example.com", "/"),
            ("*.eu.example.com", "/"),
            ("api.example.com", "/v1"),
            ("api.example.com", "/v1/users"),
        ];
        let table = table(&routes);
        let cases = [
            ("other.org", "/", 0),
            ("other.org", "/v1/x", 1),
            ("other.org", "/v1x", 0),
            ("www.example.com", "/v1", 2),
            ("a.eu.example.com", "/", 3),
            ("eu.example.com", "/", 2),
            ("example.com", "/", 0),
            (".example.com", "/", 0),
            ("api.example.com", "/v1", 4),
            ("api.example.com", "/v1/", 4),
            ("api.example.com", "/v1/user", 4),
            ("api.example.com", "/v1/users", 5),
            ("api.example.com", "/v1/users/7", 5),
            ("api.example.com", "/v2", 2),
            ("", "/v1", 1),
        ];
        for (host, path, expected) in cases {
            assert_eq!(table.find(host, path), Some(expected), "{host}{path}");
        }
    }

    #[test]
    fn without_a_match_there_is_none() {
        let table = table(&[("a.org", "/x")]);
        for (host, path) in [("a.org", "/"), ("a.org", "/xy"), ("b.org", "/x"), ("", "")] {
            assert_eq!(table.find(host, path), None, "{host}{path}");
        }
    }

    #[test]
    fn a_prefix_never_cuts_a_character_in_two() {
        assert_eq!(table(&[("*", "/ab")]).find("h", "/é/x"), None);
    }
}
