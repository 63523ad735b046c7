//! Bodies on their way: a request's to the server, an answer's to the client; streamed, limited, timed.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::Exchange;
use super::upstream::Connection;
use super::watch::{Phase, Slot};
use crate::worker::Current;

/// What ends a body early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, on its way to a server.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// As it comes from the client.
    Upload(Upload),
}

/// A body that a client is sending.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    slot: Rc<Slot>,
    snapshot: Rc<Current>,
    received: u64,
    progress: Rc<Cell<Progress>>,
}

/// How far a request's body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Sending,
    /// All of it was handed to the engine, or there was none.
    Done,
    /// It became larger than is accepted.
    TooLarge,
    /// The client broke off.
    Broken,
}

impl Upload {
    /// A body that `slot`'s client sends, under the limits of `snapshot`; `progress` tells how far it is.
    #[must_use]
    pub fn new(incoming: Incoming, slot: Rc<Slot>, snapshot: Rc<Current>, progress: Rc<Cell<Progress>>) -> Self {
        Self { incoming, slot, snapshot, received: 0, progress }
    }

    fn end(&mut self) {
        self.progress.set(Progress::Done);
        if self.slot.phase() == Phase::Upload {
            self.slot.wait(Phase::Answer, self.snapshot.config.timeouts.response_header);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Upload(upload) = self.get_mut() else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut upload.incoming).poll_frame(context) else {
            upload.slot.body_waits(Phase::Upload);
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            None => {
                upload.end();
                None
            }
            Some(Err(error)) => {
                upload.progress.set(Progress::Broken);
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                let limit = upload.snapshot.config.limits.body_bytes;
                let length = frame.data_ref().map_or(0, Bytes::len);
                upload.slot.body_moves(Phase::Upload, length);
                upload.received += length as u64;
                if limit > 0 && upload.received > limit {
                    upload.progress.set(Progress::TooLarge);
                    return Poll::Ready(Some(Err("the body is larger than is accepted".into())));
                }
                if upload.incoming.is_end_stream() {
                    upload.end();
                }
                // Trailers end here: nothing that `lb` passes on needs them, and merged they do harm.
                return if frame.is_trailers() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(frame))) };
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(upload) => upload.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => upload.incoming.size_hint(),
        }
    }
}

/// An answer's body, on its way to the client. Its end, however it comes, is the end of the exchange.
#[derive(Debug)]
pub struct AnswerBody {
    source: Source,
    /// None when the exchange goes on after the answer's head: in a tunnel.
    exchange: Option<Box<Exchange>>,
}

/// Where an answer's body comes from.
#[derive(Debug)]
pub enum Source {
    /// From us, whole; empty once it has been taken.
    Own(Bytes),
    /// From a server.
    Relay(Relay),
}

/// An answer that a server is sending.
#[derive(Debug)]
pub struct Relay {
    /// The body.
    pub incoming: Incoming,
    /// To be kept once all has been read, if the request too was sent whole.
    pub connection: Option<Connection>,
    /// How far the request's body has come.
    pub upload: Rc<Cell<Progress>>,
}

impl AnswerBody {
    /// The body of the answer that ends `exchange`.
    #[must_use]
    pub fn new(source: Source, exchange: Box<Exchange>) -> Self {
        exchange.wait_body(Phase::Download);
        Self { source, exchange: Some(exchange) }
    }

    /// No body, and not the end of the exchange.
    #[must_use]
    pub fn none() -> Self {
        Self { source: Source::Own(Bytes::new()), exchange: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { source, exchange: Some(exchange) } = self.get_mut() else { return Poll::Ready(None) };
        let relay = match source {
            Source::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                exchange.count_bytes(bytes.len() as u64);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Source::Relay(relay) => relay,
        };
        Poll::Ready(match ready!(Pin::new(&mut relay.incoming).poll_frame(context)) {
            None => {
                relay.end(exchange);
                None
            }
            Some(Err(error)) => {
                exchange.fail("answer_cut");
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                exchange.add_bytes(frame.data_ref().map_or(0, Bytes::len));
                match frame.into_trailers() {
                    Ok(mut trailers) => {
                        clean_trailers(&mut trailers);
                        Some(Ok(Frame::trailers(trailers)))
                    }
                    Err(frame) => Some(Ok(frame)),
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Relay(relay) => relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Relay(relay) => relay.incoming.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let (Source::Relay(relay), Some(exchange)) = (&mut self.source, &mut self.exchange) else { return };
        // With a known length the engine takes the last piece and does not ask again.
        if relay.incoming.is_end_stream() {
            relay.end(exchange);
        } else if relay.connection.is_some() {
            exchange.broke_off();
        }
    }
}

impl Relay {
    fn end(&mut self, exchange: &mut Exchange) {
        let whole = self.upload.get() == Progress::Done;
        if let Some(connection) = self.connection.take().filter(|_| whole) {
            exchange.keep(connection, Instant::now());
        }
    }
}

/// Takes from trailers what may only stand in a head (RFC 9110, section 6.5.1).
fn clean_trailers(trailers: &mut HeaderMap) {
    const NOT_IN_TRAILERS: [HeaderName; 14] = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::DATE,
        header::HOST,
        header::LOCATION,
        header::SET_COOKIE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}
