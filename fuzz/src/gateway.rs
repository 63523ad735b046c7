//! The whole request path, in memory: a script of a client and a server, and the invariants of the rest.
//!
//! The real engine serves one client. Pairs of connected Unix sockets take the place of TCP connections: one to the
//! client, and some idle ones to the server. The system refuses new connections to the server. No time passes: when no
//! side makes progress, the next turn begins.

use std::cell::LazyCell;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use lb::config::file::parse;
use lb::config::source::SourceFile;
use lb::control::registry::Registry;
use lb::live::counters::PerWorker;
use lb::live::listener::LiveListener;
use lb::live::server::Server;
use lb::live::snapshot::Snapshot;
use lb::proxy::connection::Client;
use lb::telemetry::access_log::AccessLogWriter;
use lb::telemetry::trace;
use lb::worker::Worker;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::rules::Played;

mod rules;

/// Ends a turn: first the client's, then the server's, then the client's again. An empty turn ends the connection: the
/// client closes its half, the server both.
const TURN: u8 = 0x1e;
/// Idle connections to the server.
const LANES: usize = 3;
/// After this many rounds without progress there will be none: the system needs one round to report bytes, and two to
/// refuse a connection.
const QUIET: usize = 4;
/// The limit of rounds after the script has ended.
const LAST: usize = 100;

/// The address of the client, which is not a trusted proxy.
const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 1234);

thread_local! {
    static GATEWAY: LazyCell<Gateway> = LazyCell::new(Gateway::start);
}

/// Plays a script: the turns of client and server, each ended by [`TURN`].
pub fn play(script: &[u8]) {
    GATEWAY.with(|gateway| {
        let played = gateway.runtime.block_on(gateway.play(script));
        if gateway.shows {
            eprintln!("{played:?}");
        }
        played.check();
    });
}

/// A worker, and everything it needs.
struct Gateway {
    runtime: LocalRuntime,
    worker: Rc<Worker>,
    listener: Arc<LiveListener>,
    server: Arc<Server>,
    /// Bound but not listening, so that connections are refused.
    nowhere: (Socket, SocketAddr),
    /// Whether to print each exchange.
    shows: bool,
    /// Makes writing to a closed socket an error instead of a signal, as every Rust program does.
    _pipe: Signal,
}

impl Gateway {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        let entered = runtime.enter();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        let snapshot = snapshot(address);
        let server = Arc::clone(&snapshot.pools[0].members[0].server);
        let (spans, _) = trace::start(&snapshot.config.tracing);
        let log = AccessLogWriter::start(std::io::sink()).expect("a thread").worker();
        let listener = LiveListener {
            id: 1,
            name: "web".into(),
            address: snapshot.config.listeners[0].address,
            counters: Arc::new(PerWorker::new(1)),
        };
        let worker = Worker::alone(Arc::new(ArcSwap::new(Arc::new(snapshot))), log, spans);
        let pipe = signal(SignalKind::pipe()).expect("a signal handler");
        drop(entered);
        let shows = std::env::var_os("SHOW").is_some();
        Self { runtime, worker, listener: Arc::new(listener), server, nowhere: (socket, address), shows, _pipe: pipe }
    }

    async fn play(&self, script: &[u8]) -> Played {
        // Removes the connections that the last script has left.
        while self.worker.upstreams.take(self.server.id).is_some() {}
        let (mut client, stream) = Side::pair();
        let (mut lanes, streams): (Vec<Side>, Vec<TcpStream>) = (0..LANES).map(|_| Side::pair()).unzip();
        // The newest idle connection is used first.
        for stream in streams.into_iter().rev() {
            let upstreams = &self.worker.upstreams;
            let connection = upstreams.over(stream, self.nowhere.1, &self.server, self.worker.index);
            upstreams.keep(&self.server, connection, Instant::now());
        }
        let mut serving = pin!(Client::new(&self.worker, Arc::clone(&self.listener), PEER.into()).serve(stream));
        let mut over = false;
        let mut quiet = 0;
        let mut turns = script.split(|byte| *byte == TURN).enumerate();
        let mut left = LAST;
        let mut sent = Vec::new();
        loop {
            if !over {
                over = poll_fn(|context| Poll::Ready(serving.as_mut().poll(context).is_ready())).await;
            }
            let moved = lanes.iter_mut().fold(client.listen(), |moved, lane| lane.listen() || moved);
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet >= QUIET || over {
                quiet = 0;
                match turns.next() {
                    Some((number, text)) if number % 2 == 0 => {
                        let taken = client.say(text, Shutdown::Write);
                        sent.extend_from_slice(&text[..taken]);
                    }
                    Some((_, text)) => {
                        let used = lanes.iter().rposition(|lane| !lane.heard.is_empty()).unwrap_or_default();
                        lanes[used].say(text, Shutdown::Both);
                    }
                    None => {
                        client.leave();
                        lanes.iter_mut().for_each(Side::leave);
                        if over {
                            break;
                        }
                        left -= 1;
                        assert!(left > 0, "the request continues after its client has left");
                    }
                }
            }
            // Lets the runtime poll the sockets.
            tokio::task::yield_now().await;
        }
        Played { sent, heard: client.heard, lanes: lanes.into_iter().map(|lane| lane.heard).collect() }
    }
}

/// One generation of one configuration.
fn snapshot(server: SocketAddr) -> Snapshot {
    let text = format!(
        r#"
        listener = [{{ address = "127.0.0.1:8080" }}]
        log.format = "json"
        limits.header_bytes = "4KiB"
        health.kind = "none"
        balance.sticky = {{ cookie = "lb", max_age = "1h" }}
        route = [{{ pool = "default" }}, {{ host = "*.b", path = "/x", pool = "default" }}]
        server = [{{ name = "one", address = "{server}" }}]
        "#
    );
    let config = Arc::new(parse(&[SourceFile::new("lb.toml", text)], &|_| None).expect("a configuration"));
    let mut registry = Registry::new(1);
    registry.apply(&config, Instant::now());
    registry.snapshot(&config, 1, "".into(), [].into(), SystemTime::now())
}

/// The peer's end of a connection of the engine.
struct Side {
    stream: Option<UnixStream>,
    heard: Vec<u8>,
}

impl Side {
    /// Returns both ends; the second is the engine's.
    fn pair() -> (Self, TcpStream) {
        let (near, far) = UnixStream::pair().expect("two sockets");
        for stream in [&near, &far] {
            stream.set_nonblocking(true).expect("a socket that does not block");
        }
        let far = TcpStream::from_std(OwnedFd::from(far).into()).expect("a runtime");
        (Self { stream: Some(near), heard: Vec::new() }, far)
    }

    /// Reads all available bytes, and returns whether there were any.
    fn listen(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let before = self.heard.len();
        if stream.read_to_end(&mut self.heard).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return self.heard.len() > before;
        }
        // The engine has closed its end, or its half.
        self.heard.len() > before
    }

    /// Sends bytes or, without any, ends the connection. Returns how many bytes were written.
    fn say(&mut self, text: &[u8], end: Shutdown) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        if text.is_empty() {
            // Fails if the connection has ended.
            let _ = stream.shutdown(end);
            if end == Shutdown::Both {
                self.stream = None;
            }
            return 0;
        }
        stream.write(text).unwrap_or_default()
    }

    fn leave(&mut self) {
        self.stream = None;
    }
}
