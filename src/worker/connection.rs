//! Drives a client connection: serves its requests one at a time, applies its timeouts, and closes it.

mod open;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use crate::config::LimitsConfig;
use crate::http1::head::{HeadLimits, RequestHead};
use crate::http1::server::{Next, ServerConnection};
use crate::live::listener::LiveListener;
use crate::proxy::client::Client;
use crate::proxy::context::Context;
use crate::proxy::downstream::{Downstream, ResponseWriter};
use crate::proxy::error::ProxyError;
use crate::proxy::request;
use crate::proxy::timeouts::{ConnectionPhase, ConnectionSlot, Ending, Registered, RequestTimer};
use crate::transport::{Peer, Socket, Transport};
use crate::worker::WorkerPlace;
use crate::worker::linger::Linger;

/// A client connection with its timeouts.
#[derive(Debug)]
pub struct Connection {
    pub(super) context: Rc<Context>,
    pub(super) client: Client,
    pub(super) slot: Registered<ConnectionSlot>,
    /// The timer of the current request: HTTP/1 has one at a time.
    timer: Registered<RequestTimer>,
    /// The number of HTTP/1 requests so far.
    requests: Cell<u64>,
    /// The connection's place among those of its worker, if it has one.
    place: Option<WorkerPlace>,
    /// Whether the client uses TLS.
    uses_tls: bool,
}

/// The protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    /// Its first bytes will tell.
    Either,
}

/// How a connection ends after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// At once.
    Close,
    /// Once the client has had time to read the last response.
    Linger,
    /// With a response to a head that did not become a request.
    Reject(ProxyError),
}

impl Connection {
    /// A connection that a listener has just accepted.
    #[must_use]
    pub fn new(context: Rc<Context>, listener: Arc<LiveListener>, peer: Peer, place: Option<WorkerPlace>) -> Self {
        let (slot, timer) = (context.watchdog.connection(listener.id), context.watchdog.request(listener.id));
        // A new connection may wait for its first byte as long as for a head, not as long as an idle connection.
        slot.wait(ConnectionPhase::New, context.snapshot().config.timeouts.request_header);
        listener.counters.of(context.worker).opened.add(1);
        Self {
            client: Client::plain(listener, peer),
            context,
            slot,
            timer,
            requests: Cell::new(0),
            place,
            uses_tls: false,
        }
    }

    /// Receives the PROXY header and makes the TLS handshake, as far as the listener's rules say, and serves the connection
    /// to its end.
    ///
    /// An `async` block, because the future of an `async fn` has room for its arguments twice.
    #[allow(clippy::manual_async_fn, reason = "see above")]
    pub fn accept(mut self, socket: Socket) -> impl Future<Output = ()> {
        let mut http = ServerConnection::new(Transport::Plain(socket));
        self.note_destination(&http);
        async move {
            let mut spoken = Spoken::Http1;
            let rules = self.client.listener.rules.load_full();
            self.slot.admission.set(rules.admission);
            if !rules.is_plain() {
                // In memory of its own, so that other connections are not larger for it.
                match Box::pin(self.open(http, &rules)).await {
                    Some(opened) => (http, spoken) = opened,
                    None => return,
                }
            }
            drop(rules);
            match spoken {
                Spoken::Http1 => self.serve(&mut http).await,
                Spoken::Http2 => Box::pin(self.serve_http2(http)).await,
                Spoken::Either => Box::pin(self.serve_either(http)).await,
            }
        }
    }

    /// Serves HTTP/1 to the end of the connection.
    pub(super) async fn serve(&self, http: &mut ServerConnection) {
        let last = {
            let mut requests = pin!(self.requests(http));
            poll_fn(|context| match self.slot.poll(context) {
                Poll::Ready(Ending::HeadTimeout) => Poll::Ready(Last::Reject(ProxyError::ClientTooSlow)),
                Poll::Ready(Ending::Close) => Poll::Ready(Last::Close),
                Poll::Pending => requests.as_mut().poll(context),
            })
            .await
        };
        if last != Last::Close {
            self.finish(http, last).await;
        } else if self.slot.phase() == ConnectionPhase::Idle {
            // The client waits for nothing. If it fails, the client is gone.
            let _ = http.start().0.announce_end();
        }
    }

