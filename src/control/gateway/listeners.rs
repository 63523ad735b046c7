//! The process's listeners: bound before a commit, kept while their address is configured, drained after that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::{ListenerConfig, SocketAddress, overlap};
use crate::live::counters::PerWorker;
use crate::live::listener::{ListenerId, ListenerRules, LiveListener};
use crate::live::tls::TlsState;
use crate::transport::ListeningSocket;
use crate::worker::WorkerPool;
use crate::worker::socket::{BindError, BoundSocket, OpenSocket};

/// How long a socket that will be closed still accepts the clients that were connecting. Shorter than the second
/// after which a client whose SYN was dropped sends it again.
pub const LINGER: Duration = Duration::from_millis(250);

/// All listeners, by their configured address.
#[derive(Debug)]
pub struct ListenerSet {
    workers: usize,
    next_id: u64,
    open: HashMap<SocketAddress, OpenListener>,
    closing: Vec<ClosingListener>,
}

#[derive(Debug)]
struct OpenListener {
    live: Arc<LiveListener>,
    socket: OpenSocket,
}

/// A listener that an edit has removed, until its last client has left.
#[derive(Debug)]
struct ClosingListener {
    address: SocketAddress,
    live: Arc<LiveListener>,
    /// The socket, which accepts its last clients until that time. An edit that adds the address again takes it back,
    /// unless it is a Unix socket, whose file is gone.
    lingering: Option<(OpenSocket, Instant)>,
    /// The start of the drain, after which its clients have `timeouts.drain`.
    since: Instant,
}

/// The addresses that an edit adds, none of which listens yet. Dropping them releases them.
#[derive(Debug)]
pub struct BoundListeners(Vec<(ListenerConfig, BoundSocket)>);

/// Listening sockets for the addresses that an edit adds. Dropping them closes them.
#[derive(Debug)]
pub struct NewSockets(Vec<NewSocket>);

#[derive(Debug)]
struct NewSocket {
    config: ListenerConfig,
    socket: OpenSocket,
    /// One duplicate per worker, made here so that a shortage of descriptors rejects the edit.
    copies: Vec<ListeningSocket>,
}

impl ClosingListener {
    /// Whether it can listen again.
    fn can_reopen(&self) -> bool {
        self.lingering.as_ref().is_some_and(|(socket, _)| socket.can_resume())
    }
}

