//! The resolver: keeps the targets of servers that are configured by host name, in the background.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::config::Address;
use crate::health::checker::jittered;
use crate::server::Server;
use crate::snapshot::Snapshot;

/// From one look-up of a name to the next, jittered by a tenth.
const INTERVAL: Duration = Duration::from_secs(10);

/// Look-ups that run at once at most: each takes a thread.
const AT_ONCE: usize = 32;

/// A host and a port.
type Name = (String, u16);

type Servers = Vec<Arc<Server>>;

/// All names that are resolved again and again. That ends with it.
#[derive(Debug)]
pub struct Resolver {
    news: UnboundedSender<Arc<Server>>,
    permits: Arc<Semaphore>,
    tasks: HashMap<Name, Task>,
}

/// One name's task. It ends with it.
#[derive(Debug)]
struct Task {
    /// Whom the name belongs to.
    servers: watch::Sender<Servers>,
    handle: JoinHandle<()>,
}

impl Resolver {
    /// A resolver of nothing yet. Each server whose target has changed will be sent to `news`, so
    /// that connections to where it was can be closed.
    #[must_use]
    pub fn new(news: UnboundedSender<Arc<Server>>) -> Self {
        Self { news, permits: Arc::new(Semaphore::new(AT_ONCE)), tasks: HashMap::new() }
    }