    /// Serves requests until none may follow.
    async fn requests(&self, http: &mut ServerConnection) -> Last {
        let Self { context, slot, timer, .. } = self;
        loop {
            let head = match http.read_head(&context.resources, || self.limits()).await {
                Ok(Some(head)) => head,
                Ok(None) => return Last::Close,
                Err(error) => return Last::Reject(error.into()),
            };
            self.count_request();
            self.check_rules();
            self.exchange(http, head).await;
            timer.reset();
            match http.next(slot.closing.get()) {
                _ if timer.is_aborted() => return Last::Close,
                Next::Request => slot.wait(ConnectionPhase::Idle, context.snapshot().config.timeouts.idle),
                Next::Linger => return Last::Linger,
                Next::Close => {
                    http.announce_end();
                    return Last::Close;
                }
            }
        }
    }

    /// Counts a request, and makes the last one that the connection may have its last.
    fn count_request(&self) {
        let most = self.context.snapshot().config.limits.connection_requests;
        self.requests.update(|requests| requests + 1);
        if most > 0 && self.requests.get() >= most {
            self.slot.closing.set(true);
        }
    }

    /// Serves a request. Boxed, and no `async fn` itself, so that the future of an idle connection stays small.
    fn exchange<'c>(&'c self, http: &'c mut ServerConnection, head: RequestHead) -> Pin<Box<impl Future<Output = ()>>> {
        let Self { context, client, slot, timer, .. } = self;
        slot.busy();
        let downstream = Downstream::Http1(http.stream(&head, &context.resources, &slot.closing));
        Box::pin(request::serve(context, client, timer, downstream, head))
    }

    /// Sends the last response, if it is still to be sent, and lingers so that the client can read it. Boxed like
    /// [`Connection::exchange`].
    fn finish<'c>(&'c self, http: &'c mut ServerConnection, last: Last) -> Pin<Box<impl Future<Output = ()>>> {
        Box::pin(async move {
            let mut rest = pin!(async {
                if let Last::Reject(error) = last {
                    self.reject(http, error).await;
                }
                self.linger(http).await;
            });
            poll_fn(|context| match self.slot.poll(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => rest.as_mut().poll(context),
            })
            .await;
        })
    }

    /// Rejects an invalid head.
    async fn reject(&self, http: &mut ServerConnection, error: ProxyError) {
        let Self { context, client, slot, timer, .. } = self;
        slot.busy();
        {
            let (listener, address) = (&client.listener.name, client.peer.address());
            let reason = match http.start().1.as_slice() {
                [22, 3, ..] if !self.uses_tls => "the client uses TLS, and this listener does not",
                _ => error.rule().unwrap_or_else(|| error.label()),
            };
            tracing::debug!(%listener, client = %address, "the head of a request was rejected; {reason}");
        }
        let response = ResponseWriter::Http1(http.respond_to_bad_head(&context.resources, &slot.closing));
        request::reject_bad_head(context, client, timer, response, error).await;
    }

    /// Discards what the client still sends.
    async fn linger(&self, http: &mut ServerConnection) {
        let mut linger = Linger::new(Instant::now(), http.may_be_sending());
        let mut goes_on = |bytes| {
            let wait = linger.discards(bytes, Instant::now(), self.is_at_limit());
            wait.inspect(|wait| self.slot.wait(ConnectionPhase::Linger, *wait)).is_some()
        };
        goes_on(0);
        http.linger(&self.context.resources, goes_on).await;
    }

    /// Returns the limits for a head of which a part has been received, and starts its timeout with the first part.
    fn limits(&self) -> HeadLimits {
        let snapshot = self.context.snapshot();
        if matches!(self.slot.phase(), ConnectionPhase::New | ConnectionPhase::Idle) {
            self.slot.wait(ConnectionPhase::Head, snapshot.config.timeouts.request_header);
        }
        head_limits(&snapshot.config.limits)
    }

    /// The limits for the head of a request.
    pub(super) fn head_limits(&self) -> HeadLimits {
        head_limits(&self.context.snapshot().config.limits)
    }

    /// Whether new clients have to wait for a place.
    pub(super) fn is_at_limit(&self) -> bool {
        self.place.as_ref().is_some_and(WorkerPlace::is_at_limit)
    }
}

fn head_limits(limits: &LimitsConfig) -> HeadLimits {
    HeadLimits { bytes: usize::try_from(limits.header_bytes).unwrap_or(usize::MAX), headers: limits.headers }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.client.listener.counters.of(self.context.worker).closed.add(1);
        if let Some(owner) = self.client.owner() {
            self.context.upstreams.close_own(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_needs_little_memory() {
        fn size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let entries = size_of::<ConnectionSlot>() + size_of::<RequestTimer>();
        let task = size(Connection::accept);
        assert!(entries + task <= 1024, "{entries} and {task} bytes");
    }
}
