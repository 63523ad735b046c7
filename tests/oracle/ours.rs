//! Our reading: the pure parts of the request path, combined as the request path does.

use http::{Method, Version};
use lb::http1::chunked::{BadChunk, Decoder};
use lb::http1::framing::{self, BadFraming, Framing, Sender};
use lb::http1::head::{HeadError, HeadLimits, Headers, RequestHead, ResponseHead};
use lb::http1::persistence;
use lb::http1::rejection::Rejection;
use lb::http1::target;

use super::{End, Header, Message, Reading, sorted};

/// The number of headers is hyper's own limit.
const LIMITS: HeadLimits = HeadLimits { bytes: 64 << 10, headers: 100 };

/// The reason why we stop reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    Head(HeadError),
    Request(Rejection),
    Response(BadFraming),
    /// A 101 to a request without `Upgrade`.
    UnrequestedUpgrade,
    Chunk(BadChunk),
}

/// Reads requests. Returns the reason if they are rejected.
pub(crate) fn requests(bytes: &[u8]) -> (Reading, Option<StopReason>) {
    let mut reading = Reading { messages: Vec::new(), end: End::Complete, length: 0, unfinished: None };
    while reading.length < bytes.len() && reading.messages.last().is_none_or(|message| message.keep_alive) {
        match first_request(&bytes[reading.length..]) {
            Ok(Some((message, Some(length)))) => {
                reading.messages.push(message);
                reading.length += length;
            }
            Ok(Some((message, None))) => {
                return (Reading { end: End::Truncated, unfinished: Some(message), ..reading }, None);
            }
            // Empty lines before a request are ignored.
            Ok(None) if bytes[reading.length..].iter().all(|byte| b"\r\n".contains(byte)) => break,
            Ok(None) => return (Reading { end: End::Truncated, ..reading }, None),
            Err(stop) => return (Reading { end: End::Rejected, ..reading }, Some(stop)),
        }
    }
    (reading, None)
}

/// Reads the first request, if its head is complete. Returns its length too if all of it is complete.
pub(crate) fn first_request(bytes: &[u8]) -> Result<Option<(Message, Option<usize>)>, StopReason> {
    let mut head = RequestHead::default();
    let Some(length) = head.parse(bytes, LIMITS).map_err(StopReason::Head)? else { return Ok(None) };
    let framing = framing::request(&head.headers, head.version).map_err(StopReason::Request)?;
    target::target(&head.method, head.target(), head.version, &head.headers).map_err(StopReason::Request)?;
    let body = body(Sender::Client, &bytes[length..], framing)?;
    let length = body.as_ref().map(|body| length + body.length);
    let keep_alive = persistence::keeps_alive(&head.headers, head.version);
    let line = format!("{} {}", head.method, String::from_utf8_lossy(head.target()));
    Ok(Some((message(line, head.version, &head.headers, body, keep_alive), length)))
}

/// Reads the response to a request with this method, and skips interim responses. Returns the reason if
/// it is rejected.
pub(crate) fn response(method: &Method, bytes: &[u8]) -> (Reading, Option<StopReason>) {
    let mut reading = Reading { messages: Vec::new(), end: End::Truncated, length: 0, unfinished: None };
    loop {
        match first_response(method, &bytes[reading.length..]) {
            Ok(Some(FirstResponse::Interim(length))) => reading.length += length,
            Ok(Some(FirstResponse::Final(message, Some(length)))) => {
                let keep_alive = message.keep_alive && reading.length + length == bytes.len();
                reading.messages.push(Message { keep_alive, ..message });
                return (Reading { end: End::Complete, ..reading }, None);
            }
            Ok(Some(FirstResponse::Final(message, None))) => {
                return (Reading { unfinished: Some(message), ..reading }, None);
            }
            Ok(None) => return (reading, None),
            Err(stop) => return (Reading { end: End::Rejected, ..reading }, Some(stop)),
        }
    }
}

/// A response, with its length if it is complete.
pub(crate) enum FirstResponse {
    Interim(usize),
    Final(Message, Option<usize>),
}

/// Reads the first response, if its head is complete.
pub(crate) fn first_response(method: &Method, bytes: &[u8]) -> Result<Option<FirstResponse>, StopReason> {
    let mut head = ResponseHead::default();
    let Some(length) = head.parse(bytes, LIMITS).map_err(StopReason::Head)? else { return Ok(None) };
    if matches!(head.status, 100 | 102..=199) {
        return Ok(Some(FirstResponse::Interim(length)));
    }
    let framing = framing::response(&head.headers, head.version, head.status, method).map_err(StopReason::Response)?;
    if head.status == 101 {
        return Err(StopReason::UnrequestedUpgrade);
    }
    let body = body(Sender::Server, &bytes[length..], framing)?;
    let length = body.as_ref().map(|body| length + body.length);
    let keep_alive = framing != Framing::UntilClose && persistence::keeps_alive(&head.headers, head.version);
    let line = head.status.to_string();
    Ok(Some(FirstResponse::Final(message(line, head.version, &head.headers, body, keep_alive), length)))
}

/// A complete body.
struct Body {
    content: Vec<u8>,
    trailers: Vec<Header>,
    /// The number of bytes on the wire.
    length: usize,
}

/// Reads the body at the start of `bytes`, if it is complete.
fn body(sender: Sender, bytes: &[u8], framing: Framing) -> Result<Option<Body>, StopReason> {
    let plain = |length: usize| {
        bytes.get(..length).map(|content| Body { content: content.to_vec(), trailers: Vec::new(), length })
    };
    Ok(match framing {
        Framing::None => plain(0),
        Framing::Length(length) => plain(usize::try_from(length).unwrap_or(usize::MAX)),
        Framing::UntilClose => plain(bytes.len()),
        Framing::Chunked => {
            let (mut decoder, mut content) = (Decoder::new(sender), Vec::new());
            let decoded = decoder.decode(bytes, &mut content).map_err(StopReason::Chunk)?;
            let length = decoded.consumed;
            decoded.done.then(|| Body { content, trailers: trailers(decoder.trailers()), length })
        }
    })
}

/// Splits the lines of a trailer section.
fn trailers(lines: &[u8]) -> Vec<Header> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    sorted(lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("the decoder requires a colon");
        (String::from_utf8_lossy(&line[..colon]).into_owned(), line[colon + 1..].trim_ascii())
    }))
}

/// Builds a message. One without a complete body has only the parts of its head, and `keep_alive` is true,
/// because hyper does not report it either.
fn message(line: String, version: Version, headers: &Headers, body: Option<Body>, keep_alive: bool) -> Message {
    let headers = sorted(headers.iter().map(|(_, name, value)| (String::from_utf8_lossy(name).into_owned(), value)));
    let keep_alive = keep_alive || body.is_none();
    let (body, trailers) = body.map(|body| (body.content, body.trailers)).unwrap_or_default();
    Message { line, version, headers, body, trailers, keep_alive }
}
