//! The request path: from a request's head to the end of its answer.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::{Method, Version};
use tokio::net::TcpStream;

use crate::http1::body::Inbound;
use crate::http1::framing::{self, Framing};
use crate::http1::head::RequestHead;
use crate::http1::name::HeaderName;
use crate::http1::target;
use crate::http1::{persistence, trailers};
use crate::live::pool::Pool;
use crate::proxy::attempt::{self, Ended, Failed};
use crate::proxy::connection::Client;
use crate::proxy::cookie;
use crate::proxy::error::Failure;
use crate::proxy::exchange::{self, Exchange};
use crate::proxy::headers::hop_by_hop;
use crate::proxy::retry::{self, RetryContext};
use crate::proxy::timeouts::Phase;
use crate::proxy::upload::Upload;
use crate::transport;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It may make another request.
    Request,
    /// It ends, and the client can read to the end.
    Close,
    /// It ends as the client wished, who sends nothing behind a request without a body: there is no
    /// need to wait for that.
    End,
    /// It ends now: an answer was cut, or nobody is there.
    Abort,
}

/// What is known of a request before any server is tried.
#[derive(Debug)]
pub struct Plan {
    /// The pool that is to answer.
    pub pool: Arc<Pool>,
    /// The server that the client's cookie names.
    pub token: Option<crate::live::token::Token>,
    /// The protocol that the client offers to switch to.
    pub upgrade: Option<Vec<u8>>,
    /// How the body is framed, for the server too.
    pub framing: Framing,
    /// What is asked for, as the server is to see it, if that is not as the client wrote it.
    pub target: Option<Vec<u8>>,
    /// Whether the client would make another request on this connection.
    pub keeps: bool,
    /// Whether the client takes headers behind a body.
    pub trailers: bool,
}

/// Answers a request: by a server, or by ourselves when none can. `input` is what follows the head.
pub async fn handle(client: &Rc<Client>, stream: &TcpStream, head: RequestHead, input: &mut Vec<u8>) -> Next {
    let keeps = persistence::keeps_alive(&head.headers, head.version);
    let framing = framing::request(&head.headers, head.version);
    let mut exchange = Exchange::begin(client, head);
    let plan = match framing.map_err(Failure::from).and_then(|framing| prepare(&mut exchange, framing, keeps)) {
        Ok(plan) => plan,
        Err(failure) => {
            // What was not read of a body could be taken for a request.
            let has_body = framing.is_ok_and(Framing::has_body);
            return answer_own(&mut exchange, stream, failure, keeps && !has_body).await;
        }
    };
    let mut body = Inbound::new(stream, input, &client.worker.buffers, plan.framing);
    let ended = with_pool(&mut exchange, &plan, stream, &mut body).await;
    // Also of a body that no server was sent: what follows it is the next request.
    let is_last = body.rest().is_empty() && !plan.keeps && !plan.framing.has_body();
    let failed = match ended {
        Ok(Ended { keeps }) => {
            exchange.done();
            return match keeps {
                true => Next::Request,
                false if is_last => Next::End,
                false => Next::Close,
            };
        }
        Err(failed) => failed,
    };
    if exchange.is_answered() {
        exchange.fail(failed.failure.word());
        return Next::Abort;
    }
    if failed.failure == Failure::ClientGone {
        return Next::Abort;
    }
    let keeps = plan.keeps && body.is_done();
    answer_own(&mut exchange, stream, failed.failure, keeps).await
}

/// Answers what could not even be read. Whether the client should be given time to read that.
pub async fn refuse(client: &Rc<Client>, stream: &TcpStream, failure: Failure) -> bool {
    let mut out = client.worker.buffers.take();
    failure.write(&mut out, &client.worker.date(), false, true);
    exchange::unreadable(client, failure.status().as_u16(), failure.word());
    let sent = transport::write(stream, [&out], &mut 0).await;
    client.worker.buffers.give(out);
    sent.is_ok()
}

async fn answer_own(exchange: &mut Exchange, stream: &TcpStream, failure: Failure, keeps: bool) -> Next {
    let client = Rc::clone(exchange.client());
    exchange.answer_own(failure.status().as_u16(), (failure != Failure::Options).then_some(failure.word()));
    let keeps = keeps && !failure.closes() && !client.is_last();
    let mut out = client.worker.buffers.take();
    let is_head = exchange.head.method == Method::HEAD;
    let length = failure.write(&mut out, &client.worker.date(), is_head, !keeps);
    exchange.count_bytes(length as u64);
    exchange.wait_body(Phase::Download);
    client.slot.body_waits(Phase::Download);
    let sent = transport::write(stream, [&out], &mut 0).await;
    client.worker.buffers.give(out);
    if sent.is_err() {
        return Next::Abort;
    }
    exchange.done();
    if keeps { Next::Request } else { Next::Close }
}

