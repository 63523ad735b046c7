//! Drives a client connection: serves its requests one at a time, applies its timeouts, and closes it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::http1::head::{HeadError, HeadLimits, RequestHead};
use crate::http1::server::{Next, ServerConnection};
use crate::live::listener::LiveListener;
use crate::proxy::client::Client;
use crate::proxy::context::Context;
use crate::proxy::downstream::{Downstream, ResponseWriter};
use crate::proxy::request;
use crate::proxy::timeouts::{ConnectionPhase, ConnectionSlot, Registered, RequestTimer};
use crate::transport::Transport;
use crate::worker::WorkerPlace;

/// The longest time that a client gets to read the last response and close.
const LINGER: Duration = Duration::from_secs(2);

/// A client connection with its timeouts.
#[derive(Debug)]
pub struct Connection {
    context: Rc<Context>,
    client: Client,
    slot: Registered<ConnectionSlot>,
    /// The timer of the current request: HTTP/1 has one at a time.
    timer: Registered<RequestTimer>,
    /// The connection's place among those of its worker, if it has one.
    _place: Option<WorkerPlace>,
}

impl Connection {
    /// A connection that a listener has just accepted.
    #[must_use]
    pub fn new(
        context: Rc<Context>,
        listener: Arc<LiveListener>,
        peer: SocketAddr,
        place: Option<WorkerPlace>,
    ) -> Self {
        let (slot, timer) = (context.watchdog.connection(listener.id), context.watchdog.request(listener.id));
        // A new connection may wait for its first byte as long as for a head, not as long as an idle connection.
        slot.wait(ConnectionPhase::Idle, context.snapshot().config.timeouts.request_header);
        listener.counters.of(context.worker).opened.add(1);
        Self { client: Client::plain(listener, peer), context, slot, timer, _place: place }
    }

    /// Serves HTTP/1 to the end of the connection.
    ///
    /// An `async` block, because the future of an `async fn` has room for its arguments twice.
    #[allow(clippy::manual_async_fn, reason = "see above")]
    pub fn serve(self, transport: Transport) -> impl Future<Output = ()> {
        async move {
            let mut http = ServerConnection::new(transport);
            let mut requests = pin!(self.requests(&mut http));
            poll_fn(|context| match self.slot.poll(context).is_ready() {
                true => std::task::Poll::Ready(()),
                false => requests.as_mut().poll(context),
            })
            .await;
        }
    }

    async fn requests(&self, http: &mut ServerConnection) {
        let Self { context, slot, timer, .. } = self;
        let resources = &context.resources;
        loop {
            let head = match http.read_head(resources, || self.limits()).await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => {
                    self.reject(http, error).await;
                    break;
                }
            };
            self.exchange(http, head).await;
            timer.reset();
            match http.next(slot.closing.get()) {
                _ if timer.is_aborted() => return,
                Next::Request => slot.wait(ConnectionPhase::Idle, context.snapshot().config.timeouts.idle),
                Next::Linger => break,
                Next::Close => return,
            }
        }
        slot.wait(ConnectionPhase::Linger, LINGER);
        http.linger(resources).await;
    }

    /// Serves a request. Boxed, and no `async fn` itself, so that the future of an idle connection stays small.
    fn exchange<'c>(&'c self, http: &'c mut ServerConnection, head: RequestHead) -> Pin<Box<impl Future<Output = ()>>> {
        let Self { context, client, slot, timer, .. } = self;
        slot.busy();
        let downstream = Downstream::Http1(http.stream(&head, &context.resources, &slot.closing));
        Box::pin(request::serve(context, client, timer, downstream, head))
    }

    /// Rejects an invalid head. Boxed like [`Connection::exchange`].
    fn reject<'c>(&'c self, http: &'c mut ServerConnection, error: HeadError) -> Pin<Box<impl Future<Output = ()>>> {
        let Self { context, client, slot, timer, .. } = self;
        slot.busy();
        let response = ResponseWriter::Http1(http.respond_to_bad_head(&context.resources, &slot.closing));
        Box::pin(request::reject_bad_head(context, client, timer, response, error))
    }

    /// Returns the limits for a head of which a part has been received, and starts its timeout with the first part.
    fn limits(&self) -> HeadLimits {
        let snapshot = self.context.snapshot();
        if self.slot.phase() == ConnectionPhase::Idle {
            self.slot.wait(ConnectionPhase::Head, snapshot.config.timeouts.request_header);
        }
        let limits = &snapshot.config.limits;
        HeadLimits { bytes: usize::try_from(limits.header_bytes).unwrap_or(usize::MAX), headers: limits.headers }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.client.listener.counters.of(self.context.worker).closed.add(1);
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
        let task = size(Connection::serve);
        assert!(entries + task < 1024, "{entries} and {task} bytes");
    }
}
