//! The way of spans to one collector.
//!
//! A worker puts a span into a bounded queue and forgets it. The control plane's task takes what is
//! there, once a second or as soon as it fills a batch, and sends it. Does the collector not keep
//! up, spans are dropped, counted, and missed by nobody but the trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::Span;
use super::convention::span_data;
use super::otlp::Otlp;
use super::zipkin::Zipkin;
use crate::config;
use crate::telemetry::seldom::LogThrottle;

/// Spans that may wait to be sent.
pub(super) const QUEUE: usize = 2048;
/// Spans in one request to the collector.
pub(super) const BATCH: usize = 512;
/// The longest that a span waits for others, while the collector keeps up.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a collector speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zipkin,
    Otlp,
}

impl Kind {
    /// Where the configuration says it.
    fn key(self) -> &'static str {
        match self {
            Self::Zipkin => "tracing.zipkin",
            Self::Otlp => "tracing.otlp",
        }
    }

    fn settings(self, tracing: &config::TracingConfig) -> Settings {
        let url = match self {
            Self::Zipkin => &tracing.zipkin,
            Self::Otlp => &tracing.otlp,
        };
        Settings { url: url.clone(), service: tracing.service.clone() }
    }
}

/// Starts a lane on the current runtime.
pub(super) fn start(kind: Kind, tracing: &config::TracingConfig) -> (ExporterQueue, Export) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let (settings, changes) = watch::channel(kind.settings(tracing));
    let shared = Arc::<Shared>::default();
    let mut exporter = Exporter {
        kind,
        spans,
        settings: changes,
        collector: None,
        shared: Arc::clone(&shared),
        complaint: LogThrottle::default(),
    };
    exporter.open();
    let task = tokio::spawn(exporter.run());
    (ExporterQueue { queue, shared: Arc::clone(&shared) }, Export { kind, settings, shared, task })
}

/// The workers' end.
#[derive(Debug, Clone)]
pub(super) struct ExporterQueue {
    queue: mpsc::Sender<Span>,
    shared: Arc<Shared>,
}

impl ExporterQueue {
    /// Whether there is a collector at its end.
    pub(super) fn is_open(&self) -> bool {
        self.shared.open.load(Relaxed)
    }

    /// Hands a span over, or drops and counts it.
    pub(super) fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.shared.dropped.fetch_add(1, Relaxed);
        }
        // The exporter sleeps until there is a batch, so that a span costs no wake-up of its thread.
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

/// The control plane's hold on a lane.
#[derive(Debug)]
pub(super) struct Export {
    kind: Kind,
    settings: watch::Sender<Settings>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Export {
    /// Takes over what changed, from the next batch on.
    pub(super) fn apply(&self, tracing: &config::TracingConfig) {
        let settings = self.kind.settings(tracing);
        // At once, even while the exporter waits for a slow collector.
        self.shared.open.store(settings.url.is_some(), Relaxed);
        self.settings.send_if_modified(|current| {
            let modified = *current != settings;
            *current = settings;
            modified
        });
    }

    /// Sends what is queued and ends, not later than `deadline` from now. True if it came to an end
    /// of itself.
    pub(super) async fn shutdown(mut self, deadline: Duration) -> bool {
        drop(self.settings);
        let ended = tokio::time::timeout(deadline, &mut self.task).await.is_ok();
        self.task.abort();
        ended
    }
}

/// What of the configuration concerns one lane.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    /// None when spans are not exported.
    url: Option<String>,
    service: String,
}

/// What both ends see.
#[derive(Debug, Default)]
struct Shared {
    open: AtomicBool,
    exported: AtomicU64,
    dropped: AtomicU64,
    wake: Notify,
}

/// Who takes the spans.
enum Collector {
    Zipkin(Zipkin),
    Otlp(Otlp),
}

impl Collector {
    fn new(kind: Kind, url: &str, service: &str) -> Result<Self, String> {
        match kind {
            Kind::Zipkin => Zipkin::new(url, service).map(Self::Zipkin),
            Kind::Otlp => Otlp::new(url, service).map(Self::Otlp),
        }
    }

    async fn export(&self, spans: Vec<SpanData>) -> Result<(), Loss> {
        match self {
            Self::Zipkin(zipkin) => zipkin.export(spans).await,
            Self::Otlp(otlp) => otlp.export(spans).await,
        }
    }
}

/// That a collector did not take all that it was sent.
#[derive(Debug)]
pub(super) struct Loss {
    /// Of how many it says so; none when of all.
    pub(super) spans: Option<u64>,
    /// Why, in words.
    pub(super) problem: String,
}

impl Loss {
    /// All of a batch was lost.
    pub(super) fn of_all(problem: String) -> Self {
        Self { spans: None, problem }
    }
}

/// The control plane's task.
struct Exporter {
    kind: Kind,
    spans: mpsc::Receiver<Span>,
    settings: watch::Receiver<Settings>,
    collector: Option<Collector>,
    shared: Arc<Shared>,
    complaint: LogThrottle,
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
                () = tokio::time::sleep(INTERVAL), if self.collector.is_some() => {}
            }
            self.send_queued().await;
        }
        self.shared.open.store(false, Relaxed);
        self.send_queued().await;
    }

    fn open(&mut self) {
        let (kind, settings) = (self.kind, self.settings.borrow_and_update());
        self.collector = settings.url.as_deref().and_then(|url| {
            Collector::new(kind, url, &settings.service)
                .inspect_err(|problem| tracing::error!(url, problem, "{} cannot be used: it is off", kind.key()))
                .ok()
        });
        self.shared.open.store(self.collector.is_some(), Relaxed);
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
        let Some(collector) = &self.collector else {
            // Switched off while they were on their way.
            return;
        };
        let sent = batch.len() as u64;
        let loss = collector.export(batch.into_iter().map(span_data).collect()).await.err();
        let lost = loss.as_ref().map_or(0, |loss| loss.spans.map_or(sent, |lost| lost.min(sent)));
        self.shared.exported.fetch_add(sent - lost, Relaxed);
        self.shared.dropped.fetch_add(lost, Relaxed);

        if let Some(spans) = self.complaint.due(self.shared.dropped.load(Relaxed), Instant::now()) {
            let url = self.settings.borrow().url.clone();
            let problem = loss.as_ref().map_or("more spans than it takes", |loss| &loss.problem);
            tracing::error!(spans, url, problem, "spans were lost: the collector does not keep up");
        }
    }
}
