//! A demo server on a free port, a client for it, and a fake collector.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use backends::{Options, Server};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No step of a test takes longer, even on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Any free port of the loopback address.
pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Waits for a future, and panics if that takes too long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, future).await.expect("took too long")
}

/// A server under test.
pub(crate) struct RunningServer {
    pub(crate) address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    run: JoinHandle<()>,
}

impl RunningServer {
    pub(crate) async fn start(options: Options) -> Self {
        let server = Server::bind(options).await.expect("bind");
        let address = server.local_addr();
        let (shutdown, shut_down) = oneshot::channel();
        let run = tokio::spawn(server.run(async {
            let _ = shut_down.await;
        }));
        Self { address, shutdown, run }
    }

    /// Starts the shutdown; the handle completes with it.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        self.shutdown.send(()).expect("still running");
        self.run
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> TestResponse {
        self.send(Method::GET, path, headers, Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> TestResponse {
        self.send(Method::POST, path, &[], body.into()).await
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> TestResponse {
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a request");
        soon(async {
            let stream = TcpStream::connect(self.address).await.expect("connect");
            let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("handshake");
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await.expect("a response").into_parts();
            let body = body.collect().await.expect("the whole body").to_bytes();
            TestResponse {
                status: head.status,
                headers: head.headers,
                body: String::from_utf8(body.into()).expect("text"),
            }
        })
        .await
    }
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl TestResponse {
    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let line = self.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.parse().expect("a whole number"))
    }
}

/// A fake Zipkin that keeps the spans posted to it.
pub(crate) struct FakeCollector {
    pub(crate) url: String,
    spans: mpsc::UnboundedReceiver<Value>,
}

impl FakeCollector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(ANYWHERE).await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let (sender, spans) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let sender = sender.clone();
                    async move {
                        assert_eq!(request.method(), Method::POST);
                        assert_eq!(request.uri().path(), "/api/v2/spans");
                        assert_eq!(request.headers()["content-type"], "application/json");
                        let json = request.into_body().collect().await?.to_bytes();
                        let batch: Vec<Value> = serde_json::from_slice(&json).expect("an array");
                        for span in batch {
                            sender.send(span).expect("a running test");
                        }
                        let mut response = Response::new(Full::<Bytes>::default());
                        *response.status_mut() = StatusCode::ACCEPTED;
                        Ok::<_, hyper::Error>(response)
                    }
                });
                tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url: format!("http://{address}/api/v2/spans"), spans }
    }

    /// Waits for the next span.
    pub(crate) async fn next(&mut self) -> Value {
        soon(self.spans.recv()).await.expect("a running collector")
    }

    /// A span that has already arrived.
    pub(crate) fn pending(&mut self) -> Option<Value> {
        self.spans.try_recv().ok()
    }
}
