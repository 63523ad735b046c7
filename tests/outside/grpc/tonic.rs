//! gRPC with tonic as client and as server.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt as _};
use tonic::codegen::{Pin, Service};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use super::H2;
use crate::http2::HTTP2;
use crate::support::lb::{Lb, NO_CHECKS, servers};

const UNARY: PathAndQuery = PathAndQuery::from_static("/test.Echo/Unary");
const CHAT: PathAndQuery = PathAndQuery::from_static("/test.Echo/Chat");

/// Messages as they are.
#[derive(Debug, Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// Returns each message, except `fail`, which ends the call with a status, and `wait`, for which no response comes.
#[derive(Debug, Clone, Copy)]
struct Echo;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl tonic::server::UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Boxed<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            match &request.get_ref()[..] {
                b"fail" => {
                    Err(Status::with_details(Code::FailedPrecondition, "not today", Bytes::from_static(b"\0why")))
                }
                b"wait" => std::future::pending().await,
                _ => Ok(Response::new(request.into_inner())),
            }
        })
    }
}

impl tonic::server::StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Boxed<Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(Box::pin(request.into_inner()) as Messages)) })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain);
            let is_unary = request.uri().path() == UNARY.path();
            Ok(if is_unary { grpc.unary(Echo, request).await } else { grpc.streaming(Echo, request).await })
        })
    }
}

/// Runs a future to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// A server on a thread of its own.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a socket");
    thread::spawn(|| {
        run(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            Server::builder().serve_with_incoming(Echo, TcpIncoming::from(listener)).await.expect("a server");
        });
    });
    address
}

async fn client(lb: SocketAddr) -> tonic::client::Grpc<Channel> {
    let channel = Endpoint::from_shared(format!("http://{lb}")).expect("a URI").connect().await.expect("a connection");
    tonic::client::Grpc::new(channel)
}

async fn unary(client: &mut tonic::client::Grpc<Channel>, message: &'static str) -> Result<Bytes, Status> {
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let mut request = Request::new(Bytes::from_static(message.as_bytes()));
    if message == "wait" {
        request.set_timeout(Duration::from_millis(300));
    }
    client.unary(request, UNARY, Plain).await.map(Response::into_inner)
}

#[test]
fn tonic_calls_tonic_through_both_sides() {
    let lb = Lb::start_file(&format!("{HTTP2}{H2}{NO_CHECKS}{}", servers(&[("one", server(), 1)])));
    run(async {
        let mut client = client(lb.address()).await;
        assert_eq!(unary(&mut client, "hello").await.expect("a message"), "hello");
        let failed = unary(&mut client, "fail").await.expect_err("a status");
        assert_eq!(
            (failed.code(), failed.message(), failed.details()),
            (Code::FailedPrecondition, "not today", &b"\0why"[..])
        );
        // Client and `lb` both keep the deadline.
        let late = unary(&mut client, "wait").await.expect_err("a status");
        assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
        client.ready().await.expect("a connection");
        let messages: Vec<_> = (0..200_u32).map(|number| Bytes::from(vec![number as u8; 5000])).collect();
        let sent = Request::new(tokio_stream::iter(messages.clone()));
        let echoes = client.streaming(sent, CHAT, Plain).await.expect("a stream").into_inner();
        let echoes: Vec<_> = echoes.collect::<Result<_, _>>().await.expect("all messages");
        assert!(echoes == messages);
    });
}

// Case: grpc-edits
#[test]
fn calls_and_streams_of_tonic_live_through_unrelated_edits() {
    let (one, two) = (server(), server());
    let edit = |number: u32| {
        let table = servers(&[("one", one, 1), ("two", two, 1 + number % 7)]);
        format!("{HTTP2}{H2}{NO_CHECKS}[timeouts]\nidle = \"{}s\"\n{table}", 100 + number)
    };
    let lb = Lb::start_file(&edit(0));
    let (address, ends) = (lb.address(), Arc::new(AtomicBool::new(false)));
    let calls = Arc::new(AtomicUsize::new(0));
    let (is_over, count) = (Arc::clone(&ends), Arc::clone(&calls));
    let caller = thread::spawn(move || {
        run(async move {
            let mut client = client(address).await;
            let (sender, receiver) = mpsc::channel(1);
            let sent = tokio_stream::wrappers::ReceiverStream::new(receiver);
            client.ready().await.expect("a connection");
            let mut chat = client.streaming(Request::new(sent), CHAT, Plain).await.expect("a stream").into_inner();
            while !is_over.load(SeqCst) {
                sender.send(Bytes::from_static(b"still there")).await.expect("an open stream");
                assert_eq!(chat.message().await.expect("a message").expect("an echo"), "still there");
                assert_eq!(unary(&mut client, "hello").await.expect("a message"), "hello");
                count.fetch_add(1, SeqCst);
            }
            drop(sender);
            assert!(chat.message().await.expect("the end").is_none());
        });
    });
    for number in 1..=20 {
        let (before, called) = (lb.generation(), calls.load(SeqCst));
        lb.edit_file(&edit(number));
        lb.reaches(before + 1);
        while calls.load(SeqCst) == called && !caller.is_finished() {
            thread::yield_now();
        }
    }
    ends.store(true, SeqCst);
    caller.join().expect("no call has failed");
    assert!(calls.load(SeqCst) >= 20, "calls during each edit");
}
