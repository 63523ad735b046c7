//! The demo server from outside: its responses and its shutdown.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use backends::{Options, Server, healthcheck};
use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ANYWHERE, RunningServer, soon};

async fn server1() -> RunningServer {
    RunningServer::start(Options::new("server1", ANYWHERE)).await
}

#[tokio::test]
async fn a_response_has_the_servers_name_and_describes_the_request() {
    let server = server1().await;
    let headers = [("x-forwarded-for", "192.0.2.7"), ("x-request-id", "r-1"), ("cookie", "secret")];

    let reply = server.get_with("/any/path?q=1", &headers).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers["x-served-by"], "server1");
    assert_eq!(reply.body.split_whitespace().next(), Some("server1"));
    let rest: Vec<_> = reply.body.lines().skip(1).collect();
    let expected = ["GET /any/path", "requests: 1", "x-forwarded-for: 192.0.2.7", "x-request-id: r-1"];
    assert_eq!(rest, expected);

    let accept = [headers[0], headers[1], ("accept", "text/html, application/json;q=0.9")];
    let reply = server.get_with("/", &accept).await;
    assert_eq!(reply.headers["content-type"], "application/json");
    let page: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!(page["name"], "server1");
    assert_eq!(page["path"], "/");
    assert_eq!(page["requests"], 2);
    assert_eq!(page["headers"]["x-forwarded-for"], "192.0.2.7");
    assert_eq!(page["headers"].get("cookie"), None);
}

#[tokio::test]
async fn health_checks_can_be_made_to_fail() {
    let server = server1().await;
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
    healthcheck(server.address).await.expect("healthy");

    assert_eq!(server.post("/health/fail", "").await.status, StatusCode::OK);
    assert_eq!(server.get("/health").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let error = healthcheck(server.address).await.expect_err("not healthy");
    assert!(error.to_string().contains("503"), "{error}");

    assert_eq!(server.post("/health/pass", "").await.status, StatusCode::OK);
    healthcheck(server.address).await.expect("healthy again");

    let not_allowed = server.get("/health/fail").await;
    assert_eq!(not_allowed.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(not_allowed.headers["allow"], "POST, PUT");
    healthcheck(server.address).await.expect("a GET changes nothing");

    let address = server.address;
    soon(server.stop()).await.expect("no panic");
    healthcheck(address).await.expect_err("the listener is closed");
}

#[tokio::test]
async fn metrics_have_memory_and_requests() {
    let server = server1().await;
    for path in ["/", "/health", "/metrics", "/a"] {
        server.get(path).await;
    }
    let page = server.get("/metrics").await;
    assert_eq!(page.metric("demo_requests_total"), Some(2), "{page:?}");
    assert_eq!(page.metric("demo_spans_dropped_total"), None, "{page:?}");
    let memory = page.metric("process_resident_memory_bytes").expect("the memory");
    assert!((1 << 20..1 << 40).contains(&memory), "{memory} bytes");
}

#[tokio::test]
async fn slow_waits_as_long_as_asked() {
    let server = server1().await;
    let start = Instant::now();
    let reply = server.get("/slow?seconds=0.2").await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(reply.body.starts_with("server1\n"), "{reply:?}");
    for seconds in ["soon", "-1", ""] {
        let reply = server.get(&format!("/slow?seconds={seconds}")).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{seconds}");
    }
}

#[tokio::test]
async fn bodies_are_echoed_and_streamed() {
    let server = server1().await;
    let large = "0123456789abcdef".repeat(1 << 16);
    assert!(server.post("/echo", large.clone()).await.body == large);
    assert!(server.post("/", large).await.body.starts_with("server1\n"));

    let reply = server.get("/stream?chunks=3&ms=1").await;
    assert_eq!(reply.body, "server1 1 of 3\nserver1 2 of 3\nserver1 3 of 3\n");
    assert_eq!(server.get("/stream?chunks=many").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_connection_is_upgraded_to_an_echo() {
    let server = server1().await;
    assert_eq!(server.get("/upgrade").await.status, StatusCode::UPGRADE_REQUIRED);

    let mut stream = TcpStream::connect(server.address).await.expect("connect");
    let request = "GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("\r\nupgrade: echo\r\n"), "{head}");
    assert!(!head.contains("content-"), "a 101 has no body: {head}");

    let mut back = [0; 4];
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await.expect("write");
        soon(stream.read_exact(&mut back)).await.expect("read");
        assert_eq!(&back, word);
    }
    soon(server.stop()).await.expect("no panic");
    let end = soon(stream.read(&mut back)).await.expect("a clean end");
    assert_eq!(end, 0, "an open tunnel ends with the server");
}

#[tokio::test]
async fn at_shutdown_open_requests_finish_and_connections_are_refused() {
    let server = server1().await;
    let address = server.address;
    let mut open = TcpStream::connect(address).await.expect("connect");
    let idle = TcpStream::connect(address).await.expect("connect");
    open.write_all(b"GET /stream?chunks=3&ms=50 HTTP/1.1\r\nHost: test\r\n\r\n").await.expect("write");
    soon(open.readable()).await.expect("the start of the response");

    let run = server.stop();
    let mut response = String::new();
    soon(open.read_to_string(&mut response)).await.expect("read");
    assert!(response.contains("server1 3 of 3"), "{response}");
    soon(run).await.expect("no panic");
    TcpStream::connect(address).await.expect_err("the listener is closed");
    drop(idle);
}

#[tokio::test]
async fn draining_ends_at_its_timeout() {
    let mut options = Options::new("server1", ANYWHERE);
    options.drain = Duration::from_millis(50);
    let server = RunningServer::start(options).await;
    let mut stuck = TcpStream::connect(server.address).await.expect("connect");
    stuck.write_all(b"GET /stream?chunks=2&ms=60000 HTTP/1.1\r\nHost: test\r\n\r\n").await.expect("write");
    soon(stuck.readable()).await.expect("the start of the response");
    soon(server.stop()).await.expect("no panic");
}

#[tokio::test]
async fn invalid_options_are_errors() {
    for name in ["", "two words", "näme", "a\nb"] {
        let error = Server::bind(Options::new(name, ANYWHERE)).await.expect_err("a bad name");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
    }
    let mut options = Options::new("server1", ANYWHERE);
    options.zipkin = Some("zipkin:9411".to_owned());
    let error = Server::bind(options).await.expect_err("a bad URL");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("`zipkin:9411`"), "{error}");

    let taken = TcpListener::bind(ANYWHERE).await.expect("bind");
    let address = taken.local_addr().expect("an address");
    let error = Server::bind(Options::new("server1", address)).await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
