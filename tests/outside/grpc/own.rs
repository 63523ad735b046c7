//! The statuses of gRPC that `lb` itself sends, deadlines, and calls that end early. Without grpcio.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{NO_CHECKS, calls, file, start};
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::Lb;
use crate::support::servers::Refusing;
use crate::support::{DEADLINE, eventually};

/// A response to a call.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: Response<()>,
    /// Whether it has nothing but a head.
    pub(super) is_head_only: bool,
    pub(super) body: Vec<u8>,
    pub(super) trailers: HeaderMap,
}

impl Reply {
    /// The status and its message, wherever they are.
    pub(super) fn status(&self) -> (String, String) {
        let value = |name: &str| {
            let value = self.trailers.get(name).or_else(|| self.head.headers().get(name));
            value.map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
        };
        (value("grpc-status"), value("grpc-message"))
    }
}

/// A message with its prefix.
pub(super) fn message(bytes: &[u8]) -> Bytes {
    [&[0][..], &u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat().into()
}

/// Calls a method with these pieces as its body, which ends with them if `end` is true.
pub(super) fn call(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    pieces: &[Bytes],
    end: bool,
) -> Result<Reply, h2::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let called = async {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let (mut requests, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let mut request = Request::post(format!("http://{address}{path}")).header("te", "trailers");
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (response, mut out) = requests.send_request(request.body(()).expect("a request"), false)?;
        for (number, piece) in (1..).zip(pieces) {
            // Each in a frame and a packet of its own.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = out.send_data(piece.clone(), end && number == pieces.len());
        }
        let (head, mut body) = response.await?.into_parts();
        let head = Response::from_parts(head, ());
        let is_head_only = body.is_end_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            bytes.extend_from_slice(&piece?);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(Reply { head, is_head_only, body: bytes, trailers })
    };
    runtime.block_on(async { timeout(DEADLINE, called).await.expect("in time") })
}

/// A call with one message.
fn unary(address: SocketAddr, headers: &[(&str, &str)]) -> Reply {
    call(address, "/t.T/Unary", headers, &[message(b"hello")], true).expect("a response")
}

/// Responds with a message and this status.
pub(super) fn respond(stream: &mut Stream, bytes: &[u8], status: &'static str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let Ok(mut out) = stream.respond.send_response(head, false) else { return };
    let _ = out.send_data(message(bytes), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let _ = out.send_trailers(trailers);
}

fn failed(reply: &Reply, status: &str, part: &str) {
    assert_eq!(reply.head.status(), 200, "{reply:?}");
    assert_eq!(reply.head.headers()["content-type"], "application/grpc");
    assert!(reply.is_head_only && reply.body.is_empty() && !reply.head.headers().contains_key("content-length"));
    let (got, text) = reply.status();
    assert!(got == status && text.contains(part), "{status} {part}: {reply:?}");
}

// Case: grpc-own-failures
#[test]
fn a_failure_of_our_own_is_a_status_without_a_response() {
    let silent = Http2Server::start(100, async |stream: Stream| {
        let _held = stream;
        std::future::pending::<()>().await;
    });
    let resets = Http2Server::start(100, async |mut stream: Stream| stream.reset(Reason::INTERNAL_ERROR));
    let refusing = Refusing::new();
    let limits = "[limits]\nbody_bytes = \"8B\"\n";
    let times = "[timeouts]\nresponse_header = \"100ms\"\n";
    let route = "[[route]]\nhost = \"other.test\"\npool = \"default\"\n";
    let cases = [
        ("", refusing.address, "14", "No server could be reached."),
        ("[retry]\nattempts = 0\n", resets.address, "14", "The server closed the connection"),
        (times, silent.address, "4", "The server did not respond in time."),
        (limits, silent.address, "8", "The request body is too large."),
        (route, silent.address, "12", "No route matches this host and path."),
    ];
    for (config, server, status, text) in cases {
        let lb = start(config, &[("one", server)]);
        failed(&unary(lb.address(), &[]), status, text);
        let line = lb.logs("the call", |line| line.contains("/t.T/Unary"));
        assert!(line.contains(" 200 ") && line.contains(&format!(" grpc_status={status} ")), "{line}");
        assert!(line.contains(" error="), "{line}");
        let route = if status == "12" { "-" } else { "default" };
        let counted = format!("lb_grpc_responses_total{{route=\"{route}\",status=\"{status}\"}}");
        assert_eq!(lb.metric(&counted), Some(1.0));
        // Other requests get the status of HTTP.
        let plain = unary(lb.address(), &[("content-type", "text/plain")]);
        assert!(plain.head.status() != 200 && !plain.head.headers().contains_key("grpc-status"), "{plain:?}");
    }
    let lb = start("", &[("one", silent.address)]);
    let many: Vec<(&str, &str)> = (0..101).map(|_| ("x-many", "1")).collect();
    failed(&unary(lb.address(), &many), "8", "too many headers");
    failed(&call(lb.address(), "/a/../../b", &[], &[message(b"")], true).expect("a response"), "13", "path");
}

// Case: grpc-own-failures
#[test]
fn a_call_that_its_server_cuts_short_ends_with_unavailable() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let mut out = stream.respond.send_response(head, false).expect("sent");
        out.send_data(message(b"one"), false).expect("sent");
        tokio::time::sleep(Duration::from_millis(100)).await;
        out.send_reset(Reason::INTERNAL_ERROR);
    });
    let lb = start("", &[("one", server.address)]);
    let reply = unary(lb.address(), &[]);
    assert_eq!((&reply.body[..], reply.status().0.as_str()), (&message(b"one")[..], "14"), "{reply:?}");
    lb.logs("the call", |line| line.contains("grpc_status=14") && line.contains("error=response_truncated"));
    assert_eq!(calls(&lb, 14), 1.0);
}

