//! WebSockets of clients of HTTP/1.1 to servers of HTTP/2 (RFC 8441).

use std::net::SocketAddr;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Response};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::{Lb, NO_CHECKS, servers};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn start(server: SocketAddr) -> Lb {
    let table = servers(&[("server1", server, 1)]);
    Lb::start(&format!("{NO_CHECKS}[proxy]\nworkers = 1\n[upstream]\nprotocol = \"h2\"\n{table}"))
}

/// Echoes a WebSocket's bytes, and ends after `end`; refuses others.
async fn chat(mut stream: Stream) {
    if stream.request.extensions().get() != Some(&Protocol::from_static("websocket")) {
        return stream.ok("no websocket");
    }
    assert_eq!((stream.request.method(), stream.request.uri().path()), (&Method::CONNECT, "/chat"));
    assert_eq!(stream.request.headers()["sec-websocket-protocol"], "chat");
    assert!(!stream.request.headers().contains_key("sec-websocket-key"));
    if stream.number == 0 {
        let response = Response::builder().status(403).body(()).expect("a head");
        let mut out = stream.respond.send_response(response, false).expect("sent");
        return out.send_data(Bytes::from_static(b"not yet"), true).expect("sent");
    }
    let response = Response::builder().header("sec-websocket-protocol", "chat").body(()).expect("a head");
    let mut out = stream.respond.send_response(response, false).expect("sent");
    let body = stream.request.body_mut();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        let ends = piece.ends_with(b"end");
        out.reserve_capacity(piece.len());
        let mut left = piece;
        while !left.is_empty() {
            let Some(Ok(granted)) = std::future::poll_fn(|context| out.poll_capacity(context)).await else { return };
            let part = left.split_to(granted.min(left.len()));
            let _ = out.send_data(part, ends && left.is_empty());
        }
    }
    let _ = out.send_data(Bytes::new(), true);
}

#[test]
fn a_websocket_passes_to_a_server_that_offers_it() {
    let server = Http2Server::with_websockets(chat);
    let lb = start(server.address);
    // The server's response may also be another one, and the connection goes on.
    let mut client = Client::connect(lb.address());
    let refused = client.request(UPGRADE);
    assert_eq!((refused.status, refused.text()), (403, "not yet".to_owned()));
    assert_eq!(get(lb.address(), "/").text(), "no websocket");
    for ends_first in ["client", "server"] {
        let mut client = Client::connect(lb.address());
        client.send(UPGRADE);
        let (status, headers) = client.try_head().expect("a head");
        assert_eq!(status, 101);
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "chat"),
        ] {
            let is_there = headers.iter().any(|(own, text)| own.eq_ignore_ascii_case(name) && text == value);
            assert!(is_there, "{name}: {headers:?}");
        }
        for length in [1, 5, 100_000, 1 << 20] {
            let bytes = vec![b'x'; length];
            std::thread::scope(|scope| {
                let (mut writer, bytes) = (client.socket(), &bytes);
                scope.spawn(move || std::io::Write::write_all(&mut writer, bytes).expect("sent"));
                assert!(client.read(length) == *bytes, "{length}");
            });
        }
        match ends_first {
            "client" => client.socket().shutdown(std::net::Shutdown::Write).expect("ended"),
            _ => {
                client.send("the end");
                assert_eq!(client.read(7), b"the end");
            }
        }
        assert!(client.is_closed(), "{ends_first}");
    }
    let active = "lb_server_active_requests{pool=\"default\",server=\"server1\"}";
    eventually("all have ended", || (lb.metric(active) == Some(0.0)).then_some(()));
    assert_eq!((server.connections(), lb.server("server1")["status"].as_str()), (1, Some("up")));
}

#[test]
fn a_websocket_waits_for_the_settings_of_a_new_connection() {
    let server = Http2Server::with_websockets(async |stream: Stream| {
        let number = stream.number;
        chat(Stream { number: number + 1, ..stream }).await;
    });
    for _ in 0..5 {
        // The first request of each connection.
        let lb = start(server.address);
        let mut client = Client::connect(lb.address());
        client.send(UPGRADE);
        assert_eq!(client.try_head().expect("a head").0, 101);
        client.send("the end");
        assert_eq!(client.read(7), b"the end");
        assert!(client.is_closed());
    }
}
