//! The attempts of a request: which server is next, and whether there is a next one.

use crate::live::pool::Pool;
use crate::live::server::ServerId;
use crate::live::token::Token;
use crate::proxy::attempt;
use crate::proxy::downstream::{RequestBody, ResponseWriter};
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Routed;
use crate::proxy::retry::{self, Progress, RetryContext};
use crate::proxy::upload::Upload;

/// Has a server of the pool respond; another one if an attempt fails and a retry is allowed.
///
/// # Errors
/// The last attempt's.
pub async fn run(
    exchange: &mut Routed<'_>,
    body: &mut RequestBody<'_>,
    response: &mut ResponseWriter<'_>,
) -> Result<(), ProxyError> {
    let (pool, token) = (exchange.pool, exchange.plan.token);
    let mut upload = Upload::new(body, exchange.record.snapshot.config.limits.body_bytes)?;
    let mut tried = Tried::default();
    let mut error = ProxyError::NoServer;
    let mut reason = None;
    loop {
        let Some(member) = tried.pick(pool, token) else { return Err(error) };
        let mut attempt = exchange.attempt(member, reason);
        error = match attempt::run(&mut attempt, &mut upload, response, tried.only_new).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        attempt.fail(error);
        let record = &exchange.record;
        let context = RetryContext {
            method: &record.head.method,
            has_body: exchange.plan.length.has_body(),
            attempts: record.attempts(),
            max_retries: pool.config.retry.attempts,
        };
        reason = error.progress().and_then(|progress| retry::decide(progress, context));
        if !reason.is_some_and(|reason| exchange.may_retry(reason)) {
            return Err(error);
        }
        tried.add(pool.members[member].server.id, error.progress());
    }
}

/// The servers that were tried, and what that means for the next attempt.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tried {
    servers: Vec<ServerId>,
    /// The next attempt needs a new connection: an idle one has just turned out to be closed.
    only_new: bool,
}

impl Tried {
    /// The member for the next attempt. Once all have been tried, one that broke may be asked again, but not one
    /// that cannot be connected to.
    fn pick(&self, pool: &Pool, token: Option<Token>) -> Option<usize> {
        pool.pick(&self.servers, token).or_else(|| pool.pick(&[], token).filter(|_| self.only_new))
    }

    /// Notes how far an attempt at a server came.
    fn add(&mut self, server: ServerId, progress: Option<Progress>) {
        self.only_new = progress != Some(Progress::NotConnected);
        // If nothing was sent, the server may not even know: it is asked again.
        if progress != Some(Progress::NotSent) {
            self.servers.push(server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_attempt_depends_on_how_far_the_last_one_came() {
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
