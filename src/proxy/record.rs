//! The record of a request: collected on its way, then counted, logged and traced once, when it is dropped.

mod spans;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Version;

use crate::http1::head::RequestHead;
use crate::http1::name::HeaderName;
use crate::live::method;
use crate::live::pool::{Member, Pool};
use crate::live::route::LiveRoute;
use crate::live::snapshot::Snapshot;
use crate::proxy::client::Client;
use crate::proxy::context::Context;
use crate::proxy::error::ProxyError;
use crate::proxy::headers::request_id;
use crate::proxy::headers::trace_context::TraceContext;
use crate::proxy::timeouts::{Phase, RequestTimer};
use crate::telemetry::access_log::AccessLogEntry;

pub(in crate::proxy) use self::spans::EndedAttempt;

/// A request under way, or rather everything that is known of it.
#[derive(Debug)]
pub struct RequestRecord<'c> {
    /// The worker's.
    pub context: &'c Context,
    /// The client that sent it.
    pub client: &'c Client,
    /// Its timeouts.
    pub timer: &'c RequestTimer,
    /// The one snapshot that serves it.
    pub snapshot: &'c Snapshot,
    /// Its head: as received but for its id, then as it goes to a server.
    pub head: RequestHead,
    /// The client's address, as far as the proxies before us are trusted.
    pub client_address: IpAddr,
    started: Instant,
    /// The span of the whole; none if no trace context was received and no spans are exported.
    trace: Option<TraceContext>,
    /// Its route, once one matched.
    route: Option<RouteMatch>,
    /// The member of the pool that the last attempt was at.
    member: Option<usize>,
    attempts: u32,
    /// The status of the response, once there is one.
    status: Option<NonZeroU16>,
    /// Bytes of the response's body that were sent.
    bytes: u64,
    error: Option<ProxyError>,
    /// The client has been sent all of a response.
    complete: bool,
}

/// A route that matched: indexes into the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteMatch {
    /// Into [`Snapshot::routes`].
    pub route: usize,
    /// Into [`Snapshot::pools`].
    pub pool: usize,
}

impl<'c> RequestRecord<'c> {
    /// Starts with the head of a request.
    #[must_use]
    pub fn new(
        context: &'c Context,
        client: &'c Client,
        timer: &'c RequestTimer,
        snapshot: &'c Snapshot,
        mut head: RequestHead,
    ) -> Self {
        let mut rng = context.rng();
        request_id::ensure(&mut head.headers, &mut rng);
        timer.reset();
        Self {
            started: Instant::now(),
            trace: (context.spans.enabled() || TraceContext::is_present(&head.headers))
                .then(|| TraceContext::continue_or_start(&head.headers, snapshot.config.tracing.sample, &mut rng)),
            context,
            client,
            timer,
            snapshot,
            head,
            client_address: client.peer.ip(),
            route: None,
            member: None,
            attempts: 0,
            status: None,
            bytes: 0,
            error: None,
            complete: false,
        }
    }

