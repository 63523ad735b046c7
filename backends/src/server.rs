//! Accepts and serves connections, and drains them at shutdown.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::zipkin::{self, SpanExporter};

/// The timeout for the next request's head on a connection.
const IDLE: Duration = Duration::from_secs(75);

/// The pause after a failed accept, which usually means that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest wait at shutdown for the last spans to reach the collector.
const FLUSH: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Options {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The address to listen on; with port 0, a free port is used.
    pub address: SocketAddr,
    /// The URL of Zipkin's collector, such as `http://127.0.0.1:9411/api/v2/spans`; without it, nothing is traced.
    pub zipkin: Option<String>,
    /// The time that open requests have to finish at shutdown.
    pub drain: Duration,
}

impl Options {
    /// Options without tracing and with ten seconds to drain.
    #[must_use]
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Self {
        Self { name: name.into(), address, zipkin: None, drain: Duration::from_secs(10) }
    }
}

/// A demo server. It listens from the start, but responds only while it is [running](Self::run).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    closing: watch::Sender<bool>,
    exporter: Option<SpanExporter>,
    drain: Duration,
}

impl Server {
    /// Listens on the address of the options.
    ///
    /// # Errors
    /// `InvalidInput` if the name or the collector's URL is invalid; otherwise the system's error, with the address in its
    /// message.
    pub async fn bind(options: Options) -> io::Result<Self> {
        let Options { name, address, zipkin, drain } = options;
        let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
        let (reporter, exporter) = zipkin
            .map(|url| url.parse().map(|collector| zipkin::channel(&name, collector)))
            .transpose()
            .map_err(invalid)?
            .unzip();
        let (closing, closed) = watch::channel(false);
        let app = Arc::new(App::new(name, reporter, closed).map_err(invalid)?);
        let with_address =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(with_address)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, app, closing, exporter, drain })
    }

    /// The address that it listens on, with the actual port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes. Then waits until open requests have finished, for at most the drain timeout,
    /// and until the last spans have been sent, for at most two seconds.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, app, closing, exporter, drain, .. } = self;
        let exporter = exporter.map(|exporter| tokio::spawn(exporter.run()));
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, app.clone(), closing.subscribe()));
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(listener);
        closing.send_replace(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(drain, finished).await;
        connections.shutdown().await;
        // The app owns the reporter. The exporter ends once that is dropped.
        drop(app);
        if let Some(exporter) = exporter {
            let _ = timeout(FLUSH, exporter).await;
        }
    }
}

/// Serves one connection. Once `closing` is true, it ends after the open request.
async fn serve(stream: TcpStream, app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.respond(local, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // Errors of a client, such as a reset or an invalid request, need no action.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
