//! The body of a response on its way from the server to the client.

use crate::proxy::downstream::ResponseWriter;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Attempt;
use crate::proxy::timeouts::Phase;
use crate::proxy::upstream::ResponseReader;

/// Relays a body piece by piece, and with the first piece the head of the response.
///
/// # Errors
/// If the client does not get all of it.
pub async fn relay(
    attempt: &mut Attempt<'_, '_>,
    from_server: &mut ResponseReader<'_>,
    response: &mut ResponseWriter<'_>,
) -> Result<(), ProxyError> {
    let timer = attempt.exchange.record.timer;
    attempt.exchange.record.wait_body(Phase::Download);
    if !from_server.has_input() {
        // A client that waits for a slow body sees the head at once.
        let end = from_server.is_done().then(|| attempt.complete()).map(|()| &b""[..]);
        response.send(b"", end).await.map_err(|_| ProxyError::ClientGone)?;
    }
    while !from_server.is_done() {
        from_server.advance().await.map_err(|_| ProxyError::ResponseTruncated)?;
        let trailers = attempt.exchange.plan.response_trailers.forwarded(from_server.trailers());
        let end = from_server.is_done().then(|| attempt.complete()).map(|()| &trailers[..]);
        timer.body_rests(Phase::Download);
        response.send(from_server.piece(), end).await.map_err(|_| ProxyError::ClientGone)?;
        let bytes = from_server.piece().len();
        timer.body_moves(Phase::Download, bytes);
        attempt.exchange.record.count_bytes(bytes);
    }
    Ok(())
}
