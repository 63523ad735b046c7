//! One exchange: a client's request, the tries to have it answered, the answer; and the one record of it at its end.

mod spans;

use std::cell::RefMut;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Version;

use crate::http1::head::RequestHead;
use crate::http1::name::HeaderName;
use crate::live::method;
use crate::live::pool::{Member, Pool};
use crate::live::retry_budget::RetryReason;
use crate::live::route::LiveRoute;
use crate::live::server::Server;
use crate::proxy::connection::Client;
use crate::proxy::fault::{Failing, Fault};
use crate::proxy::headers::request_id;
use crate::proxy::headers::trace_context::TraceContext;
use crate::proxy::timeouts::Phase;
use crate::proxy::upstream::Connection;
use crate::telemetry::access_log::Entry;
use crate::worker::Current;

/// What is known of a request while it is under way. Dropped, it is counted, logged and traced.
#[derive(Debug)]
pub struct Exchange {
    client: Rc<Client>,
    /// The one snapshot that it is served by.
    pub snapshot: Rc<Current>,
    started: Instant,
    /// The request's head: as received but for its id, then as it goes to a server.
    pub head: RequestHead,
    /// The client's span; none where none was sent and none is made.
    trace: Option<TraceContext>,
    /// Who asks, as far as the proxies before us are believed.
    pub client_address: IpAddr,
    /// The places of route and pool in the snapshot.
    place: Option<(usize, usize)>,
    attempt: Option<Attempt>,
    /// Tries so far.
    pub tries: u32,
    status: u16,
    bytes: u64,
    error: Option<&'static str>,
    /// The answer went to the client to its end.
    whole: bool,
}

/// A try to have a server answer.
#[derive(Debug)]
struct Attempt {
    /// The member's place in its pool.
    member: usize,
    started: Instant,
    /// What the server answered, 0 before it did.
    status: u16,
    trace: Option<TraceContext>,
    ended: Option<Instant>,
}

impl Exchange {
    /// Begins with a request's head.
    #[must_use]
    pub fn begin(client: &Rc<Client>, mut head: RequestHead) -> Self {
        let snapshot = client.worker.snapshot();
        let mut rng = client.worker.rng();
        request_id::ensure(&mut head.headers, &mut rng);
        client.slot.wait_unlimited(Phase::Connect);
        Self {
            started: Instant::now(),
            trace: (client.worker.spans.enabled() || TraceContext::came(&head.headers))
                .then(|| TraceContext::continue_or_start(&head.headers, snapshot.config.tracing.sample, &mut rng)),
            head,
            client_address: client.peer.ip(),
            place: None,
            attempt: None,
            tries: 0,
            status: 0,
            bytes: 0,
            error: None,
            whole: false,
            client: Rc::clone(client),
            snapshot,
        }
    }

    /// The client that asks.
    #[must_use]
    pub fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// Says which route and pool of the snapshot take the request.
    pub fn route(&mut self, route: usize, pool: usize) {
        self.place = Some((route, pool));
        self.snapshot.pools[pool].live.counters.of(self.client.worker.index).requests.add(1);
    }

