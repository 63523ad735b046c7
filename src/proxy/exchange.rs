//! The stages of a request after it was received: routed to a pool, then in an attempt at one of the pool's servers.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::http1::body::BodyLength;
use crate::http1::client::OutgoingRequest;
use crate::http1::head::ResponseHead;
use crate::http1::trailers::TrailerRule;
use crate::live::pool::{Member, Pool};
use crate::live::retry_budget::RetryReason;
use crate::live::server::Server;
use crate::proxy::attempts::Tried;
use crate::proxy::context::ServerReport;
use crate::proxy::cookie::Requested;
use crate::proxy::error::{Blame, ProxyError};
use crate::proxy::failures::UnjudgedFailures;
use crate::proxy::grpc::{self, GrpcStatus};
use crate::proxy::headers::trace_context::TraceContext;
use crate::proxy::phases::{Stickiness, response_rules};
use crate::proxy::record::{EndedAttempt, RequestRecord, RouteMatch};
use crate::proxy::retry::{self, Progress, RetryContext};
use crate::proxy::saved::SavedResponse;
use crate::proxy::upstream::ResponseReader;
use crate::proxy::upstream_pool::UpstreamConnection;

/// A request and the pool that it was routed to.
#[derive(Debug)]
pub struct Routed<'c> {
    pub record: RequestRecord<'c>,
    pub route: RouteMatch,
    pub pool: &'c Pool,
    /// The result of the rewrite phase.
    pub plan: AttemptPlan,
    pub(super) tried: Tried,
    pub(super) failures: UnjudgedFailures,
    /// A response that is retried, for the client if no other server responds.
    pub(super) saved: Option<Box<SavedResponse>>,
}

/// The facts about a request that every attempt needs.
#[derive(Debug, PartialEq, Eq)]
pub struct AttemptPlan {
    /// The client's sticky cookie, whose token names a server.
    pub cookie: Requested,
    /// The protocol that the client offers to switch to.
    pub upgrade: Option<Vec<u8>>,
    /// The length of the request's body.
    pub length: BodyLength,
    /// The target for the server, if it is not the one that the client sent.
    pub target: Option<Vec<u8>>,
    /// Whether the client accepts trailers.
    pub accepts_trailers: bool,
    /// The trailers of the request that servers get.
    pub request_trailers: TrailerRule,
    /// The trailers of the response that the client gets.
    pub response_trailers: TrailerRule,
}

impl<'c> Routed<'c> {
    /// A request that has had no attempt yet.
    #[must_use]
    pub fn new(record: RequestRecord<'c>, route: RouteMatch, pool: &'c Pool, plan: AttemptPlan) -> Self {
        Self { record, route, pool, plan, tried: Tried::default(), failures: UnjudgedFailures::default(), saved: None }
    }

    /// Starts an attempt at a member of the pool. `retry` is the reason, unless the attempt is the first.
    pub fn attempt(&mut self, member: usize, retry: Option<RetryReason>) -> Attempt<'_, 'c> {
        let record = &mut self.record;
        let worker = record.context.worker;
        if let Some(reason) = retry {
            self.pool.live.counters.of(worker).retries[reason as usize].add(1);
        }
        let trace = record.trace().map(|trace| trace.child(&mut record.context.rng()));
        let started = record.start_attempt(self.route, member);
        let index = member;
        let member = &self.pool.members[index];
        member.server.counters().of(worker).started.add(1);
        record.timer.set_server(Some(member.server.id));
        Attempt {
            exchange: self,
            index,
            member,
            started,
            trace,
            status: None,
            idle_timeout: None,
            server_gave_up: false,
            ended: None,
        }
    }

    /// The reason for an attempt after one that failed with this error; `None` if there should be none.
    #[must_use]
    pub fn retry_reason(&self, error: ProxyError) -> Option<RetryReason> {
        let context = RetryContext {
            method: &self.record.head.method,
            has_body: self.plan.length.has_body(),
            attempts: self.record.attempts(),
            max_retries: self.pool.config.retry.attempts,
        };
        retry::decide(error.progress()?, context).map(|reason| error.retry_reason().unwrap_or(reason))
    }

