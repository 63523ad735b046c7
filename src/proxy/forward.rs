//! The request path: from a request's head to the head of its answer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body, Incoming};

use super::body::{AnswerBody, Progress, Relay, RequestBody, Source, Upload};
use super::client::Client;
use super::exchange::Exchange;
use super::failure::Failure;
use super::refusal::Refusal;
use super::request_id::X_REQUEST_ID;
use super::retry::{self, Attempted};
use super::tunnel::Tunnel;
use super::upstream::{ConnectError, Connection, SendError};
use super::watch::Phase;
use super::{fields, framing, target};
use crate::pool::Pool;
use crate::sticky;

/// Answers a request: by a server, or by ourselves when none can.
pub async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Response<AnswerBody> {
    let (mut head, incoming) = request.into_parts();
    let mut exchange = Exchange::begin(&client, &head);
    let answer = match prepare(&mut exchange, &mut head) {
        Ok(plan) => exchange_with_pool(&mut exchange, head, incoming, plan).await,
        Err(failure) => Err(failure),
    };
    let mut response = match answer {
        Ok(Answer::Relayed(head, relay)) => Response::from_parts(head, AnswerBody::new(Source::Relay(relay), exchange)),
        Ok(Answer::Switched(head, connection)) => {
            // The tunnel's exchange is the request's; what ends here is only the answer's empty body.
            let response = Response::from_parts(head, AnswerBody::none());
            client.becomes(Tunnel { connection, exchange });
            return response;
        }
        Err(failure) => {
            let (head, body) = failure.answer().into_parts();
            let error = (failure != Failure::Options).then(|| failure.word());
            exchange.answer_own(head.status.as_u16(), error);
            Response::from_parts(head, AnswerBody::new(Source::Own(body), exchange))
        }
    };
    if client.is_last() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What is known of a request before any server is tried.
struct Plan {
    pool: Arc<Pool>,
    /// The server that the client's cookie names.
    token: Option<sticky::Token>,
    /// The protocol that the client offers to switch to.
    upgrade: Option<HeaderValue>,
}

/// What a server said.
enum Answer {
    Relayed(http::response::Parts, Relay),
    Switched(http::response::Parts, Connection),
}

/// Finds route and pool, and makes the head what the server is to see of it.
fn prepare(exchange: &mut Exchange, head: &mut Parts) -> Result<Plan, Failure> {
    let client = Rc::clone(exchange.client());
    let snapshot = Rc::clone(&exchange.snapshot);
    let limits = &snapshot.config.limits;
    if head.headers.len() > limits.headers {
        return Err(Failure::TooManyFields);
    }
    if !framing::is_clear(&head.headers) {
        return Err(Refusal::Framing.into());
    }
    let target = match target::target(&head.method, &head.uri, head.version, &head.headers)? {
        target::Asked::Balancer => return Err(Failure::Options),
        target::Asked::Resource(target) => target,
    };
    let (route, pool) = snapshot.route(&target.host, &target.path).ok_or(Failure::NoRoute)?;
    exchange.route(route, pool);
    if limits.body_bytes > 0 && content_length(head).is_some_and(|length| length > limits.body_bytes) {
        return Err(Failure::BodyTooLarge);
    }
    if head
        .headers
        .get(header::EXPECT)
        .is_some_and(|expected| !expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Failure::Expectation);
    }
    let pool = Arc::clone(&snapshot.pools[pool]);
    let sticky = pool.config.balance.sticky.as_ref();
    let token = sticky.and_then(|rule| sticky::requested(rule, &head.headers));

    let host = target.new_host();
    let uri = if target.is_unchanged() {
        None
    } else {
        // A path that was made of a valid one is valid.
        Some(Uri::try_from(&*target.path_and_query()).map_err(|_| Refusal::TargetForm)?)
    };
    if let Some(host) = host.or_else(|| client.host_for(head)) {
        head.headers.insert(header::HOST, host);
    }
    // The engine says 100 to the client as soon as the body is asked for.
    head.headers.remove(header::EXPECT);
    let upgrade = fields::prepare_request(&mut head.headers, head.version)?;
    exchange.client_address = client.fields.set(&mut head.headers, &snapshot.config.proxy.trusted_proxies);
    if let Some(uri) = uri {
        head.uri = uri;
    }
    head.headers.insert(X_REQUEST_ID.clone(), exchange.request_id.clone());
    head.version = Version::HTTP_11;
    Ok(Plan { pool, token, upgrade })
}

