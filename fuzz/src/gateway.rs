//! The whole request path, in memory: what a client sends, what a server sends, and what must hold of the rest.
//!
//! The real engine serves one client. Its sockets are pairs of connected Unix sockets, which it
//! takes for TCP connections: one to the client, and some to the server that it finds kept alive.
//! A new connection to the server is refused, by the system. Nothing waits for a time: when nobody
//! has anything more to do, it is the other side's turn.

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
use lb::live::counters::PerWorker;
use lb::proxy::connection::Client;
use lb::control::registry::Registry;
use lb::live::server::Server;
use lb::live::snapshot::Snapshot;
use lb::live::listener::LiveListener;
use lb::telemetry::access_log::AccessLogWriter;
use lb::telemetry::trace;
use lb::worker::Worker;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::rules::Played;

mod rules;

/// Ends a turn: first the client speaks, then the server, then the client again. Who has nothing to
/// say in its turn ends the connection: the client its half, the server all.
const TURN: u8 = 0x1e;
/// Connections to the server that are there.
const LANES: usize = 3;
/// When so often nobody had anything to do, nobody will: the system needs a turn to tell of bytes,
/// and two to refuse a connection.
const QUIET: usize = 4;
/// An end takes no more turns than this.
const LAST: usize = 100;

/// A client that no proxy stands before.
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

/// A worker of its own, and what it needs.
struct Gateway {
    runtime: LocalRuntime,
    worker: Rc<Worker>,
    listener: Arc<LiveListener>,
    server: Arc<Server>,
    /// Bound, so that nobody else is there, but not listening.
    nowhere: (Socket, SocketAddr),
    /// For who looks at one script.
    shows: bool,
    /// Writing to a closed socket is an error and no more; a Rust program has that by itself.
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
        // What the last script left.
        while self.worker.upstreams.take(self.server.id).is_some() {}
        let (mut client, stream) = Side::pair();
        let (mut lanes, streams): (Vec<Side>, Vec<TcpStream>) = (0..LANES).map(|_| Side::pair()).unzip();
        // The one that was kept last is used first.
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
                        assert!(left > 0, "a client that has left is still served");
                    }
                }
            }
            // The system is asked what has come.
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
    Registry::new(1).plan(&config, Instant::now()).snapshot(1, "".into(), [].into(), SystemTime::now())
}

/// The other end of a connection of the engine.
struct Side {
    stream: Option<UnixStream>,
    heard: Vec<u8>,
}

impl Side {
    /// With the engine's end.
    fn pair() -> (Self, TcpStream) {
        let (near, far) = UnixStream::pair().expect("two sockets");
        for stream in [&near, &far] {
            stream.set_nonblocking(true).expect("a socket that does not block");
        }
        let far = TcpStream::from_std(OwnedFd::from(far).into()).expect("a runtime");
        (Self { stream: Some(near), heard: Vec::new() }, far)
    }

    /// Takes what has come; whether there was something.
    fn listen(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let before = self.heard.len();
        if stream.read_to_end(&mut self.heard).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return self.heard.len() > before;
        }
        // The engine has closed its end, or its half.
        self.heard.len() > before
    }

    /// Says something, or ends the connection; how much was taken.
    fn say(&mut self, text: &[u8], end: Shutdown) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        if text.is_empty() {
            // Fails where it is ended already.
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