    /// Resolves all names of `snapshot` once, before there is any request; waits no longer than `limit`.
    /// What is not resolved by then is left to [`Resolver::apply`].
    pub async fn first(snapshot: &Snapshot, limit: Duration) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut lookups = JoinSet::new();
        for (name, servers) in names(snapshot) {
            let permits = Arc::clone(&permits);
            lookups.spawn(async move {
                if let Ok(answers) = lookup(&name, &permits).await {
                    retarget(&servers, &answers);
                }
            });
        }
        let all = async { while lookups.join_next().await.is_some() {} };
        // Time being up is no failure: the names have their tasks.
        let _ = timeout(limit, all).await;
    }

    /// Resolves from now on the names of `snapshot` and no others. To be called within a runtime.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        let mut before = mem::take(&mut self.tasks);
        for (name, servers) in names(snapshot) {
            let task = match before.remove(&name).filter(|task| !task.handle.is_finished()) {
                Some(task) => {
                    task.servers.send_if_modified(|known| {
                        let modified = !known.iter().map(|server| server.id).eq(servers.iter().map(|server| server.id));
                        if modified {
                            *known = servers;
                        }
                        modified
                    });
                    task
                }
                None => {
                    let (sender, receiver) = watch::channel(servers);
                    let routine = keep(name.clone(), receiver, self.news.clone(), Arc::clone(&self.permits));
                    Task { servers: sender, handle: tokio::spawn(routine) }
                }
            };
            self.tasks.insert(name, task);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Resolves `name` at once, then every [`INTERVAL`], and when it comes to belong to other servers.
async fn keep(
    name: Name,
    mut servers: watch::Receiver<Servers>,
    news: UnboundedSender<Arc<Server>>,
    permits: Arc<Semaphore>,
) {
    let mut failing = false;
    loop {
        let answer = lookup(&name, &permits).await;
        let changed = take_in(&name, &servers.borrow_and_update(), answer, &mut failing);
        for server in changed {
            // Nobody listens only when the process ends.
            let _ = news.send(server);
        }
        tokio::select! {
            () = sleep(jittered(INTERVAL, fastrand::f64())) => {}
            modified = servers.changed() => if modified.is_err() { return },
        }
    }
}

/// Acts on an answer: returns whose target it changed. A failure changes none, and is told once.
fn take_in((host, port): &Name, servers: &Servers, answer: io::Result<Vec<SocketAddr>>, failing: &mut bool) -> Servers {
    let failed = answer.is_err();
    let changed = match answer {
        Ok(answers) => {
            if *failing {
                tracing::info!(host, port, "host name is resolved again");
            }
            retarget(servers, &answers)
        }
        Err(error) => {
            if !*failing {
                let error = error.to_string();
                tracing::warn!(host, port, error, "host name cannot be resolved; what is known of it is kept");
            }
            Servers::new()
        }
    };
    *failing = failed;
    changed
}

/// Points each server at one of `answers`; returns those for which that is news.
fn retarget(servers: &Servers, answers: &[SocketAddr]) -> Servers {
    let is_news = |server: &&Arc<Server>| {
        choose(server.target(), answers).is_some_and(|target| {
        let news = server.set_target(target);
        if news {
            tracing::info!(pool = %server.key.pool, server = %server.key.name, %target, "host name has a new address");
        }
        news
    })
    };
    servers.iter().filter(is_news).cloned().collect()
}

/// The present target while it is among the answers, else the first for IPv4, else the first.
fn choose(present: Option<SocketAddr>, answers: &[SocketAddr]) -> Option<SocketAddr> {
    present
        .filter(|present| answers.contains(present))
        .or_else(|| answers.iter().find(|answer| answer.is_ipv4()).copied())
        .or_else(|| answers.first().copied())
}

async fn lookup((host, port): &Name, permits: &Semaphore) -> io::Result<Vec<SocketAddr>> {
    let _permit = permits.acquire().await;
    let answers: Vec<_> = lookup_host((host.as_str(), *port)).await?.collect();
    if answers.is_empty() { Err(io::Error::other("no address")) } else { Ok(answers) }
}

/// The names in `snapshot`, each with the servers that it belongs to.
fn names(snapshot: &Snapshot) -> HashMap<Name, Servers> {
    let mut names: HashMap<Name, Servers> = HashMap::new();
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
    use crate::health::State;
    use crate::server::Key;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn server(id: u64) -> Arc<Server> {
        let address = Address::Name("backend".to_owned(), 80);
        Arc::new(Server::new(id, Key { pool: "default".into(), name: "server".into(), address }, State::Up, 1))
    }

    #[test]
    fn the_present_target_stays_while_it_can() {
        let cases: [(Option<&str>, &[&str], Option<&str>); 6] = [
            (None, &[], None),
            (None, &["127.0.0.2:80", "127.0.0.1:80"], Some("127.0.0.2:80")),
            (None, &["[::1]:80", "127.0.0.1:80"], Some("127.0.0.1:80")),
            (None, &["[::1]:80", "[::2]:80"], Some("[::1]:80")),
            (Some("[::2]:80"), &["127.0.0.1:80", "[::2]:80"], Some("[::2]:80")),
            (Some("127.0.0.9:80"), &["127.0.0.1:80"], Some("127.0.0.1:80")),
        ];
        for (present, answers, expected) in cases {
            let parse = |address: &str| address.parse::<SocketAddr>().unwrap();
            assert_eq!(choose(present.map(parse), &addresses(answers)), expected.map(parse), "{present:?} {answers:?}");
        }
    }

    #[test]
    fn only_a_new_target_is_news() {
        let servers = vec![server(1), server(2)];
        servers[1].set_target(addresses(&["127.0.0.2:80"])[0]);
        let name = ("backend".to_owned(), 80);
        let mut failing = false;
        let mut changed = |answer: io::Result<Vec<SocketAddr>>| -> (Vec<u64>, bool) {
            let failed = answer.is_err();
            let changed = take_in(&name, &servers, answer, &mut failing);
            assert_eq!(failing, failed);
            (changed.iter().map(|server| server.id).collect(), failing)
        };
        assert_eq!(changed(Ok(addresses(&["127.0.0.1:80", "127.0.0.2:80"]))).0, [1]);
        assert_eq!(changed(Ok(addresses(&["127.0.0.2:80", "127.0.0.1:80"]))).0, [0; 0]);
        assert_eq!(changed(Err(io::Error::other("no server"))).0, [0; 0]);
        assert_eq!(changed(Ok(addresses(&["127.0.0.3:80"]))).0, [1, 2]);
        assert_eq!(servers[0].target(), Some(addresses(&["127.0.0.3:80"])[0]));
    }
}
