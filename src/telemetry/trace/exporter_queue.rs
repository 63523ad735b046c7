//! The queue of spans for one collector, and the task that sends them.
//!
//! Workers put spans into a bounded queue. A task of the control plane empties it once a second, or
//! as soon as it holds a batch, and sends the spans. If the collector falls behind, spans are
//! dropped and counted; requests are unaffected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Relaxed};
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::Span;
use super::convention::span_data;
use super::otlp::OtlpClient;
use super::zipkin::ZipkinClient;
use crate::config::{self, CollectorUrl};
use crate::telemetry::LOSS_LOG_INTERVAL;
use crate::telemetry::log_throttle::LogThrottle;

/// Spans that may wait.
pub(super) const QUEUE: usize = 2048;
/// The most spans in one request to the collector.
pub(super) const BATCH: usize = 512;
/// Between two requests, while fewer spans than a batch wait.
const INTERVAL: Duration = Duration::from_secs(1);

/// A collector's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Zipkin,
    Otlp,
}

impl Protocol {
    /// The configuration key of the collector's URL.
    fn key(self) -> &'static str {
        match self {
            Self::Zipkin => "tracing.zipkin",
            Self::Otlp => "tracing.otlp",
        }
    }

    fn config(self, tracing: &config::TracingConfig) -> CollectorConfig {
        let url = match self {
            Self::Zipkin => &tracing.zipkin,
            Self::Otlp => &tracing.otlp,
        };
        CollectorConfig { url: url.clone(), service: tracing.service.clone() }
    }
}

/// Starts the task on the current runtime.
pub(super) fn start(protocol: Protocol, tracing: &config::TracingConfig) -> (ExporterQueue, ExporterHandle) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let (config, changes) = watch::channel(protocol.config(tracing));
    let shared = Arc::<ExportState>::default();
    let mut exporter = Exporter {
        protocol,
        spans,
        config: changes,
        collector: None,
        shared: Arc::clone(&shared),
        throttle: LogThrottle::every(LOSS_LOG_INTERVAL),
    };
    exporter.open();
    let task = tokio::spawn(exporter.run());
    (ExporterQueue { queue, shared: Arc::clone(&shared) }, ExporterHandle { protocol, config, shared, task })
}

/// The workers' end.
#[derive(Debug, Clone)]
pub(super) struct ExporterQueue {
    queue: mpsc::Sender<Span>,
    shared: Arc<ExportState>,
}

impl ExporterQueue {
    /// Whether a collector is configured.
    pub(super) fn is_open(&self) -> bool {
        self.shared.open.load(Relaxed)
    }

