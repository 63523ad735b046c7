//! The worker threads: they accept clients and serve them. A worker may hand a new client to another one; after that,
//! the client's connection never changes threads.

mod client_limit;
pub mod connection;
pub mod fd_limit;
mod handshakes;
mod http2;
mod linger;
mod pool;
mod proxy_header;
pub mod socket;
mod trim;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

pub use self::client_limit::ClientLimit;
use self::connection::Connection;
use self::handshakes::HandshakePlace;
pub use self::pool::WorkerPool;
use self::pool::{WorkerCommand, WorkerTable};
use self::trim::Trim;
use crate::live::listener::{ListenerId, LiveListener};
use crate::live::snapshot::Snapshot;
use crate::proxy::context::Context;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::trace::SpanSink;
use crate::transport::{Acceptor, ListeningSocket, Peer, Socket};

/// The shortest time between two ticks.
const MIN_TICK: Duration = Duration::from_millis(5);
/// The longest time between two ticks.
const MAX_TICK: Duration = Duration::from_millis(100);
/// The longest pause of ticks.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// The pause after accepting has failed, so that a shortage of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker. Its connections see only its [`Context`].
#[derive(Debug)]
struct Worker {
    context: Rc<Context>,
    shared: Arc<WorkerTable>,
    /// The number of sockets that it accepts from.
    accepting: Cell<usize>,
    trim: RefCell<Trim>,
}

/// When the next tick of a worker is due.
#[derive(Debug, Clone, Copy)]
enum NextTick {
    At(Instant),
    /// Ticks pause until then, unless something happens before.
    Pause(Instant),
}

impl NextTick {
    /// Waits until the tick is due.
    async fn is_due(self, context: &Context) {
        match self {
            Self::At(at) => tokio::time::sleep_until(at.into()).await,
            Self::Pause(end) => tokio::select! {
                () = context.stirred() => {}
                () = tokio::time::sleep_until(end.into()) => {}
            },
        }
    }
}

impl Worker {
    fn new(
        index: usize,
        snapshot: Arc<ArcSwap<Snapshot>>,
        log: AccessLog,
        spans: SpanSink,
        shared: Arc<WorkerTable>,
    ) -> Rc<Self> {
        let descriptors = Arc::clone(&shared.descriptors);
        let context = Rc::new(Context::new(index, snapshot, log, spans, descriptors, shared.reports.clone()));
        Rc::new(Self { context, shared, accepting: Cell::new(0), trim: RefCell::default() })
    }

