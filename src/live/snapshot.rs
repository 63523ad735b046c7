//! The snapshot: one generation together with the health of its servers, ready for the request path.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::live::acme::AcmeState;
use crate::live::pool::Pool;
use crate::live::route::{LiveRoute, RouteTable};
use crate::live::tls::TlsState;

/// With more servers and routes than this, a snapshot counts as large.
const LARGE: usize = 500;

/// Everything that a request needs. Immutable: an edit or a health change builds a new one, which shares all unchanged
/// parts. Lives until no request uses it any more.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The number of the accepted configuration, from 1.
    pub generation: u64,
    /// The configuration's SHA-256, in hexadecimal.
    pub hash: Arc<str>,
    /// The files of the configuration, the main one first, then those that it refers to.
    pub files: Arc<[FileVersion]>,
    pub applied_at: SystemTime,
    pub config: Arc<Config>,
    /// The pools of the configuration, in its order, then removed pools that still have open requests.
    pub pools: Vec<Arc<Pool>>,
    /// The old servers that serve held routes, by the pool that they come from. All of them are in `pools` too.
    pub held: Vec<Arc<Pool>>,
    /// In the configuration's order.
    pub routes: Arc<[Route]>,
    /// Counts the requests that no route matches.
    pub unrouted: Arc<LiveRoute>,
    /// Finds a request's route.
    pub table: Arc<RouteTable>,
    /// The challenges; `None` if no certificate comes from ACME.
    pub acme: Option<Arc<AcmeState>>,
    /// `None` if no listener uses TLS.
    pub tls: Option<Arc<TlsState>>,
    /// Whether servers of any pool get PROXY headers, which have the address that a client has connected to.
    pub sends_proxy_headers: bool,
    /// Whether any listener redirects everything; its rules say where to.
    pub redirects: bool,
}

/// A file of a configuration, identified by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion {
    /// The path as given by the user, or as found by a glob.
    pub path: PathBuf,
    /// The SHA-256, in hexadecimal.
    pub hash: Arc<str>,
}

/// A route in one snapshot.
#[derive(Debug, Clone)]
pub struct Route {
    /// The index of its pool in [`Snapshot::pools`].
    pub pool: usize,
    /// The index of the pool that serves it, for [`Snapshot::serving`]: its own, or during a hold the old servers.
    pub serving: usize,
    /// The hold, if there is one.
    pub hold: Option<Hold>,
    /// Its counters, which outlive the snapshot.
    pub live: Arc<LiveRoute>,
}

/// A hold of a route: its old servers keep serving until one of its pool is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The start, or the last edit that replaced the new servers.
    pub since: SystemTime,
    /// Whether it lasts longer than `reload.hold`.
    pub overdue: bool,
}

impl Snapshot {
    /// The indices of the route and of the pool that serves it, for [`Snapshot::serving`], for `host` (lower case, no port, no trailing dot) and `path` (normalised).
    #[inline]
    #[must_use]
    pub fn route(&self, host: &str, path: &str) -> Option<(usize, usize)> {
        let route = self.table.find(host, path)?;
        Some((route, self.routes[route].serving))
    }

    /// The pool at an index of [`Route::serving`]: those of `pools`, then those of `held`.
    ///
    /// # Panics
    /// If the index is of another snapshot.
    #[inline]
    #[must_use]
    pub fn serving(&self, index: usize) -> &Arc<Pool> {
        self.pools.get(index).unwrap_or_else(|| &self.held[index - self.pools.len()])
    }

    /// Whether it has so many servers and routes that work over all of them should not run on the control plane's thread.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.routes.len() + self.pools.iter().map(|pool| pool.members.len()).sum::<usize>() > LARGE
    }

    /// The pools of the configuration that have no eligible server, and of which no old ones serve either.
    pub fn unready(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let configured = self.pools.iter().enumerate().take(self.config.pools.len());
        configured.filter(|(index, _)| !self.is_ready(*index)).map(|(_, pool)| pool)
    }

    /// Those of [`Snapshot::unready`] that a route reaches, and whether another one that a route reaches is ready.
    #[must_use]
    pub fn routed_unready(&self) -> (Vec<&Arc<Pool>>, bool) {
        let mut routed: Vec<usize> = self.routes.iter().map(|route| route.pool).collect();
        routed.sort_unstable();
        routed.dedup();
        let (ready, unready): (Vec<usize>, Vec<usize>) = routed.into_iter().partition(|index| self.is_ready(*index));
        (unready.into_iter().filter_map(|index| self.pools.get(index)).collect(), !ready.is_empty())
    }

    /// Whether the pool at `index` of `pools` has an eligible server, or old servers serve all of its routes.
    #[must_use]
    pub fn is_ready(&self, index: usize) -> bool {
        if self.pools[index].is_ready() || self.held.is_empty() {
            return self.pools[index].is_ready();
        }
        let mut routes = self.routes.iter().filter(|route| route.pool == index).peekable();
        routes.peek().is_some() && routes.all(|route| self.serving(route.serving).is_ready())
    }
}
