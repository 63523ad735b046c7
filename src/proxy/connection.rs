//! A client connection: its requests one after the other, the time each of its waits may take, its end.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::http1::head::{HeadLimits, RequestHead};
use crate::live::listener::LiveListener;
use crate::proxy::error::Failure;
use crate::proxy::headers::forwarded::ClientHeaders;
use crate::proxy::request::{self, Next};
use crate::proxy::timeouts::{Late, Phase, Signals, Slot};
use crate::transport;
use crate::worker::Worker;

/// What clients speak; TLS is to come.
pub const SCHEME: &str = "http";

/// How long a client is given, at most, to read the last answer and close.
const LINGER: Duration = Duration::from_secs(2);

/// One client connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The listener it came by.
    pub listener: Arc<LiveListener>,
    /// The other end.
    pub peer: SocketAddr,
    /// What is said of the client to servers.
    pub headers: ClientHeaders,
    /// What it waits for.
    pub slot: Rc<Slot>,
    /// What took too long, until the request that waits for it looks.
    timed_out: Cell<Option<Late>>,
    /// Whether this request is to be the last.
    last: Cell<bool>,
}

impl Client {
    /// A client that was just accepted.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, listener: Arc<LiveListener>, peer: SocketAddr) -> Rc<Self> {
        let slot = worker.watch.enter(listener.id);
        // It has this long for its first request, as one whose head has begun.
        slot.wait(Phase::Idle, worker.snapshot().config.timeouts.request_header);
        listener.counters.of(worker.index).opened.add(1);
        Rc::new(Self {
            headers: ClientHeaders::new(peer, SCHEME),
            worker: Rc::clone(worker),
            listener,
            peer,
            slot,
            timed_out: Cell::default(),
            last: Cell::default(),
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
    pub async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, Late> {
        let mut future = std::pin::pin!(future);
        poll_fn(|context| match self.timed_out.take() {
            Some(late) => Poll::Ready(Err(late)),
            None => future.as_mut().poll(context).map(Ok),
        })
        .await
    }

    /// Serves the connection to its end.
    pub async fn serve(self: Rc<Self>, stream: TcpStream) {
        let mut all = std::pin::pin!(async {
            if self.requests(&stream).await {
                self.linger(&stream).await;
            }
        });
        poll_fn(|context| match self.slot.poll(context).is_some_and(|signals| self.heed(signals)) {
            true => Poll::Ready(()),
            false => all.as_mut().poll(context),
        })
        .await;
    }

    /// Acts on signals; whether the connection is to end at once.
    fn heed(&self, signals: Signals) -> bool {
        if signals.last || signals.drain {
            self.last.set(true);
        }
        let expired = signals.expired.is_some_and(|late| match late.phase {
            Phase::Upload | Phase::Connect | Phase::Answer => {
                self.timed_out.set(Some(late));
                false
            }
            Phase::Download => {
                self.slot.give_up(if late.client { "client_too_slow" } else { "answer_too_slow" });
                true
            }
            Phase::Head | Phase::Idle | Phase::Tunnel | Phase::Linger => true,
        });
        signals.cut || expired || (signals.drain && self.slot.phase() == Phase::Idle)
    }

    /// Serves one request after the other. Whether something was said that the client should be
    /// given time to read.
    async fn requests(self: &Rc<Self>, stream: &TcpStream) -> bool {
        let mut input = Vec::new();
        loop {
            let head = match self.head(stream, &mut input).await {
                Ok(Some(head)) => head,
                Ok(None) => return false,
                Err(failure) => return request::refuse(self, stream, failure).await,
            };
            // In memory of its own, so that an idle connection has little.
            let next = Box::pin(request::handle(self, stream, head, &mut input)).await;
            match next {
                Next::Request if !self.last.get() => {}
                Next::Request | Next::Close => return true,
                Next::End | Next::Abort => return false,
            }
            if input.is_empty() {
                self.worker.buffers.give(std::mem::take(&mut input));
            }
            self.slot.wait(Phase::Idle, self.worker.snapshot().config.timeouts.idle);
        }
    }

    /// Waits for the next request's head; `None` when the client has left instead.
    async fn head(&self, stream: &TcpStream, input: &mut Vec<u8>) -> Result<Option<RequestHead>, Failure> {
        let buffers = &self.worker.buffers;
        loop {
            if !input.is_empty() {
                let snapshot = self.worker.snapshot();
                if self.slot.phase() == Phase::Idle {
                    self.slot.wait(Phase::Head, snapshot.config.timeouts.request_header);
                }
                let limits = &snapshot.config.limits;
                let bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
                let mut head = RequestHead::new(self.worker.heads.take());
                if let Some(length) = head.parse(input, HeadLimits { bytes, headers: limits.headers })? {
                    input.drain(..length);
                    if input.is_empty() {
                        buffers.give(std::mem::take(input));
                    }
                    return Ok(Some(head));
                }
                self.worker.heads.put(head.headers);
            }
            if !matches!(transport::read(stream, input, buffers).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// Closes so that the client can read the answer to the end: what it still sends is read and
    /// thrown away for a while, as unread bytes would make the system reset the connection
    /// (RFC 9112, section 9.6).
    async fn linger(&self, stream: &TcpStream) {
        self.slot.wait(Phase::Linger, LINGER);
        if SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut scrap = Vec::new();
        while matches!(transport::read(stream, &mut scrap, &self.worker.buffers).await, Ok(1..)) {
            scrap.clear();
        }
        self.worker.buffers.give(scrap);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.slot.leave();
        self.listener.counters.of(self.worker.index).closed.add(1);
        self.worker.left();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_takes_little_memory() {
        fn size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let sizes = (size_of::<Client>() + size_of::<Slot>(), size(Client::serve));
        assert!(sizes.0 + sizes.1 < 2 << 10, "{sizes:?} bytes");
    }
}
