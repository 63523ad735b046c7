//! Matches requests to routes: exact host, then wildcard host, then any host; then the longest path. Pure.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::config::{HostPattern, RouteConfig};
use crate::live::counters::{Counter, Histogram, PerWorker, Tally};

/// An index of the routes of a configuration. It returns their positions in [`Config::routes`](crate::config::Config).
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Paths>,
    /// By the domain after `*.`.
    wildcard: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// The routes of one host pattern, by path prefix.
#[derive(Debug, Default)]
struct Paths {
    routes: HashMap<Box<str>, usize>,
    /// The lengths of the prefixes, longest first: only prefixes of these lengths are looked up.
    lengths: Vec<usize>,
    /// The route for `/`, which matches every path.
    root: Option<usize>,
}

impl RouteTable {
    /// Builds the table. The (host, path) of the routes must be distinct.
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

    /// The position of the route for `host` (lower case, no port, no trailing dot) and `path` (normalised).
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.exact(host, path).or_else(|| self.wildcard(host, path)).or_else(|| self.any.find(path))
    }

    /// The position of the route that gets the requests of `route`, which may be one of another configuration: the same
    /// one, or else the most specific one that covers it.
    #[must_use]
    pub fn covering(&self, route: &RouteConfig) -> Option<usize> {
        // A pattern finds itself, because `*` is not part of any host.
        let host = match &route.host {
            HostPattern::Any => "",
            HostPattern::Exact(host) => host,
            HostPattern::Wildcard(domain) => &format!("*.{domain}"),
        };
        self.find(host, &route.path)
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
        if let Err(position) = self.lengths.binary_search_by(|length| path.len().cmp(length)) {
            self.lengths.insert(position, path.len());
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

/// Finds the route before an edit whose requests one after it gets.
#[derive(Debug)]
pub struct EarlierRoutes<'a> {
    before: &'a [RouteConfig],
    table: &'a RouteTable,
    after: &'a [RouteConfig],
    /// By the position of a route after the edit, if one is wider than those before.
    narrower: Option<HashMap<usize, Option<&'a RouteConfig>>>,
}

impl<'a> EarlierRoutes<'a> {
    /// For the edit from `before`, of which `table` is, to `after`.
    #[must_use]
    pub fn new(before: &'a [RouteConfig], table: &'a RouteTable, after: &'a [RouteConfig]) -> Self {
        Self { before, table, after, narrower: None }
    }

    /// The earlier route of `route`, which is at `place` after the edit: the one that covers it, or else a narrower one that
    /// it takes over from, as `/` does from `/v1`. `None` if there are several of those and their pools differ: then the
    /// servers of one would get the requests of another.
    pub fn of(&mut self, place: usize, route: &RouteConfig) -> Option<&'a RouteConfig> {
        if let Some(before) = self.table.covering(route) {
            return self.before.get(before);
        }
        let narrower = self.narrower.get_or_insert_with(|| narrower_routes(self.before, self.after));
        narrower.get(&place).copied().flatten()
    }
}

fn narrower_routes<'a>(before: &'a [RouteConfig], after: &[RouteConfig]) -> HashMap<usize, Option<&'a RouteConfig>> {
    let table = RouteTable::new(after);
    let mut found: HashMap<usize, Option<&RouteConfig>> = HashMap::new();
    for route in before {
        let Some(place) = table.covering(route) else { continue };
        let known = found.entry(place).or_insert(Some(route));
        *known = known.filter(|known| known.pool.name() == route.pool.name());
    }
    found
}

/// The part of a route that outlives a generation. Lives as long as a configuration has a route of this name.
#[derive(Debug)]
pub struct LiveRoute {
    pub name: Arc<str>,
    pub counters: PerWorker<RouteCounters>,
}

/// One worker's counters of a route.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// Responses by method and status; see [`crate::live::method::key`].
    pub codes: Tally<48>,
    /// From the request's head to the end of the response.
    pub seconds: Histogram,
    /// Created by the first gRPC call.
    grpc: OnceLock<Box<GrpcCounters>>,
}

/// gRPC calls that ended with a status, by status. Its clients take any other status for UNKNOWN.
#[derive(Debug, Default)]
pub struct GrpcCounters([Counter; GRPC_STATUSES]);

/// The number of statuses of gRPC, which begin at 0.
const GRPC_STATUSES: usize = 17;
/// The status UNKNOWN.
const GRPC_UNKNOWN: usize = 2;

impl RouteCounters {
    /// Counts a gRPC call by its status.
    pub fn count_call(&self, status: u32) {
        let index = usize::try_from(status).ok().filter(|index| *index < GRPC_STATUSES).unwrap_or(GRPC_UNKNOWN);
        self.grpc.get_or_init(Box::default).0[index].add(1);
    }

