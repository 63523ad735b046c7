//! A worker: one thread that accepts clients and serves them to the end. Nothing moves between workers after that.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Cache};
use crossbeam_utils::CachePadded;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::proxy::client::Client;
use crate::proxy::head::Heads;
use crate::proxy::upstream::Upstreams;
use crate::proxy::watch::Watch;
use crate::proxy::wire::Buffers;
use crate::snapshot::Snapshot;
use crate::state::{ListenerLive, State};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::trace::SpanSink;

/// How often a worker looks after what waits: a tenth of the shortest limit, within these bounds.
const TICK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// A pause after the system refused to accept, so that a lack of descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So many of these pauses are said once, about one a second.
const PAUSES_A_LINE: u32 = 20;

/// What the control plane, or another worker, asks of a worker.
#[derive(Debug)]
enum Command {
    /// Accept from this socket.
    Listen(Arc<ListenerLive>, std::net::TcpListener),
    /// Serve this client, whom another worker has accepted.
    Serve(Arc<ListenerLive>, std::net::TcpStream, SocketAddr),
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

/// All workers, as the control plane sees them.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    ended: Vec<oneshot::Receiver<()>>,
}

/// What workers know of each other.
#[derive(Debug)]
struct Shared {
    /// Client connections of each worker.
    loads: Box<[CachePadded<AtomicUsize>]>,
    inboxes: OnceLock<Box<[UnboundedSender<Command>]>>,
    /// Held while a client is placed under a limit: between looking and counting nobody else may count.
    gate: Mutex<()>,
}

/// A worker, as its connections see it.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// Its connections to servers.
    pub upstreams: Upstreams,
    /// Its clients' connections.
    pub watch: Rc<Watch>,
    /// Where spans go.
    pub spans: SpanSink,
    /// Its buffers that are not in use.
    pub buffers: Buffers,
    /// Its requests' heads that are not in use.
    pub heads: Heads,
    log: RefCell<AccessLog>,
    rng: RefCell<fastrand::Rng>,
    /// The newest second, as `Date` says it.
    date: RefCell<(u64, String)>,
    newest: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    /// The newest snapshot when it was last looked for: cloned for each request, which a count that
    /// workers share would make dear.
    current: RefCell<Rc<Current>>,
    shared: Arc<Shared>,
}

/// A snapshot as one worker's requests hold it: counted by that worker alone.
#[derive(Debug)]
pub struct Current(Arc<Snapshot>);

impl Deref for Current {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

impl Crew {
    /// Starts as many workers as there are `logs`.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(state: &State, logs: Vec<AccessLog>, spans: &SpanSink) -> io::Result<Self> {
        let count = logs.len();
        let shared = Arc::new(Shared {
            loads: (0..count).map(|_| CachePadded::default()).collect(),
            inboxes: OnceLock::new(),
            gate: Mutex::default(),
        });
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
    pub fn listen(&self, live: &Arc<ListenerLive>, socket: &std::net::TcpListener) -> io::Result<()> {
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

/// A worker that has ended needs to be told nothing.
fn send(inbox: &UnboundedSender<Command>, command: Command) {
    let _ = inbox.send(command);
}

impl Shared {
    fn inboxes(&self) -> &[UnboundedSender<Command>] {
        self.inboxes.get().map_or(&[], |inboxes| inboxes)
    }

    /// All client connections.
    fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Relaxed)).sum()
    }

    /// The same as [`Shared::place`], unless there are `limit` clients already; 0 is no limit.
    fn place_within(&self, limit: usize, own: usize) -> Option<usize> {
        if limit == 0 {
            return Some(self.place(own));
        }
        let _gate = self.gate.lock();
        (self.connections() < limit).then(|| self.place(own))
    }

    /// The worker that is to serve a client whom worker `own` has accepted: itself, unless it
    /// already has clearly more than the least busy one.
    fn place(&self, own: usize) -> usize {
        let load = |worker: usize| self.loads[worker].load(Relaxed);
        let least = (0..self.loads.len()).min_by_key(|worker| load(*worker)).unwrap_or(own);
        let slack = 1 + load(least) / 32;
        let chosen = if load(own) > load(least) + slack { least } else { own };
        self.loads[chosen].fetch_add(1, Relaxed);
        chosen
    }
}

impl Worker {
    fn new(
        index: usize,
        snapshot: Arc<ArcSwap<Snapshot>>,
        log: AccessLog,
        spans: SpanSink,
        shared: Arc<Shared>,
    ) -> Rc<Self> {
        let current = Rc::new(Current(snapshot.load_full()));
        Rc::new(Self {
            index,
            upstreams: Upstreams::default(),
            watch: Watch::new(),
            spans,
            buffers: Buffers::default(),
            heads: Heads::default(),
            log: RefCell::new(log),
            rng: RefCell::default(),
            date: RefCell::default(),
            newest: RefCell::new(Cache::new(snapshot)),
            current: RefCell::new(current),
            shared,
        })
    }

