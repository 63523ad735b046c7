//! The workers as a whole: starting them, sending them commands, stopping them, and assigning clients to them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{Notify, oneshot};

use crate::live::descriptors::Descriptors;
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;
use crate::live::{listener::LiveListener, state::State};
use crate::proxy::context::ServerReport;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::trace::SpanSink;
use crate::transport::{DetachedSocket, ListeningSocket, Peer};
use crate::worker::Worker;
use crate::worker::client_limit::ClientLimit;
use crate::worker::handshakes::Handshakes;

/// All workers, as the control plane sees them.
#[derive(Debug)]
pub struct WorkerPool {
    shared: Arc<WorkerTable>,
    /// One for each worker that may still run; it fails when the worker ends.
    ended: Vec<oneshot::Receiver<()>>,
}

/// A command to a worker, from the control plane or from another worker.
#[derive(Debug)]
pub(super) enum WorkerCommand {
    /// Accept from this socket.
    Listen(Arc<LiveListener>, ListeningSocket),
    /// Serve a client that another worker has accepted.
    Serve(Arc<LiveListener>, DetachedSocket, Peer),
    /// Accept no more from this listener; each of its connections may make one more request.
    Close(ListenerId),
    /// End this listener's connections gracefully that were admitted before its rules had this number.
    Retire(ListenerId, u32),
    /// Abort this listener's connections.
    AbortListener(ListenerId),
    /// Abort the requests to this server.
    AbortServer(ServerId),
    /// Checks have taken these servers down: requests that wait for their responses may go elsewhere.
    ServersDown(Arc<[ServerId]>),
    /// Load the new snapshot, so that idle connections to removed servers close.
    Refresh,
    /// Stop accepting, and end with the last connection.
    Stop,
    /// Abort all connections and end.
    Kill,
}

/// The state that workers share.
#[derive(Debug)]
pub(super) struct WorkerTable {
    /// The number of client connections of each worker, and the limit of all connections.
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) client_limit: Arc<ClientLimit>,
    pub(super) handshakes: Arc<Handshakes>,
    /// Whether a worker waits for a client to disconnect, which `left` notifies it of.
    pub(super) awaited: AtomicBool,
    pub(super) left: Notify,
    /// Set once all channels exist.
    inboxes: OnceLock<Box<[UnboundedSender<WorkerCommand>]>>,
    /// Reports about servers to the control plane.
    pub(super) reports: UnboundedSender<ServerReport>,
    /// Held while a configured limit is checked and the client is counted, so that these are one step.
    placing: Mutex<()>,
}

impl WorkerPool {
    /// Starts one worker per log. They report to the control plane by `reports`.
    ///
    /// # Errors
    /// The system's error, if it cannot create a thread or an event queue.
    pub fn start(
        state: &State,
        logs: Vec<AccessLog>,
        spans: &SpanSink,
        client_limit: Arc<ClientLimit>,
        reports: UnboundedSender<ServerReport>,
    ) -> io::Result<Self> {
        let count = logs.len();
        let shared = Arc::new(WorkerTable::new(client_limit, reports));
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        // Set only here, so it cannot fail.
        let _ = shared.inboxes.set(inboxes.into());
        let mut ended = Vec::with_capacity(count);
        for (index, (commands, log)) in receivers.into_iter().zip(logs).enumerate() {
            let (end, worker_ended) = oneshot::channel();
            let (ready, worker_ready) = std::sync::mpsc::channel();
            let (snapshot, spans, shared) = (Arc::clone(&state.snapshot), spans.clone(), Arc::clone(&shared));
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let _end = end;
                match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        // The receiver outlives this send.
                        let _ = ready.send(Ok(()));
                        runtime.block_on(Worker::new(index, snapshot, log, spans, shared).run(commands));
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
            worker_ready.recv().map_err(io::Error::other)??;
            ended.push(worker_ended);
        }
        Ok(Self { shared, ended })
    }

    /// Makes all workers accept from a socket, each from one of the duplicates in `copies`.
    pub fn listen(&self, live: &Arc<LiveListener>, copies: Vec<ListeningSocket>) {
        for (inbox, copy) in self.inboxes().iter().zip(copies) {
            send(inbox, WorkerCommand::Listen(Arc::clone(live), copy));
        }
    }

    /// Stops accepting from a listener. Its connections close with the response to their next request.
    pub fn close(&self, listener: ListenerId) {
        self.send_to_all(|| WorkerCommand::Close(listener));
    }

