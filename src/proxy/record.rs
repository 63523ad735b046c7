//! The record of a request: collects its facts, and counts, logs and traces it once, when the record is dropped.

mod logged;
mod spans;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Version;

use crate::config::AccessLogTarget;
use crate::http1::head::RequestHead;
use crate::http1::name::HeaderName;
use crate::http1::target;
use crate::live::method;
use crate::live::pool::{Member, Pool};
use crate::live::route::LiveRoute;
use crate::live::snapshot::Snapshot;
use crate::proxy::client::Client;
use crate::proxy::context::Context;
use crate::proxy::error::ProxyError;
use crate::proxy::grpc::{self, Call};
use crate::proxy::headers::request_id;
use crate::proxy::headers::trace_context::TraceContext;
use crate::proxy::timeouts::{Phase, RequestTimer};
use crate::telemetry::access_log::AccessLogEntry;
use crate::transport::ClientAddress;

use self::logged::LoggedHeaders;
pub(in crate::proxy) use self::spans::EndedAttempt;

/// Everything that is known about a request while it is served.
#[derive(Debug)]
pub struct RequestRecord<'c> {
    /// The context of the worker.
    pub context: &'c Context,
    pub client: &'c Client,
    pub timer: &'c RequestTimer,
    /// The snapshot that serves the request from start to end.
    pub snapshot: &'c Snapshot,
    /// The head as received, with a request id; after the rewrite, as it is sent to a server.
    pub head: RequestHead,
    /// The client's address: the peer's, or the one that trusted proxies in front report.
    pub client_address: ClientAddress,
    /// The further facts about a request that is a gRPC call.
    pub call: Option<Call>,
    logged: LoggedHeaders,
    started: Instant,
    /// The span of the whole request; `None` if no trace context was received and no spans are exported.
    trace: Option<TraceContext>,
    stage: Stage,
    /// The status of the response, once there is one.
    status: Option<NonZeroU16>,
    /// The number of bytes of the response's body that were sent.
    bytes: u64,
    error: Option<ProxyError>,
    /// Whether the client has been sent a whole response.
    complete: bool,
}

/// How far the request has come.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Received,
    /// It has a route, and has not been sent to a server.
    Routed(RouteMatch),
    /// At least one attempt has been made.
    Attempted {
        route: RouteMatch,
        /// The index of the pool's member that the last attempt was made at.
        member: usize,
        attempts: u32,
        /// Those that do not count.
        forgotten: u32,
    },
}

/// A route that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteMatch {
    /// The index in [`Snapshot::routes`].
    pub route: usize,
    /// The index for [`Snapshot::serving`].
    pub pool: usize,
}