    /// Notes the route that matched, and returns its pool.
    pub fn set_route(&mut self, found: RouteMatch) -> &'c Pool {
        self.route = Some(found);
        let pool = &self.snapshot.pools[found.pool];
        pool.live.counters.of(self.context.worker).requests.add(1);
        pool
    }

    /// Notes another attempt, at a member of the pool; when it started.
    pub fn start_attempt(&mut self, member: usize) -> Instant {
        self.member = Some(member);
        self.attempts += 1;
        if self.attempts == 1 { self.started } else { Instant::now() }
    }

    /// Attempts so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The span of the whole.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// Notes the status of a response.
    pub fn set_status(&mut self, status: u16) {
        self.status = NonZeroU16::new(status);
    }

    /// Notes the error that a response of our own reports, or that ends the request.
    pub fn set_error(&mut self, error: ProxyError) {
        self.error.get_or_insert(error);
    }

    /// Notes that the client has been sent all of a response.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Counts bytes of the response's body.
    pub fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// HeadLimits the time of a body by the configuration.
    pub fn wait_body(&self, phase: Phase) {
        let config = &self.snapshot.config;
        self.timer.wait_body(phase, config.timeouts.body_idle, config.limits.body_rate);
    }

    /// The time of day when it started.
    fn started_at(&self) -> SystemTime {
        self.context.time_of(self.started)
    }

    /// A span, if it is recorded: unsampled requests do not reach the tracing library.
    fn recorded(&self, trace: Option<TraceContext>) -> Option<TraceContext> {
        trace.filter(|trace| trace.sampled && self.context.spans.enabled())
    }

    fn live_route(&self) -> &'c Arc<LiveRoute> {
        self.route.map_or(&self.snapshot.unrouted, |found| &self.snapshot.routes[found.route].live)
    }

    fn pool(&self) -> Option<&'c Arc<Pool>> {
        self.route.map(|found| &self.snapshot.pools[found.pool])
    }

    fn member(&self) -> Option<&'c Member> {
        Some(&self.pool()?.members[self.member?])
    }

    /// The trace in which the request can be found.
    fn trace_id(&self) -> Option<u128> {
        let is_known = |trace: &TraceContext| self.context.spans.enabled() || trace.parent_span_id.is_some();
        self.trace.filter(is_known).map(|trace| trace.trace_id)
    }

    fn log(&self, status: u16, took: Duration) {
        let format = self.snapshot.config.log.format;
        // Behind other proxies, the client's port is not known.
        let peer = self.client.peer;
        let port = if self.client_address == peer.ip().to_canonical() { peer.port() } else { 0 };
        self.context.log().line(
            format,
            &AccessLogEntry {
                time: self.started_at(),
                client: SocketAddr::new(self.client_address, port),
                method: self.head.method.as_str(),
                path: &String::from_utf8_lossy(self.head.target()),
                version: self.head.version,
                host: self.head.headers.get(HeaderName::Host),
                status,
                bytes: self.bytes,
                elapsed: took,
                route: self.route.map(|found| &*self.snapshot.routes[found.route].live.name),
                pool: self.pool().map(|pool| &*pool.live.name),
                server: self.member().map(|member| &*member.server.key.name),
                attempts: self.attempts,
                request_id: self.head.headers.get(HeaderName::RequestId).unwrap_or_default(),
                trace_id: self.trace_id(),
                generation: self.snapshot.generation,
                error: self.error.map(ProxyError::label),
            },
        );
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if !self.complete {
            let end = match () {
                () if std::thread::panicking() => ProxyError::Panicked,
                () if self.timer.is_aborted() => ProxyError::Aborted,
                () => ProxyError::ClientGone,
            };
            self.set_error(end);
        }
        let sent = self.status.map(NonZeroU16::get);
        // A request without a response is counted by the status of its error.
        let status = sent.or(self.error.map(ProxyError::status)).unwrap_or_default();
        let counters = self.live_route().counters.of(self.context.worker);
        counters.codes.add(method::key(&self.head.method, status));
        counters.seconds.observe(took);
        if self.snapshot.config.log.access {
            self.log(status, took);
        }
        if let Some(trace) = self.recorded(self.trace) {
            self.context.spans.record(self.span(&trace, took, sent));
        }
        self.context.resources.heads.put(std::mem::take(&mut self.head.headers));
    }
}

/// Counts and logs a head that was rejected before it was a request.
pub fn record_bad_head(context: &Context, client: &Client, error: ProxyError) {
    let snapshot = context.snapshot();
    let status = error.status();
    let counters = snapshot.unrouted.counters.of(context.worker);
    counters.codes.add(method::key_without_method(status));
    counters.seconds.observe(Duration::ZERO);
    if snapshot.config.log.access {
        let entry = AccessLogEntry {
            time: SystemTime::now(),
            client: client.peer,
            method: "-",
            path: "-",
            version: Version::HTTP_11,
            host: None,
            status,
            bytes: 0,
            elapsed: Duration::ZERO,
            route: None,
            pool: None,
            server: None,
            attempts: 0,
            request_id: b"-",
            trace_id: None,
            generation: snapshot.generation,
            error: Some(error.label()),
        };
        context.log().line(snapshot.config.log.format, &entry);
    }
}