    /// Whether the pool's retry budget allows another attempt for this reason. If so, the budget is charged.
    #[must_use]
    pub fn spend_retry(&self, reason: RetryReason) -> bool {
        match reason {
            // Requests that wait for a server that is down are as many as it had, and are not retried for the last time.
            RetryReason::Connect | RetryReason::NotSent | RetryReason::Refused | RetryReason::Down => true,
            RetryReason::Broken | RetryReason::Status => {
                let counters = self.pool.live.counters.of(self.record.context.worker);
                let share = self.pool.config.retry.budget;
                counters.budget.lock().spend(counters.requests.get(), share, Instant::now())
            }
        }
    }
}

/// One attempt at one server. However it ends, it is counted and traced once.
#[derive(Debug)]
pub struct Attempt<'e, 'c> {
    /// The request that is attempted.
    pub exchange: &'e mut Routed<'c>,
    /// The index of the member among those of the pool.
    index: usize,
    member: &'c Member,
    started: Instant,
    trace: Option<TraceContext>,
    /// The status of the server's response, once there is one.
    status: Option<u16>,
    /// How long the server keeps the connection without a request, if it says so.
    pub idle_timeout: Option<Duration>,
    /// Whether the server had given up waiting for a request on an idle connection.
    pub server_gave_up: bool,
    ended: Option<Instant>,
}

