//! The response on its way from the server to the client: the head together with the first bytes of the body.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use crate::http1::body::BodyError;
use crate::http1::client::BadResponse;
use crate::proxy::downstream::ResponseWriter;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Attempt;
use crate::proxy::timeouts::Phase;
use crate::proxy::upstream::ResponseReader;

/// How long the head waits for the first bytes of the body. They mostly arrive with it. If they are invalid, or if
/// the server closes the connection instead, the client still gets a 502. A client that waits for a slow body must
/// not wait for the head, too.
const HOLD: Duration = Duration::from_millis(50);

/// Relays a response with this status, which has been started, piece by piece. `first` is the result of [`has_piece`], if it
/// has been asked for.
///
/// # Errors
/// If the client does not get all of it.
pub async fn relay(
    attempt: &mut Attempt<'_, '_>,
    status: u16,
    from_server: &mut ResponseReader<'_>,
    response: &mut ResponseWriter<'_>,
    first: Option<bool>,
) -> Result<(), ProxyError> {
    let timer = attempt.exchange.record.timer;
    attempt.exchange.record.wait_body(Phase::Download);
    let has_piece = match first {
        Some(has_piece) => has_piece,
        // The client of a call may wait for the head before it sends more, unless that is the end.
        None if attempt.exchange.record.call.as_ref().is_some_and(|call| call.status.is_none()) => false,
        None => has_piece(attempt, from_server).await?,
    };
    attempt.responded(status);
    if !has_piece {
        let end = from_server.is_done().then(|| attempt.complete()).map(|()| &b""[..]);
        response.send(b"", end).await.map_err(|_| ProxyError::ClientGone)?;
        if end.is_some() {
            return Ok(());
        }
        from_server.advance().await.map_err(of_body)?;
    }
    loop {
        let bytes = from_server.piece().len();
        timer.body_rests(Phase::Download);
        let (is_sent, is_end) = {
            attempt.exchange.record.ended_with(from_server.trailers());
            let trailers = attempt.exchange.plan.response_trailers.forwarded(from_server.trailers());
            let end = from_server.is_done().then(|| attempt.complete()).map(|()| &trailers[..]);
            (response.offer(from_server.piece(), end), end.is_some())
        };
        if !is_sent.map_err(client_gone)? {
            // A client that does not read costs no more than the bytes that it has not read.
            from_server.release_piece();
            response.flush().await.map_err(client_gone)?;
        }
        timer.body_moves(Phase::Download, bytes);
        attempt.exchange.record.count_bytes(bytes);
        if is_end {
            return Ok(());
        }
        from_server.advance().await.map_err(of_body)?;
    }
}

/// Waits a little for the first piece of the body, or for its end. Returns whether there is one.
///
/// # Errors
/// If the body is invalid.
pub async fn has_piece(attempt: &Attempt<'_, '_>, from_server: &mut ResponseReader<'_>) -> Result<bool, ProxyError> {
    attempt.exchange.record.wait_body(Phase::Download);
    Ok(!from_server.is_done() && first_piece(from_server).await.map_err(of_body)?)
}

/// Waits for the first piece of the body, or for its end, but not longer than [`HOLD`]. Returns whether there is one.
async fn first_piece(from_server: &mut ResponseReader<'_>) -> Result<bool, BodyError> {
    let mut advancing = pin!(from_server.advance());
    // A body that has arrived costs no timer.
    let received = match poll_fn(|context| Poll::Ready(advancing.as_mut().poll(context))).await {
        Poll::Ready(received) => Ok(received),
        Poll::Pending => timeout(HOLD, advancing).await,
    };
    match received {
        Ok(received) => received.map(|_| true),
        Err(_) => Ok(false),
    }
}

fn client_gone(_: io::Error) -> ProxyError {
    ProxyError::ClientGone
}

fn of_body(error: BodyError) -> ProxyError {
    match error {
        BodyError::Truncated => ProxyError::ResponseTruncated,
        BodyError::Malformed(bad) => ProxyError::BadResponse(BadResponse::Chunk(bad)),
    }
}
