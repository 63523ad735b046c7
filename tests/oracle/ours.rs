//! Our reading: the pure parts of the request path, put together as the request path does.

use http::{Method, Version};
use lb::http1::chunked::{BadChunk, Decoder};
use lb::http1::framing::{self, BadFraming, Framing};
use lb::http1::head::{HeadError, Headers, Limits, RequestHead, ResponseHead};
use lb::http1::persistence;
use lb::http1::rejection::Rejection;
use lb::http1::target;
use lb::proxy::headers::hop_by_hop;

use super::{End, Header, Message, Reading, sorted};

/// What a head may be; hyper's own limit of headers.
const LIMITS: Limits = Limits { bytes: 64 << 10, headers: 100 };

/// Why we read no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Head(HeadError),
    Request(Rejection),
    Answer(BadFraming),
    /// A change of protocol that nobody asked for.
    Switches,
    Chunk(BadChunk),
}

/// What we read as requests, and why we stopped if we had to.
pub(crate) fn requests(bytes: &[u8]) -> (Reading, Option<Why>) {
    let mut read = Reading { messages: Vec::new(), end: End::Whole, length: 0, unfinished: None };
    while read.length < bytes.len() && read.messages.last().is_none_or(|message| message.keeps) {
        match request(&bytes[read.length..]) {
            Ok(Some((message, Some(length)))) => {
                read.messages.push(message);
                read.length += length;
            }
            Ok(Some((message, None))) => return (Reading { end: End::Cut, unfinished: Some(message), ..read }, None),
            // Empty lines before a request are nothing.
            Ok(None) if bytes[read.length..].iter().all(|byte| b"\r\n".contains(byte)) => break,
            Ok(None) => return (Reading { end: End::Cut, ..read }, None),
            Err(why) => return (Reading { end: End::Refused, ..read }, Some(why)),
        }
    }
    (read, None)
}

/// The first request, if its head is there, and its length, if it is whole.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<(Message, Option<usize>)>, Why> {
    let mut head = RequestHead::default();
    let Some(length) = head.parse(bytes, LIMITS).map_err(Why::Head)? else { return Ok(None) };
    let framing = framing::request(&head.headers, head.version).map_err(Why::Request)?;
    target::target(&head.method, head.target(), head.version, &head.headers).map_err(Why::Request)?;
    hop_by_hop::prepare_request(&mut head.headers.clone(), head.version).map_err(Why::Request)?;
    let body = body(&bytes[length..], framing)?;
    let length = body.as_ref().map(|body| length + body.length);
    let keeps = persistence::keeps_alive(&head.headers, head.version);
    let line = format!("{} {}", head.method, String::from_utf8_lossy(head.target()));
    Ok(Some((message(line, head.version, &head.headers, body, keeps), length)))
}

/// What we read as the answer to a request with this method; those before the answer are passed over.
pub(crate) fn answer(method: &Method, bytes: &[u8]) -> (Reading, Option<Why>) {
    let mut read = Reading { messages: Vec::new(), end: End::Cut, length: 0, unfinished: None };
    loop {
        match one_answer(method, &bytes[read.length..]) {
            Ok(Some(Answer::Interim(length))) => read.length += length,
            Ok(Some(Answer::Final(message, Some(length)))) => {
                let keeps = message.keeps && read.length + length == bytes.len();
                read.messages.push(Message { keeps, ..message });
                return (Reading { end: End::Whole, ..read }, None);
            }
            Ok(Some(Answer::Final(message, None))) => return (Reading { unfinished: Some(message), ..read }, None),
            Ok(None) => return (read, None),
            Err(why) => return (Reading { end: End::Refused, ..read }, Some(why)),
        }
    }
}

/// An answer, with the length of what is whole.
pub(crate) enum Answer {
    /// Another follows it.
    Interim(usize),
    Final(Message, Option<usize>),
}

/// The first answer, if its head is there.
pub(crate) fn one_answer(method: &Method, bytes: &[u8]) -> Result<Option<Answer>, Why> {
    let mut head = ResponseHead::default();
    let Some(length) = head.parse(bytes, LIMITS).map_err(Why::Head)? else { return Ok(None) };
    if matches!(head.status, 100 | 102..=199) {
        return Ok(Some(Answer::Interim(length)));
    }
    let framing = framing::response(&head.headers, head.version, head.status, method).map_err(Why::Answer)?;
    if head.status == 101 {
        return Err(Why::Switches);
    }
    let body = body(&bytes[length..], framing)?;
    let length = body.as_ref().map(|body| length + body.length);
    let keeps = framing != Framing::UntilClose && persistence::keeps_alive(&head.headers, head.version);
    let line = head.status.to_string();
    Ok(Some(Answer::Final(message(line, head.version, &head.headers, body, keeps), length)))
}

/// A body that was read to its end.
struct Body {
    content: Vec<u8>,
    trailers: Vec<Header>,
    /// How many bytes it took.
    length: usize,
}

/// The body at the begin of `bytes`, if it is whole.
fn body(bytes: &[u8], framing: Framing) -> Result<Option<Body>, Why> {
    let plain = |length: usize| {
        bytes.get(..length).map(|content| Body { content: content.to_vec(), trailers: Vec::new(), length })
    };
    Ok(match framing {
        Framing::None => plain(0),
        Framing::Length(length) => plain(usize::try_from(length).unwrap_or(usize::MAX)),
        Framing::UntilClose => plain(bytes.len()),
        Framing::Chunked => {
            let (mut decoder, mut content) = (Decoder::new(), Vec::new());
            let step = decoder.decode(bytes, &mut content).map_err(Why::Chunk)?;
            step.done.then(|| Body { content, trailers: trailers(decoder.trailers()), length: step.consumed })
        }
    })
}

/// Header lines as headers.
fn trailers(lines: &[u8]) -> Vec<Header> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    sorted(lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("the decoder has looked for it");
        (String::from_utf8_lossy(&line[..colon]).into_owned(), line[colon + 1..].trim_ascii())
    }))
}

/// Of a message without an end only what stands in its head; that it would be the last is not told.
fn message(line: String, version: Version, headers: &Headers, body: Option<Body>, keeps: bool) -> Message {
    let headers = sorted(headers.iter().map(|(_, name, value)| (String::from_utf8_lossy(name).into_owned(), value)));
    let keeps = keeps || body.is_none();
    let (body, trailers) = body.map(|body| (body.content, body.trailers)).unwrap_or_default();
    Message { line, version, headers, body, trailers, keeps }
}
