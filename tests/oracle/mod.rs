//! A second opinion: hyper's reading of the same bytes, next to ours.
//!
//! Both are reduced to a [`Reading`], and [`because`] has the rules by which two readings may differ.
#![allow(dead_code, reason = "each crate that includes the module uses a part of it")]

pub(crate) mod because;
pub(crate) mod hyper;
pub(crate) mod ours;

use std::fmt;

use http::Version;

/// One parser's reading of all bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The complete messages.
    pub(crate) messages: Vec<Message>,
    pub(crate) end: End,
    /// The length of the complete messages in bytes, if the parser reports it.
    pub(crate) length: usize,
    /// The incomplete message at the end, without its body, if the parser reports it.
    pub(crate) unfinished: Option<Message>,
}

/// The end of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The last message is complete, and the connection closes or no other message has started.
    Complete,
    /// A message is incomplete.
    Truncated,
    /// The parser rejected what follows the last message.
    Rejected,
}

/// The parts of a message that two parsers must agree on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) line: String,
    pub(crate) version: Version,
    /// Names in lower case and sorted; headers of the same name stay in order.
    pub(crate) headers: Vec<Header>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Header>,
    /// Whether another message may follow.
    pub(crate) keep_alive: bool,
}

/// A header's name and value.
pub(crate) type Header = (String, Vec<u8>);

impl Message {
    /// The values of a header, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |header| header.0 == name).map(|header| &header.1[..])
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = |f: &mut fmt::Formatter<'_>, headers: &[Header]| {
            headers.iter().try_for_each(|(name, value)| write!(f, "; {name}: {}", value.escape_ascii()))
        };
        write!(f, "{} {:?}", self.line.escape_debug(), self.version)?;
        headers(f, &self.headers)?;
        write!(f, "; body \"{}\"", self.body.escape_ascii())?;
        headers(f, &self.trailers)?;
        f.write_str(if self.keep_alive { "; keep-alive" } else { "; the last" })
    }
}

/// Brings headers into the form that readings have.
fn sorted(headers: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Vec<Header> {
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.into().to_ascii_lowercase(), value.into())).collect();
    headers.sort_by(|one: &Header, other| one.0.cmp(&other.0));
    headers
}
