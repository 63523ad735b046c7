//! Servers of HTTP/2 without TLS that behave or misbehave as a test wants. A task for each stream runs the test's function.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

/// A request on its stream.
pub(crate) struct Stream {
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
    /// The number of the request at the server, from 0.
    pub(crate) number: usize,
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    /// Makes the connection send GOAWAY for the streams that it has not accepted yet.
    pub(crate) goaway: Arc<Notify>,
    /// Makes the connection end at once.
    pub(crate) abort: Arc<Notify>,
}

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;
type Serve = Arc<dyn Fn(Stream) -> Served + Send + Sync>;

struct Shared {
    streams: u32,
    /// Whether connections begin with a PROXY header of version 1.
    has_header: bool,
    /// Whether WebSockets are offered.
    has_websocket: bool,
    serve: Serve,
    requests: Mutex<Vec<Request<()>>>,
    /// The PROXY headers so far.
    headers: Mutex<Vec<String>>,
}

/// A running server; it closes everything when it is dropped.
pub(crate) struct Http2Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

impl Http2Server {
    /// Serves each stream with `serve`, on connections with at most `streams` of them at once.
    pub(crate) fn start<F>(streams: u32, serve: impl Fn(Stream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::run(streams, [false; 2], Arc::new(move |stream| Box::pin(serve(stream))))
    }

    /// The same, with a PROXY header at the start of each connection.
    pub(crate) fn behind_a_header<F>(serve: impl Fn(Stream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::run(100, [true, false], Arc::new(move |stream| Box::pin(serve(stream))))
    }

    /// The same with WebSockets (RFC 8441).
    pub(crate) fn with_websockets<F>(serve: impl Fn(Stream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::run(100, [false, true], Arc::new(move |stream| Box::pin(serve(stream))))
    }

    fn run(streams: u32, [has_header, has_websocket]: [bool; 2], serve: Serve) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("set");
        let address = socket.local_addr().expect("an address");
        let connections = Arc::<AtomicUsize>::default();
        let (requests, headers) = Default::default();
        let shared = Arc::new(Shared { streams, has_header, has_websocket, serve, requests, headers });
        let (stop, stopped) = oneshot::channel();
        let all = (Arc::clone(&connections), Arc::clone(&shared));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let socket = TcpListener::from_std(socket).expect("a socket");
                let accepting = async {
                    loop {
                        let (stream, _) = socket.accept().await.expect("a connection");
                        let number = all.0.fetch_add(1, SeqCst);
                        tokio::spawn(connection(stream, number, Arc::clone(&all.1)));
                    }
                };
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
        });
        Self { address, connections, shared, _stop: stop }
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// The PROXY headers so far.
    pub(crate) fn headers(&self) -> Vec<String> {
        self.shared.headers.lock().expect("headers").clone()
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<Request<()>> {
        self.shared.requests.lock().expect("requests").clone()
    }
}

async fn connection(mut stream: TcpStream, number: usize, shared: Arc<Shared>) {
    if shared.has_header {
        let mut header = Vec::new();
        while !header.ends_with(b"\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            header.push(byte);
        }
        shared.headers.lock().expect("headers").push(String::from_utf8(header).expect("text"));
    }
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(shared.streams)
        .initial_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024);
    if shared.has_websocket {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let (goaway, abort) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = goaway.notified() => {
                connection.graceful_shutdown();
                continue;
            }
            () = abort.notified() => return,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let head = {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.headers_mut() = request.headers().clone();
            head
        };
        let number_of_request = {
            let mut requests = shared.requests.lock().expect("requests");
            requests.push(head);
            requests.len() - 1
        };
        let (goaway, abort) = (Arc::clone(&goaway), Arc::clone(&abort));
        let stream = Stream { connection: number, number: number_of_request, request, respond, goaway, abort };
        tokio::spawn((shared.serve)(stream));
    }
}

impl Stream {
    /// Responds 200 with this body.
    pub(crate) fn ok(&mut self, body: &'static str) {
        let response = Response::new(());
        let Ok(mut stream) = self.respond.send_response(response, body.is_empty()) else { return };
        if !body.is_empty() {
            let _ = stream.send_data(Bytes::from_static(body.as_bytes()), true);
        }
    }

    /// Responds 200 with this many bytes, as the windows allow; without an end if it is `usize::MAX`.
    pub(crate) async fn send(&mut self, mut bytes: usize) {
        let Ok(mut out) = self.respond.send_response(Response::new(()), false) else { return };
        while bytes > 0 {
            out.reserve_capacity(bytes.min(16 * 1024));
            let Some(Ok(granted)) = std::future::poll_fn(|context| out.poll_capacity(context)).await else { return };
            let part = granted.min(bytes);
            bytes -= part;
            if out.send_data(Bytes::from(vec![b'x'; part]), bytes == 0).is_err() {
                return;
            }
        }
    }

    /// Reads the whole body of the request, and its trailers.
    pub(crate) async fn body(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let body = self.request.body_mut();
        let mut bytes = Vec::new();
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
            bytes.extend_from_slice(&piece);
        }
        (bytes, body.trailers().await.ok().flatten())
    }

    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        self.respond.send_reset(reason);
    }
}
