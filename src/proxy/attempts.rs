//! The attempts of a request: which server is next, and whether there is a next one.

use std::time::Instant;

use crate::live::pool::Pool;
use crate::live::server::ServerId;
use crate::live::token::Token;
use crate::proxy::attempt;
use crate::proxy::downstream::{RequestBody, ResponseWriter};
use crate::proxy::error::{Blame, ProxyError};
use crate::proxy::exchange::Routed;
use crate::proxy::retry::Progress;
use crate::proxy::upload::Upload;
use crate::proxy::upstream_pool::ConnectionId;

/// Makes attempts at the pool's servers until one responds or no retry is allowed.
///
/// # Errors
/// The error of the last attempt or of the request's body; [`ProxyError::NoServer`] if no server is up.
pub async fn run(
    exchange: &mut Routed<'_>,
    body: &mut RequestBody<'_>,
    response: &mut ResponseWriter<'_>,
) -> Result<(), ProxyError> {
    let done = make_attempts(exchange, body, response).await;
    if !exchange.failures.is_empty() {
        exchange.settle(None);
    }
    match (done, exchange.saved.take()) {
        (Err(error), Some(saved))
            if error != ProxyError::Aborted && error.blame() != Blame::Client && !response.is_started() =>
        {
            saved.relay(exchange, response).await
        }
        (done, _) => done,
    }
}

async fn make_attempts(
    exchange: &mut Routed<'_>,
    body: &mut RequestBody<'_>,
    response: &mut ResponseWriter<'_>,
) -> Result<(), ProxyError> {
    let (pool, token) = (exchange.pool, exchange.plan.cookie.token);
    let mut upload = Upload::new(body, exchange.record.snapshot.config.limits.body_bytes)?;
    upload.trailers = std::mem::take(&mut exchange.plan.request_trailers);
    if exchange.record.call.is_some() && pool.config.retry.grpc {
        upload.keep();
    }
    let mut member = exchange.tried.pick(pool, token).ok_or(ProxyError::NoServer)?;
    let (mut reason, mut was_any_up) = (None, false);
    loop {
        was_any_up |= !exchange.tried.is_last_resort;
        let mut attempt = exchange.attempt(member, reason);
        let error = match attempt::run(&mut attempt, &mut upload, response).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        attempt.fail(error);
        // A client that leaves at its deadline has left.
        let ends_with_server = error.blame() != Blame::Client && error != ProxyError::Aborted;
        if ends_with_server && exchange.record.call.as_ref().is_some_and(|call| call.is_over(Instant::now())) {
            return Err(ProxyError::DeadlineExceeded);
        }
        reason = exchange.retry_reason(error);
        // A status was charged to the budget before its response was given up.
        let is_charged = matches!(error, ProxyError::Status(_));
        let may_retry = reason.is_some_and(|reason| is_charged || exchange.spend_retry(reason));
        if !error.is_refusal() && !may_retry {
            return Err(error);
        }
        exchange.tried.add(pool.members[member].server.id, error.progress());
        member = match exchange.tried.pick(pool, token) {
            Some(member) => member,
            None if error.is_refusal() && !was_any_up => {
                exchange.record.forget_all_attempts();
                return Err(ProxyError::NoServer);
            }
            None => return Err(error),
        };
        if error.is_refusal() {
            exchange.record.forget_attempt();
            reason = None;
        }
    }
}

/// The servers that were tried, and the consequences for the next attempt.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tried {
    servers: Vec<ServerId>,
    /// Whether the next attempt must open a new connection, because the last one's connection was closed.
    pub(super) only_new: bool,
    /// The shared connection on which the last attempt was refused or reset.
    pub(super) avoided: Option<ConnectionId>,
    /// Whether the current attempt is at a server that gets no more requests, because no other one is left.
    pub(super) is_last_resort: bool,
}

impl Tried {
    /// Selects the member for the next attempt: one that is up, or else one that may serve although it is out of rotation.
    /// Once all have been tried, any of them may be tried again if the last attempt's connection was closed, but none if
    /// that attempt could not connect.
    fn pick(&mut self, pool: &Pool, token: Option<Token>) -> Option<usize> {
        let is_first = self.servers.is_empty() && !self.may_repeat();
        self.is_last_resort = false;
        let picked = if is_first { pool.pick(&[], token) } else { pick_serving(pool, &mut self.servers, token) };
        picked
            .or_else(|| {
                let spare = pool.last_resort(&self.servers);
                self.is_last_resort = spare.is_some();
                spare
            })
            .or_else(|| if self.may_repeat() { pick_serving(pool, &mut Vec::new(), token) } else { None })
    }

    /// Whether a server that has been tried may be tried again.
    fn may_repeat(&self) -> bool {
        self.only_new || self.avoided.is_some()
    }

    /// Adds an attempt at a server that failed at this stage.
    fn add(&mut self, server: ServerId, progress: Option<Progress>) {
        // That a last resort cannot be connected to says nothing about the servers before it, so they may be tried again.
        if !self.is_last_resort || progress != Some(Progress::NotConnected) {
            self.only_new = progress.is_none_or(Progress::ends_connection);
            if progress == Some(Progress::NotConnected) {
                self.avoided = None;
            }
        }
        // If nothing was sent, the server may not have noticed the request, so it may be tried again.
        if progress != Some(Progress::NotSent) {
            self.servers.push(server);
        }
    }

    /// Whether a server is up that is neither this one nor has been tried.
    pub(super) fn has_another(&self, pool: &Pool, server: ServerId) -> bool {
        let is_untried = |id| id != server && !self.servers.contains(&id);
        pool.eligible().any(|member| is_untried(member.server.id) && member.server.state().serves())
    }
}

/// Selects a member that is not excluded and is still up: other requests or its checks may have taken it down since the
/// request's snapshot. Those are excluded from now on.
fn pick_serving(pool: &Pool, excluded: &mut Vec<ServerId>, token: Option<Token>) -> Option<usize> {
    while let Some(member) = pool.pick_again(excluded, token) {
        let server = &pool.members[member].server;
        if server.state().serves() {
            return Some(member);
        }
        excluded.push(server.id);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_attempt_depends_on_how_far_the_last_one_got() {
        let cases = [
            (Progress::NotConnected, vec![ServerId(7)], false),
            (Progress::NotSent, vec![], true),
            (Progress::Refused, vec![ServerId(7)], false),
            (Progress::Reset, vec![ServerId(7)], false),
            (Progress::Sent, vec![ServerId(7)], true),
        ];
        for (progress, servers, only_new) in cases {
            let mut tried = Tried::default();
            tried.add(ServerId(7), Some(progress));
            assert_eq!(tried, Tried { servers, only_new, ..Tried::default() }, "{progress:?}");
        }
        let mut tried = Tried { servers: vec![ServerId(1)], only_new: true, is_last_resort: true, ..Tried::default() };
        tried.add(ServerId(7), Some(Progress::NotConnected));
        assert!(tried.only_new, "the first may be tried again");
    }
}
