//! The resolver: keeps the targets of servers that are configured by host name, in the background.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::config::Address;
use crate::control::health::checker::jittered;
use crate::live::server::Server;
use crate::live::snapshot::Snapshot;

/// From one look-up of a name to the next, jittered by a tenth.
const INTERVAL: Duration = Duration::from_secs(10);

/// The same while it has never been resolved: whoever starts together is found soon.
const SOON: Duration = Duration::from_secs(1);

/// Look-ups that run at once at most: each takes a thread.
const AT_ONCE: usize = 32;

/// A host and a port.
type Name = (String, u16);

type Servers = Vec<Arc<Server>>;

/// All names that are resolved again and again. That ends with it.
#[derive(Debug)]
pub struct Resolver {
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

/// A resolver of nothing yet.
impl Default for Resolver {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), tasks: HashMap::new() }
    }
}

impl Resolver {
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
                    let routine = keep(name.clone(), receiver, Arc::clone(&self.permits));
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
async fn keep(name: Name, mut servers: watch::Receiver<Servers>, permits: Arc<Semaphore>) {
    let mut failing = false;
    loop {
        let answer = lookup(&name, &permits).await;
        take_in(&name, &servers.borrow_and_update(), answer, &mut failing);
        let known = servers.borrow().iter().all(|server| server.target().is_some());
        tokio::select! {
            () = sleep(jittered(if known { INTERVAL } else { SOON }, fastrand::f64())) => {}
            modified = servers.changed() => if modified.is_err() { return },
        }
    }
}

/// Acts on an answer. A failure changes no target, and is told once.
fn take_in((host, port): &Name, servers: &Servers, answer: io::Result<Vec<SocketAddr>>, failing: &mut bool) {
    let failed = answer.is_err();
    match answer {
        Ok(answers) => {
            if *failing {
                tracing::info!(host, port, "host name is resolved again");
            }
            retarget(servers, &answers);
        }
        Err(error) if !*failing => {
            tracing::warn!(host, port, %error, "host name cannot be resolved; what is known of it is kept");
        }
        Err(_) => {}
    }
    *failing = failed;
}

/// Points each server at one of `answers`.
fn retarget(servers: &Servers, answers: &[SocketAddr]) {
    for server in servers {
        let before = server.target();
        let Some(target) = choose(before, answers).filter(|target| before != Some(*target)) else { continue };
        server.set_target(target);
        // The first one is no change.
        if let Some(before) = before {
            tracing::info!(pool = %server.key.pool, server = %server.key.name, %before, %target, "host name has a new address");
        }
    }
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
    use crate::live::health::HealthState;
    use crate::live::server::ServerKey;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn server(id: u64) -> Arc<Server> {
        let address = Address::Name("backend".to_owned(), 80);
        Arc::new(Server::new(
            id,
            ServerKey { pool: "default".into(), name: "server".into(), address },
            HealthState::Up,
            1,
        ))
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
    fn an_answer_moves_whom_it_does_not_name_and_a_failure_nobody() {
        let servers = vec![server(1), server(2)];
        let name = ("backend".to_owned(), 80);
        let mut failing = false;
        let rows: [(Option<&[&str]>, [&str; 2]); 5] = [
            (Some(&["127.0.0.2:80"]), ["127.0.0.2:80", "127.0.0.2:80"]),
            (Some(&["127.0.0.1:80", "127.0.0.2:80"]), ["127.0.0.2:80", "127.0.0.2:80"]),
            (None, ["127.0.0.2:80", "127.0.0.2:80"]),
            (Some(&["127.0.0.3:80"]), ["127.0.0.3:80", "127.0.0.3:80"]),
            (Some(&[]), ["127.0.0.3:80", "127.0.0.3:80"]),
        ];
        for (answer, targets) in rows {
            let given = answer.map(addresses).ok_or_else(|| io::Error::other("no server"));
            take_in(&name, &servers, given, &mut failing);
            assert_eq!(failing, answer.is_none());
            let now: Vec<_> = servers.iter().filter_map(|server| server.target()).collect();
            assert_eq!(now, addresses(&targets), "{answer:?}");
        }
    }
}
