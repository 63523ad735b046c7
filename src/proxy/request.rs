//! Serves one request, phase by phase, whatever protocol it arrived over.

use crate::http1::body::BodyLength;
use crate::http1::head::RequestHead;
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;
use crate::proxy::attempts;
use crate::proxy::client::Client;
use crate::proxy::context::Context;
use crate::proxy::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Routed;
use crate::proxy::headers::forwarded;
use crate::proxy::local::{self, Reply};
use crate::proxy::phases::{self, RequestRules, ServerTarget};
use crate::proxy::record::{RequestRecord, RouteMatch, record_bad_head};
use crate::proxy::timeouts::{Phase, RequestTimer};

/// Serves a request: a server of its pool responds, or else `lb` itself. The caller decides what happens to the
/// connection afterwards.
pub async fn serve(
    context: &Context,
    client: &Client,
    timer: &RequestTimer,
    downstream: Downstream<'_>,
    head: RequestHead,
) {
    let snapshot = context.snapshot();
    let (mut body, mut response) = downstream.split();
    let record = RequestRecord::new(context, client, timer, &snapshot, head);
    let (mut record, reply) = match run_phases(record, &body) {
        Err(early) => *early,
        Ok(mut routed) => match attempts::run(&mut routed, &mut body, &mut response).await {
            Ok(()) => return routed.record.complete(),
            Err(error) => (routed.record, Reply::Error(error)),
        },
    };
    match reply {
        // Other HTTP statuses tell a client of gRPC little.
        Reply::Error(error) if record.call.is_some() && error != ProxyError::ClientGone => {
            local::end_call(&mut record, &mut response, error);
        }
        // The client is gone, or the connection has to end now: nothing is sent.
        Reply::Error(error @ (ProxyError::ClientGone | ProxyError::Aborted)) => record.set_error(error),
        Reply::Error(error) if response.is_started() => {
            response.abandon(error);
            record.set_error(error);
        }
        reply => local::respond(&mut record, &mut response, reply).await,
    }
}

/// Rejects a gRPC call whose head is too large. It never becomes a request.
pub fn reject_bad_call(context: &Context, client: &Client, mut response: ResponseWriter<'_>, error: ProxyError) {
    record_bad_head(context, client, response.version(), error, 0);
    response.start(&local::failed_call(error), BodyLength::None, None);
    // It fails only if the client is gone.
    let _ = response.offer(b"", Some(b""));
}

/// Rejects a head that is invalid, too large or too slow. It never becomes a request.
pub async fn reject_bad_head(
    context: &Context,
    client: &Client,
    timer: &RequestTimer,
    mut response: ResponseWriter<'_>,
    error: ProxyError,
) {
    let (head, body) = Reply::Error(error).write();
    record_bad_head(context, client, response.version(), error, body.len());
    response.start(&head, BodyLength::Known(body.len() as u64), None);
    let config = &context.snapshot().config;
    timer.reset();
    timer.wait_body(Phase::Download, config.timeouts.body_idle, config.limits.body_rate);
    timer.body_rests(Phase::Download);
    // The client may have left or stopped reading; the connection ends either way.
    let _ = timer.run(response.send(body.as_bytes(), Some(b""))).await;
}

/// Runs the phases before the first attempt.
fn run_phases<'c>(
    mut record: RequestRecord<'c>,
    body: &RequestBody<'_>,
) -> Result<Routed<'c>, Box<(RequestRecord<'c>, Reply)>> {
    let config = &record.snapshot.config;
    let (found, length, target) = match validate_and_route(&record, body) {
        Ok(found) => found,
        Err(reply) => return Err(early(record, reply)),
    };
    let pool = record.set_route(found);
    let rules = RequestRules {
        client: record.client,
        proxy: &config.proxy,
        sticky: pool.sticky(),
        is_call: record.call.is_some(),
    };
    if let Err(error) = phases::admit(&record.head, length, config.limits.body_bytes) {
        return Err(early(record, Reply::Error(error)));
    }
    let (plan, address) = phases::rewrite(&mut record.head, length, target, &rules);
    record.client_address = address;
    Ok(Routed::new(record, found, pool, plan))
}

/// Ends the phases with a response of our own. The client's address is known although its headers are not rewritten.
fn early<'c>(mut record: RequestRecord<'c>, reply: Reply) -> Box<(RequestRecord<'c>, Reply)> {
    let proxy = &record.snapshot.config.proxy;
    let (headers, peer) = (&record.head.headers, record.client.peer.address());
    record.client_address = forwarded::client_address(headers, proxy.forwarded, peer, &proxy.trusted_proxies);
    Box::new((record, reply))
}

/// Validates the request and finds its route.
fn validate_and_route(
    record: &RequestRecord<'_>,
    body: &RequestBody<'_>,
) -> Result<(RouteMatch, BodyLength, ServerTarget), Reply> {
    let (target, length) = phases::validate(&record.head, body.length())?;
    if let Some(acme) = &record.snapshot.acme
        && let Some(key_authorization) = phases::challenge(acme, &record.head.method, &target)
    {
        return Err(Reply::Challenge(key_authorization));
    }
    let (snapshot, client) = (&record.snapshot, record.client);
    if (snapshot.redirects || client.redirected)
        && let Some(redirect) = client.listener.rules.load().redirect
    {
        // A request of HTTP/1.0 without a host has no URL.
        let has_host = record.head.headers.has(HeaderName::Host) || !record.head.target().starts_with(b"/");
        return Err(if has_host { Reply::Https(redirect) } else { Rejection::NoHost.into() });
    }
    let found = phases::find_route(record.snapshot, &target)?;
    let mode = record.snapshot.config.proxy.path;
    Ok((found, length, ServerTarget::new(&target, mode, record.head.target())))
}
