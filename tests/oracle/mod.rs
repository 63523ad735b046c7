//! An oracle for our parsers: hyper reads the same bytes.
//!
//! Both results are a [`Reading`], and [`because`] has the rules by which two readings may differ.
#![allow(dead_code, reason = "each user has its own copy and uses a part of it")]

pub(crate) mod because;
pub(crate) mod hyper;
pub(crate) mod ours;

use std::fmt;

use http::Version;

/// All bytes of a connection, as one parser reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The complete messages.
    pub(crate) messages: Vec<Message>,
    pub(crate) end: End,
    /// The length of the messages in bytes, if the parser reports it.
    pub(crate) length: usize,
    /// The incomplete message after them, without its body, if the parser reports it.
    pub(crate) unfinished: Option<Message>,
}

/// How the bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// After a message: no further one has begun, or the parser accepts none.
    Whole,
    /// In the middle of a message.
    Cut,
    /// With invalid bytes.
    Refused,
}

/// The parts of a message on which two parsers have to agree.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) line: String,
    pub(crate) version: Version,
    /// Sorted by name in lower case. Those with one name keep their order.
    pub(crate) headers: Vec<Header>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Header>,
    /// Whether another message may follow on the connection.
    pub(crate) keeps: bool,
}

/// A header's name and value.
pub(crate) type Header = (String, Vec<u8>);

impl Message {
    /// The values of a header, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |field| field.0 == name).map(|field| &field.1[..])
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
        f.write_str(if self.keeps { "; keep-alive" } else { "; the last" })
    }
}

/// Headers in the order of [`Message::headers`].
fn sorted(headers: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Vec<Header> {
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.into().to_ascii_lowercase(), value.into())).collect();
    headers.sort_by(|one: &Header, other| one.0.cmp(&other.0));
    headers
}
