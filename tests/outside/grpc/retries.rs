//! `retry.grpc`: a call whose response is UNAVAILABLE without a message is made again at another server.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

use super::own::{Reply, call, message, respond};
use super::{NO_CHECKS, calls, file, start};
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::Lb;

const RETRY: &str = "[proxy]\nworkers = 1\n[retry]\ngrpc = true\n";

/// How a server says that it is not available.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unavailable {
    /// In its head.
    Head,
    /// In trailers after its head.
    Trailers,
    /// In trailers after a message.
    AfterMessage,
}

/// A server that reads a request and says that it is not available.
fn unavailable(how: Unavailable) -> Http2Server {
    Http2Server::start(100, move |mut stream: Stream| async move {
        stream.body().await;
        let head = Response::builder().header("content-type", "application/grpc");
        match how {
            Unavailable::Head => {
                let head = head.header("grpc-status", "14").header("grpc-message", "busy");
                let _ = stream.respond.send_response(head.body(()).expect("a head"), true);
            }
            Unavailable::Trailers => {
                let mut out = stream.respond.send_response(head.body(()).expect("a head"), false).expect("sent");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                trailers.insert("grpc-message", HeaderValue::from_static("busy"));
                let _ = out.send_trailers(trailers);
            }
            Unavailable::AfterMessage => respond(&mut stream, b"half", "14"),
        }
    })
}

/// A server that sends the length of its request.
fn good() -> Http2Server {
    Http2Server::start(100, move |mut stream: Stream| async move {
        let (body, _) = stream.body().await;
        respond(&mut stream, body.len().to_string().as_bytes(), "0");
    })
}

/// Four calls with these pieces.
fn four(lb: &Lb, pieces: &[Bytes]) -> Vec<Reply> {
    (0..4).map(|_| call(lb.address(), "/t.T/Unary", &[], pieces, true).expect("a response")).collect()
}

fn statuses(replies: &[Reply]) -> Vec<String> {
    replies.iter().map(|reply| reply.status().0).collect()
}

fn retries(lb: &Lb) -> Option<f64> {
    lb.metric("lb_retries_total{pool=\"default\",reason=\"status\"}")
}

// Case: grpc-retries
#[test]
fn a_call_is_made_again_if_its_server_is_not_available() {
    for how in [Unavailable::Head, Unavailable::Trailers] {
        let (busy, good) = (unavailable(how), good());
        let addresses = [("busy", busy.address), ("good", good.address)];
        let lb = start(RETRY, &addresses);
        // In one frame; in two, of which the second is empty; in three.
        let bodies: [&[Bytes]; 3] = [
            &[message(b"hello")],
            &[message(b"hello"), Bytes::new()],
            &[message(b"hello"), message(b"world"), message(b"!")],
        ];
        for (pieces, made) in bodies.into_iter().zip([2.0, 4.0, 6.0]) {
            let length: usize = pieces.iter().map(Bytes::len).sum();
            for reply in four(&lb, pieces) {
                let expected = message(length.to_string().as_bytes());
                assert_eq!((reply.status().0.as_str(), &reply.body), ("0", &expected.to_vec()), "{how:?}");
            }
            assert_eq!(retries(&lb), Some(made), "{how:?}");
        }
        assert_eq!((calls(&lb, 0), calls(&lb, 14)), (12.0, 0.0));
        lb.logs("a retry", |line| line.contains("server=good") && line.contains("grpc_status=0 tries=2"));
        lb.edit_file(&file(&format!("{NO_CHECKS}[proxy]\nworkers = 1\n"), &addresses));
        lb.reaches(2);
        let replies = statuses(&four(&lb, bodies[0]));
        assert_eq!(replies.iter().filter(|status| *status == "14").count(), 2, "{replies:?}");
        assert_eq!(retries(&lb), Some(6.0));
    }
}

// Case: grpc-retries
#[test]
fn a_call_is_not_made_again_once_its_client_has_a_message_or_its_request_is_gone() {
    let (busy, good) = (unavailable(Unavailable::AfterMessage), good());
    let lb = start(RETRY, &[("busy", busy.address), ("good", good.address)]);
    let replies = four(&lb, &[message(b"hello")]);
    let cut: Vec<_> = replies.iter().filter(|reply| reply.status().0 == "14").collect();
    assert!(cut.len() == 2 && cut.iter().all(|reply| reply.body == message(b"half")), "{replies:?}");
    let busy = unavailable(Unavailable::Head);
    let lb = start(RETRY, &[("busy", busy.address), ("good", good.address)]);
    let large: Vec<_> = (0..10).map(|_| message(&[0; 15_000])).collect();
    let replies = statuses(&four(&lb, &large));
    assert_eq!(replies.iter().filter(|status| *status == "14").count(), 2, "{replies:?}");
    assert_eq!(retries(&lb), Some(0.0));
}

// Case: grpc-retries
#[test]
fn the_response_of_a_server_is_relayed_if_none_is_available() {
    for how in [Unavailable::Head, Unavailable::Trailers] {
        let (one, two) = (unavailable(how), unavailable(how));
        let lb = start(RETRY, &[("one", one.address), ("two", two.address)]);
        let reply = call(lb.address(), "/t.T/Unary", &[], &[message(b"hello")], true).expect("a response");
        assert_eq!(reply.status(), ("14".to_owned(), "busy".to_owned()), "{reply:?}");
        assert_eq!(reply.is_head_only, how == Unavailable::Head);
        lb.logs("the call", |line| line.contains("grpc_status=14 tries=2"));
        assert_eq!(lb.server("one")["status"], "up");
    }
}
