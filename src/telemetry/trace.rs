//! Traces: spans of sampled requests, queued by the workers and sent to collectors by the control plane.
//!
//! Each collector has a queue and a task of its own, so that one that is down or slow does not affect the other.

mod convention;
mod exporter_queue;
mod otlp;
mod post;
mod zipkin;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::exporter_queue::{ExporterHandle, ExporterQueue, Protocol};
use crate::config;
use crate::transport::ClientAddress;

/// One operation of a trace: a client's request, or one attempt at a server.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace_id: u128,
    pub span_id: u64,
    pub parent_span_id: Option<u64>,
    pub start: SystemTime,
    /// Until the last byte of the response.
    pub duration: Duration,
    /// `http.request.method`
    pub method: http::Method,
    /// `url.scheme`
    pub scheme: &'static str,
    /// `url.path`: without the query, which may contain secrets.
    pub path: Arc<str>,
    /// `network.protocol.version`
    pub version: http::Version,
    /// `server.address` and `server.port`: the host that the client requested, or the address of the attempt's server.
    pub address: Option<(Arc<str>, Option<u16>)>,
    /// `http.response.status_code`, if there was a response.
    pub status: Option<u16>,
    /// `rpc.grpc.status_code`, of a gRPC call whose client was sent one.
    pub grpc_status: Option<u32>,
    /// `error.type`: a label for what failed. Without it, the status is used if it is an error.
    pub error: Option<&'static str>,
    /// `lb.route`: the route's name, as in the metrics.
    pub route: Option<Arc<str>>,
    /// `lb.pool`
    pub pool: Option<Arc<str>>,
    /// `lb.server`: the attempt's server; for a client's request, that of the last attempt.
    pub server: Option<Arc<str>>,
    /// `lb.generation`
    pub generation: u64,
    pub side: SpanSide,
}

/// The side of a request that a span is about.
#[derive(Debug, Clone)]
pub enum SpanSide {
    /// A client's request, of kind `SERVER`: `lb` is the server.
    Client {
        /// `client.address`
        address: ClientAddress,
        /// `http.route`: the path of the route that matched. Together with the method it is the span's name.
        path: Option<Arc<str>>,
    },
    /// One attempt, of kind `CLIENT`: `lb` is the client.
    Upstream {
        /// `http.request.resend_count`: attempts before this one.
        resend_count: u32,
    },
}

/// The workers' end of the export.
#[derive(Debug, Clone)]
pub struct SpanSink {
    zipkin: ExporterQueue,
    otlp: ExporterQueue,
}

impl SpanSink {
    /// Whether spans are exported. If not, there is no need to build one.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.zipkin.is_open() || self.otlp.is_open()
    }

    /// Queues a span of a sampled trace. Never waits: if a collector's queue is full, the span is
    /// dropped and counted.
    pub fn record(&self, span: Span) {
        if self.otlp.is_open() {
            self.otlp.record(span.clone());
        }
        if self.zipkin.is_open() {
            self.zipkin.record(span);
        }
    }

    /// Spans accepted by collectors since the start; one accepted by both counts twice.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.zipkin.exported() + self.otlp.exported()
    }

    /// Spans lost since the start: a queue was full, or a collector did not accept them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.zipkin.dropped() + self.otlp.dropped()
    }
}

/// Starts the export on the current runtime, the control plane's.
///
/// # Panics
/// Outside a tokio runtime.
#[must_use]
pub fn start(tracing: &config::TracingConfig) -> (SpanSink, TraceExport) {
    let (zipkin, zipkin_handle) = exporter_queue::start(Protocol::Zipkin, tracing);
    let (otlp, otlp_handle) = exporter_queue::start(Protocol::Otlp, tracing);
    (SpanSink { zipkin, otlp }, TraceExport { zipkin: zipkin_handle, otlp: otlp_handle })
}

/// The control plane's handle to the export.
#[derive(Debug)]
pub struct TraceExport {
    zipkin: ExporterHandle,
    otlp: ExporterHandle,
}

impl TraceExport {
    /// Applies the collectors and the service name from the next batch on.
    pub fn apply(&self, tracing: &config::TracingConfig) {
        self.zipkin.apply(tracing);
        self.otlp.apply(tracing);
    }

    /// Sends the queued spans and ends, within `deadline`. Returns whether all of them could be sent in time.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        let (zipkin, otlp) = tokio::join!(self.zipkin.shutdown(deadline), self.otlp.shutdown(deadline));
        zipkin && otlp
    }
}

#[cfg(test)]
mod tests;
