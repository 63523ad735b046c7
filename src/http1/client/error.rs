//! Why there is no valid response, in either protocol.

use std::fmt;

use super::Sent;
use crate::http1::chunked::BadChunk;
use crate::http1::framing::BadFraming;
use crate::http1::head::HeadError;

/// Why there is no valid response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseError {
    /// The connection closed before the first byte of the response.
    Closed(Sent),
    /// The connection closed in the middle of the head.
    TruncatedHead,
    /// The stream was reset before the response (HTTP/2).
    Reset(Sent),
    /// The server says that it has not processed the request (RFC 9113, section 8.7).
    Refused,
    /// The request cannot be expressed in the server's protocol.
    Unsendable(Unsendable),
    Malformed(BadResponse),
}

/// Why a request cannot be sent over HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsendable {
    /// It asks for a WebSocket, which the server does not offer (RFC 8441).
    WebSocket,
    /// Its host is none that `:authority` can have.
    Host,
    /// Its target is none that `:path` can have.
    Target,
}

/// Why a response is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadResponse {
    Head(HeadError),
    /// Its framing is ambiguous.
    Framing,
    /// It is a 101 that the client did not request.
    Switch,
    /// Its body is not valid chunked coding.
    Chunk(BadChunk),
    /// It does not open the WebSocket that was asked for, and looks as if it did.
    WebSocket,
    /// Too many interim responses precede it.
    Interim,
    /// It violates a rule of HTTP/2.
    Http2,
}

impl Unsendable {
    /// The reason as one word, for the log.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Host => "host",
            Self::Target => "target",
        }
    }
}

impl BadResponse {
    /// The violated rule as one word, for the log.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Head(error) => error.rule(),
            Self::Framing => "framing",
            Self::Switch => "switch",
            Self::Chunk(bad) => bad.rule(),
            Self::WebSocket => "websocket",
            Self::Interim => "interim",
            Self::Http2 => "http2",
        }
    }
}

impl fmt::Display for BadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(error) => error.fmt(f),
            Self::Framing => BadFraming.fmt(f),
            Self::Switch => f.write_str("a switch of protocols that the client did not request"),
            Self::Chunk(bad) => bad.fmt(f),
            Self::WebSocket => f.write_str("not one that opens a WebSocket"),
            Self::Interim => f.write_str("preceded by too many interim responses"),
            Self::Http2 => f.write_str("not valid HTTP/2"),
        }
    }
}

impl From<BadResponse> for ResponseError {
    fn from(bad: BadResponse) -> Self {
        Self::Malformed(bad)
    }
}
