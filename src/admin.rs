//! The admin address: a read-only HTTP API, the metrics and the dashboard.
//!
//! A request passes the guard in `host` and reaches its endpoint in `api`, which serializes the live state through
//! the types of `view` and `figures`. `feed` sends events to its subscribers, `dashboard` serves the page.
//!
//! hyper is used directly: connection limits and timeouts need it anyway, and the routes are one table.

mod api;
mod compression;
mod dashboard;
mod error;
mod feed;
mod figures;
mod host;
mod query;
mod view;
mod warnings;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use self::feed::{EventStream, Subscription};
use crate::live::state::State;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::Metrics;
use crate::transport::{Acceptor, Socket};

pub use api::respond;
pub use feed::Feed;
pub use view::ConfigState;

/// Concurrent connections; further ones wait in the kernel's accept queue.
const MAX_CONNECTIONS: u32 = 128;
/// The timeout for a request's head, including the idle time before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: usize = 16 << 10;
/// A connection this old takes no further request, so that none occupies its place forever. Event streams go on.
const MAX_AGE: Duration = Duration::from_secs(300);
/// A client that accepts no byte for this long is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to finish the current response when a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of an unexpected request body is read and discarded, and for how long.
const DISCARD_BYTES: usize = 64 << 10;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// A complete response, or the head of an event stream (with a `Subscription` among its extensions).
pub type ApiResponse = Response<Full<Bytes>>;

type ServedResponse = Response<Either<Full<Bytes>, EventStream>>;

/// The sources of all responses.
#[derive(Debug)]
pub struct AdminContext {
    pub state: Arc<State>,
    pub metrics: Metrics,
    /// The source of `/api/events`. [`Feed::run`] must be running for figures and history.
    pub feed: Arc<Feed>,
}

impl AdminContext {
    #[must_use]
    pub fn new(state: Arc<State>, metrics: Metrics) -> Self {
        let feed = Arc::new(Feed::new(Arc::clone(&state)));
        Self { state, metrics, feed }
    }
}

/// Serves `listener` until `shutdown` completes; then closes it and returns when every response has been sent, or
/// after a short grace period. The accepted host names are those of the configuration in force at each request.
///
/// Must run on a tokio runtime, where it spawns a task for each connection.
pub async fn serve(listener: Acceptor, context: Arc<AdminContext>, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    // Nothing is ever sent: dropping the sender closes the connections.
    let (open, closing) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        let (slot, stream) = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut shutdown => break,
        };
        let (context, closing) = (Arc::clone(&context), closing.clone());
        tokio::spawn(async move {
            serve_connection(stream, context, closing).await;
            drop(slot);
        });
    }
    drop((listener, open));
    let _ = timeout(CLOSE_TIMEOUT, slots.acquire_many(MAX_CONNECTIONS)).await;
}

/// Accepts the next connection as soon as there is a slot for it.
async fn accept(listener: &Acceptor, slots: &Arc<Semaphore>) -> (Option<OwnedSemaphorePermit>, Socket) {
    // The semaphore is never closed, so there is always a permit.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let mut throttle = LogThrottle::every(Duration::from_secs(1));
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                if let Socket::Tcp(stream) = &socket {
                    // Without this the end of a long response waits for an acknowledgement. A failure does no other harm.
                    let _ = stream.set_nodelay(true);
                }
                return (slot, socket);
            }
            Err(error) => {
                // Usually the process is out of file descriptors, and some must be closed first.
                if throttle.allows(Instant::now()) {
                    tracing::warn!(%error, "the admin address cannot accept a connection");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(socket: Socket, context: Arc<AdminContext>, mut closing: watch::Receiver<()>) {
    // Set while the response is an event stream, which does not end by itself.
    let streaming = AtomicBool::new(false);
    let stream_closing = closing.clone();
    let service = service_fn(|request| {
        let (context, closing, streaming) = (Arc::clone(&context), stream_closing.clone(), &streaming);
        async move {
            let response = handle(request, context, closing).await;
            streaming.store(matches!(response.body(), Either::Right(_)), Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let mut stream = TimeoutStream::new(socket);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    let too_old = async {
        sleep(MAX_AGE).await;
        while streaming.load(Relaxed) {
            sleep(MAX_AGE).await;
        }
    };
    // Errors of a connection are the client's concern and not logged.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => {}
        () = too_old => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(CLOSE_TIMEOUT, connection).await;
}

async fn handle(
    request: Request<Incoming>,
    context: Arc<AdminContext>,
    closing: watch::Receiver<()>,
) -> ServedResponse {
    let (head, body) = request.into_parts();
    let (expects_continue, is_get) = (head.headers.contains_key(EXPECT), head.method == Method::GET);
    let accepts_gzip = compression::accepts_gzip(&head.headers);
    let is_large = context.state.snapshot.load().is_large();
    let feed = Arc::clone(&context.feed);
    let build = move || respond(&head, &context);
    let response = if is_large { on_blocking_thread(build).await } else { build() };
    let mut response = compression::compress(response, accepts_gzip).await;
    if !body.is_end_stream() {
        // Closing with unread bytes resets the connection, which can cost the client the response.
        // A client that expects 100-continue has not sent the body.
        if !expects_continue {
            let _ = timeout(DISCARD_TIMEOUT, Limited::new(body, DISCARD_BYTES).collect()).await;
        }
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    match response.extensions_mut().remove::<Subscription>() {
        Some(subscription) if is_get => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response.map(|_| Either::Right(subscription.stream(feed, closing)))
        }
        _ => response.map(Either::Left),
    }
}

/// Builds a response off the control plane's thread: one that lists thousands of servers would delay health checks.
async fn on_blocking_thread(build: impl FnOnce() -> ApiResponse + Send + 'static) -> ApiResponse {
    match tokio::task::spawn_blocking(build).await.map_err(JoinError::try_into_panic) {
        Ok(response) => response,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // Not started because the runtime is shutting down.
        Err(Err(_)) => std::future::pending().await,
    }
}