/// Finds route and pool, and makes the head what the server is to see of it.
fn prepare(exchange: &mut Exchange, framing: Framing, keeps: bool) -> Result<Plan, Failure> {
    let client = Rc::clone(exchange.client());
    let snapshot = Rc::clone(&exchange.snapshot);
    let limits = &snapshot.config.limits;
    let head = &exchange.head;
    let target = match target::target(&head.method, head.target(), head.version, &head.headers)? {
        target::RequestTarget::Balancer => return Err(Failure::Options),
        target::RequestTarget::Resource(target) => target,
    };
    let (route, pool) = snapshot.route(&target.host, &target.path).ok_or(Failure::NoRoute)?;
    let normal = match target.path_and_query() {
        Cow::Borrowed(part) if part.len() == head.target().len() => None,
        other => Some(other.into_owned().into_bytes()),
    };
    let host = target.new_host().map(str::to_owned);
    exchange.route(route, pool);
    if let Framing::Length(length) = framing
        && limits.body_bytes > 0
        && length > limits.body_bytes
    {
        return Err(Failure::BodyTooLarge);
    }
    let headers = &mut exchange.head.headers;
    if headers.all(HeaderName::Expect).any(|expected| !expected.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Failure::Expectation);
    }
    let pool = Arc::clone(&snapshot.pools[pool]);
    let sticky = pool.config.balance.sticky.as_ref();
    let token = sticky.and_then(|rule| cookie::requested(rule, headers));

    if let Some(host) = host {
        headers.set(HeaderName::Host, host.as_bytes());
    } else if !headers.has(HeaderName::Host) {
        // As HTTP/1.0 allows and servers do not: where it came in.
        headers.add(HeaderName::Host, client.listener.address.to_string().as_bytes());
    }
    let trailers = trailers::accepted(headers);
    let upgrade = hop_by_hop::prepare_request(headers, exchange.head.version)?;
    exchange.client_address = client.headers.set(headers, &snapshot.config.proxy.trusted_proxies);
    if framing == Framing::Chunked {
        headers.add(HeaderName::TransferEncoding, b"chunked");
    }
    if exchange.head.version == Version::HTTP_10 {
        // Nobody who speaks it waits for a 100, and may not be sent one.
        headers.remove(HeaderName::Expect);
    }
    Ok(Plan { pool, token, upgrade, framing, target: normal, keeps, trailers })
}

/// Has a server of the pool answer, another if one cannot.
async fn with_pool(
    exchange: &mut Exchange,
    plan: &Plan,
    stream: &TcpStream,
    body: &mut Inbound<'_>,
) -> Result<Ended, Failed> {
    let attempts = plan.pool.config.retry.attempts;
    let has_body = plan.framing.has_body();
    let mut upload = Upload::new(body, &exchange.snapshot.config)?;
    let mut tried = Vec::new();
    let mut only_new = false;
    let mut failed = Failed::finally(Failure::NoServer);
    let mut again = None;
    loop {
        // When all were tried, one that broke may be asked again, but not one that refuses.
        let member =
            plan.pool.pick(&tried, plan.token).or_else(|| plan.pool.pick(&[], plan.token).filter(|_| only_new));
        let Some(member) = member else { return Err(failed) };
        exchange.attempt(member, again);
        failed = match attempt::attempt(exchange, plan, stream, &mut upload, only_new).await {
            Ok(ended) => return Ok(ended),
            Err(failed) => failed,
        };
        let method = &exchange.head.method;
        let context = RetryContext { method, has_body, attempts: exchange.tries, max_retries: attempts };
        again = failed.progress.and_then(|progress| retry::decide(progress, context));
        exchange.failed(failed.failure.word(), failed.fault);
        if !again.is_some_and(|reason| exchange.may_retry(reason)) {
            return Err(failed);
        }
        only_new = failed.progress != Some(retry::Progress::NotConnected);
        if failed.progress != Some(retry::Progress::NotSent) {
            tried.extend(exchange.server().map(|server| server.id));
        }
    }
}
