//! Connections to servers: each worker keeps its own, so that taking one needs no lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Parts, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use crate::server::Server;

/// How long a connection may lie unused. Servers close theirs too: a race that the retry wins.
const IDLE: Duration = Duration::from_secs(60);
/// Unused connections to one server that one worker keeps.
const KEEP: usize = 256;

/// A connection to a server. Dropped, it closes at once, whatever is under way on it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
    /// Gives the socket back once the server has switched protocols.
    socket: oneshot::Receiver<Parts<TokioIo<TcpStream>>>,
    /// Whether a request was answered on it before.
    used: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server's name has not been resolved.
    Unresolved,
    /// The server did not accept in time.
    Timeout,
    /// The system says why.
    Refused(io::Error),
}

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// The request, if nothing of it was sent.
    pub unsent: Option<Request<RequestBody>>,
    /// What the engine says.
    pub error: hyper::Error,
}

/// One worker's unused connections, by server.
#[derive(Debug, Default)]
pub struct Upstreams {
    idle: RefCell<HashMap<u64, Kept>>,
}

/// The unused connections to one server, the one used last at the end.
#[derive(Debug)]
struct Kept {
    server: Arc<Server>,
    connections: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Upstreams {
    /// The unused connection to a server that was used last, if there is one that still works.
    pub fn take(&self, server: u64) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = &mut idle.get_mut(&server)?.connections;
        while let Some(Idle { connection, .. }) = connections.pop() {
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub fn keep(&self, server: &Arc<Server>, mut connection: Connection, now: Instant) {
        connection.used = true;
        let mut idle = self.idle.borrow_mut();
        let kept =
            idle.entry(server.id).or_insert_with(|| Kept { server: Arc::clone(server), connections: Vec::new() });
        if kept.connections.len() < KEEP {
            kept.connections.push(Idle { connection, since: now });
        }
    }

    /// Closes what has lain unused for too long, what its server has closed, and what leads to a
    /// server that is leaving.
    pub fn sweep(&self, now: Instant) {
        let fresh = |idle: &Idle| !idle.connection.sender.is_closed() && now.duration_since(idle.since) < IDLE;
        self.idle.borrow_mut().retain(|_, kept| {
            kept.connections.retain(fresh);
            !kept.connections.is_empty() && !kept.server.is_leaving()
        });
    }
}

impl Connection {
    /// Connects to a server, within `limit`.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn open(server: &Arc<Server>, worker: usize, limit: Duration) -> Result<Self, ConnectError> {
        let address = server.target().ok_or(ConnectError::Unresolved)?;
        let stream = tokio::time::timeout(limit, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(ConnectError::Refused)?;
        // Without it a small request may wait for an acknowledgement; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        let open = Open::new(server, worker);
        let (sender, mut connection) = http1::Builder::new()
            .preserve_header_case(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Refused(io::Error::other(error)))?;
        let (give, socket) = oneshot::channel();
        let task = tokio::task::spawn_local(async move {
            let _open = open;
            let ended = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
            if ended.is_ok() {
                // Nobody waits for it unless the protocol was switched; then it just closes.
                let _ = give.send(connection.into_parts());
            }
        });
        Ok(Self { sender, task: task.abort_handle(), socket, used: false })
    }

    /// Whether a request was answered on it before, so that the server may have closed it meanwhile.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is none; the request comes back if nothing of it was sent.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| SendError { unsent: failed.take_message(), error: failed.into_error() })
    }

    /// The socket, and what was read from it already, after the server has switched protocols.
    pub async fn into_socket(mut self) -> Option<(TcpStream, bytes::Bytes)> {
        let parts = (&mut self.socket).await.ok()?;
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connection as open while it exists.
struct Open {
    server: Arc<Server>,
    worker: usize,
}

impl Open {
    fn new(server: &Arc<Server>, worker: usize) -> Self {
        server.counters().of(worker).opened.add(1);
        Self { server: Arc::clone(server), worker }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.counters().of(self.worker).closed.add(1);
    }
}