impl ListenerSet {
    /// No listeners yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers, next_id: 0, open: HashMap::new(), closing: Vec::new() }
    }

    /// Binds the addresses of `config` that are not bound yet, which may be some that other sockets of ours are about to
    /// leave. `admin` is the socket of the admin address, if that moves.
    ///
    /// # Errors
    /// With every address that cannot be bound; then none of the new sockets stays.
    pub fn bind(
        &self,
        config: &[ListenerConfig],
        admin: Option<(&SocketAddress, &OpenSocket)>,
    ) -> Result<BoundListeners, Vec<BindError>> {
        let is_bound = |address| self.open.contains_key(address) || self.is_lingering(address);
        let new = config.iter().filter(|listener| !is_bound(&listener.address));
        let bound = new.map(|listener| {
            let making_way = self.making_way_for(&listener.address, config, admin);
            Ok((listener.clone(), BoundSocket::bind(&listener.address, listener.mode, &making_way)?))
        });
        all(bound).map(BoundListeners)
    }

    /// Listens on the addresses that [`ListenerSet::bind`] has bound for `config` and `admin`.
    ///
    /// # Errors
    /// With every address that cannot be listened on; then none of the new sockets stays.
    pub fn listen(
        &self,
        bound: BoundListeners,
        config: &[ListenerConfig],
        admin: Option<(&SocketAddress, &OpenSocket)>,
    ) -> Result<NewSockets, Vec<BindError>> {
        let sockets = bound.0.into_iter().map(|(config_of_one, bound)| {
            let address = bound.address();
            let socket = bound.listen(&self.making_way_for(&address, config, admin))?;
            let copies = (0..self.workers).map(|_| socket.socket().try_clone()).collect::<Result<_, _>>();
            let copies = copies.map_err(|error| BindError { address, error })?;
            Ok(NewSocket { config: config_of_one, socket, copies })
        });
        all(sockets).map(NewSockets)
    }

    fn making_way_for<'a>(
        &'a self,
        address: &'a SocketAddress,
        config: &'a [ListenerConfig],
        admin: Option<(&'a SocketAddress, &'a OpenSocket)>,
    ) -> Vec<&'a OpenSocket> {
        let admin = admin.filter(|(bound, _)| overlap(bound, address)).map(|(_, socket)| socket);
        self.making_way(address, config).chain(admin).collect()
    }

    /// The sockets that overlap with `address` and that `config` does not name, or that are closing already.
    pub fn making_way<'a>(
        &'a self,
        address: &'a SocketAddress,
        config: &'a [ListenerConfig],
    ) -> impl Iterator<Item = &'a OpenSocket> {
        let stays = move |bound: &SocketAddress| config.iter().any(|listener| listener.address == *bound);
        let open = self.open.iter().map(|(bound, listener)| (bound, &listener.socket));
        let lingering =
            self.closing.iter().filter_map(|closing| Some((&closing.address, &closing.lingering.as_ref()?.0)));
        let leaves = move |(bound, _): &(&SocketAddress, &OpenSocket)| overlap(bound, address) && !stays(bound);
        open.chain(lingering).filter(leaves).map(|(_, socket)| socket)
    }

    fn is_lingering(&self, address: &SocketAddress) -> bool {
        self.closing.iter().any(|closing| closing.address == *address && closing.can_reopen())
    }

    /// Makes the workers accept from the new sockets, reopens lingering listeners that `config` names again, and
    /// begins to close those that it does not name. Cannot fail: if the process is out of descriptors, so that
    /// workers cannot accept from a new socket, that is logged.
    pub fn commit(
        &mut self,
        sockets: NewSockets,
        (config, tls): (&[ListenerConfig], Option<&TlsState>),
        worker_pool: &WorkerPool,
        drain: Duration,
        now: Instant,
    ) {
        for NewSocket { config, socket, copies } in sockets.0 {
            worker_pool.listen(&self.open_listener(&config, tls, socket).live, copies);
        }
        let is_named = |address: &SocketAddress| config.iter().any(|listener| listener.address == *address);
        let reopened = |closing: &mut ClosingListener| closing.can_reopen() && is_named(&closing.address);
        for ClosingListener { address, live, lingering, .. } in self.closing.extract_if(.., reopened) {
            let Some((socket, _)) = lingering else { continue };
            if let Err(error) = socket.resume_accept() {
                tracing::error!(listener = %live.name, %error, "the listener cannot be reopened");
            }
            self.open.insert(address, OpenListener { live, socket });
        }
        self.begin_close(|address| !is_named(address), drain, now);
        config.iter().for_each(|listener| self.update(listener, tls, worker_pool));
    }

    fn open_listener(&mut self, config: &ListenerConfig, tls: Option<&TlsState>, socket: OpenSocket) -> &OpenListener {
        self.next_id += 1;
        let live = Arc::new(LiveListener {
            id: ListenerId(self.next_id),
            name: config.name.as_str().into(),
            configured: config.address.clone(),
            address: socket.socket().address().unwrap_or_else(|| config.address.clone()),
            rules: Arc::new(ArcSwap::from_pointee(ListenerRules::new(config, tls))),
            counters: Arc::new(PerWorker::new(self.workers)),
        });
        self.open.entry(config.address.clone()).insert_entry(OpenListener { live, socket }).into_mut()
    }

    /// Gives an open listener the configured name and rules, and its file the permissions. Its connections and their
    /// counters stay, but the connections are ended gracefully if their clients would be admitted in another way now.
    fn update(&mut self, config: &ListenerConfig, tls: Option<&TlsState>, worker_pool: &WorkerPool) {
        let Some(listener) = self.open.get_mut(&config.address) else { return };
        let before = listener.live.rules.load_full();
        let rules = ListenerRules::new(config, tls).after(&before);
        let admission = rules.admission;
        listener.live.rules.store(Arc::new(rules));
        if admission != before.admission {
            worker_pool.retire(listener.live.id, admission);
        }
        if let Err(error) = listener.socket.set_mode(config.mode) {
            tracing::error!(listener = %config.name, %error, "the permissions of the socket cannot be set");
        }
        if *listener.live.name != *config.name {
            listener.live = Arc::new(listener.live.renamed(&config.name));
        }
    }

    /// Begins to close the open listeners at the addresses that `leaves` is true for: their sockets linger.
    fn begin_close(&mut self, leaves: impl Fn(&SocketAddress) -> bool, drain: Duration, now: Instant) {
        for (address, OpenListener { live, mut socket }) in self.open.extract_if(|address, _| leaves(address)) {
            // If it fails, clients that connect at the last moment are reset, which is rare and no reason to keep the
            // listener.
            if let Err(error) = socket.pause_accept() {
                tracing::debug!(listener = %live.name, %error, "clients that are connecting may be reset");
            }
            let lingering = Some((socket, now + LINGER.min(drain)));
            self.closing.push(ClosingListener { address, live, lingering, since: now });
        }
    }

    /// Closes all listeners, because the process is about to stop, as an edit does that removes them. Clients that were
    /// connecting are still accepted; later ones are refused at once, and another process may have the ports. The
    /// connections of the listeners are left to [`WorkerPool::stop`].
    pub async fn close_all(mut self, worker_pool: &WorkerPool, drain: Duration) {
        self.begin_close(|_| true, drain, Instant::now());
        tokio::time::sleep(LINGER.min(drain)).await;
        for closing in self.closing {
            worker_pool.close(closing.live.id);
        }
    }

    /// Closes sockets that have lingered, aborts connections that have drained for as long as `drain`, and removes
    /// listeners whose last client has left.
    pub fn expire(&mut self, worker_pool: &WorkerPool, drain: Duration, now: Instant) {
        self.closing.retain_mut(|closing| {
            let is_over = now.saturating_duration_since(closing.since) >= drain;
            if closing.lingering.take_if(|(_, until)| now >= *until).is_some() {
                // The workers still accept the queued clients, so whether any client is left shows next time.
                worker_pool.close(closing.live.id);
                return true;
            }
            if is_over {
                worker_pool.abort_listener(closing.live.id);
            }
            closing.lingering.is_some() || (!is_over && closing.live.connections() > 0)
        });
    }

    /// Whether nothing is closing that [`ListenerSet::expire`] would have to close.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.closing.is_empty()
    }

    /// All listeners for the API and the metrics: the open ones in the configuration's order, then the closing ones.
    #[must_use]
    pub fn live(&self, config: &[ListenerConfig]) -> Vec<Arc<LiveListener>> {
        let open = config.iter().filter_map(|listener| self.open.get(&listener.address));
        let closing = self.closing.iter().map(|closing| &closing.live);
        open.map(|listener| &listener.live).chain(closing).cloned().collect()
    }
}

/// All values, or all errors.
fn all<T, E>(results: impl Iterator<Item = Result<T, E>>) -> Result<Vec<T>, Vec<E>> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}
