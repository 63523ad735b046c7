//! The whole request path in memory, with a scripted client and a scripted server.
//!
//! The real engine serves one client. In place of TCP connections it gets connected pairs of Unix
//! sockets: one to the client, and some to the server, which it finds as idle connections. A new
//! connection to the server is refused by the kernel. Nothing waits for a timer: once all sides are idle,
//! the next turn of the script starts.

use std::cell::LazyCell;
use std::future::poll_fn;
use std::io::{Read, Write};
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
use lb::http1::client::ClientConnection;
use lb::live::counters::PerWorker;
use lb::live::descriptors::Descriptors;
use lb::live::listener::LiveListener;
use lb::live::server::Server;
use lb::live::snapshot::Snapshot;
use lb::proxy::context::Context;
use lb::proxy::upstream::Upstream;
use lb::telemetry::access_log::AccessLogWriter;
use lb::telemetry::trace;
use lb::transport::{self, Transport};
use lb::worker::connection::Connection;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::rules::Transcript;

mod rules;

/// Ends a turn. The client has the first turn, the server the second, the client the third, and so on. In
/// an empty turn the client shuts down its sending side, and the server closes the connection.
const TURN: u8 = 0x1e;
/// The number of idle connections to the server.
const SERVER_CONNECTIONS: usize = 3;
/// After this many idle rounds nothing more will happen: the kernel needs one round to report bytes, and
/// two to refuse a connection.
const IDLE_ROUNDS: usize = 4;
/// The most rounds that the engine may need to end once both sides have left.
const MAX_END_ROUNDS: usize = 100;

/// A client that is not a trusted proxy.
const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 1234);

thread_local! {
    static GATEWAY: LazyCell<Gateway> = LazyCell::new(Gateway::start);
}

/// Plays a script: the turns of client and server, each ended by [`TURN`].
pub fn play(script: &[u8]) {
    GATEWAY.with(|gateway| {
        let transcript = gateway.runtime.block_on(gateway.play(script));
        if gateway.prints {
            eprintln!("{transcript:?}");
        }
        transcript.check();
    });
}

/// A worker without a worker pool, and what it needs.
struct Gateway {
    runtime: LocalRuntime,
    context: Rc<Context>,
    listener: Arc<LiveListener>,
    server: Arc<Server>,
    /// The server's address: bound, so that no other process can use it, but not listening.
    unreachable: (Socket, SocketAddr),
    /// Whether to print transcripts (`SHOW`).
    prints: bool,
    /// Replaces the default action of SIGPIPE. A normal Rust program ignores the signal, but libFuzzer has
    /// its own `main`.
    _sigpipe: Signal,
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
            id: lb::live::listener::ListenerId(1),
            name: "web".into(),
            configured: snapshot.config.listeners[0].address.clone(),
            address: snapshot.config.listeners[0].address.clone(),
            rules: Arc::default(),
            counters: Arc::new(PerWorker::new(1)),
        };
        // Nobody reads the reports of failing servers.
        let (failing, _) = tokio::sync::mpsc::unbounded_channel();
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let context = Rc::new(Context::new(0, snapshot, log, spans, Arc::new(Descriptors::new(1024, 1)), failing));
        let sigpipe = signal(SignalKind::pipe()).expect("a signal handler");
        drop(entered);
        Self {
            runtime,
            context,
            listener: Arc::new(listener),
            server,
            unreachable: (socket, address),
            prints: std::env::var_os("SHOW").is_some(),
            _sigpipe: sigpipe,
        }
    }

    async fn play(&self, script: &[u8]) -> Transcript {
        // Idle connections of the previous script.
        while self.context.upstreams.take_idle(self.server.id, None, true).is_some() {}
        let (mut client, stream) = FarEnd::pair();
        let (mut servers, streams): (Vec<FarEnd>, Vec<TcpStream>) =
            (0..SERVER_CONNECTIONS).map(|_| FarEnd::pair()).unzip();
        // The newest idle connection is used first.
        for stream in streams.into_iter().rev() {
            let upstreams = &self.context.upstreams;
            let upstream = Upstream::Http1(ClientConnection::new(Transport::Plain(transport::Socket::Tcp(stream))));
            let connection = upstreams.adopt(upstream, Some(self.unreachable.1), &self.server);
            upstreams.put(&self.server, connection, Instant::now(), None);
        }
        let connection =
            Connection::new(Rc::clone(&self.context), Arc::clone(&self.listener), SocketAddr::from(PEER).into(), None);
        let mut serving = pin!(connection.accept(transport::Socket::Tcp(stream)));
        let mut served = false;
        let mut idle_rounds = 0;
        let mut turns = script.split(|byte| *byte == TURN).enumerate();
        let mut end_rounds = 0;
        let mut sent = Vec::new();
        loop {
            if !served {
                served = poll_fn(|context| Poll::Ready(serving.as_mut().poll(context).is_ready())).await;
            }
            let received = servers.iter_mut().fold(client.receive(), |received, server| server.receive() || received);
            idle_rounds = if received { 0 } else { idle_rounds + 1 };
            if idle_rounds >= IDLE_ROUNDS || served {
                idle_rounds = 0;
                match turns.next() {
                    Some((number, text)) if number % 2 == 0 => {
                        let written = client.send(text, Shutdown::Write);
                        sent.extend_from_slice(&text[..written]);
                    }
                    Some((_, text)) => {
                        let used = servers.iter().rposition(|server| !server.received.is_empty()).unwrap_or_default();
                        servers[used].send(text, Shutdown::Both);
                    }
                    None => {
                        client.close();
                        servers.iter_mut().for_each(FarEnd::close);
                        if served {
                            break;
                        }
                        end_rounds += 1;
                        assert!(end_rounds < MAX_END_ROUNDS, "a client that has disconnected is still served");
                    }
                }
            }
            // Lets the runtime poll the kernel.
            tokio::task::yield_now().await;
        }
        let servers = servers.into_iter().map(|server| server.received).collect();
        Transcript { sent, received: client.received, servers }
    }
}

/// Returns a snapshot with this server.
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
    Registry::new(1).plan(&config, Instant::now(), |_| None).snapshot(1, "".into(), [].into(), SystemTime::now())
}

/// The far end of one of the engine's connections.
struct FarEnd {
    stream: Option<UnixStream>,
    received: Vec<u8>,
}

impl FarEnd {
    /// Returns a far end and the engine's end.
    fn pair() -> (Self, TcpStream) {
        let (far, near) = UnixStream::pair().expect("two sockets");
        for stream in [&far, &near] {
            stream.set_nonblocking(true).expect("a socket that does not block");
        }
        let near = TcpStream::from_std(OwnedFd::from(near).into()).expect("a runtime");
        (Self { stream: Some(far), received: Vec::new() }, near)
    }

    /// Receives what is available. Returns whether there was anything.
    fn receive(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let before = self.received.len();
        // An end of the stream needs no reaction, and neither does an error.
        let _ = stream.read_to_end(&mut self.received);
        self.received.len() > before
    }

    /// Sends `text`, or ends the connection if there is none. Returns the number of bytes written.
    fn send(&mut self, text: &[u8], end: Shutdown) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        if text.is_empty() {
            // Fails if it has ended already.
            let _ = stream.shutdown(end);
            if end == Shutdown::Both {
                self.stream = None;
            }
            return 0;
        }
        stream.write(text).unwrap_or_default()
    }

    fn close(&mut self) {
        self.stream = None;
    }
}