    /// The pool that takes the request, once that is known.
    #[must_use]
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        self.place.map(|(_, pool)| &self.snapshot.pools[pool])
    }

    /// Begins a try at a member of the pool, after one that [failed](Self::failed) for a reason, or the first.
    pub fn attempt(&mut self, member: usize, again: Option<RetryReason>) {
        if let (Some(reason), Some(pool)) = (again, self.pool()) {
            pool.live.counters.of(self.client.worker.index).retries[reason as usize].add(1);
        }
        let trace = self.trace.map(|trace| trace.child(&mut self.client.worker.rng()));
        let started = if self.tries == 0 { self.started } else { Instant::now() };
        self.attempt = Some(Attempt { member, started, status: 0, trace, ended: None });
        self.tries += 1;
        if let Some(member) = self.member() {
            let server = &member.server;
            server.counters().of(self.client.worker.index).started.add(1);
            self.client.slot.at_server(server.id);
        }
    }

    /// The member that is tried, or was last.
    #[must_use]
    pub fn member(&self) -> Option<&Member> {
        Some(&self.pool()?.members[self.attempt.as_ref()?.member])
    }

    /// The server that is tried, or was last.
    #[must_use]
    pub fn server(&self) -> Option<&Arc<Server>> {
        self.member().map(|member| &member.server)
    }

    /// The span that goes to the server with this try, if one should.
    #[must_use]
    pub fn outgoing_trace(&self) -> Option<TraceContext> {
        if self.client.worker.spans.enabled() { self.attempt.as_ref()?.trace } else { self.trace?.unrecorded() }
    }

    /// Ends the try: the server has given all of its answer. Said before the client has it, so that
    /// whoever asks next finds the server free.
    pub fn served(&mut self) {
        self.end_attempt(Instant::now(), None);
    }

    /// Ends a try without a use for the client; why, in a word, and whether that speaks against the
    /// server. With so many in a row as make it fall, the control plane is told.
    pub fn failed(&mut self, error: &'static str, fault: Option<Fault>) {
        if let (Some(fault), Some(pool), Some(server)) = (fault, self.pool(), self.server()) {
            let failures = server.record_failure();
            if pool.should_eject(failures) {
                self.client.worker.report(Failing { server: Arc::clone(server), failures, fault });
            }
        }
        self.end_attempt(Instant::now(), Some(error));
    }

    /// Whether one more try for this reason is within the pool's budget, which it then takes from.
    #[must_use]
    pub fn may_retry(&self, reason: RetryReason) -> bool {
        let Some(pool) = self.pool() else { return false };
        match reason {
            RetryReason::Connect | RetryReason::NotSent => true,
            RetryReason::Broken => {
                let counters = pool.live.counters.of(self.client.worker.index);
                let budget = counters.budget.lock();
                budget.is_ok_and(|mut budget| {
                    budget.spend(counters.requests.get(), pool.config.retry.budget, Instant::now())
                })
            }
        }
    }

    /// Notes the status that the server answered.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
        if let Some(attempt) = &mut self.attempt {
            attempt.status = status;
        }
        if let Some(server) = self.server() {
            server.record_success();
        }
    }

    /// Notes the status of an answer of our own, and why it is, unless it is what was asked for.
    pub fn answer_own(&mut self, status: u16, error: Option<&'static str>) {
        self.status = status;
        self.error = error;
    }

    /// Says that the answer went to the client to its end.
    pub fn done(&mut self) {
        self.whole = true;
    }

    /// Whether a server's answer has been noted, and so may have begun to go to the client.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.status != 0
    }

    /// Notes, in a word, what went wrong, if nothing did before.
    pub fn fail(&mut self, error: &'static str) {
        self.error.get_or_insert(error);
    }

    /// Says that a body is under way, by the limits of the exchange's snapshot.
    pub fn wait_body(&self, phase: Phase) {
        let config = &self.snapshot.config;
        self.client.slot.wait_body(phase, config.timeouts.body_idle, config.limits.body_rate);
    }

    /// Counts bytes of the answer's body.
    pub fn count_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Keeps the connection that gave the answer, if its server still takes requests.
    pub fn keep(&self, connection: Connection) {
        let now = self.attempt.as_ref().and_then(|attempt| attempt.ended).unwrap_or_else(Instant::now);
        if let Some(server) = self.server().filter(|server| !server.is_leaving()) {
            self.client.worker.upstreams.keep(server, connection, now);
        }
    }

    /// Ends the try that is under way, if one is: whatever began ends once.
    fn end_attempt(&mut self, now: Instant, error: Option<&'static str>) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.ended.is_none()) else { return };
        attempt.ended = Some(now);
        let (status, took) = (attempt.status, now.duration_since(attempt.started));
        if let Some(server) = self.server() {
            let counters = server.counters().of(self.client.worker.index);
            if status != 0 {
                counters.codes.add(u32::from(status));
                counters.seconds.observe(took);
            }
            counters.finished.add(1);
        }
        if let Some((attempt, trace)) =
            self.attempt.as_ref().and_then(|attempt| Some((attempt, self.recorded(attempt.trace)?)))
        {
            self.client.worker.spans.record(self.attempt_span(attempt, &trace, took, error));
        }
        self.client.slot.at_server(0);
    }

    /// When it began, by the clock on the wall.
    fn started_at(&self) -> SystemTime {
        self.client.worker.time_of(self.started)
    }

    /// What spans are made of: unsampled requests never reach the tracing library.
    fn recorded(&self, trace: Option<TraceContext>) -> Option<TraceContext> {
        trace.filter(|trace| trace.sampled && self.client.worker.spans.enabled())
    }

    fn route_live(&self) -> &Arc<LiveRoute> {
        self.place.map_or(&self.snapshot.unrouted, |(route, _)| &self.snapshot.routes[route].live)
    }

    fn route_name(&self) -> Option<Arc<str>> {
        self.place.map(|(route, _)| Arc::clone(&self.snapshot.routes[route].live.name))
    }

    /// The trace that somebody may find the request in.
    fn trace_id(&self) -> Option<u128> {
        let known = |trace: &TraceContext| self.client.worker.spans.enabled() || trace.parent_span_id.is_some();
        self.trace.filter(known).map(|trace| trace.trace_id)
    }

    /// One line in the access log.
    fn log(&self, took: Duration) {
        let format = self.snapshot.config.log.format;
        // Of a client behind other proxies, the port is not known.
        let peer = self.client.peer;
        let port = if self.client_address == peer.ip().to_canonical() { peer.port() } else { 0 };
        let mut log: RefMut<'_, _> = self.client.worker.log();
        log.line(
            format,
            &Entry {
                time: self.started_at(),
                client: SocketAddr::new(self.client_address, port),
                method: self.head.method.as_str(),
                path: &String::from_utf8_lossy(self.head.target()),
                version: self.head.version,
                host: self.head.headers.get(HeaderName::Host),
                status: self.status,
                bytes: self.bytes,
                elapsed: took,
                route: self.place.map(|(route, _)| &*self.snapshot.routes[route].live.name),
                pool: self.pool().map(|pool| &*pool.live.name),
                server: self.server().map(|server| &*server.key.name),
                tries: self.tries,
                request_id: self.head.headers.get(HeaderName::RequestId).unwrap_or_default(),
                trace_id: self.trace_id(),
                generation: self.snapshot.generation,
                error: self.error,
            },
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        let answered = Some(self.status).filter(|status| *status != 0);
        if std::thread::panicking() {
            self.client.slot.give_up("fault");
        }
        if !self.whole {
            self.fail(self.client.slot.given_up().unwrap_or("client_gone"));
        }
        if answered.is_none() {
            // Nobody is told, but it is counted: by nginx' status for a client that left, or as our failure.
            self.status = if self.client.slot.given_up().is_some() { 503 } else { 499 };
        }
        self.end_attempt(now, self.error);
        let took = now.duration_since(self.started);
        let counters = self.route_live().counters.of(self.client.worker.index);
        counters.codes.add(method::key(&self.head.method, self.status));
        counters.seconds.observe(took);
        if self.snapshot.config.log.access {
            self.log(took);
        }
        if let Some(trace) = self.recorded(self.trace) {
            self.client.worker.spans.record(self.span(&trace, took, answered));
        }
        self.client.worker.heads.give(std::mem::take(&mut self.head.headers));
    }
}

/// Counts and logs what was no request, so that there was no exchange, but was answered.
pub fn unreadable(client: &Client, status: u16, error: &'static str) {
    let snapshot = client.worker.snapshot();
    let counters = snapshot.unrouted.counters.of(client.worker.index);
    counters.codes.add(method::key_without_method(status));
    counters.seconds.observe(Duration::ZERO);
    if snapshot.config.log.access {
        let entry = Entry {
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
            tries: 0,
            request_id: b"-",
            trace_id: None,
            generation: snapshot.generation,
            error: Some(error),
        };
        client.worker.log().line(snapshot.config.log.format, &entry);
    }
}
