//! A worker: one thread that accepts clients and serves them to the end. Nothing moves between workers after that.

mod client_limit;
pub mod fd_limit;
mod pool;
pub mod socket;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Cache};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;

pub use self::client_limit::ClientLimit;
pub use self::pool::WorkerPool;
use self::pool::{WorkerCommand, WorkerTable};
use crate::http1::head::HeadPool;
use crate::live::listener::LiveListener;
use crate::live::snapshot::Snapshot;
use crate::proxy::connection::Client;
use crate::proxy::fault::Failing;
use crate::proxy::timeouts::Watchdog;
use crate::proxy::upstream::Upstreams;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::trace::SpanSink;
use crate::transport::Buffers;

/// How often a worker looks after what waits: a tenth of the shortest limit, within these bounds.
const TICK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// A pause after the system refused to accept, so that a lack of descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker, as its connections see it.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// Its connections to servers.
    pub upstreams: Upstreams,
    /// Its clients' connections.
    pub watch: Rc<Watchdog>,
    /// Where spans go.
    pub spans: SpanSink,
    /// Its buffers that are not in use.
    pub buffers: Buffers,
    /// Its requests' heads that are not in use.
    pub heads: HeadPool,
    log: RefCell<AccessLog>,
    rng: RefCell<fastrand::Rng>,
    /// One moment by both clocks, not long ago: a look at one of them is then a look at the other too.
    clocks: Cell<(Instant, SystemTime)>,
    /// The newest second, as `Date` says it.
    date: RefCell<(u64, String)>,
    newest: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    /// The newest snapshot when it was last looked for: cloned for each request, which a count that
    /// workers share would make dear.
    current: RefCell<Rc<Current>>,
    shared: Arc<WorkerTable>,
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

impl Worker {
    fn new(
        index: usize,
        snapshot: Arc<ArcSwap<Snapshot>>,
        log: AccessLog,
        spans: SpanSink,
        shared: Arc<WorkerTable>,
    ) -> Rc<Self> {
        let current = Rc::new(Current(snapshot.load_full()));
        Rc::new(Self {
            index,
            upstreams: Upstreams::new(shared.client_limit.limit(0).div_ceil(shared.loads.len())),
            watch: Watchdog::new(),
            spans,
            buffers: Buffers::default(),
            heads: HeadPool::default(),
            log: RefCell::new(log),
            rng: RefCell::default(),
            clocks: Cell::new((Instant::now(), SystemTime::now())),
            date: RefCell::default(),
            newest: RefCell::new(Cache::new(snapshot)),
            current: RefCell::new(current),
            shared,
        })
    }