impl<'c> Attempt<'_, 'c> {
    #[must_use]
    pub fn server(&self) -> &'c Arc<Server> {
        &self.member.server
    }

    /// The facts for the sticky cookie, if the pool is sticky.
    #[must_use]
    pub fn stickiness(&self) -> Option<Stickiness<'_>> {
        let (sticky, server) = (self.exchange.pool.sticky()?, self.member.token?);
        let Routed { record, plan, .. } = &*self.exchange;
        let now = record.context.time_of(self.started).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Some(Stickiness { sticky, cookie: plan.cookie, request: &record.head.headers, server, now })
    }

    /// Writes this attempt's trace context into the head, and returns the request to send.
    pub fn outgoing(&mut self) -> OutgoingRequest<'_> {
        let closes = !self.server().keeps_connections();
        let Routed { record, plan, .. } = &mut *self.exchange;
        let trace = match record.context.spans.enabled() {
            true => self.trace,
            false => record.trace().and_then(|trace| trace.unrecorded()),
        };
        if let Some(trace) = trace {
            trace.write(&mut record.head.headers);
        }
        if let Some(call) = &record.call {
            call.write_timeout(&mut record.head.headers, Instant::now());
        }
        OutgoingRequest {
            head: &record.head,
            target: plan.target.as_deref(),
            upgrade: plan.upgrade.as_deref(),
            length: plan.length,
            closes,
        }
    }

    /// Whether the request may be sent again after it got this far.
    #[must_use]
    pub fn may_repeat(&self, progress: Progress) -> bool {
        let Routed { record, plan, .. } = &*self.exchange;
        retry::may_repeat(progress, &record.head.method, plan.length.has_body())
    }

    /// Whether the server has responded.
    #[must_use]
    pub fn has_response(&self) -> bool {
        self.status.is_some()
    }

    /// Whether checks have taken the server down, and the request, which waits for its response, can go to another one.
    #[must_use]
    pub fn should_leave(&self) -> bool {
        self.exchange.record.timer.is_server_down()
            && self.exchange.retry_reason(ProxyError::ServerDown).is_some()
            && self.exchange.pool.has_another_by_now(self.server().id)
    }

    /// Whether a response with this status is to be retried. If so, the retry budget is charged.
    #[must_use]
    pub fn should_retry(&self, status: u16) -> bool {
        let statuses = &self.exchange.pool.config.retry.statuses;
        let reason = || self.exchange.retry_reason(ProxyError::Status(status));
        statuses.iter().any(|range| range.contains(status))
            && self.exchange.tried.has_another(self.exchange.pool, self.server().id)
            && reason().is_some_and(|reason| self.exchange.spend_retry(reason))
    }

    /// Whether calls are retried whose response is UNAVAILABLE, and this is one.
    #[must_use]
    pub fn retries_calls(&self) -> bool {
        self.exchange.record.call.is_some() && self.exchange.pool.config.retry.grpc
    }

    /// Whether a response whose first piece was awaited is to be retried: UNAVAILABLE without a message.
    #[must_use]
    pub fn should_call_again(&self, head: &ResponseHead, from_server: &ResponseReader<'_>) -> bool {
        let status = grpc::status_in_head(&head.headers).or_else(|| grpc::status_in_trailers(from_server.trailers()));
        status == Some(GrpcStatus::Unavailable as u32)
            && from_server.is_done()
            && from_server.piece().is_empty()
            && self.exchange.tried.has_another(self.exchange.pool, self.server().id)
            && self.exchange.retry_reason(ProxyError::CallUnavailable { consumed: false }).is_some()
    }

    /// Sets the status of the server's response to the client, and counts it for or against the server.
    pub fn responded(&mut self, status: u16) {
        self.exchange.record.set_status(status);
        self.count_status(status);
    }

    /// Reads the rest of a response that is retried, and keeps it in case that no other server responds.
    pub async fn save(&mut self, mut head: ResponseHead, from_server: &mut ResponseReader<'_>) {
        self.count_status(head.status);
        response_rules(&mut head, self.exchange.record.snapshot.config.proxy.via, self.stickiness());
        let is_call = self.exchange.record.call.is_some();
        if let Some(saved) = SavedResponse::read(head, from_server, self.index, is_call).await {
            self.exchange.saved = Some(Box::new(saved));
        }
    }

    /// Counts the server's response for or against it.
    fn count_status(&mut self, status: u16) {
        self.status = Some(status);
        let pool = self.exchange.pool;
        if pool.config.health.eject.statuses.iter().any(|range| range.contains(status)) {
            return self.exchange.failures.add(self.index, ProxyError::Status(status));
        }
        self.server().failures.end();
        pool.live.counters.of(self.exchange.record.context.worker).served.add(1);
        if self.exchange.tried.is_last_resort && self.server().ejection().is_some() {
            self.exchange.record.context.report(ServerReport::Served(Arc::clone(self.server())));
        }
        if !self.exchange.failures.is_empty() {
            self.exchange.settle(Some(self.index));
        }
    }

    /// Ends the attempt after the server's whole response. Called before the client is sent the end of it, so that
    /// the client's next request does not count this one as open.
    pub fn complete(&mut self) {
        self.end(None);
    }

    /// Ends the attempt with an error.
    pub fn fail(mut self, error: ProxyError) {
        tracing::debug!(server = %self.server().key, %error, "attempt failed");
        self.exchange.note_failure(self.index, error);
        self.end(Some(error));
    }

    /// Ends the attempt with the end of its tunnel.
    pub fn end_tunnel(&mut self, error: Option<ProxyError>) {
        if let Some(error) = error {
            self.exchange.record.set_error(error);
        }
        self.end(error);
    }

    /// Keeps the connection for another request, unless its server is leaving.
    pub fn keep(&self, connection: UpstreamConnection) {
        let server = self.server();
        if !server.is_leaving() {
            let now = self.ended.unwrap_or_else(Instant::now);
            self.exchange.record.context.upstreams.put(server, connection, now, self.idle_timeout);
        }
    }

    fn end(&mut self, error: Option<ProxyError>) {
        if self.ended.is_some() {
            return;
        }
        let now = Instant::now();
        self.ended = Some(now);
        let (record, took) = (&self.exchange.record, now.duration_since(self.started));
        let counters = self.server().counters().of(record.context.worker);
        if let Some(status) = self.status {
            counters.codes.add(u32::from(status));
            counters.seconds.observe(took);
        }
        // Before it counts as finished, so that the server does not look idle in between.
        let failed = self.status.is_some_and(|status| status >= 500)
            || error.is_some_and(|error| error.blame() == Blame::Server);
        if failed && self.exchange.pool.penalises_failures() {
            self.server().penalty.add(now);
        }
        counters.finished.add(1);
        let Self { started, trace, status, .. } = *self;
        record.record_attempt(&EndedAttempt { server: self.server(), trace, started, took, status, error });
        record.timer.set_server(None);
    }
}

impl Drop for Attempt<'_, '_> {
    fn drop(&mut self) {
        self.end(Some(self.exchange.record.interruption()));
    }
}
