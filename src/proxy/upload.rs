//! The body of a request on its way from the client to a server, through any number of attempts.

use std::future::pending;
use std::io;

use crate::config::TimeoutsConfig;
use crate::http1::body::BodyError;
use crate::http1::client::Sent;
use crate::http1::trailers::TrailerRule;
use crate::proxy::downstream::RequestBody;
use crate::proxy::error::ProxyError;
use crate::proxy::timeouts::{Phase, RequestTimer};
use crate::proxy::upstream::RequestWriter;

/// The most bytes that are read ahead while watching whether the client disconnects.
const MAX_AHEAD: usize = 64 * 1024;

/// The most of a body that is kept for another attempt after it was sent.
const MAX_KEPT: usize = 64 * 1024;

/// The body of a request, with its limit.
#[derive(Debug)]
pub struct Upload<'b, 'c> {
    body: &'b mut RequestBody<'c>,
    /// `limits.body_bytes`; 0 is no limit.
    limit: u64,
    received: u64,
    /// The trailers that the server gets.
    pub(super) trailers: TrailerRule,
    /// Whether the client has ended its side of the connection.
    ended: bool,
    /// Whether a part of the body is gone, so that it cannot be sent again.
    pub(super) consumed: bool,
    /// The part that has been sent before the current piece, if it is kept for another attempt.
    kept: Option<Vec<u8>>,
}

impl<'b, 'c> Upload<'b, 'c> {
    /// An upload of `body` from its start.
    ///
    /// # Errors
    /// If the part that has already been received is invalid or too large.
    pub fn new(body: &'b mut RequestBody<'c>, limit: u64) -> Result<Self, ProxyError> {
        body.start()?;
        let received = body.piece().len() as u64;
        let trailers = TrailerRule::None;
        let upload = Self { body, limit, received, trailers, ended: false, consumed: false, kept: None };
        if upload.is_too_large() { Err(ProxyError::BodyTooLarge) } else { Ok(upload) }
    }

    /// Keeps the first part of the body after it was sent: the server may respond that the request is to be sent again.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// Keeps the current piece, which is about to go, if the kept part does not get too large by that.
    fn keep_piece(&mut self) -> bool {
        let piece = self.body.piece();
        match &mut self.kept {
            Some(kept) if kept.len() + piece.len() <= MAX_KEPT => kept.extend_from_slice(piece),
            _ => self.kept = None,
        }
        self.kept.is_some()
    }

    fn is_too_large(&self) -> bool {
        self.limit > 0 && self.received > self.limit
    }

    /// Waits until the client disconnects, while there is nothing to send. A client that only ends its side may still
    /// read the response: `timer` decides how long it is waited for.
    pub(super) async fn client_leaves(&mut self, timer: &RequestTimer) {
        if !self.ended {
            if self.body.ended(MAX_AHEAD).await.is_err() {
                return;
            }
            self.ended = true;
            timer.client_ended();
        }
        self.body.reset().await;
    }

    /// Sends the body. Returns when all of it has been sent, or the server accepts no more and the rest is discarded.
    ///
    /// # Errors
    /// If the client disconnects, or if its body is invalid or too large.
    ///
    /// `Expect: 100-continue` is left to the server: a client that gets no 100 sends its body anyway after a while
    /// (RFC 9110, section 10.1.1).
    pub(super) async fn send(
        &mut self,
        out: &mut RequestWriter<'_>,
        timer: &RequestTimer,
        timeouts: &TimeoutsConfig,
    ) -> Result<(), ProxyError> {
        // The part that an earlier attempt has sent. An error shows at the next piece.
        if let Some(kept) = self.kept.as_deref().filter(|kept| !kept.is_empty())
            && matches!(out.offer(kept, None), Ok(false))
        {
            let _ = self.flush(out).await?;
        }
        loop {
            let end = self.body.is_done();
            let mut sent = {
                let trailers = self.trailers.forwarded(self.body.trailers());
                out.offer(self.body.piece(), end.then_some(&trailers))
            };
            if matches!(sent, Ok(false)) {
                if out.has_begun() && self.kept.is_none() {
                    self.consumed = true;
                    self.body.release_piece();
                }
                sent = self.flush(out).await?.map(|()| true);
            }
            if let Err(error) = sent {
                tracing::debug!(%error, "the server accepts no more of the request");
                if out.sent() == Sent::Nothing {
                    // Keep the current piece for the next attempt.
                    return pending().await;
                }
                if !self.consumed && out.may_be_refused() {
                    // Likewise, if the server has refused the request. Otherwise it has responded.
                    return pending().await;
                }
                return self.discard(timer).await;
            }
            if end {
                if timer.phase() == Phase::Upload {
                    timer.wait(Phase::Response, timeouts.response_header);
                }
                break;
            }
            timer.body_rests(Phase::Upload);
            self.consumed |= !self.body.piece().is_empty() && !self.keep_piece();
            self.body.advance().await?;
            let bytes = self.body.piece().len();
            timer.body_moves(Phase::Upload, bytes);
            self.received += bytes as u64;
            if self.is_too_large() {
                return Err(ProxyError::BodyTooLarge);
            }
        }
        if self.consumed || !out.may_be_refused() {
            self.consumed = true;
            self.body.consume_piece();
        }
        Ok(())
    }

    /// Waits until the server has accepted the current piece, unless the client resets the stream meanwhile.
    async fn flush(&self, out: &mut RequestWriter<'_>) -> Result<io::Result<()>, ProxyError> {
        if !self.body.is_stream() {
            return Ok(out.flush().await);
        }
        tokio::select! {
            biased;
            sent = out.flush() => Ok(sent),
            () = self.body.reset() => Err(ProxyError::ClientGone),
        }
    }

    /// Reads the rest of a body that the server does not accept. The server may still respond and say why, and the
    /// client may not read that before it has sent everything.
    async fn discard(&mut self, timer: &RequestTimer) -> Result<(), ProxyError> {
        self.consumed = true;
        while !self.body.is_done() {
            timer.body_rests(Phase::Upload);
            match self.body.advance().await {
                Ok(_) => timer.body_moves(Phase::Upload, self.body.piece().len()),
                Err(BodyError::Truncated) => return Err(ProxyError::ClientGone),
                // The response comes first; the connection ends with it.
                Err(BodyError::Malformed(_)) => break,
            }
        }
        self.body.consume_piece();
        Ok(())
    }

    /// The body, for a tunnel.
    pub(super) fn body(&mut self) -> &mut RequestBody<'c> {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::listener::ListenerId;
    use crate::proxy::downstream::Downstream;
    use crate::proxy::memory::{MemoryRequest, MemorySender};
    use crate::proxy::timeouts::Watchdog;

    #[tokio::test]
    async fn the_rest_of_a_body_that_the_server_does_not_accept_is_discarded() {
        let (request, _received) = MemoryRequest::new(&["one", "two", "three"]);
        let (mut body, _response) = Downstream::Memory(request).split();
        let mut upload = Upload::new(&mut body, 0).expect("no limit");
        let watchdog = Watchdog::new();
        let timer = watchdog.request(ListenerId(1));
        let mut out = RequestWriter::Memory(MemorySender::closed());
        let sent = upload.send(&mut out, &timer, &TimeoutsConfig::default()).await;
        assert_eq!((sent, upload.body().is_done(), upload.body().piece()), (Ok(()), true, &b""[..]));
    }
}
