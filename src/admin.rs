//! The admin address: what the process tells people, scripts and probes. It reads and never changes anything.
//!
//! A request passes `host` (is it meant for this address?) and goes to its endpoint in `api`, which
//! shows the live state in the shapes of `view` and `figures`. What cannot be answered is a `refusal`.
//! Who follows what happens gets it from the `feed`; people look at the `dashboard`.

mod api;
mod dashboard;
mod feed;
mod figures;
mod host;
mod query;
mod refusal;
mod view;

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use self::feed::{Follower, Stream};
use crate::live::state::State;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::Metrics;

pub use api::answer;
pub use feed::Feed;
pub use view::Truth;

/// Connections at once; who comes then waits in the socket's queue.
const CONNECTIONS: u32 = 128;
/// For a request's head, and between two requests on a connection.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Of a request's head. There is little to say in it.
const HEAD_BYTES: usize = 16 << 10;
/// After so long a connection takes no further request, so that none is held for ever; a stream of events goes on.
const LIFETIME: Duration = Duration::from_secs(300);
/// So long a client may take nothing of what is sent to it.
const STALL: Duration = Duration::from_secs(10);
/// For the answer that is being sent when the connection is to end.
const GRACE: Duration = Duration::from_secs(2);
/// How much of a body that nobody wants is taken off the wire, and for how long.
const UNWANTED: (usize, Duration) = (64 << 10, Duration::from_secs(1));

/// An answer, whole, which of thousands of servers takes a moment to be made; or the beginning of a stream.
pub type Answer = Response<Full<Bytes>>;

/// An answer as it is sent.
type Sent = Response<Either<Full<Bytes>, Stream>>;

/// What answers are made from.
#[derive(Debug)]
pub struct Context {
    /// The live state.
    pub state: Arc<State>,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What `/api/events` tells. Somebody has to run it.
    pub feed: Arc<Feed>,
}

impl Context {
    /// Of a state and its metrics.
    #[must_use]
    pub fn new(state: Arc<State>, metrics: Metrics) -> Self {
        let feed = Arc::new(Feed::new(Arc::clone(&state)));
        Self { state, metrics, feed }
    }
}

/// Answers on `listener` until `shutdown` is there; then lets go of the listener, and returns when
/// the last answer has been sent or cannot be in time. Which hosts are answered is read from the
/// configuration in force at each request.
///
/// Must run on a tokio runtime, where it spawns a task for each connection.
pub async fn serve(listener: TcpListener, context: Arc<Context>, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS as usize));
    // Nothing is ever sent: connections wait for the sender to be gone.
    let (open, closing) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        let (slot, stream) = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut shutdown => break,
        };
        let (context, closing) = (Arc::clone(&context), closing.clone());
        tokio::spawn(async move {
            connection(stream, context, closing).await;
            drop(slot);
        });
    }
    drop((listener, open));
    let _ = timeout(GRACE, slots.acquire_many(CONNECTIONS)).await;
}

/// The next connection, as soon as there is room for one.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    // The semaphore is never closed, so there is always a permit.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let mut throttle = LogThrottle::every(Duration::from_secs(1));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The tail of a long answer is not to wait for an acknowledgement; without this it comes all the same.
                let _ = stream.set_nodelay(true);
                return (slot, stream);
            }
            Err(error) => {
                // As a rule there are no file descriptors left; others have to close theirs first.
                if throttle.allows(Instant::now()) {
                    tracing::warn!(%error, "the admin address cannot take a connection");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, context: Arc<Context>, mut closing: watch::Receiver<()>) {
    // Whether the connection's last answer is being sent, and does not end.
    let streams = AtomicBool::new(false);
    let of_streams = closing.clone();
    let service = service_fn(|request| {
        let (context, closing, streams) = (Arc::clone(&context), of_streams.clone(), &streams);
        async move {
            let answer = respond(request, context, closing).await;
            streams.store(matches!(answer.body(), Either::Right(_)), Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    let old = async {
        sleep(LIFETIME).await;
        while streams.load(Relaxed) {
            sleep(LIFETIME).await;
        }
    };
    // A connection that fails is the client's business: nothing is lost by it.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => {}
        () = old => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

/// Makes an answer beside the control plane, which has servers to check.
async fn beside(make: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    match tokio::task::spawn_blocking(make).await.map_err(JoinError::try_into_panic) {
        Ok(answer) => answer,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // It was not begun, for the process ends.
        Err(Err(_)) => std::future::pending().await,
    }
}

async fn respond(request: Request<Incoming>, context: Arc<Context>, closing: watch::Receiver<()>) -> Sent {
    let (head, body) = request.into_parts();
    let (waits, is_get) = (head.headers.contains_key(EXPECT), head.method == Method::GET);
    let large = context.state.snapshot.load().is_large();
    let feed = Arc::clone(&context.feed);
    let make = move || answer(&head, &context);
    let mut answer = if large { beside(make).await } else { make() };
    if !body.is_end_stream() {
        // Closing with unread bytes resets the connection, and the client may not get to see the
        // answer. A client that waits to be asked for the body does not send it.
        if !waits {
            let _ = timeout(UNWANTED.1, Limited::new(body, UNWANTED.0).collect()).await;
        }
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    match answer.extensions_mut().remove::<Follower>() {
        Some(follower) if is_get => {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            answer.map(|_| Either::Right(follower.stream(feed, closing)))
        }
        _ => answer.map(Either::Left),
    }
}