    /// The newest snapshot. Costs a comparison while there is no newer one.
    #[inline]
    #[must_use]
    pub fn snapshot(&self) -> Rc<Current> {
        let mut newest = self.newest.borrow_mut();
        let newest = newest.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(newest, &current.0) {
            *current = Rc::new(Current(Arc::clone(newest)));
        }
        Rc::clone(&current)
    }

    /// The worker's access log.
    pub fn log(&self) -> RefMut<'_, AccessLog> {
        self.log.borrow_mut()
    }

    /// The worker's source of chance; not for secrets.
    pub fn rng(&self) -> RefMut<'_, fastrand::Rng> {
        self.rng.borrow_mut()
    }

    /// The time of day as `Date` says it.
    pub fn date(&self) -> Ref<'_, str> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.date.borrow().0 != second {
            *self.date.borrow_mut() = (second, httpdate::fmt_http_date(now));
        }
        Ref::map(self.date.borrow(), |(_, text)| text.as_str())
    }

    /// Says that a client has left.
    pub fn left(&self) {
        self.shared.loads[self.index].fetch_sub(1, Relaxed);
    }

    async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        let mut accepting: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
        let mut stopping = false;
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                () = tokio::time::sleep(self.tick_length()) => {
                    self.tick();
                    if stopping && self.watch.is_empty() { None } else { continue }
                }
            };
            match command {
                Some(Command::Listen(live, socket)) => {
                    let (close, closed) = oneshot::channel();
                    accepting.insert(live.id, close);
                    tokio::task::spawn_local(Rc::clone(&self).accept(live, socket, closed));
                }
                Some(Command::Serve(live, stream, peer)) => match TcpStream::from_std(stream) {
                    Ok(stream) => self.serve(live, stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "a client cannot be served");
                        self.left();
                    }
                },
                Some(Command::Close(listener)) => {
                    accepting.remove(&listener);
                    self.watch.last(listener);
                }
                Some(Command::CutListener(listener)) => self.watch.cut(listener),
                Some(Command::CutServer(server)) => self.watch.cut_server(server),
                Some(Command::Refresh) => self.tick(),
                Some(Command::Stop) => {
                    stopping = true;
                    accepting.clear();
                    self.watch.drain_all();
                }
                Some(Command::Kill) | None => break,
            }
        }
        self.watch.cut_all();
        // What was cut is recorded as it ends, which is when its task runs next.
        tokio::task::yield_now().await;
        self.log().flush();
    }

    /// A tenth of the shortest time that is limited, so that a limit is late by a tenth at most.
    fn tick_length(&self) -> Duration {
        let timeouts = &self.snapshot().config.timeouts;
        let shortest = [timeouts.request_header, timeouts.idle, timeouts.response_header, timeouts.body_idle];
        let shortest = shortest.into_iter().min().unwrap_or(TICK.1);
        (shortest / 10).clamp(TICK.0, TICK.1)
    }

    fn tick(&self) {
        let now = Instant::now();
        self.watch.sweep(now);
        self.upstreams.sweep(now);
        self.log().flush();
        // An idle worker would keep the snapshot that it saw last, and all that hangs on it.
        drop(self.snapshot());
    }

    fn serve(self: &Rc<Self>, listener: Arc<ListenerLive>, stream: TcpStream, peer: SocketAddr) {
        // A socket that refuses works all the same, only with a delay.
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(Client::new(self, listener, peer).serve(stream));
    }

    /// Accepts until `closed`, then takes those that are queued, so that none is lost.
    async fn accept(
        self: Rc<Self>,
        live: Arc<ListenerLive>,
        socket: std::net::TcpListener,
        mut closed: oneshot::Receiver<()>,
    ) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, listener = %live.name, "cannot accept"),
        };
        let mut pauses = 0;
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
                        chosen = self.room() => Some(chosen),
                    };
                    self.hand(room.unwrap_or_else(|| self.shared.place(self.index)), &live, stream, peer);
                    if room.is_none() {
                        break;
                    }
                }
                Err(error) => {
                    if pauses % PAUSES_A_LINE == 0 {
                        tracing::warn!(%error, listener = %live.name, "cannot accept a client");
                    }
                    pauses += 1;
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
            self.hand(self.shared.place(self.index), &live, stream, peer);
        }
        self.watch.last(live.id);
    }

    /// The worker for the next client, as soon as there are fewer than the limit.
    async fn room(&self) -> usize {
        loop {
            let limit = self.snapshot().config.limits.connections;
            if let Some(chosen) = self.shared.place_within(limit, self.index) {
                return chosen;
            }
            tokio::time::sleep(TICK.0).await;
        }
    }

    /// Has the chosen worker, for which the client is counted already, serve it.
    fn hand(self: &Rc<Self>, chosen: usize, live: &Arc<ListenerLive>, stream: TcpStream, peer: SocketAddr) {
        if chosen == self.index {
            return self.serve(Arc::clone(live), stream, peer);
        }
        let inbox = &self.shared.inboxes()[chosen];
        let sent = stream.into_std().map(|stream| inbox.send(Command::Serve(Arc::clone(live), stream, peer)));
        if !matches!(sent, Ok(Ok(()))) {
            self.shared.loads[chosen].fetch_sub(1, Relaxed);
        }
    }
}
