//! A response that is retried (`retry.statuses`, `retry.grpc`), kept in case that no other server responds.

use std::time::Duration;

use tokio::time::timeout;

use crate::http1::body::BodyLength;
use crate::http1::head::ResponseHead;
use crate::http1::name::HeaderName;
use crate::http1::trailers::TrailerRule;
use crate::proxy::downstream::ResponseWriter;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Routed;
use crate::proxy::grpc;
use crate::proxy::timeouts::Phase;
use crate::proxy::upstream::ResponseReader;

/// The largest body that is kept.
const MAX_BODY: usize = 16 * 1024;
/// How long the retry waits for the body, which mostly arrives with the head.
const WAIT: Duration = Duration::from_millis(50);

/// A whole response of a server, as its client would get it.
#[derive(Debug)]
pub struct SavedResponse {
    head: ResponseHead,
    length: BodyLength,
    body: Vec<u8>,
    /// The trailers of a response to a gRPC call.
    trailers: Vec<u8>,
    /// The index of the pool's member that sent it.
    member: usize,
}

impl SavedResponse {
    /// Reads the rest of a response. `head` is as the client would get it. `None` if the body is large, late or invalid: then
    /// the connection cannot be used again.
    pub(super) async fn read(
        mut head: ResponseHead,
        from_server: &mut ResponseReader<'_>,
        member: usize,
        is_call: bool,
    ) -> Option<Self> {
        let mut body = Vec::new();
        let all = async {
            while !from_server.is_done() {
                from_server.advance().await.ok()?;
                body.extend_from_slice(from_server.piece());
                if body.len() > MAX_BODY {
                    return None;
                }
            }
            Some(())
        };
        timeout(WAIT, all).await.ok().flatten()?;
        if is_call {
            // Its status may be in the head, in which a length has no place.
            head.headers.remove(HeaderName::ContentLength);
            let trailers = TrailerRule::AllBut(Vec::new()).forwarded(from_server.trailers());
            return Some(Self { head, length: BodyLength::Unknown, body, trailers, member });
        }
        let length = match from_server.length() {
            BodyLength::Unknown => {
                head.headers.remove(HeaderName::TransferEncoding);
                head.headers.set(HeaderName::ContentLength, itoa::Buffer::new().format(body.len()).as_bytes());
                BodyLength::Known(body.len() as u64)
            }
            length => length,
        };
        Some(Self { head, length, body, trailers: Vec::new(), member })
    }

    /// Sends it to the client after all.
    ///
    /// # Errors
    /// If the client does not get all of it.
    pub(super) async fn relay(
        self,
        exchange: &mut Routed<'_>,
        response: &mut ResponseWriter<'_>,
    ) -> Result<(), ProxyError> {
        response.start(&self.head, self.length, None);
        let record = &mut exchange.record;
        record.responded_by(self.member, self.head.status);
        record.count_bytes(self.body.len());
        record.set_grpc_status(grpc::status_in_head(&self.head.headers));
        record.ended_with(&self.trailers);
        // A timeout of a failed attempt must not end this response.
        record.timer.reset();
        record.wait_body(Phase::Download);
        record.timer.body_rests(Phase::Download);
        let sent = record.timer.run(response.send(&self.body, Some(&self.trailers))).await?;
        sent.map_err(|_| ProxyError::ClientGone)
    }
}
