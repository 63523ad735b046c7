//! All workers together: started, told what to do, stopped; and how clients are shared among them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;

use crate::live::{listener::LiveListener, state::State};
use crate::proxy::context::Failing;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::trace::SpanSink;
use crate::worker::Worker;
use crate::worker::client_limit::ClientLimit;

/// All workers, as the control plane sees them.
#[derive(Debug)]
pub struct WorkerPool {
    shared: Arc<Shared>,
    ended: Vec<oneshot::Receiver<()>>,
}

/// What the control plane, or another worker, asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Accept from this socket.
    Listen(Arc<LiveListener>, std::net::TcpListener),
    /// Serve this client, whom another worker has accepted.
    Serve(Arc<LiveListener>, std::net::TcpStream, SocketAddr),
    /// Accept no more from this listener; its connections may make one more request.
    Close(u64),
    /// End this listener's connections.
    CutListener(u64),
    /// End the requests to this server.
    CutServer(u64),
    /// Look at the snapshot: servers may have left.
    Refresh,
    /// Accept no more at all, and end when the last connection has.
    Stop,
    /// End at once.
    Kill,
}

/// What workers know of each other.
#[derive(Debug)]
pub(super) struct Shared {
    /// Client connections of each worker.
    pub(super) loads: Box<[CachePadded<AtomicUsize>]>,
    /// How many they may be.
    pub(super) client_limit: Arc<ClientLimit>,
    inboxes: OnceLock<Box<[UnboundedSender<Command>]>>,
    /// To the control plane.
    pub(super) failing: UnboundedSender<Failing>,
    /// Held while a client is placed under a limit: between looking and counting nobody else may count.
    gate: Mutex<()>,
}

impl WorkerPool {
    /// Starts as many workers as there are `logs`, for a `client_limit` of clients, which tell of servers that are `failing`.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(
        state: &State,
        logs: Vec<AccessLog>,
        spans: &SpanSink,
        client_limit: Arc<ClientLimit>,
        failing: UnboundedSender<Failing>,
    ) -> io::Result<Self> {
        let count = logs.len();
        let shared = Arc::new(Shared::of(count, client_limit, failing));
        let (inboxes, outboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        // Nobody else sets it.
        let _ = shared.inboxes.set(inboxes.into());
        let mut ended = Vec::with_capacity(count);
        for (index, (commands, log)) in outboxes.into_iter().zip(logs).enumerate() {
            let (end, when_ended) = oneshot::channel();
            let (ready, when_ready) = std::sync::mpsc::channel();
            let (snapshot, spans, shared) = (Arc::clone(&state.snapshot), spans.clone(), Arc::clone(&shared));
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let _end = end;
                match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        // Who waits for it is there until it came.
                        let _ = ready.send(Ok(()));
                        runtime.block_on(Worker::new(index, snapshot, log, spans, shared).run(commands));
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
            when_ready.recv().map_err(io::Error::other)??;
            ended.push(when_ended);
        }
        Ok(Self { shared, ended })
    }

    /// Has all workers accept from a socket.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn listen(&self, live: &Arc<LiveListener>, socket: &std::net::TcpListener) -> io::Result<()> {
        // All copies first: either all workers listen or none.
        let copies = self.inboxes().iter().map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
        for (inbox, copy) in self.inboxes().iter().zip(copies) {
            send(inbox, Command::Listen(Arc::clone(live), copy));
        }
        Ok(())
    }

    /// Accepts no more from a listener. Its idle clients are told with the answer to their next request.
    pub fn close(&self, listener: u64) {
        self.tell(|| Command::Close(listener));
    }

    /// Ends the connections of a listener.
    pub fn cut_listener(&self, listener: u64) {
        self.tell(|| Command::CutListener(listener));
    }

    /// Ends the requests to a server.
    pub fn cut_server(&self, server: u64) {
        self.tell(|| Command::CutServer(server));
    }

    /// Says that there is a new snapshot. Requests see it without being told; this is for what is idle.
    pub fn refresh(&self) {
        self.tell(|| Command::Refresh);
    }

    /// Accepts no more, lets open requests finish for at most `drain`, and ends. True if all finished.
    pub async fn stop(&mut self, drain: Duration) -> bool {
        self.tell(|| Command::Stop);
        let finished = tokio::time::timeout(drain, self.wait()).await.is_ok();
        self.tell(|| Command::Kill);
        self.wait().await;
        finished
    }

    /// Until all workers have ended.
    async fn wait(&mut self) {
        while let Some(worker) = self.ended.last_mut() {
            // An error is what says it: the worker has dropped its end.
            let _ = worker.await;
            self.ended.pop();
        }
    }

    fn inboxes(&self) -> &[UnboundedSender<Command>] {
        self.shared.inboxes()
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for inbox in self.inboxes() {
            send(inbox, command());
        }
    }
}

impl Shared {
    /// For so many workers, none of which can be told anything yet.
    pub(super) fn of(workers: usize, client_limit: Arc<ClientLimit>, failing: UnboundedSender<Failing>) -> Self {
        Self {
            loads: (0..workers).map(|_| CachePadded::default()).collect(),
            client_limit,
            inboxes: OnceLock::new(),
            failing,
            gate: Mutex::default(),
        }
    }

    pub(super) fn inboxes(&self) -> &[UnboundedSender<Command>] {
        self.inboxes.get().map_or(&[], |inboxes| inboxes)
    }

    /// Notes that a client of a worker has left.
    pub(super) fn leave(&self, worker: usize) {
        self.loads[worker].fetch_sub(1, Relaxed);
    }

    /// All client connections.
    pub(super) fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Relaxed)).sum()
    }

    /// The same as [`Shared::place`], unless there are as many clients as may be by what the file
    /// says. To its word that is kept; the limit of the system leaves room to be a few over.
    pub(super) fn place_within(&self, configured: usize, own: usize) -> Option<usize> {
        let _gate = (configured > 0).then(|| self.gate.lock());
        (self.connections() < self.client_limit.limit(configured)).then(|| self.place(own))
    }

    /// The worker that is to serve a client whom worker `own` has accepted: itself, unless it
    /// already has clearly more than the least busy one.
    pub(super) fn place(&self, own: usize) -> usize {
        let load = |worker: usize| self.loads[worker].load(Relaxed);
        let least = (0..self.loads.len()).min_by_key(|worker| load(*worker)).unwrap_or(own);
        // Moving one costs more than a short connection is worth.
        let slack = 4 + load(least) / 16;
        let chosen = if load(own) > load(least) + slack { least } else { own };
        self.loads[chosen].fetch_add(1, Relaxed);
        chosen
    }
}

/// A worker that has ended needs to be told nothing.
fn send(inbox: &UnboundedSender<Command>, command: Command) {
    let _ = inbox.send(command);
}
