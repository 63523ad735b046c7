//! WebSockets over HTTP/2 (RFC 8441), on either side and on both.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Response};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::h2::{DATA, END_STREAM, Frame, HEADERS, Outcome, PROTOCOL_ERROR, RawH2, SETTINGS, frame};
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::{Lb, NO_CHECKS, PORTS, servers};
use crate::support::servers::{Server, respond};

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

/// A server of HTTP/1.1 that opens each WebSocket with this status and key, which `None` makes the right one, and echoes.
fn http1(status: &'static str, accept: Option<&'static str>) -> Server {
    Server::scripted(move |mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let key = request.values("sec-websocket-key").concat() + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
            let right = lb::http1::base64::base64(digest.as_ref());
            let accept = accept.unwrap_or(&right);
            let upgrade = match status {
                "101 Switching Protocols" => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                _ => "Content-Length: 0\r\n",
            };
            let head = format!("HTTP/1.1 {status}\r\n{upgrade}Sec-WebSocket-Accept: {accept}\r\n\r\n");
            respond(&mut stream, head);
            let mut buffer = vec![0; 64 * 1024];
            while !upgrade.starts_with("Content") {
                match stream.read(&mut buffer) {
                    Ok(length @ 1..) => stream.get_mut().write_all(&buffer[..length]).expect("sent"),
                    _ => return,
                }
            }
        }
    })
}

fn connect(path: &str) -> Vec<(&str, &str)> {
    [
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", path),
        ],
        &[("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")][..],
    ]
    .concat()
}

fn in_front_of(server: SocketAddr, protocol: &str) -> Lb {
    let ports = PORTS.replacen("127.0.0.1:0\"\n", "127.0.0.1:0\"\nprotocols = [\"h2\", \"http/1.1\"]\n", 1);
    let table = servers(&[("server1", server, 1)]);
    Lb::start_file(&format!("{ports}{NO_CHECKS}[proxy]\nworkers = 1\n[upstream]\nprotocol = \"{protocol}\"\n{table}"))
}

/// The next frame of this kind.
fn next(client: &mut RawH2, kind: u8) -> Frame {
    std::iter::from_fn(|| client.next()).find(|frame| frame.kind == kind).expect("a frame")
}

#[test]
fn a_client_of_http_2_opens_websockets_on_its_connection() {
    let old = http1("101 Switching Protocols", None);
    let new = Http2Server::with_websockets(async |stream: Stream| {
        let number = stream.number;
        chat(Stream { number: number + 1, ..stream }).await;
    });
    for (server, protocol) in [(old.address, "http/1.1"), (new.address, "h2")] {
        let lb = in_front_of(server, protocol);
        let mut client = RawH2::connect(lb.address());
        let settings = next(&mut client, SETTINGS).payload;
        assert!(settings.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "offered: {settings:?}");
        for stream in [1, 3, 5] {
            assert!(client.request(stream, &connect("/chat"), false));
            let head = next(&mut client, HEADERS);
            assert_eq!((head.stream, head.payload[0], head.flags & END_STREAM), (stream, 0x88, 0), "{protocol}: 200");
            assert!(client.send(&frame(DATA, 0, stream, b"hello")));
            let echo = next(&mut client, DATA);
            assert_eq!((echo.stream, echo.payload.as_slice()), (stream, &b"hello"[..]));
        }
        // Each ends by itself, and the others go on.
        assert!(client.send(&frame(DATA, END_STREAM, 3, b"")));
        let end = next(&mut client, DATA);
        assert_eq!((end.stream, end.flags & END_STREAM, end.payload.len()), (3, END_STREAM, 0), "{protocol}");
        assert!(client.send(&frame(DATA, 0, 5, b"more")));
        assert_eq!(next(&mut client, DATA).payload, b"more");
        let line = lb.logs("the end of a WebSocket", |line| line.contains("GET /chat"));
        assert!(line.contains("101"), "{line}");
    }
    let key = old.requests()[0].values("sec-websocket-key").concat();
    assert_eq!((key.len(), old.requests()[0].values("upgrade")), (24, vec!["websocket"]));
    assert_ne!(key, old.requests()[1].values("sec-websocket-key").concat());
}

#[test]
fn a_response_that_opens_no_websocket_does_not_look_as_if_it_did() {
    for (status, accept, expected) in [
        ("200 OK", None, 0),
        ("101 Switching Protocols", Some("c3BMTE1CaVR4YVE5a1lHenpoWlJiSyt4T289"), 0),
        ("404 Not Found", None, 404),
    ] {
        let server = http1(status, accept);
        let lb = in_front_of(server.address, "http/1.1");
        let mut client = RawH2::connect(lb.address());
        assert!(client.request(1, &connect("/chat"), false));
        assert_eq!(client.outcome(1), Outcome::Status(expected), "{status}");
        if expected == 0 {
            let line = lb.logs("the request", |line| line.contains("GET /chat"));
            assert!(line.contains(" 502 ") && line.contains("rule=websocket"), "{line}");
        }
    }
    // Any other protocol is none that is spoken here, and CONNECT without one is no request for a server.
    let server = Server::named("server1");
    let lb = in_front_of(server.address, "http/1.1");
    for headers in [
        vec![
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
        vec![(":method", "CONNECT"), (":authority", "a:443")],
        vec![(":method", "GET"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
    ] {
        let mut client = RawH2::connect(lb.address());
        assert!(client.request(1, &headers, true));
        assert_ne!(client.outcome(1), Outcome::Status(200), "{headers:?}");
    }
    assert!(server.requests().is_empty());
}

// Case: h2-malformed
#[test]
fn a_websocket_with_the_length_of_a_body_reaches_no_server() {
    let server = http1("404 Not Found", None);
    let lb = in_front_of(server.address, "http/1.1");
    let mut client = RawH2::connect(lb.address());
    let headers = [&connect("/chat")[..], &[("content-length", "30")]].concat();
    assert!(client.request(1, &headers, false));
    assert_eq!(client.outcome(1), Outcome::Reset(PROTOCOL_ERROR));
    let line = lb.logs("the request", |line| line.contains("rule=connect_body"));
    assert!(line.contains(" 400 "), "{line}");
    assert!(client.request(3, &connect("/chat"), false));
    assert_eq!((client.outcome(3), server.requests().len()), (Outcome::Status(404), 1), "only the second");
}

#[test]
fn pages_that_are_asked_for_a_websocket_do_not_count_against_their_server() {
    let server = http1("200 OK", None);
    let lb = in_front_of(server.address, "http/1.1");
    let mut client = RawH2::connect(lb.address());
    for stream in (1..20).step_by(2) {
        assert!(client.request(stream, &connect("/page"), false));
        assert_eq!(client.outcome(stream), Outcome::Status(0), "502");
    }
    assert_eq!(lb.server("server1")["status"].as_str(), Some("up"));
}
