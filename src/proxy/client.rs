//! A client connection: hyper's server side, our limits around it, and the way into a tunnel.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::exchange;
use super::forward;
use super::forwarded::ClientFields;
use super::tunnel::Tunnel;
use super::watch::{Phase, Slot};
use crate::config::{Limits, Timeouts};
use crate::state::ListenerLive;
use crate::worker::Worker;

/// What clients speak; TLS is to come.
pub const SCHEME: &str = "http";
/// The least that hyper wants for a head's buffer.
const MIN_HEAD: usize = 8192;
/// The fields that hyper takes in a head without being told of another limit.
const DEFAULT_FIELDS: usize = 100;

/// One client connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The listener it came by.
    pub listener: Arc<ListenerLive>,
    /// The other end.
    pub peer: SocketAddr,
    /// What is said of the client to servers.
    pub fields: ClientFields,
    /// What it waits for.
    pub slot: Rc<Slot>,
    /// What took too long, until the request that waits for it looks.
    timed_out: Cell<Option<Phase>>,
    /// Whether this request is to be the last.
    last: Cell<bool>,
    /// What to do with the connection once the protocol has been switched.
    tunnel: RefCell<Option<Tunnel>>,
}

impl Client {
    /// A client that was just accepted.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, listener: Arc<ListenerLive>, peer: SocketAddr) -> Rc<Self> {
        let slot = worker.watch.enter(listener.id);
        slot.wait(Phase::Head, worker.snapshot().config.timeouts.request_header);
        listener.counters.of(worker.index).opened.add(1);
        Rc::new(Self {
            fields: ClientFields::new(peer, SCHEME),
            worker: Rc::clone(worker),
            listener,
            peer,
            slot,
            timed_out: Cell::default(),
            last: Cell::default(),
            tunnel: RefCell::default(),
        })
    }

    /// Whether the client is to be told that there will be no further request.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last.get()
    }

    /// Lets `future` run until what the connection waits for has taken too long.
    ///
    /// # Errors
    /// With what it was that took too long.
    pub async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, Phase> {
        let mut future = std::pin::pin!(future);
        poll_fn(|context| match self.timed_out.take() {
            Some(phase) => Poll::Ready(Err(phase)),
            None => future.as_mut().poll(context).map(Ok),
        })
        .await
    }

    /// Says that the connection becomes a tunnel with the end of this exchange's answer.
    pub fn becomes(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// The `Host` of a request that has none, as HTTP/1.0 allows and servers do not: where it came in.
    #[must_use]
    pub fn host_for(&self, head: &Parts) -> Option<HeaderValue> {
        if head.headers.contains_key(header::HOST) {
            return None;
        }
        HeaderValue::try_from(self.listener.address.to_string()).ok()
    }

    /// An exchange has ended: from here on the next one is waited for.
    pub fn ended(&self, timeouts: &Timeouts) {
        if self.slot.phase() != Phase::Tunnel {
            self.slot.wait(Phase::Idle, timeouts.idle);
        }
    }

    /// Serves the connection to its end.
    pub async fn serve(self: Rc<Self>, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let client = Rc::clone(&self);
            async move { Ok::<_, Infallible>(forward::handle(client, request).await) }
        });
        let io = Io { stream: TokioIo::new(stream), client: &self };
        let mut connection = engine(&self.worker.snapshot().config.limits).serve_connection(io, service);
        let ended = poll_fn(|context| {
            let signals = self.slot.poll(context);
            if signals.cut {
                return Poll::Ready(End::Cut);
            }
            let resting = signals.drain && matches!(self.slot.phase(), Phase::Head | Phase::Idle);
            if signals.last {
                self.last.set(true);
            }
            if signals.drain {
                self.last.set(true);
                Pin::new(&mut connection).graceful_shutdown();
            }
            match signals.expired {
                None => {}
                Some(phase @ (Phase::Upload | Phase::Connect | Phase::Answer)) => self.timed_out.set(Some(phase)),
                Some(Phase::Head | Phase::Idle | Phase::Download | Phase::Tunnel) => {
                    self.slot.give_up("stalled");
                    return Poll::Ready(End::Cut);
                }
            }
            Pin::new(&mut connection).poll(context).map(|result| match result {
                // No answer is on its way that closing early could take from the client.
                Ok(()) if resting => End::Cut,
                Ok(()) => End::InOrder,
                Err(error) => {
                    note_unreadable(&self, &error);
                    End::Told
                }
            })
        })
        .await;
        // It knows this client: left here, both would live for ever.
        let tunnel = self.tunnel.take();
        if ended == End::Cut {
            return;
        }
        let parts = connection.into_parts();
        let stream = parts.io.stream.into_inner();
        // A client that could not be told of the new protocol does not speak it.
        match tunnel.filter(|_| ended == End::InOrder) {
            Some(tunnel) => tunnel.run(stream, &parts.read_buf, &self.slot).await,
            None => linger(stream).await,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.slot.leave();
        self.listener.counters.of(self.worker.index).closed.add(1);
        self.worker.left();
    }
}

/// Records what the engine could not read as a request, and has answered by itself.
fn note_unreadable(client: &Client, error: &hyper::Error) {
    if error.is_parse_too_large() {
        exchange::unreadable(client, 431, "head_too_large");
    } else if error.is_parse() {
        exchange::unreadable(client, 400, "bad_request");
    }
}

/// The engine under these limits.
fn engine(limits: &Limits) -> http1::Builder {
    let head = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
    let mut engine = http1::Builder::new();
    engine.max_header_size(head).max_buf_size(head.max(MIN_HEAD)).header_read_timeout(None);
    // Where its own limit does, it needs no memory for each request.
    if limits.headers > DEFAULT_FIELDS {
        engine.max_headers(limits.headers);
    }
    engine
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// After an answer, which the client may not have read yet.
    InOrder,
    /// After an error, of which the engine has told the client.
    Told,
    /// There is nothing to wait for.
    Cut,
}

/// Closes so that the client can read the answer to the end: what it still sends is read and
/// thrown away for a while, as unread bytes would make the system reset the connection
/// (RFC 9112, section 9.6).
async fn linger(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const AT_MOST: std::time::Duration = std::time::Duration::from_secs(2);
    if stream.shutdown().await.is_err() {
        return;
    }
    let discard = async {
        let mut scrap = [0; 4096];
        while let Ok(1..) = stream.read(&mut scrap).await {}
    };
    // However it ends, the connection is closed.
    let _ = tokio::time::timeout(AT_MOST, discard).await;
}

/// The socket as hyper sees it. The first byte of a request starts the time for its head, and how
/// the client takes its answer is noted.
struct Io<'a> {
    stream: TokioIo<TcpStream>,
    client: &'a Client,
}

impl Io<'_> {
    /// Notes what the client took of an answer, or that it takes nothing at the moment.
    fn took(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.client.slot.body_waits(Phase::Download),
            Poll::Ready(Ok(bytes)) => self.client.slot.body_moves(Phase::Download, *bytes),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl Read for Io<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let slot = &self.client.slot;
        if slot.phase() == Phase::Idle {
            slot.wait(Phase::Head, self.client.worker.snapshot().config.timeouts.request_header);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Io<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.took(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Does nothing: what becomes of the socket is decided after hyper is done with it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.took(written)
    }
}
