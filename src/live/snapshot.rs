//! The snapshot: one generation together with the health of its servers, ready for the request path.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::live::pool::Pool;
use crate::live::route::{LiveRoute, RouteTable};

/// With more servers than this, a snapshot counts as large.
const LARGE: usize = 500;

/// Everything that a request needs. Immutable: an edit or a health change builds a new one, which shares all unchanged
/// parts. Lives until no request uses it any more.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The number of the accepted configuration, from 1.
    pub generation: u64,
    /// The configuration's SHA-256, in hexadecimal.
    pub hash: Arc<str>,
    /// The files of the configuration, the main one first.
    pub files: Arc<[FileVersion]>,
    pub applied_at: SystemTime,
    pub config: Arc<Config>,
    /// The pools of the configuration, in its order, then removed pools that still have open requests.
    pub pools: Vec<Arc<Pool>>,
    /// In the configuration's order.
    pub routes: Arc<[Route]>,
    /// Counts the requests that no route matches.
    pub unrouted: Arc<LiveRoute>,
    /// Finds a request's route.
    pub table: Arc<RouteTable>,
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
    /// Its counters, which outlive the snapshot.
    pub live: Arc<LiveRoute>,
}

impl Snapshot {
    /// The indices of the route and of its pool for `host` (lower case, no port, no trailing dot) and `path` (normalised).
    #[inline]
    #[must_use]
    pub fn route(&self, host: &str, path: &str) -> Option<(usize, usize)> {
        let route = self.table.find(host, path)?;
        Some((route, self.routes[route].pool))
    }

    /// Whether it has so many servers that work over all of them should not run on the control plane's thread.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.pools.iter().map(|pool| pool.members.len()).sum::<usize>() > LARGE
    }

    /// The pools of the configuration without an eligible server.
    pub fn unready(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let configured = self.config.pools.len();
        self.pools.iter().take(configured).filter(|pool| !pool.is_ready())
    }
}