impl<'c> RequestRecord<'c> {
    /// Starts the record of a request with this head: resets the timer, and gives the head a request id if it has no
    /// valid one.
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
        let started = Instant::now();
        let call = Call::of(&head, started);
        if let Some(deadline) = call.as_ref().and_then(|call| call.deadline) {
            timer.end_at(deadline);
        }
        Self {
            started,
            call,
            logged: LoggedHeaders::of(&head.headers, &snapshot.config.log),
            trace: (context.spans.enabled() || TraceContext::is_present(&head.headers))
                .then(|| TraceContext::continue_or_start(&head.headers, snapshot.config.tracing.sample, &mut rng)),
            context,
            client,
            timer,
            snapshot,
            head,
            client_address: client.peer.address(),
            stage: Stage::Received,
            status: None,
            bytes: 0,
            error: None,
            complete: false,
        }
    }

    /// Sets the route that matched, counts the request for its pool, and returns the pool.
    pub fn set_route(&mut self, found: RouteMatch) -> &'c Pool {
        self.stage = Stage::Routed(found);
        let pool = self.snapshot.serving(found.pool);
        pool.live.counters.of(self.context.worker).requests.add(1);
        pool
    }

    /// Counts another attempt, at a member of the route's pool, and returns its start. The first starts with the request.
    pub fn start_attempt(&mut self, route: RouteMatch, member: usize) -> Instant {
        let is_first = matches!(self.stage, Stage::Routed(_));
        let (attempts, forgotten) = self.all_attempts();
        self.stage = Stage::Attempted { route, member, attempts: attempts + 1, forgotten };
        if is_first { self.started } else { Instant::now() }
    }

    /// Takes the last attempt out of the count, because another server is tried in its place.
    pub fn forget_attempt(&mut self) {
        if let Stage::Attempted { forgotten, .. } = &mut self.stage {
            *forgotten += 1;
        }
    }

    /// Makes it a request that was sent to no server: all of them were down, and refused the connection.
    pub fn forget_all_attempts(&mut self) {
        if let Stage::Attempted { route, .. } = self.stage {
            self.stage = Stage::Routed(route);
        }
    }

    /// The number of attempts so far that count.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        let (attempts, forgotten) = self.all_attempts();
        attempts - forgotten
    }

    /// The number of all attempts so far, and of those that do not count.
    fn all_attempts(&self) -> (u32, u32) {
        match self.stage {
            Stage::Received | Stage::Routed(_) => (0, 0),
            Stage::Attempted { attempts, forgotten, .. } => (attempts, forgotten),
        }
    }

    fn route(&self) -> Option<RouteMatch> {
        match self.stage {
            Stage::Received => None,
            Stage::Routed(route) | Stage::Attempted { route, .. } => Some(route),
        }
    }

    /// The span of the whole request.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    pub fn set_status(&mut self, status: u16) {
        self.status = NonZeroU16::new(status);
    }

    /// Notes that the client gets the response of an earlier attempt, at this member.
    pub fn responded_by(&mut self, by: usize, status: u16) {
        if let Stage::Attempted { member, .. } = &mut self.stage {
            *member = by;
        }
        self.set_status(status);
    }

    /// Sets the error that failed the request, unless there is one already.
    pub fn set_error(&mut self, error: ProxyError) {
        self.error.get_or_insert(error);
    }

    /// Marks the request as complete: the client has been sent a whole response.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Counts bytes of the response's body.
    pub fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Notes the status of a gRPC call that its client is sent.
    pub fn set_grpc_status(&mut self, status: Option<u32>) {
        if let (Some(call), Some(status)) = (&mut self.call, status) {
            call.status.get_or_insert(status);
        }
    }

    /// Notes the status of a gRPC call that is in the trailers of its response.
    pub fn ended_with(&mut self, trailers: &[u8]) {
        if self.call.is_some() {
            self.set_grpc_status(grpc::status_in_trailers(trailers));
        }
    }

    /// How long a body may go without a byte, and the least rate at which the client has to move it. The messages of a gRPC
    /// stream may be rare, and its client may not take them for long.
    #[must_use]
    pub fn body_pace(&self) -> (Duration, u64) {
        let config = &self.snapshot.config;
        match self.call {
            None => (config.timeouts.body_idle, config.limits.body_rate),
            Some(_) => (config.timeouts.stream_idle, 0),
        }
    }

    /// Starts the timeouts of a body, as configured.
    pub fn wait_body(&self, phase: Phase) {
        let (idle, rate) = self.body_pace();
        self.timer.wait_body(phase, idle, rate);
    }

    /// Why the request is being dropped before it has ended.
    #[must_use]
    pub fn interruption(&self) -> ProxyError {
        if std::thread::panicking() {
            ProxyError::Panicked
        } else if self.timer.is_aborted() {
            ProxyError::Aborted
        } else {
            ProxyError::ClientGone
        }
    }

    /// The time of day when the request started.
    fn started_at(&self) -> SystemTime {
        self.context.time_of(self.started)
    }

    /// Returns the span if it is to be exported. Unsampled ones never reach the tracing library.
    fn recorded(&self, trace: Option<TraceContext>) -> Option<TraceContext> {
        trace.filter(|trace| trace.sampled && self.context.spans.enabled())
    }

    fn live_route(&self) -> &'c Arc<LiveRoute> {
        self.route().map_or(&self.snapshot.unrouted, |found| &self.snapshot.routes[found.route].live)
    }

    fn pool(&self) -> Option<&'c Arc<Pool>> {
        self.route().map(|found| self.snapshot.serving(found.pool))
    }

    fn member(&self) -> Option<&'c Member> {
        match self.stage {
            Stage::Received | Stage::Routed(_) => None,
            Stage::Attempted { route, member, .. } => Some(&self.snapshot.serving(route.pool).members[member]),
        }
    }

    /// The id of the trace that contains the request; `None` if there can be no such trace.
    fn trace_id(&self) -> Option<u128> {
        let is_known = |trace: &TraceContext| self.context.spans.enabled() || trace.parent_span_id.is_some();
        self.trace.filter(is_known).map(|trace| trace.trace_id)
    }

    fn log(&self, status: u16, took: Duration) {
        let (log, headers) = (&self.snapshot.config.log, &self.head.headers);
        let (client, peer) = (self.client_address, self.client.peer);
        // Behind other proxies, the client's port is not known.
        let is_peer = client == peer.address();
        let entry = AccessLogEntry {
            time: self.started_at(),
            client,
            client_port: peer.port().filter(|_| is_peer),
            method: self.head.method.as_str(),
            path: &target::path_and_query(self.head.target()),
            version: self.head.version,
            host: headers.get(HeaderName::Host),
            status,
            bytes: self.bytes,
            elapsed: took,
            route: self.route().map(|found| &*self.snapshot.routes[found.route].live.name),
            pool: self.pool().map(|pool| &*pool.live.name),
            server: self.member().map(|member| &*member.server.key.name),
            attempts: self.attempts(),
            request_id: headers.get(HeaderName::RequestId).unwrap_or_default(),
            trace_id: self.trace_id(),
            generation: self.snapshot.generation,
            error: self.error.map(ProxyError::label),
            rule: self.error.and_then(ProxyError::rule),
            grpc_status: self.call.as_ref().and_then(|call| call.status),
            user_agent: self.logged.user_agent(headers),
            referer: self.logged.referer(headers),
            headers: &self.logged.named(headers, log),
        };
        self.context.log().line(log, &entry);
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if !self.complete {
            self.set_error(self.interruption());
        }
        let sent = self.status.map(NonZeroU16::get);
        // A request without a response is counted under the status of its error.
        let status = sent.or(self.error.map(ProxyError::status)).unwrap_or_default();
        let counters = self.live_route().counters.of(self.context.worker);
        counters.codes.add(method::key(&self.head.method, status));
        counters.seconds.observe(took);
        if let Some(status) = self.call.as_ref().and_then(|call| call.status) {
            counters.count_call(status);
        }
        if self.snapshot.config.log.access != AccessLogTarget::Off {
            self.log(status, took);
        }
        if let Some(trace) = self.recorded(self.trace) {
            self.context.spans.record(self.span(&trace, took, sent));
        }
        self.context.resources.heads.put(std::mem::take(&mut self.head.headers));
    }
}

/// Counts and logs a rejected head, which never became a request. `bytes` is the length of the response's body.
pub fn record_bad_head(context: &Context, client: &Client, version: Version, error: ProxyError, bytes: usize) {
    let snapshot = context.snapshot();
    let status = error.status();
    let counters = snapshot.unrouted.counters.of(context.worker);
    counters.codes.add(method::key_without_method(status));
    counters.seconds.observe(Duration::ZERO);
    if snapshot.config.log.access != AccessLogTarget::Off {
        let entry = AccessLogEntry {
            time: SystemTime::now(),
            client: client.peer.address(),
            client_port: client.peer.port(),
            method: "-",
            path: "-",
            version,
            host: None,
            status,
            bytes: bytes as u64,
            elapsed: Duration::ZERO,
            route: None,
            pool: None,
            server: None,
            attempts: 0,
            request_id: b"-",
            trace_id: None,
            generation: snapshot.generation,
            error: Some(error.label()),
            rule: error.rule(),
            grpc_status: None,
            user_agent: None,
            referer: None,
            headers: &[],
        };
        context.log().line(&snapshot.config.log, &entry);
    }
}
