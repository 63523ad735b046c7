//! The listeners of the process: bound before an edit is swapped in, closed after, kept when their address stays.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config;
use crate::counters::PerWorker;
use crate::listener::{self, BindError};
use crate::state::ListenerLive;
use crate::worker::Crew;

/// The sockets by their configured address.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    next_id: u64,
    bound: HashMap<SocketAddr, Bound>,
    /// Closed, while clients that came by them are there; with the time when those are cut.
    closing: Vec<(Arc<ListenerLive>, Instant)>,
}

#[derive(Debug)]
struct Bound {
    live: Arc<ListenerLive>,
    socket: TcpListener,
}

/// Sockets that an edit needs and that were not there before; dropped, they are closed again.
#[derive(Debug)]
pub struct Fresh(Vec<(SocketAddr, Bound)>);

impl Listeners {
    /// None yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers, next_id: 0, bound: HashMap::new(), closing: Vec::new() }
    }

    /// Binds what `config` needs and is not bound.
    ///
    /// # Errors
    /// With every address that cannot be listened on; then none stays bound.
    pub fn prepare(&mut self, config: &[config::Listener]) -> Result<Fresh, Vec<BindError>> {
        let mut fresh = Vec::new();
        let mut errors = Vec::new();
        for listener in config {
            if self.bound.contains_key(&listener.address) {
                continue;
            }
            match listener::bind(listener.address) {
                Ok(socket) => fresh.push((listener.address, self.bound(listener, socket))),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Fresh(fresh)) } else { Err(errors) }
    }

    fn bound(&mut self, config: &config::Listener, socket: TcpListener) -> Bound {
        self.next_id += 1;
        let live = ListenerLive {
            id: self.next_id,
            name: config.name.as_str().into(),
            address: socket.local_addr().unwrap_or(config.address),
            counters: Arc::new(PerWorker::new(self.workers)),
        };
        Bound { live: Arc::new(live), socket }
    }

    /// Has the workers accept from what is fresh, and no more from what `config` does not name.
    pub fn commit(&mut self, fresh: Fresh, config: &[config::Listener], crew: &Crew, drain: Duration, now: Instant) {
        for (address, bound) in fresh.0 {
            if let Err(error) = crew.listen(&bound.live, &bound.socket) {
                tracing::error!(listener = %bound.live.name, %error, "workers cannot accept from the listener");
            }
            self.bound.insert(address, bound);
        }
        let named = |address: &SocketAddr| config.iter().any(|listener| listener.address == *address);
        for (_, bound) in self.bound.extract_if(|address, _| !named(address)) {
            crew.close(bound.live.id);
            self.closing.push((bound.live, now + drain));
        }
        for listener in config {
            if let Some(bound) =
                self.bound.get_mut(&listener.address).filter(|bound| *bound.live.name != *listener.name)
            {
                // The same socket by another name: its connections go on, and are counted on.
                let counters = Arc::clone(&bound.live.counters);
                let live = ListenerLive { name: listener.name.as_str().into(), counters, ..*bound.live };
                bound.live = Arc::new(live);
            }
        }
    }

    /// Forgets closed listeners whose last client has left, and ends the clients whose time is over.
    pub fn expire(&mut self, crew: &Crew, now: Instant) {
        self.closing.retain(|(live, until)| {
            if now >= *until {
                crew.cut_listener(live.id);
            }
            now < *until && live.connections() > 0
        });
    }

    /// Whether nothing waits for [`Listeners::expire`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.closing.is_empty()
    }

    /// All, for those who show them: the open ones in the configuration's order, then the closed ones.
    #[must_use]
    pub fn live(&self, config: &[config::Listener]) -> Vec<Arc<ListenerLive>> {
        let open = config.iter().filter_map(|listener| self.bound.get(&listener.address)).map(|bound| &bound.live);
        open.chain(self.closing.iter().map(|(live, _)| live)).cloned().collect()
    }
}
