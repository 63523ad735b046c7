//! An exchange with a server over HTTP/2, on a connection of its own.

use std::pin::pin;

use bytes::Bytes;
use http::Method;

use crate::control::health::error::ResponseFault;
use crate::control::health::stream::CheckStream;
use crate::http1::body::BodyLength;
use crate::http1::client::{BadResponse, OutgoingRequest, RESPONSE_LIMITS};
use crate::http1::head::{HeadLimits, RequestHead};
use crate::http2::{request_head, response_head};

/// The response to a check.
pub(super) struct Http2Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// Whether the body is complete.
    pub(super) is_whole: bool,
    /// The lines of the head and of the trailers.
    pub(super) lines: Vec<u8>,
}

/// Sends a request, whose head is written as in HTTP/1.1, and reads the response, of whose body at most `max_body` bytes and
/// a frame.
///
/// # Errors
/// Why there is no valid head.
pub(super) async fn exchange(
    stream: &mut CheckStream,
    request: &[u8],
    body: &[u8],
    method: &Method,
    max_body: usize,
) -> Result<Http2Response, ResponseFault> {
    let mut head = RequestHead::default();
    let limits = HeadLimits { bytes: usize::MAX, headers: RESPONSE_LIMITS.headers };
    head.parse(request, limits).map_err(BadResponse::Head)?;
    let outgoing =
        OutgoingRequest { head: &head, target: None, upgrade: None, length: BodyLength::None, closes: false };
    let request = request_head::request(outgoing, matches!(stream, CheckStream::Tls(_)), false)
        .map_err(|_| BadResponse::Http2)?;
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(u32::try_from(RESPONSE_LIMITS.bytes).unwrap_or(u32::MAX));
    let (mut requests, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| fault(&error))?;
    let sent = Bytes::copy_from_slice(body);
    let receiving = pin!(async move {
        let (response, mut out) = requests.send_request(request, sent.is_empty()).map_err(|error| fault(&error))?;
        if !sent.is_empty() {
            // The server may respond without reading it.
            let _ = out.send_data(sent, true);
        }
        let (parts, mut body) = response.await.map_err(|error| fault(&error))?.into_parts();
        let mut head = response_head::response(&http::Response::from_parts(parts, ()))?;
        response_head::body_length(&mut head, method, body.is_end_stream())?;
        let mut received = Vec::new();
        let is_whole = loop {
            match body.data().await {
                None => break true,
                Some(Ok(piece)) if received.len() <= max_body => {
                    // It fails only for more than was received.
                    let _ = body.flow_control().release_capacity(piece.len());
                    received.extend_from_slice(&piece);
                }
                Some(_) => break false,
            }
        };
        let mut lines = Vec::new();
        head.headers.write(&mut lines);
        if is_whole && let Ok(Some(trailers)) = body.trailers().await {
            lines.extend(response_head::trailer_lines(&trailers));
        }
        Ok(Http2Response { status: head.status, body: received, is_whole, lines })
    });
    // The connection itself may end first, and then the stream says why.
    let mut connection = pin!(connection);
    let mut receiving = receiving;
    let mut has_ended = false;
    std::future::poll_fn(|context| {
        if !has_ended {
            has_ended = connection.as_mut().poll(context).is_ready();
        }
        receiving.as_mut().poll(context)
    })
    .await
}

fn fault(error: &h2::Error) -> ResponseFault {
    if error.is_library() { BadResponse::Http2.into() } else { ResponseFault::Closed }
}