// Case: grpc-deadline
#[test]
fn a_deadline_is_forwarded_less_the_time_spent_and_ends_the_call_at_both_sides() {
    let (sender, ended) = mpsc::channel();
    let server = Http2Server::start(100, move |mut stream: Stream| {
        let sender = sender.clone();
        async move {
            let reset = std::future::poll_fn(|context| stream.respond.poll_reset(context)).await;
            sender.send(reset).expect("the test");
        }
    });
    let lb = start("", &[("one", server.address)]);
    let start = Instant::now();
    failed(&unary(lb.address(), &[("grpc-timeout", "300m")]), "4", "The deadline of the call has passed.");
    let took = start.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_eq!(ended.recv_timeout(DEADLINE).expect("a reset").expect("a reason"), Reason::CANCEL);
    let forwarded = server.requests()[0].headers()["grpc-timeout"].to_str().expect("text").to_owned();
    let micros: u64 = forwarded.strip_suffix(['u', 'n']).expect("a unit").parse().expect("a number");
    assert!(forwarded.ends_with('u') && (100_000..300_000).contains(&micros), "{forwarded}");
    lb.logs("the call", |line| line.contains("grpc_status=4") && line.contains("error=deadline_exceeded"));
    // An attempt at a server that does not say anything says nothing about it.
    assert_eq!(lb.server("one")["status"], "up");
}

// Case: grpc-deadline
#[test]
fn a_deadline_ends_a_call_whose_response_has_started() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let mut out = stream.respond.send_response(head, false).expect("sent");
        out.send_data(message(b"one"), false).expect("sent");
        let _ = std::future::poll_fn(|context| out.poll_reset(context)).await;
    });
    let lb = start("", &[("one", server.address)]);
    let reply = unary(lb.address(), &[("grpc-timeout", "300m")]);
    assert_eq!((&reply.body[..], reply.status().0.as_str()), (&message(b"one")[..], "4"), "{reply:?}");
    eventually("no call is open", || (lb.server("one")["active_requests"] == 0).then_some(()));
}

