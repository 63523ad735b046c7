//! The resolver: keeps the addresses of servers that are configured by host name up to date, in the background.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{Address, Config};
use crate::control::health::schedule::jittered;
use crate::live::address_list::AddressList;
use crate::live::server::Server;
use crate::live::snapshot::Snapshot;

/// Time between two lookups of a name, jittered by a tenth.
const INTERVAL: Duration = Duration::from_secs(10);

/// The same for a name that has never been resolved, so that servers that start together with `lb` are found soon, and
/// for one of a server that accepts no connections, because a container that is created again has another address.
const SOON: Duration = Duration::from_secs(1);

/// The limit of concurrent lookups, because each takes a thread.
const MAX_CONCURRENT: usize = 32;

/// A host name and a port.
pub type HostPort = (String, u16);

/// Names with their addresses.
pub type Addresses = HashMap<HostPort, Vec<SocketAddr>>;

/// The lookups of all names. Dropping it ends them.
#[derive(Debug)]
pub struct Resolver {
    permits: Arc<Semaphore>,
    lookups: HashMap<HostPort, RunningLookup>,
}

/// The lookups of one name. Dropping it ends them.
#[derive(Debug)]
struct RunningLookup {
    /// The servers with that name.
    servers: watch::Sender<Vec<Arc<Server>>>,
    task: JoinHandle<()>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONCURRENT)), lookups: HashMap::new() }
    }
}

impl Resolver {
    /// Resolves all names of `snapshot` once, before there are requests, for at most `timeout`. Names that are not
    /// resolved by then are left to [`Resolver::apply`].
    pub async fn first(snapshot: &Snapshot, timeout: Duration) {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT));
        let mut lookups = JoinSet::new();
        for (name, servers) in names(snapshot) {
            let permits = Arc::clone(&permits);
            lookups.spawn(async move {
                if let Ok(addresses) = lookup(&name, &permits).await {
                    readdress(&servers, &name.0, &addresses);
                }
            });
        }
        let all = async { while lookups.join_next().await.is_some() {} };
        // A timeout is no failure: the remaining names are resolved in the background.
        let _ = tokio::time::timeout(timeout, all).await;
    }

    /// The names of enabled servers that `after` has and `before`, which is in force, does not, unless their address is
    /// known.
    #[must_use]
    pub fn new_names(&self, before: &Config, after: &Config) -> BTreeSet<HostPort> {
        let mut names: BTreeSet<_> = enabled_names(after).collect();
        if !names.is_empty() {
            for name in enabled_names(before) {
                names.remove(&name);
            }
        }
        names.into_iter().filter(|name| self.addresses(name, &Addresses::new()).is_none()).collect()
    }

    /// Resolves names once. The result has them in any order.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn resolve(
        &self,
        names: impl IntoIterator<Item = HostPort>,
    ) -> JoinSet<(HostPort, io::Result<Vec<SocketAddr>>)> {
        let lookups = names.into_iter().map(|name| {
            let permits = Arc::clone(&self.permits);
            async move {
                let result = lookup(&name, &permits).await;
                (name, result)
            }
        });
        lookups.collect()
    }

    /// The addresses for a new server with this name: those that others with the name have, or else those in `resolved`.
    #[must_use]
    pub fn addresses(&self, name: &HostPort, resolved: &Addresses) -> Option<Arc<AddressList>> {
        let lookup = self.lookups.get(name);
        let known = lookup.and_then(|lookup| lookup.servers.borrow().iter().find_map(|server| server.addresses()));
        known.or_else(|| AddressList::new(resolved.get(name)?.clone(), None).map(Arc::new))
    }

    /// Resolves the names of `snapshot` and no others from now on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        let mut before = mem::take(&mut self.lookups);
        for (name, servers) in names(snapshot) {
            let lookup = match before.remove(&name).filter(|lookup| !lookup.task.is_finished()) {
                Some(lookup) => {
                    lookup.set_servers(servers);
                    lookup
                }
                None => {
                    let (sender, receiver) = watch::channel(servers);
                    let task = resolve_periodically(name.clone(), receiver, Arc::clone(&self.permits));
                    RunningLookup { servers: sender, task: tokio::spawn(task) }
                }
            };
            self.lookups.insert(name, lookup);
        }
    }
}

impl RunningLookup {
    fn set_servers(&self, servers: Vec<Arc<Server>>) {
        self.servers.send_if_modified(|current| {
            let modified = !current.iter().map(|server| server.id).eq(servers.iter().map(|server| server.id));
            if modified {
                *current = servers;
            }
            modified
        });
    }
}

impl Drop for RunningLookup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Resolves `name` at once, then every [`INTERVAL`], whenever its servers change, and soon after a connection to one of
/// them could not be made.
async fn resolve_periodically(name: HostPort, mut servers: watch::Receiver<Vec<Arc<Server>>>, permits: Arc<Semaphore>) {
    let mut failing = false;
    loop {
        let result = lookup(&name, &permits).await;
        let ended = Instant::now();
        let current = servers.borrow_and_update().clone();
        record(&name, &current, result, &mut failing);
        let resolved = current.iter().all(|server| server.target().is_some());
        let wanted = async {
            any_wanted(&current).await;
            sleep_until(ended + SOON).await;
        };
        tokio::select! {
            () = sleep(jittered(if resolved { INTERVAL } else { SOON }, fastrand::f64())) => {}
            () = wanted => {}
            modified = servers.changed() => if modified.is_err() { return },
        }
    }
}

