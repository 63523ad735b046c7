//! The spans of a request: one for the whole, one per attempt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Version;
use http::uri::Authority;

use super::RequestRecord;
use crate::config::Address;
use crate::http1::name::HeaderName;
use crate::http1::target;
use crate::live::server::Server;
use crate::proxy::error::ProxyError;
use crate::proxy::headers::trace_context::TraceContext;
use crate::telemetry::trace::{Span, SpanSide};

/// An attempt that has ended.
#[derive(Debug)]
pub(in crate::proxy) struct EndedAttempt<'a> {
    pub(in crate::proxy) server: &'a Arc<Server>,
    pub(in crate::proxy) trace: Option<TraceContext>,
    pub(in crate::proxy) started: Instant,
    pub(in crate::proxy) took: Duration,
    /// The status of the server's response, if there was one.
    pub(in crate::proxy) status: Option<u16>,
    pub(in crate::proxy) error: Option<ProxyError>,
}

impl RequestRecord<'_> {
    /// The span of the whole; `status` is none if the client was sent no response.
    pub(super) fn span(&self, trace: &TraceContext, took: Duration, status: Option<u16>) -> Span {
        let host = self.head.headers.get(HeaderName::Host).and_then(|host| Authority::try_from(host).ok());
        let address = host.map(|host| (host.host().trim_matches(['[', ']']).into(), host.port_u16()));
        Span {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            parent_span_id: trace.parent_span_id,
            start: self.started_at(),
            duration: took,
            method: self.head.method.clone(),
            scheme: self.client.scheme(),
            path: self.path(),
            version: self.head.version,
            address,
            status,
            grpc_status: self.call.as_ref().and_then(|call| call.status),
            error: self.error.map(ProxyError::label),
            route: self.route_name(),
            pool: self.pool().map(|pool| Arc::clone(&pool.live.name)),
            server: self.member().map(|member| Arc::clone(&member.server.key.name)),
            generation: self.snapshot.generation,
            side: SpanSide::Client {
                address: self.client_address,
                path: self.route().map(|found| self.snapshot.config.routes[found.route].path.as_str().into()),
            },
        }
    }

    /// Records the span of an attempt, if it is sampled.
    pub(in crate::proxy) fn record_attempt(&self, attempt: &EndedAttempt<'_>) {
        let Some(trace) = self.recorded(attempt.trace) else { return };
        let address = match &attempt.server.key.address {
            Address::Ip(address) => (address.ip().to_string().into(), Some(address.port())),
            Address::Name(name, port) => (name.as_str().into(), Some(*port)),
            Address::Unix(path) => (path.as_path().to_string_lossy().into(), None),
        };
        self.context.spans.record(Span {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            parent_span_id: trace.parent_span_id,
            // By the clock of the whole, so that it lies within it.
            start: self.started_at() + attempt.started.duration_since(self.started),
            duration: attempt.took,
            method: self.head.method.clone(),
            scheme: "http",
            path: self.path(),
            version: Version::HTTP_11,
            address: Some(address),
            status: attempt.status,
            grpc_status: None,
            error: attempt.error.map(ProxyError::label),
            route: self.route_name(),
            pool: self.pool().map(|pool| Arc::clone(&pool.live.name)),
            server: Some(Arc::clone(&attempt.server.key.name)),
            generation: self.snapshot.generation,
            side: SpanSide::Upstream { resend_count: self.all_attempts().0.saturating_sub(1) },
        });
    }

    fn route_name(&self) -> Option<Arc<str>> {
        self.route().map(|found| Arc::clone(&self.snapshot.routes[found.route].live.name))
    }

    /// The path without the query, which may contain secrets.
    fn path(&self) -> Arc<str> {
        let target = target::path_and_query(self.head.target());
        target.split('?').next().unwrap_or_default().into()
    }
}
