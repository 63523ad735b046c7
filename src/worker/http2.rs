//! Drives an HTTP/2 connection of a client: accepts its streams, each of which is a task, and ends it gracefully.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::header::CONTENT_TYPE;
use http::{Request, Version};

use crate::config::LimitsConfig;
use crate::http1::head::{BadLine, HeadError, HeadRule, RequestHead};
use crate::http1::server::ServerConnection;
use crate::http2::io::{Http2Io, Traffic};
use crate::http2::output::StreamEnd;
use crate::http2::server::{Http2ResponseWriter, Http2Stream};
use crate::http2::{head, websocket};
use crate::proxy::downstream::{Downstream, ResponseWriter};
use crate::proxy::grpc::is_grpc;
use crate::proxy::record::record_bad_head;
use crate::proxy::request;
use crate::proxy::timeouts::ConnectionPhase;
use crate::transport::Transport;
use crate::worker::connection::Connection;
use crate::worker::linger::{Linger, discard};

/// The first bytes of a client that knows that HTTP/2 is spoken here (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes that a client may send on a stream before they are forwarded.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The bytes of a response that a stream queues.
const SEND_BUFFER: usize = 64 * 1024;
/// The bytes that the system queues for a client beyond those in flight, so that a reset takes effect soon.
const UNSENT: u32 = 128 * 1024;
/// The memory of the decoder for headers that repeat (RFC 7541, section 4.2).
const HEADER_TABLE: u32 = 4096;
/// The streams that a client may have reset before they were accepted (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// The streams that the protocol has made us reset (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 100;
/// The streams that a turn accepts.
const STREAMS_PER_TURN: usize = 32;
/// How long a connection without a stream may take to end gracefully. New streams may be on their way.
const GOODBYE: Duration = Duration::from_secs(1);
/// Output of at least this many bytes shows that the client still reads what it has asked for.
const PROGRESS: u64 = 1024;

/// An HTTP/2 connection: what its driver and the tasks of its streams share.
struct Http2Connection {
    connection: Connection,
    /// The number of open streams.
    open: Cell<usize>,
}

/// An open stream, until it is dropped.
struct OpenStream(Rc<Http2Connection>);

/// Whether and since when a connection is ending.
struct Driver<'c> {
    http2: server::Connection<Http2Io<'c>, Bytes>,
    shared: &'c Rc<Http2Connection>,
    traffic: &'c Traffic,
    is_closing: bool,
    /// The number of requests so far.
    requests: u64,
    /// The bytes written when the idle timeout was last started.
    written: u64,
}

impl Connection {
    /// Serves HTTP/2, or HTTP/1 if the client's first bytes are of that.
    pub(super) async fn serve_either(self, mut http: ServerConnection) {
        loop {
            let (transport, received) = http.start();
            if received.len() >= PREFACE.len() || !PREFACE.starts_with(received) {
                break;
            }
            let mut reading = pin!(transport.read(received, &self.context.resources.buffers));
            let read = poll_fn(|context| match self.slot.poll(context) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => reading.as_mut().poll(context).map(Result::ok),
            });
            if !matches!(read.await, Some(1..)) {
                return;
            }
        }
        if http.start().1.starts_with(PREFACE) {
            self.serve_http2(http).await;
        } else {
            self.serve(&mut http).await;
        }
    }

    /// Serves HTTP/2 to the end of the connection.
    pub(super) async fn serve_http2(self, http: ServerConnection) {
        let (transport, received) = http.into_parts();
        transport.limit_unsent(UNSENT);
        let shared = Rc::new(Http2Connection { connection: self, open: Cell::new(0) });
        if Box::pin(shared.serve(&transport, received)).await {
            shared.linger(&transport).await;
        }
    }
}

impl Http2Connection {
    /// Serves streams until none may follow. Returns whether the client may have to be told so.
    async fn serve(self: &Rc<Self>, transport: &Transport, received: Vec<u8>) -> bool {
        let Connection { context, slot, .. } = &self.connection;
        let traffic = Traffic::new(Instant::now());
        let io = Http2Io::new(transport, &context.resources.buffers, &traffic, received);
        let mut handshake = pin!(builder(&context.snapshot().config.limits).handshake(io));
        let shaken = poll_fn(|task| match slot.poll(task) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => {
                traffic.start_turn();
                handshake.as_mut().poll(task).map(Some)
            }
        });
        let http2 = match shaken.await {
            Some(Ok(http2)) => http2,
            // An invalid preface: a GOAWAY is not required (RFC 9113, section 3.4).
            Some(Err(_)) => return true,
            None => return false,
        };
        traffic.end_handshake();
        let mut driver = Driver { http2, shared: self, traffic: &traffic, is_closing: false, requests: 0, written: 0 };
        poll_fn(|task| driver.poll(task)).await
    }

    /// Lets the client read what it has been sent, and discards what it still sends.
    async fn linger(&self, transport: &Transport) {
        let Connection { context, slot, .. } = &self.connection;
        if transport.shutdown_write().is_err() {
            return;
        }
        let mut linger = Linger::new(Instant::now(), false);
        let mut discarding = pin!(discard(transport, &context.resources.buffers, |bytes| {
            let wait = linger.discards(bytes, Instant::now(), self.connection.is_at_limit());
            wait.inspect(|wait| slot.wait(ConnectionPhase::Linger, *wait)).is_some()
        }));
        poll_fn(|task| match slot.poll(task) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => discarding.as_mut().poll(task),
        })
        .await;
    }

    /// Starts the timeout of a connection without a stream.
    fn rest(&self) {
        let Connection { context, slot, .. } = &self.connection;
        if slot.closing.get() {
            slot.wait(ConnectionPhase::Linger, GOODBYE);
        } else {
            slot.wait(ConnectionPhase::Idle, context.snapshot().config.timeouts.idle);
        }
    }

    /// Serves a stream.
    async fn serve_stream(
        &self,
        head: Result<RequestHead, HeadError>,
        is_call: bool,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
    ) {
        let Connection { context, client, .. } = &self.connection;
        match head {
            Ok(head) => {
                let timer = context.watchdog.request(client.listener.id);
                let stream = Http2Stream::new(&head, body, respond, &context.resources);
                request::serve(context, client, &timer, Downstream::Http2(stream), head).await;
            }
            Err(error @ HeadError::Malformed(_)) => {
                respond.send_reset(Reason::PROTOCOL_ERROR);
                record_bad_head(context, client, Version::HTTP_2, error.into(), 0);
            }
            Err(error) => {
                let timer = context.watchdog.request(client.listener.id);
                let response = ResponseWriter::Http2(Http2ResponseWriter::to_bad_head(respond, &context.resources));
                if is_call {
                    return request::reject_bad_call(context, client, response, error.into());
                }
                request::reject_bad_head(context, client, &timer, response, error.into()).await;
            }
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        if left == 0 {
            self.0.rest();
        }
    }
}

