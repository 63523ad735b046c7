//! A request's body on its way to a server, and what that says of a try that fails.

use std::cell::Cell;
use std::future::pending;

use crate::config::{Config, TimeoutsConfig};
use crate::http1::body::{BodyError, Inbound, Outbound};
use crate::proxy::connection::Client;
use crate::proxy::error::Failure;
use crate::proxy::timeouts::Phase;

/// What a client may send ahead while its answer is under way.
const AHEAD: usize = 64 * 1024;

/// A request's body on its way from the client, through any number of tries.
#[derive(Debug)]
pub struct Upload<'b, 'a> {
    body: &'b mut Inbound<'a>,
    limit: u64,
    received: u64,
}

impl<'b, 'a> Upload<'b, 'a> {
    /// Nothing of `body` has been sent.
    ///
    /// # Errors
    /// When what is there already is no body, or too much of one.
    pub fn new(body: &'b mut Inbound<'a>, config: &Config) -> Result<Self, Failure> {
        body.begin().map_err(|_| Failure::BadBody)?;
        let received = body.piece().len() as u64;
        let upload = Self { body, limit: config.limits.body_bytes, received };
        if upload.is_too_much() { Err(Failure::BodyTooLarge) } else { Ok(upload) }
    }

    /// Until the client has left, while there is no connection yet to send anything on. What it sends
    /// ahead is kept.
    pub(super) async fn left(&mut self) {
        self.body.left(AHEAD).await;
    }

    /// What was read behind the body.
    pub(super) fn rest(&mut self) -> &mut Vec<u8> {
        self.body.rest()
    }

    fn is_too_much(&self) -> bool {
        self.limit > 0 && self.received > self.limit
    }

    /// Sends the body behind the head that `out` holds. `Expect: 100-continue` goes to the server with
    /// the head, and is its business: a client that hears nothing sends all the same, in its time
    /// (RFC 9110, section 10.1.1). Then it watches the client: it returns only
    /// when the client has left, or has sent what is no body.
    pub(super) async fn run(
        &mut self,
        out: &mut Outbound<'_>,
        sending: &Sending,
        client: &Client,
        timeouts: &TimeoutsConfig,
    ) -> Failure {
        let slot = &client.slot;
        loop {
            let last = self.body.is_done();
            if let Err(error) = out.send(self.body.piece(), last.then_some(b"")).await {
                tracing::debug!(%error, "a server takes no more of a request");
                if out.sent == 0 {
                    // The piece at hand is the next try's.
                    sending.sent.set(Sent::Nothing);
                    return pending().await;
                }
                // Its answer may say why: a server that wants no more of a body may still explain.
                break;
            }
            if last {
                sending.sent.set(Sent::All);
                if slot.phase() == Phase::Upload {
                    slot.wait(Phase::Answer, timeouts.response_header);
                }
                break;
            }
            slot.body_waits(Phase::Upload);
            match self.body.advance().await {
                Ok(_) => {}
                Err(BodyError::Malformed) => return Failure::BadBody,
                Err(BodyError::Cut) => return Failure::ClientGone,
            }
            let bytes = self.body.piece().len();
            slot.body_moves(Phase::Upload, bytes);
            self.received += bytes as u64;
            if self.is_too_much() {
                return Failure::BodyTooLarge;
            }
        }
        self.body.gone(AHEAD).await;
        Failure::ClientGone
    }
}

/// What of the request has gone to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// The connection was broken before a byte could be sent.
    Nothing,
    /// Some, as far as is known.
    Part,
    /// All of it.
    All,
}

/// What the two directions of a try know of each other.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) sent: Cell<Sent>,
    /// Whether an answer before the answer is on its way to the client: nothing else may be said in
    /// the middle of it.
    pub(super) interim: Cell<bool>,
    /// Whether the connection was kept: that its server has closed it says nothing of the server.
    pub(super) kept: bool,
}
