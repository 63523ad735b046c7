//! Traces: spans of sampled requests, handed over by the workers and sent to collectors by the control plane.
//!
//! Each collector has a `lane` of its own, so that one that is down or slow costs the other nothing.

mod convention;
mod lane;
mod otlp;
mod post;
mod zipkin;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::lane::{ExporterQueue, Kind};
use crate::config;

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
    /// `lb.route`: the route's name, as the metrics have it.
    pub route: Option<Arc<str>>,
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
        /// `http.route`: the path of the route that matched; with the method, the span's name.
        path: Option<Arc<str>>,
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
    zipkin: ExporterQueue,
    otlp: ExporterQueue,
}

impl SpanSink {
    /// Whether spans are exported at all. Without, there is no use in making one.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.zipkin.is_open() || self.otlp.is_open()
    }

    /// Hands over a span of a sampled trace. Never waits: the span is dropped and counted if a
    /// collector's queue is full.
    pub fn record(&self, span: Span) {
        if self.otlp.is_open() {
            self.otlp.record(span.clone());
        }
        if self.zipkin.is_open() {
            self.zipkin.record(span);
        }
    }

    /// Spans that a collector took, since the start; one that two took counts twice.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.zipkin.exported() + self.otlp.exported()
    }

    /// Spans that were lost on the way to a collector, since the start: the queue was full, or the
    /// collector did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.zipkin.dropped() + self.otlp.dropped()
    }
}

/// Starts the export on the current runtime, which must be the control plane's.
///
/// # Panics
/// Outside of a tokio runtime.
#[must_use]
pub fn start(tracing: &config::TracingConfig) -> (SpanSink, TraceExport) {
    let (zipkin, to_zipkin) = lane::start(Kind::Zipkin, tracing);
    let (otlp, to_otlp) = lane::start(Kind::Otlp, tracing);
    (SpanSink { zipkin, otlp }, TraceExport { zipkin: to_zipkin, otlp: to_otlp })
}

/// The control plane's hold on the export.
#[derive(Debug)]
pub struct TraceExport {
    zipkin: lane::Export,
    otlp: lane::Export,
}

impl TraceExport {
    /// Takes over the collectors and the service name, from the next batch on.
    pub fn apply(&self, tracing: &config::TracingConfig) {
        self.zipkin.apply(tracing);
        self.otlp.apply(tracing);
    }

    /// Sends what is queued and ends, not later than `deadline` from now. True if it came to an end
    /// of itself.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        let (zipkin, otlp) = tokio::join!(self.zipkin.shutdown(deadline), self.otlp.shutdown(deadline));
        zipkin && otlp
    }
}

#[cfg(test)]
mod tests;
