//! The body of a request on its way from the client to a server, through any number of attempts.

use std::future::pending;

use crate::config::TimeoutsConfig;
use crate::http1::client::Sent;
use crate::http1::trailers::TrailerRule;
use crate::proxy::downstream::RequestBody;
use crate::proxy::error::ProxyError;
use crate::proxy::timeouts::{Phase, RequestTimer};
use crate::proxy::upstream::RequestWriter;

/// The most bytes that are read ahead while watching whether the client disconnects.
const MAX_AHEAD: usize = 64 * 1024;

/// The body of a request, with its limit.
#[derive(Debug)]
pub struct Upload<'b, 'c> {
    body: &'b mut RequestBody<'c>,
    /// `limits.body_bytes`; 0 is no limit.
    limit: u64,
    received: u64,
    /// The trailers that the server gets.
    pub(super) trailers: TrailerRule,
}

impl<'b, 'c> Upload<'b, 'c> {
    /// An upload of `body` from its start.
    ///
    /// # Errors
    /// If the part that has already been received is invalid or too large.
    pub fn new(body: &'b mut RequestBody<'c>, limit: u64) -> Result<Self, ProxyError> {
        body.start()?;
        let received = body.piece().len() as u64;
        let upload = Self { body, limit, received, trailers: TrailerRule::None };
        if upload.is_too_large() { Err(ProxyError::BodyTooLarge) } else { Ok(upload) }
    }

    fn is_too_large(&self) -> bool {
        self.limit > 0 && self.received > self.limit
    }

    /// Waits until the client disconnects, while there is no connection to a server to send on.
    pub(super) async fn closed(&mut self) {
        self.body.closed(MAX_AHEAD).await;
    }

    /// Sends the body, then watches the client. Returns only if the client disconnects, or if its body is invalid
    /// or too large.
    ///
    /// `Expect: 100-continue` is left to the server: a client that gets no 100 sends its body anyway after a while
    /// (RFC 9110, section 10.1.1).
    pub(super) async fn run(
        &mut self,
        out: &mut RequestWriter<'_>,
        timer: &RequestTimer,
        timeouts: &TimeoutsConfig,
    ) -> ProxyError {
        loop {
            let end = self.body.is_done();
            let trailers = self.trailers.forwarded(self.body.trailers());
            if let Err(error) = out.send(self.body.piece(), end.then_some(&trailers)).await {
                tracing::debug!(%error, "the server accepts no more of the request");
                if out.sent() == Sent::Nothing {
                    // Keep the current piece for the next attempt.
                    return pending().await;
                }
                // Wait for the response: a server that stops reading the body may still respond, and say why.
                break;
            }
            if end {
                if timer.phase() == Phase::Upload {
                    timer.wait(Phase::Response, timeouts.response_header);
                }
                break;
            }
            timer.body_rests(Phase::Upload);
            if let Err(error) = self.body.advance().await {
                return error.into();
            }
            let bytes = self.body.piece().len();
            timer.body_moves(Phase::Upload, bytes);
            self.received += bytes as u64;
            if self.is_too_large() {
                return ProxyError::BodyTooLarge;
            }
        }
        self.body.consume_piece();
        self.closed().await;
        ProxyError::ClientGone
    }

    /// The body, for a tunnel.
    pub(super) fn body(&mut self) -> &mut RequestBody<'c> {
        self.body
    }
}