    /// Ends the connections of a listener gracefully that were admitted before its rules had this number.
    pub fn retire(&self, listener: ListenerId, admission: u32) {
        self.send_to_all(|| WorkerCommand::Retire(listener, admission));
    }

    /// Aborts the connections of a listener.
    pub fn abort_listener(&self, listener: ListenerId) {
        self.send_to_all(|| WorkerCommand::AbortListener(listener));
    }

    /// Aborts the requests to a server.
    pub fn abort_server(&self, server: ServerId) {
        self.send_to_all(|| WorkerCommand::AbortServer(server));
    }

    /// Announces that checks have taken servers down. They are no longer in the snapshot's rotation.
    pub fn servers_down(&self, servers: &Arc<[ServerId]>) {
        self.send_to_all(|| WorkerCommand::ServersDown(Arc::clone(servers)));
    }

    /// Announces a new snapshot. Requests load it anyway; this is for idle workers and connections.
    pub fn refresh(&self) {
        self.send_to_all(|| WorkerCommand::Refresh);
    }

    /// Stops accepting, lets open requests finish for at most `drain`, and ends the workers. Returns
    /// whether all requests finished.
    pub async fn stop(&mut self, drain: Duration) -> bool {
        self.send_to_all(|| WorkerCommand::Stop);
        let finished = tokio::time::timeout(drain, self.wait()).await.is_ok();
        self.send_to_all(|| WorkerCommand::Kill);
        self.wait().await;
        finished
    }

    /// Waits until all workers have ended.
    async fn wait(&mut self) {
        while let Some(worker) = self.ended.last_mut() {
            // Always an error: the worker sends nothing, and drops its sender when it ends.
            let _ = worker.await;
            self.ended.pop();
        }
    }

    fn inboxes(&self) -> &[UnboundedSender<WorkerCommand>] {
        self.shared.inboxes()
    }

    fn send_to_all(&self, command: impl Fn() -> WorkerCommand) {
        for inbox in self.inboxes() {
            send(inbox, command());
        }
    }
}

impl WorkerTable {
    /// A table without inboxes, which [`WorkerPool::start`] adds.
    pub(super) fn new(client_limit: Arc<ClientLimit>, reports: UnboundedSender<ServerReport>) -> Self {
        Self {
            descriptors: Arc::clone(client_limit.descriptors()),
            client_limit,
            handshakes: Arc::default(),
            awaited: AtomicBool::default(),
            left: Notify::new(),
            inboxes: OnceLock::new(),
            reports,
            placing: Mutex::default(),
        }
    }

    pub(super) fn inboxes(&self) -> &[UnboundedSender<WorkerCommand>] {
        self.inboxes.get().map_or(&[], |inboxes| inboxes)
    }

    /// Subtracts a client that has disconnected from those of its worker.
    pub(super) fn leave(&self, worker: usize) {
        self.descriptors.remove_client(worker);
        if self.awaited.load(Relaxed) && self.awaited.swap(false, Relaxed) {
            self.left.notify_waiters();
        }
    }

    /// Like [`WorkerTable::place`], but `None` at the connection limit. A configured limit is exact; the
    /// descriptor limit has slack and may be exceeded by a few.
    pub(super) fn place_within(&self, configured: usize, own: usize) -> Option<usize> {
        let _placing = (configured > 0).then(|| self.placing.lock());
        let within = self.descriptors.clients() < self.client_limit.limit(configured);
        (within && self.descriptors.has_room_for_client(Instant::now())).then(|| self.place(own))
    }

    /// Chooses the worker for a client that worker `own` has accepted, and counts the client. It is `own`,
    /// unless that has clearly more clients than the least busy worker.
    pub(super) fn place(&self, own: usize) -> usize {
        let load = |worker: usize| self.descriptors.clients_of(worker);
        let least = (0..self.descriptors.workers()).min_by_key(|worker| load(*worker)).unwrap_or(own);
        // Moving a client costs more than it gains for a short connection.
        let slack = 4 + load(least) / 16;
        let chosen = if load(own) > load(least) + slack { least } else { own };
        self.descriptors.add_client(chosen);
        chosen
    }
}

/// Sends a command, unless the worker has ended.
fn send(inbox: &UnboundedSender<WorkerCommand>, command: WorkerCommand) {
    let _ = inbox.send(command);
}
