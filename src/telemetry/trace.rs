//! Traces: spans of sampled requests, handed over by the workers and sent to a collector by the control plane.
//!
//! A worker puts a span into a bounded queue and forgets it. The control plane's task takes what is
//! there, once a second or as soon as it fills a batch, and sends it. Does the collector not keep
//! up, spans are dropped, counted, and missed by nobody but the trace.

mod post;
mod zipkin;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use self::zipkin::Zipkin;
use super::seldom::Seldom;
use crate::config;

/// Spans that may wait to be sent.
const QUEUE: usize = 2048;
/// Spans in one request to the collector.
const BATCH: usize = 512;
/// The longest that a span waits for others, while the collector keeps up.
const INTERVAL: Duration = Duration::from_secs(1);

/// One operation of a trace: a client's request, or one try to have a server answer it.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace's id.
    pub trace_id: u128,
    /// This span's id.
    pub span_id: u64,
    /// The span that this one is a part of.
    pub parent_span_id: Option<u64>,
    /// When it began.
    pub start: SystemTime,
    /// How long it took, to the last byte of the answer.
    pub duration: Duration,
    /// `http.request.method`
    pub method: http::Method,
    /// `url.scheme`
    pub scheme: &'static str,
    /// `url.path`: without the query, which may hold what is nobody's business.
    pub path: Arc<str>,
    /// `network.protocol.version`
    pub version: http::Version,
    /// `server.address` and `server.port`: what the client asked for, or where the try went.
    pub address: Option<(Arc<str>, Option<u16>)>,
    /// `http.response.status_code`, if there was an answer.
    pub status: Option<u16>,
    /// `error.type`: in a word, what went wrong. Without it, a status that is an error says so.
    pub error: Option<&'static str>,
    /// `lb.pool`
    pub pool: Option<Arc<str>>,
    /// `lb.server`: the one tried, for a client's request the last.
    pub server: Option<Arc<str>>,
    /// `lb.generation`
    pub generation: u64,
    /// Which of the two it is.
    pub side: Side,
}

/// The side of a request that a span is about.
#[derive(Debug, Clone)]
pub enum Side {
    /// A client's request, of kind `SERVER`: `lb` is the server.
    Client {
        /// `client.address`
        address: std::net::IpAddr,
        /// `http.route`: what of the configuration matched; with the method, the span's name.
        route: Option<Arc<str>>,
    },
    /// One try, of kind `CLIENT`: `lb` is the client.
    Upstream {
        /// `http.request.resend_count`: tries before this one.
        resend_count: u32,
    },
}

/// Where the workers leave their spans.
#[derive(Debug, Clone)]
pub struct SpanSink {
    queue: mpsc::Sender<Span>,
    shared: Arc<Shared>,
}

impl SpanSink {
    /// Whether spans are exported at all. Without, there is no use in making one.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.shared.enabled.load(Relaxed)
    }

    /// Hands over a span of a sampled trace. Never waits: the span is dropped and counted if the
    /// queue is full.
    pub fn record(&self, span: Span) {
        if !self.enabled() {
            return;
        }
        if self.queue.try_send(span).is_err() {
            self.shared.dropped.fetch_add(1, Relaxed);
        }
        // The exporter sleeps until there is a batch, so that a span costs no wake-up of its thread.
        if self.queue.max_capacity() - self.queue.capacity() >= BATCH {
            self.shared.wake.notify_one();
        }
    }

    /// Spans that a collector took, since the start.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.shared.exported.load(Relaxed)
    }

    /// Spans that were lost since the start: the queue was full, or the collector did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }
}

/// Starts the export on the current runtime, which must be the control plane's.
///
/// # Panics
/// Outside of a tokio runtime.
#[must_use]
pub fn start(tracing: &config::Tracing) -> (SpanSink, TraceExport) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let (settings, changes) = watch::channel(tracing.clone());
    let shared = Arc::<Shared>::default();
    let mut exporter =
        Exporter { spans, settings: changes, zipkin: None, shared: Arc::clone(&shared), complaint: Seldom::default() };
    exporter.open();
    let task = tokio::spawn(exporter.run());
    (SpanSink { queue, shared }, TraceExport { settings, task })
}

/// The control plane's hold on the export.
#[derive(Debug)]
pub struct TraceExport {
    settings: watch::Sender<config::Tracing>,
    task: JoinHandle<()>,
}

impl TraceExport {
    /// Takes over the collector and the service name, from the next batch on.
    pub fn apply(&self, tracing: &config::Tracing) {
        self.settings.send_if_modified(|current| {
            let modified = current != tracing;
            current.clone_from(tracing);
            modified
        });
    }

    /// Sends what is queued and ends, not later than `deadline` from now. True if it came to an end
    /// of itself.
    pub async fn shutdown(mut self, deadline: Duration) -> bool {
        drop(self.settings);
        let ended = tokio::time::timeout(deadline, &mut self.task).await.is_ok();
        self.task.abort();
        ended
    }
}

/// What sink and exporter both see.
#[derive(Debug, Default)]
struct Shared {
    enabled: AtomicBool,
    exported: AtomicU64,
    dropped: AtomicU64,
    wake: Notify,
}

struct Exporter {
    spans: mpsc::Receiver<Span>,
    settings: watch::Receiver<config::Tracing>,
    /// None when spans are not exported.
    zipkin: Option<Zipkin>,
    shared: Arc<Shared>,
    complaint: Seldom,
}

impl Exporter {
    /// Until the settings' owner is gone, and then until the queue is empty.
    async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                changed = self.settings.changed() => match changed {
                    Ok(()) => self.open(),
                    Err(_) => break,
                },
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(INTERVAL), if self.zipkin.is_some() => {}
            }
            self.send_queued().await;
        }
        self.shared.enabled.store(false, Relaxed);
        self.send_queued().await;
    }

    fn open(&mut self) {
        let settings = self.settings.borrow_and_update();
        self.zipkin = settings.zipkin.as_deref().and_then(|url| {
            Zipkin::new(url, &settings.service)
                .inspect_err(|problem| tracing::error!(url, problem, "tracing is off: tracing.zipkin cannot be used"))
                .ok()
        });
        self.shared.enabled.store(self.zipkin.is_some(), Relaxed);
    }

    /// All that is there, unless the settings change meanwhile: the rest is for the new collector.
    async fn send_queued(&mut self) {
        while !self.settings.has_changed().unwrap_or(false) {
            let batch: Vec<Span> = std::iter::from_fn(|| self.spans.try_recv().ok()).take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let Some(zipkin) = &self.zipkin else {
            // Switched off while they were on their way.
            return;
        };
        let spans = batch.len() as u64;
        let problem = zipkin.export(batch).await.err();
        let counter = if problem.is_none() { &self.shared.exported } else { &self.shared.dropped };
        counter.fetch_add(spans, Relaxed);

        if let Some(spans) = self.complaint.due(self.shared.dropped.load(Relaxed), Instant::now()) {
            let url = self.settings.borrow().zipkin.clone();
            let problem = problem.as_deref().unwrap_or("more spans than it takes");
            tracing::error!(spans, url, problem, "spans were lost: the collector does not keep up");
        }
    }
}

#[cfg(test)]
mod tests;