impl Driver<'_> {
    /// Does a turn; ready once the connection has ended, with whether its client may have something left to read.
    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<bool> {
        let slot = &self.shared.connection.slot;
        if slot.poll(task).is_ready() {
            let is_new = slot.phase() == ConnectionPhase::New;
            if is_new || self.is_closing {
                return Poll::Ready(self.is_closing);
            }
            slot.closing.set(true);
            slot.wait(ConnectionPhase::Linger, GOODBYE);
        }
        self.close_if_asked();
        self.traffic.start_turn();
        for _ in 0..STREAMS_PER_TURN {
            let accepted = pin!(self.http2.accept()).poll(task);
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                Poll::Ready(Some(Err(_)) | None) => {
                    self.record_ends();
                    return Poll::Ready(true);
                }
                Poll::Pending => {
                    self.after_turn(task);
                    return Poll::Pending;
                }
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Starts to end the connection, if it is to end: the client is told, and its open streams go on.
    fn close_if_asked(&mut self) {
        if !self.is_closing && self.shared.connection.slot.closing.get() {
            self.is_closing = true;
            self.http2.graceful_shutdown();
            if self.shared.open.get() == 0 {
                self.shared.rest();
            }
        }
    }

    /// Records the requests that `h2` has rejected by itself.
    fn record_ends(&self) {
        let Connection { context, client, .. } = &self.shared.connection;
        for end in self.traffic.take_ends() {
            let error = match end {
                StreamEnd::Reset(_) => HeadError::Malformed(BadLine { rule: HeadRule::Frames, number: 1 }),
                StreamEnd::TooLarge(_) => HeadError::TooLarge,
            };
            record_bad_head(context, client, Version::HTTP_2, error.into(), 0);
        }
    }

    /// Notes what the turn has changed.
    fn after_turn(&mut self, task: &TaskContext<'_>) {
        self.record_ends();
        let slot = &self.shared.connection.slot;
        if self.traffic.is_flood() && !self.traffic.end_input() {
            tracing::debug!(client = %self.shared.connection.client.peer.address(), "too many control frames or resets");
            self.http2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.is_closing = true;
            slot.closing.set(true);
            slot.wait(ConnectionPhase::Linger, GOODBYE);
            task.waker().wake_by_ref();
            return;
        }
        let written = self.traffic.written();
        let is_first = slot.phase() == ConnectionPhase::New && self.traffic.has_settings();
        let has_progress = slot.phase() == ConnectionPhase::Idle && written >= self.written + PROGRESS;
        if (is_first || has_progress) && self.shared.open.get() == 0 {
            self.written = written;
            self.shared.rest();
        }
    }

    /// Starts a stream.
    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        self.shared.connection.check_rules();
        let Connection { context, slot, .. } = &self.shared.connection;
        self.traffic.accept(respond.stream_id().as_u32());
        let (parts, body) = request.into_parts();
        let limits = self.shared.connection.head_limits();
        let mut head = head::request(&parts, context.resources.heads.take(), limits);
        if let Ok(head) = &mut head {
            websocket::add_key(&mut head.headers, || context.rng().u128(..).to_ne_bytes());
        }
        if matches!(head, Err(HeadError::Malformed(_))) {
            self.traffic.reject();
        }
        // Only a head that is not converted has to be asked.
        let is_call = head.is_err() && parts.headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
        slot.busy();
        self.shared.open.update(|open| open + 1);
        let stream = OpenStream(Rc::clone(self.shared));
        // In memory of its own: a task moves what it runs several times, and this is large.
        let serving = Box::pin(async move { stream.0.serve_stream(head, is_call, body, respond).await });
        tokio::task::spawn_local(serving);
        self.requests += 1;
        let most = context.snapshot().config.limits.connection_requests;
        if most > 0 && self.requests >= most {
            slot.closing.set(true);
            self.close_if_asked();
        }
    }
}

fn builder(limits: &LimitsConfig) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .header_table_size(HEADER_TABLE)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .enable_connect_protocol();
    builder
}
