//! hyper's reading: its server and its client, each at one end of a pipe in memory.
//!
//! This needs no runtime, because all bytes are there: a future that makes no more progress has read them all.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::{End, Header, Message, Reading, sorted};

/// The requests that hyper's server reads.
pub(crate) fn requests(bytes: &[u8]) -> Reading {
    let (mut client, server) = pipe();
    fill(&mut client, bytes);
    let seen = RefCell::new((Vec::new(), None));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = &seen;
        async move {
            let (head, body) = request.into_parts();
            let line = format!("{} {}", head.method, head.uri);
            let (message, body) = read(line, head.version, &head.headers, body).await;
            match body {
                Ok(()) => seen.borrow_mut().0.push(message),
                Err(error) => seen.borrow_mut().1 = Some((end(&error), message)),
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut connection =
        pin!(hyper::server::conn::http1::Builder::new().header_read_timeout(None).serve_connection(server, service));
    let before_end = settle(connection.as_mut());
    let closed = matches!(before_end, Some(Ok(())));
    let result = before_end.or_else(|| {
        close(&mut client);
        settle(connection.as_mut())
    });
    let (mut messages, broken) = seen.take();
    if closed && broken.is_none() {
        messages.last_mut().expect("hyper closes only after a request").keeps = false;
    }
    let (end, unfinished) = match (broken, result) {
        (Some((end, message)), _) => (end, Some(message)),
        (None, Some(Ok(()))) => (End::Whole, None),
        (None, Some(Err(error))) => (end(&error), None),
        (None, None) => panic!("hyper's server waits after the last byte: {}", bytes.escape_ascii()),
    };
    Reading { messages, end, length: 0, unfinished }
}

/// The response that hyper's client reads for a request with this method.
pub(crate) fn answer(method: &Method, bytes: &[u8]) -> Reading {
    let (mut server, client) = pipe();
    let (mut sender, connection) = settle(pin!(hyper::client::conn::http1::handshake(client)))
        .expect("it does not wait")
        .expect("it reads nothing");
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::<Bytes>::new());
    let mut connection = pin!(connection);
    let mut over = false;
    let answer = {
        let mut exchange = pin!(async {
            let (head, body) = sender.send_request(request.expect("a request")).await?.into_parts();
            Ok::<_, hyper::Error>(read(head.status.as_str().to_owned(), head.version, &head.headers, body).await)
        });
        let mut both = pin!(std::future::poll_fn(|context| {
            over = over || connection.as_mut().poll(context).is_ready();
            exchange.as_mut().poll(context)
        }));
        // Bytes that arrive before the request is sent are no response to it.
        assert!(settle(both.as_mut()).is_none(), "a response without bytes");
        fill(&mut server, bytes);
        settle(both.as_mut()).map(|answer| (answer, false)).or_else(|| {
            close(&mut server);
            settle(both.as_mut()).map(|answer| (answer, true))
        })
    };
    match answer {
        Some((Ok((mut message, Ok(()))), closed)) => {
            over = over || settle(connection).is_some();
            message.keeps = !closed && !over && sender.is_ready();
            Reading { messages: vec![message], end: End::Whole, length: 0, unfinished: None }
        }
        Some((Ok((message, Err(error))), _)) => broken(&error, Some(message)),
        Some((Err(error), _)) => broken(&error, None),
        None => panic!("hyper's client waits after the last byte: {}", bytes.escape_ascii()),
    }
}

/// Reads a message to its end, or as far as possible.
async fn read(
    line: String,
    version: Version,
    headers: &HeaderMap,
    body: Incoming,
) -> (Message, Result<(), hyper::Error>) {
    let message =
        Message { line, version, headers: pairs(headers), body: Vec::new(), trailers: Vec::new(), keeps: true };
    match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(pairs).unwrap_or_default();
            (Message { trailers, body: body.to_bytes().into(), ..message }, Ok(()))
        }
        Err(error) => (message, Err(error)),
    }
}

fn broken(error: &hyper::Error, unfinished: Option<Message>) -> Reading {
    Reading { messages: Vec::new(), end: end(error), length: 0, unfinished }
}

/// A pipe in memory.
fn pipe() -> (DuplexStream, TokioIo<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (near, TokioIo::new(far))
}

fn fill(stream: &mut DuplexStream, bytes: &[u8]) {
    settle(pin!(stream.write_all(bytes))).expect("the pipe has room").expect("a reader");
}

fn close(stream: &mut DuplexStream) {
    settle(pin!(stream.shutdown())).expect("it does not wait").expect("it cannot fail");
}

fn pairs(headers: &HeaderMap) -> Vec<Header> {
    sorted(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Whether bytes are invalid or missing.
fn end(error: &hyper::Error) -> End {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let cut = source.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if cut || error.is_incomplete_message() { End::Cut } else { End::Refused }
}

/// Polls a future for as long as it makes progress.
fn settle<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    while woken.0.swap(false, SeqCst) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    None
}
