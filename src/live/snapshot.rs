//! The snapshot: one generation together with the health of its servers, ready for the request path.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::live::pool::Pool;
use crate::live::route::{LiveRoute, RouteTable};

/// Servers that are gone over in a moment.
const LARGE: usize = 500;

/// All that a request needs to know. Immutable; an edit or a health change makes another, which
/// shares every part that stayed as it was.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which accepted configuration this is, from 1.
    pub generation: u64,
    /// Its SHA-256, in hexadecimal.
    pub hash: Arc<str>,
    /// The files that it was read from, the main one first.
    pub files: Arc<[SourceFile]>,
    /// When it was accepted.
    pub applied_at: SystemTime,
    /// What it says.
    pub config: Arc<Config>,
    /// The pools of the configuration, then those that are gone but for open requests.
    pub pools: Vec<Arc<Pool>>,
    /// The routes, in the configuration's order.
    pub routes: Arc<[Route]>,
    /// What counts requests that no route takes.
    pub unrouted: Arc<LiveRoute>,
    /// Where a request's route is found.
    pub table: Arc<RouteTable>,
}

/// A file that a configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// As it was named: the main one by the user, an included one as its glob found it.
    pub path: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub hash: Arc<str>,
}

/// A route in one snapshot.
#[derive(Debug, Clone)]
pub struct Route {
    /// The place of its pool in [`Snapshot::pools`].
    pub pool: usize,
    /// What outlives the snapshot.
    pub live: Arc<LiveRoute>,
}

impl Snapshot {
    /// The places of route and pool for `host` (lower case, no port, no trailing dot) and `path` (normalised).
    #[inline]
    #[must_use]
    pub fn route(&self, host: &str, path: &str) -> Option<(usize, usize)> {
        let route = self.table.find(host, path)?;
        Some((route, self.routes[route].pool))
    }

    /// Whether to go over all its servers takes so long that it is done beside the control plane.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.pools.iter().map(|pool| pool.members.len()).sum::<usize>() > LARGE
    }

    /// The pools of the configuration that have no server to send requests to.
    pub fn unready(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let configured = self.config.pools.len();
        self.pools.iter().take(configured).filter(|pool| !pool.is_ready())
    }
}
