//! The attempts of a request: which server is next, and whether there is a next one.

use crate::live::pool::Pool;
use crate::live::retry_budget::RetryReason;
use crate::live::server::ServerId;
use crate::live::token::Token;
use crate::proxy::attempt;
use crate::proxy::downstream::{RequestBody, ResponseWriter};
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Routed;
use crate::proxy::retry::{self, Progress, RetryContext};
use crate::proxy::upload::Upload;

/// Makes attempts at the pool's servers until one responds or no retry is allowed.
///
/// # Errors
/// The error of the last attempt or of the request's body; [`ProxyError::NoServer`] if no server is eligible.
pub async fn run(
    exchange: &mut Routed<'_>,
    body: &mut RequestBody<'_>,
    response: &mut ResponseWriter<'_>,
) -> Result<(), ProxyError> {
    let (pool, token) = (exchange.pool, exchange.plan.token);
    let mut upload = Upload::new(body, exchange.record.snapshot.config.limits.body_bytes)?;
    upload.trailers = std::mem::take(&mut exchange.plan.request_trailers);
    let mut tried = Tried::default();
    let mut member = pool.pick(&[], token).ok_or(ProxyError::NoServer)?;
    let mut reason = None;
    loop {
        let mut attempt = exchange.attempt(member, reason);
        let error = match attempt::run(&mut attempt, &mut upload, response, tried.only_new).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        attempt.fail(error);
        reason = retry_reason(exchange, error);
        if !error.is_refusal() && !reason.is_some_and(|reason| exchange.spend_retry(reason)) {
            return Err(error);
        }
        tried.add(pool.members[member].server.id, error.progress());
        member = tried.pick(pool, token).ok_or(error)?;
        if error.is_refusal() {
            exchange.record.forget_attempt();
            reason = None;
        }
    }
}

/// The reason for an attempt after one that failed with this error; `None` if there should be none.
fn retry_reason(exchange: &Routed<'_>, error: ProxyError) -> Option<RetryReason> {
    let context = RetryContext {
        method: &exchange.record.head.method,
        has_body: exchange.plan.length.has_body(),
        attempts: exchange.record.attempts(),
        max_retries: exchange.pool.config.retry.attempts,
    };
    retry::decide(error.progress()?, context)
}

/// The servers that were tried, and the consequences for the next attempt.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tried {
    servers: Vec<ServerId>,
    /// Whether the next attempt must open a new connection, because the last one's connection was closed.
    only_new: bool,
}

impl Tried {
    /// Selects the member for a retry. Once all have been tried, any of them may be tried again if the last
    /// attempt's connection was closed, but none if that attempt could not connect.
    fn pick(&self, pool: &Pool, token: Option<Token>) -> Option<usize> {
        pool.pick_again(&self.servers, token).or_else(|| pool.pick_again(&[], token).filter(|_| self.only_new))
    }

    /// Adds an attempt at a server that failed at this stage.
    fn add(&mut self, server: ServerId, progress: Option<Progress>) {
        self.only_new = progress != Some(Progress::NotConnected);
        // If nothing was sent, the server may not have noticed the request, so it may be tried again.
        if progress != Some(Progress::NotSent) {
            self.servers.push(server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_attempt_depends_on_how_far_the_last_one_got() {
        let cases = [
            (Progress::NotConnected, Tried { servers: vec![ServerId(7)], only_new: false }),
            (Progress::NotSent, Tried { servers: vec![], only_new: true }),
            (Progress::Sent, Tried { servers: vec![ServerId(7)], only_new: true }),
        ];
        for (progress, expected) in cases {
            let mut tried = Tried::default();
            tried.add(ServerId(7), Some(progress));
            assert_eq!(tried, expected, "{progress:?}");
        }
    }
}
