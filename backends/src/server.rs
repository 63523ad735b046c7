//! Accepts connections, serves them, and lets them finish when the end is asked for.

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
use crate::zipkin::{self, Exporter};

/// A connection has this long to send its next request.
const IDLE: Duration = Duration::from_secs(75);

/// A failed accept (out of file descriptors, mostly) is tried again after this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The last spans have this long to reach the collector.
const FLUSH: Duration = Duration::from_secs(2);

/// What a [`Server`] is made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the server calls itself: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Zipkin's collector, as in `http://127.0.0.1:9411/api/v2/spans`; without it nothing is
    /// traced.
    pub zipkin: Option<String>,
    /// Open requests have this long to finish after the shutdown was asked for.
    pub drain: Duration,
}

impl Options {
    /// A server of that name at that address, untraced, with ten seconds to drain.
    #[must_use]
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Self {
        Self { name: name.into(), address, zipkin: None, drain: Duration::from_secs(10) }
    }
}

/// A demo server that listens, but answers only once it is [run](Self::run).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    closing: watch::Sender<bool>,
    exporter: Option<Exporter>,
    drain: Duration,
}

impl Server {
    /// Listens at the address of the options.
    ///
    /// # Errors
    /// `InvalidInput` when the name or the collector's URL is not of their form; else what the
    /// system says about the address, which the message names.
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
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(named)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, app, closing, exporter, drain })
    }

    /// Where it listens; the port is the real one even if 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` ends. Returns when open requests have finished, or their time to
    /// drain is over, and the last spans are on their way.
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
        // The exporter ends when the last reporter, which is the app's, is gone.
        drop(app);
        if let Some(exporter) = exporter {
            let _ = timeout(FLUSH, exporter).await;
        }
    }
}

/// Serves one connection to its end, which comes after the open request once `closing` turns true.
async fn serve(stream: TcpStream, app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(local, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // A client that breaks off or sends nonsense is nothing this server could act on.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
