//! hyper's reading: its server and its client, each at one end of an in-memory pipe.
//!
//! No runtime is needed, because the futures wait only for bytes, and all of them are in the pipe. A
//! future that is pending and not woken has consumed them all.

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

/// Reads requests with hyper's server.
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
        messages.last_mut().expect("hyper closes only after a message").keep_alive = false;
    }
    let (end, unfinished) = match (broken, result) {
        (Some((end, message)), _) => (end, Some(message)),
        (None, Some(Ok(()))) => (End::Complete, None),
        (None, Some(Err(error))) => (end(&error), None),
        (None, None) => panic!("hyper's server waits although its input has ended: {}", bytes.escape_ascii()),
    };
    Reading { messages, end, length: 0, unfinished }
}

/// Reads the response to a request with this method with hyper's client.
pub(crate) fn response(method: &Method, bytes: &[u8]) -> Reading {
    let (mut server, client) = pipe();
    let (mut sender, connection) = settle(pin!(hyper::client::conn::http1::handshake(client)))
        .expect("the handshake waits for nothing")
        .expect("the handshake reads nothing");
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::<Bytes>::new());
    let mut connection = pin!(connection);
    let mut closed = false;
    let response = {
        let mut exchange = pin!(async {
            let (head, body) = sender.send_request(request.expect("a valid request")).await?.into_parts();
            Ok::<_, hyper::Error>(read(head.status.as_str().to_owned(), head.version, &head.headers, body).await)
        });
        let mut both = pin!(std::future::poll_fn(|context| {
            closed = closed || connection.as_mut().poll(context).is_ready();
            exchange.as_mut().poll(context)
        }));
        // The request must be sent first: bytes that arrive before it are not its response.
        assert!(settle(both.as_mut()).is_none(), "a response before any bytes");
        fill(&mut server, bytes);
        settle(both.as_mut()).map(|response| (response, false)).or_else(|| {
            close(&mut server);
            settle(both.as_mut()).map(|response| (response, true))
        })
    };
    match response {
        Some((Ok((mut message, Ok(()))), needs_close)) => {
            closed = closed || settle(connection).is_some();
            message.keep_alive = !needs_close && !closed && sender.is_ready();
            Reading { messages: vec![message], end: End::Complete, length: 0, unfinished: None }
        }
        Some((Ok((message, Err(error))), _)) => broken(&error, Some(message)),
        Some((Err(error), _)) => broken(&error, None),
        None => panic!("hyper's client waits although its input has ended: {}", bytes.escape_ascii()),
    }
}

/// Reads a message's body to its end or to the first error.
async fn read(
    line: String,
    version: Version,
    headers: &HeaderMap,
    body: Incoming,
) -> (Message, Result<(), hyper::Error>) {
    let message =
        Message { line, version, headers: pairs(headers), body: Vec::new(), trailers: Vec::new(), keep_alive: true };
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

fn pipe() -> (DuplexStream, TokioIo<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (near, TokioIo::new(far))
}

fn fill(stream: &mut DuplexStream, bytes: &[u8]) {
    settle(pin!(stream.write_all(bytes))).expect("an input that fits into the pipe").expect("a reader");
}

fn close(stream: &mut DuplexStream) {
    settle(pin!(stream.shutdown())).expect("a shutdown waits for nothing").expect("a shutdown cannot fail");
}

fn pairs(headers: &HeaderMap) -> Vec<Header> {
    sorted(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Distinguishes invalid input from input that is too short.
fn end(error: &hyper::Error) -> End {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let is_eof = source.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if is_eof || error.is_incomplete_message() { End::Truncated } else { End::Rejected }
}

/// Polls a future until it is ready, or pending without having been woken.
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