    /// The count of gRPC calls with each status; `None` before the first call.
    pub fn calls(&self) -> Option<[u64; GRPC_STATUSES]> {
        Some(self.grpc.get()?.0.each_ref().map(Counter::get))
    }
}

impl LiveRoute {
    #[must_use]
    pub fn new(name: Arc<str>, workers: usize) -> Self {
        Self { name, counters: PerWorker::new(workers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    fn table(routes: &[(&str, &str)]) -> RouteTable {
        RouteTable::new(&parsed(routes).routes)
    }

    fn parsed(routes: &[(&str, &str)]) -> Config {
        let mut file = String::from("listener = [{ address = \"127.0.0.1:1\" }]\n");
        file += "server = [{ name = \"a\", address = \"a:1\" }]\n";
        for (host, path) in routes {
            file += &format!("[[route]]\nhost = \"{host}\"\npath = \"{path}\"\npool = \"default\"\n");
        }
        parse(&[SourceFile::new("lb.toml", file.as_str())], &|_| None).expect(&file)
    }

    #[test]
    fn calls_are_counted_by_the_statuses_that_clients_know() {
        let counters = RouteCounters::default();
        assert_eq!(counters.calls(), None);
        [0, 0, 14, 16, 17, u32::MAX].into_iter().for_each(|status| counters.count_call(status));
        let mut expected = [0; GRPC_STATUSES];
        (expected[0], expected[2], expected[14], expected[16]) = (2, 2, 1, 1);
        assert_eq!(counters.calls(), Some(expected));
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
    fn an_unmatched_request_has_no_route() {
        let table = table(&[("a.org", "/x")]);
        for (host, path) in [("a.org", "/"), ("a.org", "/xy"), ("b.org", "/x"), ("", "")] {
            assert_eq!(table.find(host, path), None, "{host}{path}");
        }
    }

    #[test]
    fn the_route_that_covers_another_is_the_most_specific_one() {
        let old = [("*", "/"), ("*", "/v1"), ("*.example.com", "/"), ("api.example.com", "/v1")];
        let cases = [
            (("*", "/"), Some(0)),
            (("*", "/v1/users"), Some(1)),
            (("other.org", "/v2"), Some(0)),
            (("*.example.com", "/v1"), Some(2)),
            (("*.eu.example.com", "/"), Some(2)),
            (("api.example.com", "/"), Some(2)),
            (("api.example.com", "/v1/users"), Some(3)),
        ];
        for ((host, path), expected) in cases {
            let config = parsed(&[(host, path)]);
            assert_eq!(table(&old).covering(&config.routes[0]), expected, "{host}{path}");
        }
        assert_eq!(table(&[("a.org", "/x")]).covering(&parsed(&[("a.org", "/")]).routes[0]), None);
    }

    #[test]
    fn a_route_that_no_earlier_one_covers_may_take_over_from_narrower_ones() {
        let pools = "pool = { a = { server = [{ name = \"a\", address = \"a:1\" }] }, b = { server = [{ name = \"b\", \
                     address = \"b:1\" }] } }\n";
        // Each route is its host, path and pool.
        let routes = |routes: &str| {
            let mut file = format!("listener = [{{ address = \"127.0.0.1:1\" }}]\n{pools}");
            for route in routes.split(' ') {
                let (place, pool) = route.split_once('>').expect(route);
                let (host, path) = place.split_at(place.find('/').expect(route));
                file += &format!("[[route]]\nhost = \"{host}\"\npath = \"{path}\"\npool = \"{pool}\"\n");
            }
            parse(&[SourceFile::new("lb.toml", file.as_str())], &|_| None).expect(&file).routes
        };
        // After the edit, the first route is the one to find an earlier one for.
        let cases = [
            ("*/>a", "*/>b", Some("/")),
            ("*/v1>a", "*/>b", Some("/v1")),
            ("*/v1>a */v2>a", "*/>b", Some("/v1")),
            ("*/v1>a */v2>b", "*/>b", None),
            ("*/v1>a */v2>b", "*/>b */v1>a", Some("/v2")),
            ("*/v1>a", "*/>b */v1>a", None),
            ("x.org/>a", "*.org/>b", Some("/")),
            ("x.org/v1>a", "x.org/v2>b", None),
            ("x.org/v1>a", "y.org/>b", None),
        ];
        for (before, after, expected) in cases {
            let (before, after) = (routes(before), routes(after));
            let table = RouteTable::new(&before);
            let found = EarlierRoutes::new(&before, &table, &after).of(0, &after[0]);
            assert_eq!(found.map(|route| route.path.as_str()), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_prefix_never_splits_a_character() {
        assert_eq!(table(&[("*", "/ab")]).find("h", "/é/x"), None);
    }
}