    /// Queues a span, or drops and counts it.
    pub(super) fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.shared.dropped.fetch_add(1, Relaxed);
        }
        // The first span starts the interval. After that, only a full batch wakes the exporter, so that most spans cost no
        // wake-up of its thread.
        if !self.shared.has_spans.swap(true, AcqRel) {
            self.shared.first.notify_one();
        }
        if self.queue.max_capacity() - self.queue.capacity() >= BATCH {
            self.shared.wake.notify_one();
        }
    }

    pub(super) fn exported(&self) -> u64 {
        self.shared.exported.load(Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Waits until the exporter is woken.
    #[cfg(test)]
    pub(super) async fn woken(&self) {
        self.shared.wake.notified().await;
    }
}

/// The control plane's handle to the task.
#[derive(Debug)]
pub(super) struct ExporterHandle {
    protocol: Protocol,
    config: watch::Sender<CollectorConfig>,
    shared: Arc<ExportState>,
    task: JoinHandle<()>,
}

impl ExporterHandle {
    /// Applies changes from the next batch on.
    pub(super) fn apply(&self, tracing: &config::TracingConfig) {
        let config = self.protocol.config(tracing);
        // Immediately, even while the exporter waits for a slow collector.
        self.shared.open.store(config.url.is_some(), Relaxed);
        self.config.send_if_modified(|current| {
            let modified = *current != config;
            *current = config;
            modified
        });
    }

    /// Sends the queued spans and ends, within `deadline`. Returns whether all could be sent in time.
    pub(super) async fn shutdown(mut self, deadline: Duration) -> bool {
        drop(self.config);
        let ended = tokio::time::timeout(deadline, &mut self.task).await.is_ok();
        self.task.abort();
        ended
    }
}

/// The part of the configuration that concerns one collector.
#[derive(Debug, PartialEq, Eq)]
struct CollectorConfig {
    /// `None` if spans are not exported.
    url: Option<CollectorUrl>,
    service: String,
}

/// Shared by both ends.
#[derive(Debug, Default)]
struct ExportState {
    open: AtomicBool,
    exported: AtomicU64,
    dropped: AtomicU64,
    /// Whether spans may have been queued since the exporter last looked.
    has_spans: AtomicBool,
    first: Notify,
    wake: Notify,
}

enum CollectorClient {
    Zipkin(ZipkinClient),
    Otlp(OtlpClient),
}

impl CollectorClient {
    fn new(protocol: Protocol, url: &str, service: &str) -> Result<Self, String> {
        match protocol {
            Protocol::Zipkin => ZipkinClient::new(url, service).map(Self::Zipkin),
            Protocol::Otlp => OtlpClient::new(url, service).map(Self::Otlp),
        }
    }

    async fn export(&self, spans: Vec<SpanData>) -> Result<(), ExportError> {
        match self {
            Self::Zipkin(zipkin) => zipkin.export(spans).await,
            Self::Otlp(otlp) => otlp.export(spans).await,
        }
    }
}

/// A collector did not accept all spans of a batch.
#[derive(Debug)]
pub(super) struct ExportError {
    /// How many it rejected; `None` if all of them are lost.
    pub(super) spans: Option<u64>,
    pub(super) reason: String,
}

impl ExportError {
    /// The whole batch is lost.
    pub(super) fn of_all(reason: String) -> Self {
        Self { spans: None, reason }
    }
}

/// The task.
struct Exporter {
    protocol: Protocol,
    spans: mpsc::Receiver<Span>,
    config: watch::Receiver<CollectorConfig>,
    collector: Option<CollectorClient>,
    shared: Arc<ExportState>,
    throttle: LogThrottle,
}

impl Exporter {
    /// Runs until the handle is dropped, and then until the queue is empty.
    async fn run(mut self) {
        // Runs from the first span on, so that an idle exporter does not wake up.
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                changed = self.config.changed() => match changed {
                    Ok(()) => self.open(),
                    Err(_) => break,
                },
                () = self.shared.wake.notified() => {}
                () = self.shared.first.notified() => {
                    due = Some(Instant::now() + INTERVAL);
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
            }
            due = None;
            self.shared.has_spans.swap(false, AcqRel);
            self.send_queued().await;
        }
        self.shared.open.store(false, Relaxed);
        self.send_queued().await;
    }

    fn open(&mut self) {
        let (protocol, config) = (self.protocol, self.config.borrow_and_update());
        self.collector = config.url.as_ref().and_then(|url| {
            CollectorClient::new(protocol, url.expose(), &config.service)
                .inspect_err(
                    |reason| tracing::error!(%url, reason, "{} is not usable; spans are not exported", protocol.key()),
                )
                .ok()
        });
        self.shared.open.store(self.collector.is_some(), Relaxed);
    }

    /// Sends all queued spans, unless the configuration changes meanwhile: the rest is for the new collector.
    async fn send_queued(&mut self) {
        while !self.config.has_changed().unwrap_or(false) {
            let batch: Vec<Span> = std::iter::from_fn(|| self.spans.try_recv().ok()).take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let Some(collector) = &self.collector else {
            // The export was switched off after these were queued.
            return;
        };
        let sent = batch.len() as u64;
        let error = collector.export(batch.into_iter().map(span_data).collect()).await.err();
        let lost = error.as_ref().map_or(0, |error| error.spans.map_or(sent, |lost| lost.min(sent)));
        self.shared.exported.fetch_add(sent - lost, Relaxed);
        self.shared.dropped.fetch_add(lost, Relaxed);

        if let Some(spans) = self.throttle.growth(self.shared.dropped.load(Relaxed), Instant::now()) {
            let url = self.config.borrow().url.as_ref().map(ToString::to_string);
            let reason = error.as_ref().map_or("the queue was full", |error| &error.reason);
            tracing::error!(spans, url, reason, "spans were lost");
        }
    }
}
