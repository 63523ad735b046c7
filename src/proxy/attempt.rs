//! One attempt at one server: the request is sent while the response is received, and either may end first.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use http::Version;

use crate::http1::body::BodyLength;
use crate::http1::client::{BadResponse, Sent};
use crate::http1::head::ResponseHead;
use crate::http1::name::HeaderName;
use crate::http1::persistence;
use crate::http1::trailers::TrailerRule;
use crate::http2::websocket;
use crate::proxy::downstream::ResponseWriter;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Attempt, Routed};
use crate::proxy::grpc;
use crate::proxy::phases::response_rules;
use crate::proxy::relay::{has_piece, relay};
use crate::proxy::retry::Progress;
use crate::proxy::timeouts::Phase;
use crate::proxy::tunnel;
use crate::proxy::upload::Upload;
use crate::proxy::upstream::ResponseReader;
use crate::proxy::upstream_pool::{UpstreamConnection, WantedConnection};

/// The wait for a response after which a client that gives up shows that its connection to the server may be dead.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// The most interim responses (1xx) to a request: over HTTP/2, they wait for the client in memory.
const MAX_INTERIM: usize = 32;

/// Sends the request and relays the response.
///
/// If an idle connection turns out to have been closed, the request is sent again on a new one, if that is safe. The
/// server may be up, and says nothing by closing, so this is the same attempt: nothing is counted, and the client stays
/// with the server.
///
/// # Errors
/// If the client has not been sent a whole response.
pub async fn run(
    attempt: &mut Attempt<'_, '_>,
    upload: &mut Upload<'_, '_>,
    response: &mut ResponseWriter<'_>,
) -> Result<(), ProxyError> {
    let only_new = attempt.exchange.tried.only_new;
    let mut connection = connect(attempt, upload, only_new).await?;
    let mut done = exchange(attempt, upload, response, &mut connection).await;
    if let Err(error @ ProxyError::IdleClosed(_)) = done {
        attempt.exchange.record.context.upstreams.found_closed(attempt.server(), &connection);
        drop(connection);
        if !error.progress().is_some_and(|progress| attempt.may_repeat(progress)) {
            return Err(error);
        }
        connection = connect(attempt, upload, true).await?;
        done = exchange(attempt, upload, response, &mut connection).await;
    }
    match &mut done {
        Err(ProxyError::ResponseTimeout | ProxyError::ResponseTooSlow) => connection.waited_in_vain(Duration::ZERO),
        Err(ProxyError::DeadlineExceeded | ProxyError::ClientGone) => connection.waited_in_vain(GIVEN_UP),
        Err(ProxyError::Refused { consumed }) => {
            *consumed = upload.consumed;
            attempt.exchange.tried.avoided = connection.id();
        }
        Err(ProxyError::CallUnavailable { consumed }) => *consumed = upload.consumed,
        Err(ProxyError::Reset(_)) => attempt.exchange.tried.avoided = connection.id(),
        _ => {}
    }
    if let Err(ProxyError::Closed(sent)) = done
        && let Some(failure) = attempt.exchange.record.context.upstreams.tls_ended(attempt.server(), &connection)
    {
        return Err(ProxyError::TlsEnded(failure, sent));
    }
    if let Err(error) = done
        && !matches!(error, ProxyError::Status(_))
    {
        return Err(error);
    }
    if connection.upstream.is_reusable() {
        attempt.keep(connection);
    } else if attempt.server_gave_up {
        attempt.exchange.record.context.upstreams.found_closed(attempt.server(), &connection);
    }
    done
}

