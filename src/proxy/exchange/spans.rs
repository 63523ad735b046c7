//! The spans that an exchange leaves: one for the whole, one for each try.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use http::uri::Authority;

use super::{Attempt, Exchange};
use crate::config::Address;
use crate::http1::name::HeaderName;
use crate::proxy::headers::trace_context::TraceContext;
use crate::telemetry::trace::{Side, Span};

impl Exchange {
    /// The span of the whole; `status` is none if the client was answered nothing.
    pub(super) fn span(&self, trace: &TraceContext, took: Duration, status: Option<u16>) -> Span {
        let asked = self.head.headers.get(HeaderName::Host).and_then(|host| Authority::try_from(host).ok());
        let address = asked.map(|asked| (asked.host().trim_matches(['[', ']']).into(), asked.port_u16()));
        Span {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            parent_span_id: trace.parent_span_id,
            start: self.started_at(),
            duration: took,
            method: self.head.method.clone(),
            scheme: "http",
            path: self.path(),
            version: self.head.version,
            address,
            status,
            error: self.error,
            route: self.route_name(),
            pool: self.pool().map(|pool| Arc::clone(&pool.live.name)),
            server: self.server().map(|server| Arc::clone(&server.key.name)),
            generation: self.snapshot.generation,
            side: Side::Client {
                address: self.client_address,
                path: self.place.map(|(route, _)| self.snapshot.config.routes[route].path.as_str().into()),
            },
        }
    }

    /// What is asked for, without the query, which may hold what is nobody's business.
    fn path(&self) -> Arc<str> {
        let target = String::from_utf8_lossy(self.head.target());
        target.split('?').next().unwrap_or_default().into()
    }

    pub(super) fn attempt_span(
        &self,
        attempt: &Attempt,
        trace: &TraceContext,
        took: Duration,
        error: Option<&'static str>,
    ) -> Span {
        let address = self.server().map(|server| match &server.key.address {
            Address::Ip(address) => (address.ip().to_string().into(), Some(address.port())),
            Address::Name(name, port) => (name.as_str().into(), Some(*port)),
        });
        Span {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            parent_span_id: trace.parent_span_id,
            // By one clock, so that it lies within the whole.
            start: self.started_at() + attempt.started.duration_since(self.started),
            duration: took,
            method: self.head.method.clone(),
            scheme: "http",
            path: self.path(),
            version: Version::HTTP_11,
            address,
            status: Some(attempt.status).filter(|status| *status != 0),
            error,
            route: self.route_name(),
            pool: self.pool().map(|pool| Arc::clone(&pool.live.name)),
            server: self.server().map(|server| Arc::clone(&server.key.name)),
            generation: self.snapshot.generation,
            side: Side::Upstream { resend_count: self.tries - 1 },
        }
    }
}