    async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<WorkerCommand>) {
        let mut accepting: HashMap<ListenerId, oneshot::Sender<()>> = HashMap::new();
        let mut stopping = false;
        // Commands do not reset it: a rush of them would postpone the tick forever.
        let mut next = self.tick(stopping);
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                () = next.is_due(&self.context) => {
                    next = self.tick(stopping);
                    // A closed socket may still have queued clients.
                    let is_done = stopping && self.accepting.get() == 0 && self.context.watchdog.is_empty();
                    if is_done { None } else { continue }
                }
            };
            match command {
                Some(WorkerCommand::Listen(live, socket)) => {
                    let (close, closed) = oneshot::channel();
                    accepting.insert(live.id, close);
                    self.accepting.update(|count| count + 1);
                    tokio::task::spawn_local(Rc::clone(&self).accept(live, socket, closed));
                }
                Some(WorkerCommand::Serve(live, socket, peer)) => match socket.attach() {
                    Ok(socket) => self.serve(live, socket, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot serve a client");
                        self.shared.leave(self.context.worker);
                    }
                },
                Some(WorkerCommand::Close(listener)) => {
                    accepting.remove(&listener);
                    self.context.watchdog.close(listener);
                }
                Some(WorkerCommand::Retire(listener, admission)) => self.context.watchdog.retire(listener, admission),
                Some(WorkerCommand::AbortListener(listener)) => self.context.watchdog.abort(listener),
                Some(WorkerCommand::AbortServer(server)) => self.context.watchdog.abort_server(server),
                Some(WorkerCommand::ServersDown(servers)) => self.context.watchdog.servers_down(&servers),
                Some(WorkerCommand::Refresh) => {
                    next = self.tick(stopping);
                }
                Some(WorkerCommand::Stop) => {
                    stopping = true;
                    accepting.clear();
                    self.context.watchdog.drain();
                    next = self.tick(stopping);
                }
                Some(WorkerCommand::Kill) | None => break,
            }
        }
        self.context.watchdog.abort_all();
        // Aborted requests are recorded when their tasks run next.
        tokio::task::yield_now().await;
        self.context.log().flush();
    }

    /// Returns a tenth of the shortest timeout, within bounds. A timeout is late by two ticks at most, so by no more
    /// than a fifth if it is 50 ms or longer.
    fn tick_length(&self) -> Duration {
        let timeouts = &self.context.snapshot().config.timeouts;
        let shortest = [
            timeouts.request_header,
            timeouts.idle,
            timeouts.connect,
            timeouts.response_header,
            timeouts.body_idle,
            timeouts.tunnel,
        ];
        let shortest = shortest.into_iter().min().unwrap_or(MAX_TICK);
        (shortest / 10).clamp(MIN_TICK, MAX_TICK)
    }

    /// Does the periodic work, and returns when it is due again. Without anything to do, that is not before the next
    /// deadline, so that an idle worker does not wake up.
    fn tick(&self, stopping: bool) -> NextTick {
        let (now, step) = (Instant::now(), self.tick_length());
        self.context.tick(now, step);
        let recovered = self.shared.client_limit.check_recovered(now);
        let trim = self.trim.borrow_mut().tick(now, self.context.is_quiet());
        if stopping || !recovered || !self.context.is_quiet() {
            return NextTick::At(now + step);
        }
        let next = [self.context.next_deadline(), trim].into_iter().flatten().min();
        let next = next.map_or(now + MAX_PAUSE, |next| next.clamp(now + step, now + MAX_PAUSE));
        self.context.watchdog.pause(next);
        NextTick::Pause(next)
    }

    fn serve(self: &Rc<Self>, listener: Arc<LiveListener>, socket: Socket, peer: Peer) {
        let place = WorkerPlace(Rc::clone(self));
        let connection = Connection::new(Rc::clone(&self.context), listener, peer, Some(place));
        tokio::task::spawn_local(connection.accept(socket));
    }

    /// Accepts clients from a socket until `closed`, then those that are still queued, so that none is dropped.
    async fn accept(self: Rc<Self>, live: Arc<LiveListener>, socket: ListeningSocket, closed: oneshot::Receiver<()>) {
        self.accept_all(&live, socket, closed).await;
        self.context.watchdog.close(live.id);
        self.accepting.update(|count| count - 1);
    }

    async fn accept_all(
        self: &Rc<Self>,
        live: &Arc<LiveListener>,
        socket: ListeningSocket,
        mut closed: oneshot::Receiver<()>,
    ) {
        let socket = match Acceptor::new(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, listener = %live.name, "cannot accept"),
        };
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut closed => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let room = tokio::select! {
                        biased;
                        _ = &mut closed => None,
                        chosen = self.wait_for_room() => Some(chosen),
                    };
                    let Some(chosen) = room else {
                        self.keep(live, stream, peer);
                        break;
                    };
                    self.hand_over(chosen, live, stream, peer);
                }
                Err(error) => {
                    if self.shared.client_limit.should_log_accept_error() {
                        tracing::warn!(%error, listener = %live.name, "cannot accept a client");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        while let Some(Ok((stream, peer))) = poll_fn(|context| match socket.poll_accept(context) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            self.keep(live, stream, peer);
        }
    }

    /// Serves a client of a socket that is closing: another worker may have ended.
    fn keep(self: &Rc<Self>, live: &Arc<LiveListener>, socket: Socket, peer: Peer) {
        self.shared.descriptors.add_client(self.context.worker);
        self.serve(Arc::clone(live), socket, peer);
    }

    /// Waits until the number of clients is below the limit, and returns the worker for the next client.
    async fn wait_for_room(&self) -> usize {
        let mut delayed = false;
        loop {
            let left = self.shared.left.notified();
            let configured = self.context.snapshot().config.limits.connections;
            if let Some(chosen) = self.shared.place_within(configured, self.context.worker) {
                return chosen;
            }
            let clients = self.shared.descriptors.clients();
            let is_short =
                clients < self.shared.client_limit.limit(configured) && self.shared.descriptors.is_short_of_clients();
            if is_short && self.context.upstreams.close_oldest() {
                continue;
            }
            self.shared.client_limit.note_reached(clients, configured);
            if !std::mem::replace(&mut delayed, true) {
                self.shared.client_limit.count_delayed();
            }
            self.shared.awaited.store(true, Relaxed);
            tokio::select! {
                () = left => {}
                // An edit may have raised the limit, or another worker have been faster.
                () = tokio::time::sleep(MAX_TICK) => {}
            }
        }
    }

    /// Hands a client over to the chosen worker, whose number of clients already includes it.
    fn hand_over(self: &Rc<Self>, chosen: usize, live: &Arc<LiveListener>, socket: Socket, peer: Peer) {
        if chosen == self.context.worker {
            return self.serve(Arc::clone(live), socket, peer);
        }
        let inbox = &self.shared.inboxes()[chosen];
        let sent = socket.detach().map(|socket| inbox.send(WorkerCommand::Serve(Arc::clone(live), socket, peer)));
        if !matches!(sent, Ok(Ok(()))) {
            self.shared.leave(chosen);
        }
    }
}

/// Counts a client for its worker until it is dropped.
#[derive(Debug)]
pub struct WorkerPlace(Rc<Worker>);

impl WorkerPlace {
    /// Begins a TLS handshake, unless as many are in progress as may be.
    fn begin_handshake(&self, configured: usize) -> Option<HandshakePlace> {
        let shared = &self.0.shared;
        shared.handshakes.begin(configured, shared.inboxes().len())
    }

    /// Whether the connection limit is reached, so that new clients have to wait.
    fn is_at_limit(&self) -> bool {
        let Worker { context, shared, .. } = &*self.0;
        shared.descriptors.clients() >= shared.client_limit.limit(context.snapshot().config.limits.connections)
    }
}

impl Drop for WorkerPlace {
    fn drop(&mut self) {
        self.0.shared.leave(self.0.context.worker);
    }
}
