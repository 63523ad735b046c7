//! The admin address on a real socket: connections, limits, shutdown.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb::admin::{self, AdminContext};
use lb::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

mod support;
use support::{Fixture, config, three};

/// Generous, for a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

const GET: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Serves `fixture` until something is sent.
async fn start(fixture: &Fixture) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    serve(&context(fixture)).await
}

fn context(fixture: &Fixture) -> Arc<AdminContext> {
    let metrics = Metrics::new(Arc::clone(&fixture.state), Vec::new()).expect("names that differ");
    Arc::new(AdminContext::new(Arc::clone(&fixture.state), metrics))
}

async fn serve(context: &Arc<AdminContext>) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        if stopped.await.is_err() {
            // The sender was dropped: serve until the test ends.
            pending::<()>().await;
        }
    };
    (address, stop, tokio::spawn(admin::serve(listener.into(), Arc::clone(context), shutdown)))
}

struct Client(TcpStream);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Reads a response's head, up to the empty line.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(DEADLINE, self.0.read_u8()).await.expect("in time").expect("a response");
            head.push(byte);
        }
        String::from_utf8(head).expect("text")
    }

    /// Reads a response with its body.
    async fn response(&mut self) -> (String, String) {
        let head = self.head().await;
        let mut body = vec![0; length(&head)];
        timeout(DEADLINE, self.0.read_exact(&mut body)).await.expect("in time").expect("a body");
        (head, String::from_utf8(body).expect("text"))
    }

    /// Reads to the end of the connection.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        timeout(DEADLINE, self.0.read_to_end(&mut rest)).await.expect("in time").expect("an orderly end");
        rest
    }
}

fn length(head: &str) -> usize {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.expect("a length").parse().expect("a number")
}

#[tokio::test]
async fn connections_are_reused_and_head_is_get_without_the_body() {
    let fixture = Fixture::new(config(vec![three()]));
    let (address, _stop, _) = start(&fixture).await;
    let mut client = Client::connect(address).await;
    client.send("GET /api/servers HTTP/1.1\r\nHost: 127.0.0.1:9900\r\n\r\n").await;
    let (head, body) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.contains("server3"), "{head}{body}");
    client.send("HEAD /api/servers HTTP/1.1\r\nHost: 127.0.0.1:9900\r\n\r\n").await;
    assert_eq!(length(&client.head().await), body.len());
    client.send(GET).await;
    let (head, body) = client.response().await;
    assert!(head.contains("\r\nx-content-type-options: nosniff\r\n"), "{head}");
    assert_eq!(body, "{\"generation\":1,\"status\":\"serving\"}\n");
}

#[tokio::test]
async fn accepted_hosts_follow_the_configuration() {
    let mut fixture = Fixture::new(config(vec![three()]));
    let (address, _stop, _) = start(&fixture).await;
    let mut client = Client::connect(address).await;
    let request = "GET /health HTTP/1.1\r\nHost: lb.example.com\r\n\r\n";
    client.send(request).await;
    let (head, body) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 403 ") && body.contains("hosts"), "{head}{body}");
    fixture.edit(|config| config.admin.hosts.push("lb.example.com".into()));
    client.send(request).await;
    assert!(client.response().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_request_body_neither_delays_nor_costs_the_response() {
    let fixture = Fixture::new(config(vec![three()]));
    let (address, _stop, _) = start(&fixture).await;
    let headers = "HTTP/1.1\r\nHost: localhost\r\nContent-Length: ";
    // Sent in full; sent in full with a GET; announced, but not sent before 100-continue.
    for (method, length, more, sent) in
        [("POST", 60_000, "", 60_000), ("GET", 2, "", 2), ("PUT", 1 << 20, "Expect: 100-continue\r\n", 0)]
    {
        let mut client = Client::connect(address).await;
        client.send(&format!("{method} /health {headers}{length}\r\n{more}\r\n")).await;
        client.send(&"x".repeat(sent)).await;
        let (head, _) = client.response().await;
        let expected = if method == "GET" { "HTTP/1.1 200 " } else { "HTTP/1.1 405 " };
        assert!(head.starts_with(expected) && head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(client.rest().await, b"", "{method}");
    }
    // A body that is never sent.
    let mut client = Client::connect(address).await;
    client.send(&format!("POST /health {headers}10\r\n\r\n")).await;
    assert!(client.response().await.0.starts_with("HTTP/1.1 405 "));
    client.rest().await;
}

#[tokio::test]
async fn malformed_requests_get_400_and_the_next_client_is_served() {
    let fixture = Fixture::new(config(vec![three()]));
    let (address, _stop, _) = start(&fixture).await;
    for malformed in
        ["\r\n\r\nnonsense\r\n\r\n", "GET /health HTTP/1.1\r\nHost : x\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n"]
    {
        let mut client = Client::connect(address).await;
        client.send(malformed).await;
        assert!(client.head().await.starts_with("HTTP/1.1 400 "), "{malformed:?}");
    }
    let mut client = Client::connect(address).await;
    client.send(&format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20_000))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 431 "));
    let mut client = Client::connect(address).await;
    client.send(GET).await;
    assert!(client.response().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn silent_clients_are_disconnected() {
    let fixture = Fixture::new(config(vec![three()]));
    let (address, _stop, _) = start(&fixture).await;
    let start = Instant::now();
    let mut silent = Client::connect(address).await;
    let mut slow = Client::connect(address).await;
    slow.send("GET /health HTTP/1.1\r\nHo").await;
    silent.rest().await;
    slow.rest().await;
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_for_another_to_leave() {
    let fixture = Fixture::new(config(vec![three()]));
    let (address, _stop, _) = start(&fixture).await;
    let mut clients = Vec::new();
    for _ in 0..128 {
        let mut client = Client::connect(address).await;
        client.send(GET).await;
        client.response().await;
        clients.push(client);
    }
    let mut last = Client::connect(address).await;
    last.send(GET).await;
    assert!(timeout(Duration::from_millis(200), last.0.readable()).await.is_err(), "served beyond the limit");
    clients.pop();
    assert!(last.response().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn shutdown_closes_idle_connections_at_once() {
    let fixture = Fixture::new(config(vec![three()]));
    let (address, stop, served) = start(&fixture).await;
    let mut idle = Client::connect(address).await;
    idle.send(GET).await;
    idle.response().await;
    let mut fresh = Client::connect(address).await;
    let mut started = Client::connect(address).await;
    started.send("GET /health HTTP/1.1\r\nHo").await;
    // A response shows that the earlier connections have been accepted.
    idle.send(GET).await;
    idle.response().await;
    stop.send(()).expect("it serves");
    timeout(DEADLINE, served).await.expect("in time").expect("no panic");
    assert_eq!(idle.rest().await, b"");
    assert_eq!(fresh.rest().await, b"");
    drop(started);
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
}