    /// A worker of no worker_pool: it accepts nobody and has no tick, so nothing takes too long. Clients are brought to it, see
    /// [`Client::serve`], on any runtime of one thread; fuzzing does so.
    #[must_use]
    pub fn alone(snapshot: Arc<ArcSwap<Snapshot>>, log: AccessLog, spans: SpanSink) -> Rc<Self> {
        // Nobody is told of servers that fail.
        let (failing, _) = mpsc::unbounded_channel();
        Self::new(0, snapshot, log, spans, Arc::new(WorkerTable::new(1, Arc::new(ClientLimit::new(1024)), failing)))
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

    /// What the clock on the wall said at a moment.
    #[must_use]
    pub fn time_of(&self, moment: Instant) -> SystemTime {
        let (then, time) = self.clocks.get();
        time + moment.saturating_duration_since(then) - then.saturating_duration_since(moment)
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

    /// Tells the control plane of a server whose tries fail.
    pub fn report(&self, failing: Failing) {
        // Nobody listens only when the process ends.
        let _ = self.shared.failing.send(failing);
    }

    /// Says that a client has left.
    pub fn left(&self) {
        self.shared.loads[self.index].fetch_sub(1, Relaxed);
    }

    async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<WorkerCommand>) {
        let mut accepting: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
        let mut stopping = false;
        // IdleConnections over commands: a rush of them would put the tick off for ever.
        let mut tick = tokio::time::Instant::now() + self.tick_length();
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                () = tokio::time::sleep_until(tick) => {
                    self.tick();
                    tick = tokio::time::Instant::now() + self.tick_length();
                    if stopping && self.watch.is_empty() { None } else { continue }
                }
            };
            match command {
                Some(WorkerCommand::Listen(live, socket)) => {
                    let (close, closed) = oneshot::channel();
                    accepting.insert(live.id, close);
                    tokio::task::spawn_local(Rc::clone(&self).accept(live, socket, closed));
                }
                Some(WorkerCommand::Serve(live, stream, peer)) => match TcpStream::from_std(stream) {
                    Ok(stream) => self.serve(live, stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "a client cannot be served");
                        self.left();
                    }
                },
                Some(WorkerCommand::Close(listener)) => {
                    accepting.remove(&listener);
                    self.watch.last(listener);
                }
                Some(WorkerCommand::AbortListener(listener)) => self.watch.cut(listener),
                Some(WorkerCommand::AbortServer(server)) => self.watch.cut_server(server),
                Some(WorkerCommand::Refresh) => {
                    self.tick();
                    tick = tokio::time::Instant::now() + self.tick_length();
                }
                Some(WorkerCommand::Stop) => {
                    stopping = true;
                    accepting.clear();
                    self.watch.drain_all();
                }
                Some(WorkerCommand::Kill) | None => break,
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
        self.clocks.set((now, SystemTime::now()));
        self.watch.sweep(now);
        self.upstreams.sweep(now);
        self.buffers.sweep();
        self.shared.client_limit.check_recovered(now);
        self.log().flush();
        // An idle worker would keep the snapshot that it saw last, and all that hangs on it.
        drop(self.snapshot());
    }

    fn serve(self: &Rc<Self>, listener: Arc<LiveListener>, stream: TcpStream, peer: SocketAddr) {
        tokio::task::spawn_local(Client::new(self, listener, peer).serve(stream));
    }

    /// Accepts until `closed`, then takes those that are queued, so that none is lost.
    async fn accept(
        self: Rc<Self>,
        live: Arc<LiveListener>,
        socket: std::net::TcpListener,
        mut closed: oneshot::Receiver<()>,
    ) {
        let socket = match TcpListener::from_std(socket) {
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
                        chosen = self.room() => Some(chosen),
                    };
                    self.hand(room.unwrap_or_else(|| self.shared.place(self.index)), &live, stream, peer);
                    if room.is_none() {
                        break;
                    }
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
            self.hand(self.shared.place(self.index), &live, stream, peer);
        }
        self.watch.last(live.id);
    }

    /// The worker for the next client, as soon as there are fewer than the limit.
    async fn room(&self) -> usize {
        let mut delayed = false;
        loop {
            let configured = self.snapshot().config.limits.connections;
            if let Some(chosen) = self.shared.place_within(configured, self.index) {
                return chosen;
            }
            self.shared.client_limit.note_reached(self.shared.connections(), configured);
            if !std::mem::replace(&mut delayed, true) {
                self.shared.client_limit.count_delayed();
            }
            tokio::time::sleep(TICK.0).await;
        }
    }

    /// Has the chosen worker, for which the client is counted already, serve it.
    fn hand(self: &Rc<Self>, chosen: usize, live: &Arc<LiveListener>, stream: TcpStream, peer: SocketAddr) {
        if chosen == self.index {
            return self.serve(Arc::clone(live), stream, peer);
        }
        let inbox = &self.shared.inboxes()[chosen];
        let sent = stream.into_std().map(|stream| inbox.send(WorkerCommand::Serve(Arc::clone(live), stream, peer)));
        if !matches!(sent, Ok(Ok(()))) {
            self.shared.loads[chosen].fetch_sub(1, Relaxed);
        }
    }
}
