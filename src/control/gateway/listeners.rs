//! The listeners of the process: bound before an edit is swapped in, closed after, kept when their address stays.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, overlap};
use crate::live::counters::PerWorker;
use crate::live::listener::LiveListener;
use crate::worker::WorkerPool;
use crate::worker::socket::{self, BindError};

/// How long a socket that is to be closed goes on giving out the clients who were connecting. Less
/// than the second after which a client that was not heard asks again.
pub const LINGER: Duration = Duration::from_millis(250);

/// The sockets by their configured address.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    next_id: u64,
    bound: HashMap<SocketAddr, Bound>,
    closing: Vec<Closing>,
}

#[derive(Debug)]
struct Bound {
    live: Arc<LiveListener>,
    socket: TcpListener,
}

/// A listener that no edit names any more.
#[derive(Debug)]
struct Closing {
    address: SocketAddr,
    live: Arc<LiveListener>,
    /// Gives out its last clients until then; an edit that names the address again finds it here.
    lingering: Option<(TcpListener, Instant)>,
    /// When the clients that came by it are cut.
    until: Instant,
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
    pub fn prepare(&mut self, config: &[config::ListenerConfig]) -> Result<Fresh, Vec<BindError>> {
        let mut fresh = Vec::new();
        let mut errors = Vec::new();
        for listener in config {
            let address = listener.address;
            if self.bound.contains_key(&address) || self.lingers(address) {
                continue;
            }
            match self.bind(address, config) {
                Ok(socket) => fresh.push((address, self.bound(listener, socket))),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Fresh(fresh)) } else { Err(errors) }
    }

    /// Binds an address that may overlap with those that `config` gives up.
    fn bind(&self, address: SocketAddr, config: &[config::ListenerConfig]) -> Result<TcpListener, BindError> {
        let stays = |held: SocketAddr| config.iter().any(|listener| listener.address == held);
        let bound = self.bound.iter().map(|(held, bound)| (*held, &bound.socket));
        let lingering =
            self.closing.iter().filter_map(|closing| Some((closing.address, &closing.lingering.as_ref()?.0)));
        let making_way: Vec<_> = bound
            .chain(lingering)
            .filter(|(held, _)| overlap(*held, address) && !stays(*held))
            .map(|(_, socket)| socket)
            .collect();
        socket::bind(address, &making_way)
    }

    fn bound(&mut self, config: &config::ListenerConfig, socket: TcpListener) -> Bound {
        self.next_id += 1;
        let live = LiveListener {
            id: self.next_id,
            name: config.name.as_str().into(),
            address: socket.local_addr().unwrap_or(config.address),
            counters: Arc::new(PerWorker::new(self.workers)),
        };
        Bound { live: Arc::new(live), socket }
    }

    fn lingers(&self, address: SocketAddr) -> bool {
        self.closing.iter().any(|closing| closing.address == address && closing.lingering.is_some())
    }

    /// Has the workers accept from what is fresh, and, after a last moment, no more from what
    /// `config` does not name.
    pub fn commit(
        &mut self,
        fresh: Fresh,
        config: &[config::ListenerConfig],
        worker_pool: &WorkerPool,
        drain: Duration,
        now: Instant,
    ) {
        for (address, bound) in fresh.0 {
            if let Err(error) = worker_pool.listen(&bound.live, &bound.socket) {
                tracing::error!(listener = %bound.live.name, %error, "workers cannot accept from the listener");
            }
            self.bound.insert(address, bound);
        }
        let named = |address: &SocketAddr| config.iter().any(|listener| listener.address == *address);
        for back in self.closing.extract_if(.., |closing| closing.lingering.is_some() && named(&closing.address)) {
            let Some((socket, _)) = back.lingering else { continue };
            if let Err(error) = socket::resume_accept(&socket) {
                tracing::error!(listener = %back.live.name, %error, "the listener cannot be opened again");
            }
            self.bound.insert(back.address, Bound { live: back.live, socket });
        }
        for (address, Bound { live, socket }) in self.bound.extract_if(|address, _| !named(address)) {
            pause_accept(&live, &socket);
            let lingering = Some((socket, now + LINGER.min(drain)));
            self.closing.push(Closing { address, live, lingering, until: now + drain });
        }
        for listener in config {
            if let Some(bound) =
                self.bound.get_mut(&listener.address).filter(|bound| *bound.live.name != *listener.name)
            {
                // The same socket by another name: its connections go on, and are counted on.
                let counters = Arc::clone(&bound.live.counters);
                let live = LiveListener { name: listener.name.as_str().into(), counters, ..*bound.live };
                bound.live = Arc::new(live);
            }
        }
    }

    /// Has the system hear no new clients, for the process is about to stop.
    pub fn pause_accept(&self) {
        self.bound.values().for_each(|bound| pause_accept(&bound.live, &bound.socket));
    }

    /// Closes what has lingered, forgets closed listeners whose last client has left, and ends the
    /// clients whose time is over.
    pub fn expire(&mut self, worker_pool: &WorkerPool, now: Instant) {
        self.closing.retain_mut(|closing| {
            if closing.lingering.take_if(|(_, until)| now >= *until).is_some() {
                // Those who queue are accepted meanwhile: whether any are left is seen next time.
                worker_pool.close(closing.live.id);
                return true;
            }
            if now >= closing.until {
                worker_pool.abort_listener(closing.live.id);
            }
            closing.lingering.is_some() || (now < closing.until && closing.live.connections() > 0)
        });
    }

    /// The addresses that are listened on, as configured.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound.keys().copied()
    }

    /// Whether nothing waits for [`Listeners::expire`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.closing.is_empty()
    }

    /// All, for those who show them: the open ones in the configuration's order, then the closed ones.
    #[must_use]
    pub fn live(&self, config: &[config::ListenerConfig]) -> Vec<Arc<LiveListener>> {
        let open = config.iter().filter_map(|listener| self.bound.get(&listener.address)).map(|bound| &bound.live);
        open.chain(self.closing.iter().map(|closing| &closing.live)).cloned().collect()
    }
}

/// Without it, a client that connects in the last moment is reset: rare, and no reason to keep a listener.
fn pause_accept(live: &LiveListener, socket: &TcpListener) {
    if let Err(error) = socket::pause_accept(socket) {
        tracing::debug!(listener = %live.name, %error, "clients that are connecting may be reset");
    }
}
