//! A connection to a server over which HTTP/2 is spoken. Requests share it, each with a stream of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::http1::client::{OutgoingRequest, RESPONSE_LIMITS};
use crate::http2::client_io::ClientIo;
use crate::http2::exchange::{self, Http2RequestWriter, Http2ResponseReader};
use crate::transport::{Buffers, Transport};

/// The most that a server may send on a stream before some of it was relayed.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection, except those whose clients do not read: these must not stop the others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The most of an upload that waits in `h2` for the server's socket.
const SEND_BUFFER: usize = 64 * 1024;
/// The bytes that the system queues for a server beyond those in flight, so that a reset takes effect soon.
const UNSENT: u32 = 128 * 1024;
/// The most streams on a connection, even if the server allows more: they share one congestion window.
const MAX_STREAMS: u32 = 100;
/// The empty DATA frames after which a connection gets no more streams: at 100, `h2` ends it with all of them.
const MAX_EMPTY_FRAMES: u32 = 50;
/// The time limit for the last frames of an unused connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// A handle on a connection; when it and all its streams are gone, the connection closes.
#[derive(Debug)]
pub struct Http2Client {
    requests: SendRequest<Bytes>,
    pulse: Rc<Pulse>,
    is_secure: bool,
    /// Tells the driver that the handle is gone.
    _handle: Rc<()>,
}

/// The signs of life of a connection.
#[derive(Debug, Default)]
pub struct Pulse {
    /// The number of reads that brought something.
    received: Cell<u64>,
    /// Whether `h2` has the server's first SETTINGS.
    settings: Cell<bool>,
    /// Whether the driver has ended.
    ended: Cell<bool>,
    /// Notified once the first SETTINGS are known, or the connection has ended.
    changed: Notify,
    /// The number of streams whose clients do not read what has come.
    stalled: Cell<u32>,
    /// The most of them so far.
    most_stalled: Cell<u32>,
    /// The empty DATA frames that ended no stream.
    empty_frames: Cell<u32>,
    /// The task that drives the connection.
    driver: RefCell<Option<Waker>>,
    /// The error that ended TLS, if one did.
    tls_error: OnceCell<rustls::Error>,
}

impl Pulse {
    pub(super) fn receive(&self) {
        self.received.update(|received| received.wrapping_add(1));
    }

    pub(super) fn has_settings(&self) -> bool {
        self.settings.get()
    }

    pub(super) fn settings_read(&self) {
        self.settings.set(true);
    }

    pub(super) fn tls_failed(&self, error: rustls::Error) {
        // Only the first error says why.
        let _ = self.tls_error.set(error);
    }

    /// Notes that a stream's client does not read: what has come for it stays in the window, so that of the connection grows.
    pub(super) fn stall(&self) {
        let stalled = self.stalled.get() + 1;
        self.stalled.set(stalled);
        if stalled > self.most_stalled.get() {
            self.most_stalled.set(stalled);
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
    }

    /// Notes a DATA frame without data that ends no stream.
    pub(super) fn empty_frame(&self) {
        self.empty_frames.update(|frames| frames + 1);
    }

    /// Notes that a stalled stream's client reads again, or is gone.
    pub(super) fn resume(&self) {
        self.stalled.update(|stalled| stalled - 1);
    }

    /// The window of the connection. It never shrinks: its streams cannot hold more than their own windows anyway.
    fn window(&self) -> u32 {
        let streams = self.most_stalled.get().min(MAX_STREAMS);
        CONNECTION_WINDOW + streams * STREAM_WINDOW
    }
}

/// Speaks HTTP/2 on a new connection. The driver has to be polled until it ends.
///
/// # Errors
/// If the connection breaks before the first frames are written.
pub async fn open(
    transport: Transport,
    buffers: Rc<Buffers>,
    is_secure: bool,
) -> Result<(Http2Client, impl Future<Output = ()>), h2::Error> {
    let pulse = Rc::<Pulse>::default();
    transport.keep_alive();
    transport.limit_unsent(UNSENT);
    let io = ClientIo::new(transport, buffers, Rc::clone(&pulse));
    let (requests, connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(RESPONSE_LIMITS.bytes).unwrap_or(u32::MAX))
        .header_table_size(4096)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(MAX_STREAMS as usize))
        // Until the server's SETTINGS are known.
        .initial_max_send_streams(1)
        .enable_push(false)
        .handshake(io)
        .await?;
    let handle = Rc::new(());
    let driver = drive(connection, Rc::clone(&pulse), Rc::downgrade(&handle));
    Ok((Http2Client { requests, pulse, is_secure, _handle: handle }, driver))
}

/// Reads and writes frames until the connection ends.
async fn drive(connection: Connection<ClientIo, Bytes>, pulse: Rc<Pulse>, handle: std::rc::Weak<()>) {
    let mut connection = pin!(connection);
    let (mut told, mut window) = (false, CONNECTION_WINDOW);
    // `h2` wakes the connection when the last handle or stream is dropped.
    let is_over = poll_fn(|context| {
        *pulse.driver.borrow_mut() = Some(context.waker().clone());
        if window != pulse.window() {
            window = pulse.window();
            connection.set_target_window_size(window);
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            if let Err(error) = ended {
                tracing::debug!(%error, "the HTTP/2 connection to a server ended");
            }
            return Poll::Ready(true);
        }
        if pulse.has_settings() && !told {
            told = true;
            pulse.changed.notify_waiters();
        }
        if handle.strong_count() == 0 { Poll::Ready(false) } else { Poll::Pending }
    })
    .await;
    if !is_over {
        // A server that reads nothing must not keep it open.
        let _ = timeout(GOODBYE, connection).await;
    }
    pulse.ended.set(true);
    pulse.changed.notify_waiters();
}

impl Http2Client {
    /// Starts a stream; the head of the request goes out with the first piece of its body.
    pub fn start(&self, request: OutgoingRequest<'_>) -> (Http2RequestWriter, Http2ResponseReader) {
        let offers_websocket = self.requests.is_extended_connect_protocol_enabled();
        exchange::start(self.requests.clone(), request, (self.is_secure, offers_websocket), &self.pulse)
    }

    /// The streams that the connection may have at the same time: 1 until the server's limit is known.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        self.requests.current_max_send_streams().min(MAX_STREAMS as usize)
    }

    /// Whether the server's limit is known.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        self.pulse.has_settings()
    }

    /// Waits until the server's limit is known or the connection has ended.
    pub async fn settled(&self) {
        let changed = self.pulse.changed.notified();
        if !self.has_settings() && !self.has_ended() {
            changed.await;
        }
    }

    /// Whether new streams are accepted: neither has the connection ended, nor the server sent GOAWAY.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let has_frames_left = self.pulse.empty_frames.get() < MAX_EMPTY_FRAMES;
        !self.has_ended()
            && has_frames_left
            && matches!(self.requests.clone().poll_ready(&mut context), Poll::Ready(Ok(())))
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.pulse.ended.get()
    }

    /// The error that ended TLS, if one did.
    #[must_use]
    pub fn tls_error(&self) -> Option<rustls::Error> {
        self.pulse.tls_error.get().cloned()
    }

    /// A number that changes whenever the server has sent something.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.pulse.received.get()
    }
}