/// Sends the request and relays the response on one connection.
async fn exchange(
    attempt: &mut Attempt<'_, '_>,
    upload: &mut Upload<'_, '_>,
    response: &mut ResponseWriter<'_>,
    connection: &mut UpstreamConnection,
) -> Result<(), ProxyError> {
    let (context, timer) = (attempt.exchange.record.context, attempt.exchange.record.timer);
    let timeouts = &attempt.exchange.record.snapshot.config.timeouts;
    let reused = connection.reused;
    let (mut to_server, mut from_server) = connection.upstream.start(attempt.outgoing(), &context.resources);
    // A body of unknown length may be a stream, which is as slow as its source, so it has no minimum rate.
    let is_stream = attempt.exchange.plan.length == BodyLength::Unknown;
    let (idle, rate) = attempt.exchange.record.body_pace();
    timer.wait_body(Phase::Upload, idle, if is_stream { 0 } else { rate });
    let responded = {
        let (sent, mut switched) = (Cell::new(false), false);
        let mut sending = pin!(async {
            if let Err(error) = upload.send(&mut to_server, timer, timeouts).await {
                return error;
            }
            sent.set(true);
            upload.client_leaves(timer).await;
            ProxyError::ClientGone
        });
        let mut receiving = pin!(receive(attempt, &mut from_server, response, reused));
        let both = poll_fn(|context| {
            // Sending is polled first, because the response depends on it.
            if let Poll::Ready(error) = sending.as_mut().poll(context) {
                return Poll::Ready(Err(error));
            }
            if !switched && let Responded::Completely = ready!(receiving.as_mut().poll(context))? {
                return Poll::Ready(Ok(Responded::Completely));
            }
            // A tunnel starts after the whole request, even if the server switches earlier (RFC 9110, section 7.8).
            switched = true;
            if sent.get() { Poll::Ready(Ok(Responded::Switched)) } else { Poll::Pending }
        });
        timer.run(both).await.map_err(ProxyError::from).flatten()
    };
    match responded {
        Ok(Responded::Completely) => {}
        Ok(Responded::Switched) => {
            timer.start_tunnel(timeouts.tunnel);
            let record = &mut attempt.exchange.record;
            let (client, server) = ((upload.body(), &mut *response), (&mut to_server, &mut from_server));
            let relayed = tunnel::run(client, server, (timer, timeouts.tunnel), |bytes| record.count_bytes(bytes));
            match timer.run(relayed).await {
                Ok(Ok(())) => attempt.end_tunnel(None),
                Ok(Err(_)) => attempt.end_tunnel(Some(ProxyError::TunnelBroken)),
                Err(interrupt) => {
                    response.close_at_once();
                    return Err(interrupt.into());
                }
            }
        }
        // An interim response was sent in part, because the client does not read. Nothing else can be sent now.
        Err(error) if response.is_started() && !attempt.has_response() => {
            return Err(if error == ProxyError::Aborted { error } else { ProxyError::ClientGone });
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Takes a connection of this worker, or opens a new one.
async fn connect(
    attempt: &Attempt<'_, '_>,
    upload: &mut Upload<'_, '_>,
    only_new: bool,
) -> Result<UpstreamConnection, ProxyError> {
    let Routed { record, pool, tried, plan, .. } = &*attempt.exchange;
    let (upstreams, server, client) = (&record.context.upstreams, attempt.server(), record.client);
    let (protocol, repeatable) = (pool.config.upstream.protocol, attempt.may_repeat(Progress::Sent));
    let (avoided, upgrades) = (tried.avoided, plan.upgrade.is_some());
    let wanted = WantedConnection { server, client, protocol, repeatable, only_new, avoided, upgrades };
    if let Some(taken) = upstreams.take(&wanted) {
        return Ok(taken);
    }
    let timeout = record.snapshot.config.timeouts.connect;
    record.timer.wait(Phase::Connect, timeout);
    let opened = record.timer.run(async {
        tokio::select! {
            biased;
            opened = upstreams.open(&wanted, timeout / 2) => opened.map_err(ProxyError::from),
            () = upload.client_leaves(record.timer) => Err(ProxyError::ClientGone),
        }
    });
    opened.await.map_err(ProxyError::from).flatten()
}

/// How an attempt succeeded.
enum Responded {
    /// The client has been sent the whole response.
    Completely,
    /// Client and server have switched to another protocol.
    Switched,
}

/// Waits for the response and relays it.
async fn receive(
    attempt: &mut Attempt<'_, '_>,
    from_server: &mut ResponseReader<'_>,
    response: &mut ResponseWriter<'_>,
    reused: bool,
) -> Result<Responded, ProxyError> {
    let heads = &attempt.exchange.record.context.resources.heads;
    let via = attempt.exchange.record.snapshot.config.proxy.via;
    let mut head = ResponseHead::new(heads.take());
    let mut interim = 0;
    loop {
        // A server that has sent an interim response has not closed an idle connection.
        let is_idle = reused && interim == 0;
        read_head(attempt, from_server, &mut head, is_idle).await?;
        if !head.is_interim() {
            break;
        }
        interim += 1;
        if interim > MAX_INTERIM {
            return Err(ProxyError::BadResponse(BadResponse::Interim));
        }
        // A client that expects no 100 may take one for the response. It may be discarded then (RFC 9110, section 15.2.1).
        if head.status != 100 || attempt.exchange.record.head.headers.has(HeaderName::Expect) {
            response_rules(&mut head, via, None);
            response.send_interim(&head).await.map_err(|_| ProxyError::ClientGone)?;
        }
    }
    if reused && interim == 0 && gives_up(&head) {
        if attempt.may_repeat(Progress::Sent) {
            return Err(ProxyError::IdleClosed(Sent::All));
        }
        attempt.server_gave_up = true;
    }
    let status = head.status;
    let Routed { record, plan, .. } = &*attempt.exchange;
    if plan.upgrade.is_some()
        && record.head.version == Version::HTTP_2
        && !websocket::may_follow(&record.head.headers, &head)
    {
        return Err(ProxyError::BadResponse(BadResponse::WebSocket));
    }
    attempt.idle_timeout = persistence::idle_timeout(&head.headers);
    if attempt.should_retry(status) {
        attempt.save(head, from_server).await;
        return Err(ProxyError::Status(status));
    }
    let mut first = None;
    if attempt.retries_calls() {
        first = Some(has_piece(attempt, from_server).await?);
        if attempt.should_call_again(&head, from_server) {
            attempt.save(head, from_server).await;
            return Err(ProxyError::CallUnavailable { consumed: true });
        }
    }
    if attempt.exchange.record.call.is_some() {
        note_call(attempt, &mut head);
    }
    let client_version = attempt.exchange.record.head.version;
    let can_have = head.version == Version::HTTP_2 || head.headers.has(HeaderName::TransferEncoding);
    // Over HTTP/2, trailers may follow a body of any length.
    let is_http2 = head.version == Version::HTTP_2 && client_version == Version::HTTP_2;
    let is_chunked = is_http2 || can_have && from_server.length() == BodyLength::Unknown;
    let plan = &mut attempt.exchange.plan;
    let can_follow = is_chunked && client_version != Version::HTTP_10;
    plan.response_trailers = TrailerRule::announce(&mut head.headers, can_follow, plan.accepts_trailers);
    let upgrade = response_rules(&mut head, via, attempt.stickiness());
    response.start(&head, from_server.length(), upgrade.as_deref());
    heads.put(head.headers);
    if upgrade.is_some() {
        attempt.responded(status);
        response.send(b"", None).await.map_err(|_| ProxyError::ClientGone)?;
        return Ok(Responded::Switched);
    }
    relay(attempt, status, from_server, response, first).await?;
    Ok(Responded::Completely)
}

/// Notes the status of a call whose response is no more than a head, which then has no length.
fn note_call(attempt: &mut Attempt<'_, '_>, head: &mut ResponseHead) {
    let status = grpc::status_in_head(&head.headers);
    if status.is_some() {
        head.headers.remove(HeaderName::ContentLength);
        attempt.exchange.record.set_grpc_status(status);
    }
}

/// Waits for the head of a response. Gives up when checks take the server down, if the request can go elsewhere.
async fn read_head(
    attempt: &Attempt<'_, '_>,
    from_server: &mut ResponseReader<'_>,
    head: &mut ResponseHead,
    is_idle: bool,
) -> Result<(), ProxyError> {
    let mut reading = pin!(from_server.read_head(head));
    poll_fn(|context| match reading.as_mut().poll(context) {
        Poll::Ready(read) => Poll::Ready(read.map_err(|error| ProxyError::of_response(error, is_idle))),
        Poll::Pending if attempt.should_leave() => Poll::Ready(Err(ProxyError::ServerDown)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Whether a response on an idle connection is not about the request: the server had given up waiting for one (RFC 9110,
/// section 15.5.9), and closes the connection.
fn gives_up(head: &ResponseHead) -> bool {
    head.status == 408 && !persistence::keeps_alive(&head.headers, head.version)
}