/// Waits until one of the servers wants a lookup.
async fn any_wanted(servers: &[Arc<Server>]) {
    let mut wanted: Vec<_> = servers.iter().map(|server| Box::pin(server.lookup_wanted())).collect();
    poll_fn(|context| {
        // All of them are polled, so that one lookup is enough for all.
        let ready = wanted.iter_mut().map(|wanted| wanted.as_mut().poll(context)).filter(Poll::is_ready).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Records the result of a lookup. A failure changes no target; only the first of several in a row is logged.
fn record((host, port): &HostPort, servers: &[Arc<Server>], result: io::Result<Vec<SocketAddr>>, failing: &mut bool) {
    let failed = result.is_err();
    match result {
        Ok(addresses) => {
            if *failing {
                tracing::info!(host, port, "host name is resolved again");
            }
            readdress(servers, host, &addresses);
        }
        Err(error) if !*failing => {
            tracing::warn!(host, port, %error, "host name cannot be resolved; its last address, if any, stays in use");
        }
        Err(_) => {}
    }
    *failing = failed;
}

/// Gives each server the addresses of its name. The one in use stays so while it is among them.
fn readdress(servers: &[Arc<Server>], host: &str, addresses: &[SocketAddr]) {
    for server in servers {
        let before = server.addresses();
        let used = before.as_ref().map(|before| before.current());
        let Some(after) = AddressList::new(addresses.to_vec(), used) else { continue };
        if before.as_ref().is_some_and(|before| before.has_same(&after)) {
            continue;
        }
        let (target, count, key) = (after.current(), after.count(), &server.key);
        server.set_addresses(Arc::new(after));
        // The first address is no change.
        if let Some(before) = used.filter(|used| *used != target) {
            tracing::info!(pool = %key.pool, server = %key.name, %before, %target, "host name has a new address");
        }
        if count > 1 && before.is_none_or(|before| before.count() == 1) {
            let (pool, server, used) = (&key.pool, &key.name, target.ip());
            tracing::info!(%pool, %server, "{host} resolves to {count} addresses, {used} is used");
        }
    }
}

async fn lookup((host, port): &HostPort, permits: &Semaphore) -> io::Result<Vec<SocketAddr>> {
    let _permit = permits.acquire().await;
    let addresses: Vec<_> = lookup_host((host.as_str(), *port)).await?.collect();
    if addresses.is_empty() { Err(io::Error::other("no address")) } else { Ok(addresses) }
}

fn enabled_names(config: &Config) -> impl Iterator<Item = HostPort> {
    let servers = config.pools.iter().flat_map(|pool| &pool.servers).filter(|server| server.enabled);
    servers.filter_map(|server| match &server.address {
        Address::Name(host, port) => Some((host.clone(), *port)),
        Address::Ip(_) | Address::Unix(_) => None,
    })
}

/// The names in `snapshot`, each with the servers that have it.
fn names(snapshot: &Snapshot) -> HashMap<HostPort, Vec<Arc<Server>>> {
    let mut names: HashMap<HostPort, Vec<Arc<Server>>> = HashMap::new();
    for member in snapshot.pools.iter().flat_map(|pool| &pool.members) {
        if let Address::Name(host, port) = &member.server.key.address {
            names.entry((host.clone(), *port)).or_default().push(Arc::clone(&member.server));
        }
    }
    names
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::live::health::HealthState;
    use crate::live::server::{ServerId, ServerKey};

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn server(id: u64) -> Arc<Server> {
        let address = Address::Name("backend".to_owned(), 80);
        Arc::new(Server::new(
            ServerId(id),
            ServerKey { pool: "default".into(), name: "server".into(), address },
            HealthState::Up,
            1,
        ))
    }

    #[tokio::test]
    async fn a_lookup_is_made_soon_if_a_server_of_the_name_wants_one() {
        let servers = vec![server(1), server(2)];
        assert!(tokio::time::timeout(Duration::ZERO, any_wanted(&servers)).await.is_err());
        servers[1].want_lookup();
        servers[0].want_lookup();
        any_wanted(&servers).await;
        assert!(tokio::time::timeout(Duration::ZERO, any_wanted(&servers)).await.is_err(), "one lookup is for all");
    }

    #[test]
    fn a_lookup_moves_servers_whose_address_is_gone_and_a_failed_one_moves_none() {
        let servers = vec![server(1), server(2)];
        let name = ("backend".to_owned(), 80);
        let mut failing = false;
        let rows: [(Option<&[&str]>, [&str; 2]); 6] = [
            (Some(&["127.0.0.2:80"]), ["127.0.0.2:80", "127.0.0.2:80"]),
            (Some(&["127.0.0.1:80", "127.0.0.2:80"]), ["127.0.0.2:80", "127.0.0.2:80"]),
            (Some(&["127.0.0.2:80", "127.0.0.1:80"]), ["127.0.0.2:80", "127.0.0.2:80"]),
            (None, ["127.0.0.2:80", "127.0.0.2:80"]),
            (Some(&["127.0.0.3:80"]), ["127.0.0.3:80", "127.0.0.3:80"]),
            (Some(&[]), ["127.0.0.3:80", "127.0.0.3:80"]),
        ];
        for (resolved, targets) in rows {
            let result = resolved.map(addresses).ok_or_else(|| io::Error::other("no name server"));
            record(&name, &servers, result, &mut failing);
            assert_eq!(failing, resolved.is_none());
            let now: Vec<_> = servers.iter().filter_map(|server| server.target()?.ip()).collect();
            assert_eq!(now, addresses(&targets), "{resolved:?}");
        }
    }
}