// Case: grpc-streams
#[test]
fn a_stream_without_a_message_has_a_time_of_its_own() {
    let pause = Duration::from_millis(900);
    let server = Http2Server::start(100, move |mut stream: Stream| async move {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let mut out = stream.respond.send_response(head, false).expect("sent");
        tokio::time::sleep(pause).await;
        out.send_data(message(b"late"), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = out.send_trailers(trailers);
    });
    // The limits of other bodies do not hold: the client's stream is open and silent, and the server's message is rare.
    let others = "[limits]\nbody_rate = \"1MiB\"\n[timeouts]\nbody_idle = \"200ms\"\n";
    let lb = start(others, &[("one", server.address)]);
    let reply = call(lb.address(), "/t.T/Both", &[], &[message(b"hello")], false).expect("a response");
    assert_eq!((&reply.body[..], reply.status().0.as_str()), (&message(b"late")[..], "0"), "{reply:?}");
    lb.edit_file(&file(&format!("{NO_CHECKS}[timeouts]\nstream_idle = \"200ms\"\n"), &[("one", server.address)]));
    lb.reaches(2);
    let reply = call(lb.address(), "/t.T/Both", &[], &[message(b"hello")], false).expect("a response");
    assert_eq!(reply.status().0, "4", "{reply:?}");
}

// Case: grpc-early-end
#[test]
fn a_server_may_end_a_call_whose_client_still_sends() {
    for (has_message, status) in [(false, "7"), (true, "0")] {
        let server = Http2Server::start(100, move |mut stream: Stream| async move {
            if has_message {
                return respond(&mut stream, b"enough", status);
            }
            let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
            // With the stream, `h2` resets it without an error, because the request has not ended.
            stream.respond.send_response(head.body(()).expect("a head"), true).expect("sent");
        });
        let lb = start("", &[("one", server.address)]);
        let reply = call(lb.address(), "/t.T/Both", &[], &[message(b"hello")], false).expect("a response");
        assert_eq!((reply.status().0.as_str(), reply.is_head_only), (status, !has_message), "{reply:?}");
        let line = lb.logs("the call", |line| line.contains(&format!("grpc_status={status}")));
        assert!(!line.contains("error="), "{line}");
    }
}

// Case: grpc-cancel
#[test]
fn a_reset_reaches_the_server_even_while_it_accepts_no_more_of_the_request() {
    let (sender, ended) = mpsc::channel();
    let server = Http2Server::start(100, move |mut stream: Stream| {
        let sender = sender.clone();
        async move {
            // It reads nothing, so its window closes.
            let reset = std::future::poll_fn(|context| stream.respond.poll_reset(context)).await;
            sender.send(reset).expect("the test");
        }
    });
    let lb = start("", &[("one", server.address)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = TcpStream::connect(lb.address()).await.expect("a connection");
        let (mut requests, connection) = h2::client::handshake(stream).await.expect("a handshake");
        tokio::spawn(connection);
        let request = Request::post("http://a/t.T/Up").header("content-type", "application/grpc").body(());
        let (_response, mut out) = requests.send_request(request.expect("a request"), false).expect("sent");
        out.send_data(vec![0; 400_000].into(), false).expect("queued");
        let stuck = async {
            while lb.server("one")["active_requests"] != 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Until the windows on the way are full.
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        timeout(DEADLINE, stuck).await.expect("the call is at the server");
        out.send_reset(Reason::CANCEL);
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    assert_eq!(ended.recv_timeout(DEADLINE).expect("a reset").expect("a reason"), Reason::CANCEL);
}

// Case: grpc-own-failures
#[test]
fn a_call_that_a_stop_aborts_gets_a_status() {
    let server = Http2Server::start(100, async |stream: Stream| {
        let _held = stream;
        std::future::pending::<()>().await;
    });
    let mut lb: Lb = start("[timeouts]\ndrain = \"300ms\"\n", &[("one", server.address)]);
    let address = lb.address();
    let calling = std::thread::spawn(move || unary(address, &[]));
    eventually("the call is at the server", || (lb.server("one")["active_requests"] == 1).then_some(()));
    lb.signal("TERM");
    failed(&calling.join().expect("a call"), "14", "");
    lb.ends();
}