fn content_length(head: &Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Has a server of the pool answer, another if one cannot.
async fn exchange_with_pool(
    exchange: &mut Exchange,
    head: Parts,
    incoming: Incoming,
    plan: Plan,
) -> Result<Answer, Failure> {
    let progress = Rc::new(Cell::new(Progress::Done));
    let has_body = !incoming.is_end_stream();
    let body = if has_body {
        progress.set(Progress::Sending);
        let (slot, snapshot) = (Rc::clone(&exchange.client().slot), Rc::clone(&exchange.snapshot));
        RequestBody::Upload(Upload::new(incoming, slot, snapshot, Rc::clone(&progress)))
    } else {
        RequestBody::Empty
    };
    let attempts = plan.pool.config.retry.attempts;
    // What the engine takes it does not give back, so what may have to be sent twice is kept.
    let again = (attempts > 0 && !has_body && head.method.is_idempotent()).then(|| head.clone());
    let mut next = Some(Request::from_parts(head, body));
    let mut tried = Vec::new();
    let mut only_new = false;
    let mut again_for = None;
    let mut failure = Failure::NoServer;
    loop {
        // When all were tried, one that broke may be asked again, but not one that refuses.
        let member =
            plan.pool.pick(&tried, plan.token).or_else(|| plan.pool.pick(&[], plan.token).filter(|_| only_new));
        let (Some(member), Some(request)) = (member, next.take()) else { return Err(failure) };
        exchange.attempt(member, again_for);
        let failed = match attempt(exchange, request, &plan, &progress, only_new).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        exchange.failed(failed.failure.word());
        let attempted = Attempted { method: &exchange.method, has_body, tries: exchange.tries, attempts };
        let reason = failed.progress.and_then(|progress| retry::decide(progress, attempted));
        again_for = reason.filter(|reason| exchange.may_retry(*reason));
        if again_for.is_none() {
            return Err(failed.failure);
        }
        failure = failed.failure;
        only_new = failed.progress != Some(retry::Progress::Refused);
        if failed.progress != Some(retry::Progress::NotSent) {
            tried.extend(exchange.server().map(|server| server.id));
        }
        next = match failed.unsent {
            Some(unsent) => Some(*unsent),
            None => again.clone().map(|head| Request::from_parts(head, RequestBody::Empty)),
        };
    }
}

/// Why a try failed.
struct Failed {
    failure: Failure,
    /// How far it came; `None` when another try makes no sense.
    progress: Option<retry::Progress>,
    /// The request, if nothing of it was sent.
    unsent: Option<Box<Request<RequestBody>>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, progress: None, unsent: None }
    }
}

/// One try, at the server that the exchange names.
async fn attempt(
    exchange: &mut Exchange,
    mut request: Request<RequestBody>,
    plan: &Plan,
    progress: &Rc<Cell<Progress>>,
    only_new: bool,
) -> Result<Answer, Failed> {
    let client = Rc::clone(exchange.client());
    let snapshot = Rc::clone(&exchange.snapshot);
    let timeouts = &snapshot.config.timeouts;
    let Some(server) = exchange.server().cloned() else { return Err(Failure::NoServer.into()) };

    let kept = if only_new { None } else { client.worker.upstreams.take(server.id) };
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            client.slot.wait_unlimited(Phase::Connect);
            match Connection::open(&server, client.worker.index, timeouts.connect).await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(server = %server.key, ?error, "cannot connect");
                    let failure = match error {
                        ConnectError::Timeout => Failure::ConnectTimeout,
                        ConnectError::Unresolved | ConnectError::Refused(_) => Failure::Unreachable,
                    };
                    return Err(Failed {
                        failure,
                        progress: Some(retry::Progress::Refused),
                        unsent: Some(Box::new(request)),
                    });
                }
            }
        }
    };

    if let Some(trace) = exchange.outgoing_trace() {
        trace.write(request.headers_mut());
    }
    if let Some(protocol) = &plan.upgrade {
        fields::set_upgrade(request.headers_mut(), protocol.clone());
    }
    match progress.get() {
        Progress::Sending => exchange.wait_body(Phase::Upload),
        Progress::Done | Progress::TooLarge | Progress::Broken => {
            client.slot.wait(Phase::Answer, timeouts.response_header);
        }
    }
    let sent = client.within(connection.send(request)).await;
    let response = match sent {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(no_answer(error, progress.get())),
        Err(Phase::Upload) if client.slot.waits_for_client() => return Err(Failure::ClientTooSlow.into()),
        Err(_) => return Err(Failure::AnswerTimeout.into()),
    };
    exchange.answered(response.status().as_u16());
    answer(exchange, response, connection, plan, progress)
}

/// What it means that a connection gave no answer.
fn no_answer(sent: SendError, progress: Progress) -> Failed {
    let SendError { unsent, error } = sent;
    tracing::debug!(%error, "no answer");
    match progress {
        Progress::TooLarge => return Failure::BodyTooLarge.into(),
        Progress::Broken => return Failure::BadBody.into(),
        Progress::Sending | Progress::Done => {}
    }
    let how_far = if unsent.is_some() {
        Some(retry::Progress::NotSent)
    } else if error.is_parse() {
        // It answered, only not in HTTP: it has seen the request, and another would see it again.
        None
    } else {
        Some(retry::Progress::Sent)
    };
    Failed { failure: Failure::BadAnswer, progress: how_far, unsent: unsent.map(Box::new) }
}

/// Makes of a server's answer what the client is to see of it.
fn answer(
    exchange: &Exchange,
    response: Response<Incoming>,
    connection: Connection,
    plan: &Plan,
    progress: &Rc<Cell<Progress>>,
) -> Result<Answer, Failed> {
    let (mut head, incoming) = response.into_parts();
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if switched && plan.upgrade.is_none() || !framing::is_clear(&head.headers) {
        return Err(Failure::BadAnswer.into());
    }
    if let Some(protocol) = fields::prepare_response(&mut head.headers, head.status, head.version) {
        fields::set_upgrade(&mut head.headers, protocol);
    }
    head.version = Version::HTTP_11;
    if let (Some(rule), Some(token)) =
        (&plan.pool.config.balance.sticky, exchange.member().and_then(|member| member.token))
        && plan.token != Some(token)
        && let Ok(cookie) = HeaderValue::from_str(&sticky::set_cookie(rule, &token))
    {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    if switched {
        return Ok(Answer::Switched(head, connection));
    }
    Ok(Answer::Relayed(head, Relay { incoming, connection: Some(connection), upload: Rc::clone(progress) }))
}
